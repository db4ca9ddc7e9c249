"""Adapters merged into a model: the result of each kind, and all files whose merge would be wrong or empty."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.errors import raises_code
from tests.weights.spellings import official
from webapp.weights.adapter import AdapterChoice, check_adapter, open_model
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.convert.conversion import convert
from webapp.weights.convert.plan import ConversionOptions
from webapp.weights.inspection import inspect, require_model

KEY = "blocks.0.att.key"
VALUE = "blocks.1.ffn.value"  # (128, 512)
WIDTH, RANK = 128, 8


@pytest.fixture
def model(tmp_path: Path) -> dict[str, torch.Tensor]:
    tensors = official("7", torch.float32)
    torch.save(tensors, tmp_path / "base.pth")
    return tensors


def pair(out: int = WIDTH, inner: int = WIDTH, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(RANK, inner, generator=make) * 0.1, torch.randn(out, RANK, generator=make) * 0.1


def merged(folder: Path, source: str = "base.pth", **options: object) -> dict[str, torch.Tensor]:
    given = ConversionOptions(overwrite=True, **options)  # type: ignore[arg-type]
    convert(folder / source, folder / "merged.pth", "pth", given)
    found: dict[str, torch.Tensor] = torch.load(folder / "merged.pth")
    return found


def assert_only(found: dict[str, torch.Tensor], model: dict[str, torch.Tensor], **changed: torch.Tensor) -> None:
    wanted = {name.replace("__", "."): tensor for name, tensor in changed.items()}
    assert set(found) == set(model)
    for name, tensor in found.items():
        assert torch.allclose(tensor, wanted.get(name, model[name]), atol=1e-6), name


@pytest.mark.parametrize("extra", ["nothing", "its base", "every tensor"])
def test_a_lora_whose_file_holds_the_base_too_is_merged(model: dict, extra: str, tmp_path: Path) -> None:
    a, b = pair()
    beside = {"nothing": {}, "its base": {f"{KEY}.weight": model[f"{KEY}.weight"].bfloat16()}, "every tensor": model}
    torch.save({f"{KEY}.lora_A": a, f"{KEY}.lora_B": b, **beside[extra]}, tmp_path / "lora.pth")
    found = merged(tmp_path, lora=str(tmp_path / "lora.pth"), lora_alpha=16)
    change = model[f"{KEY}.weight"] + b @ a * 2
    assert_only(found, model, **{f"{KEY}.weight": change})


def test_a_base_of_another_model_is_refused(model: dict, tmp_path: Path) -> None:
    a, b = pair()
    torch.save({f"{KEY}.lora_A": a, f"{KEY}.lora_B": b, f"{KEY}.weight": -model[f"{KEY}.weight"]}, tmp_path / "l.pth")
    with raises_code("lora_mismatch"):
        merged(tmp_path, lora=str(tmp_path / "l.pth"), lora_alpha=16)
    assert not (tmp_path / "merged.pth").exists()


@pytest.mark.parametrize("form", ["zeros", "too small"])
def test_a_merge_without_effect_is_refused(form: str, model: dict, tmp_path: Path) -> None:
    a, b = pair()
    torch.save({name: tensor.bfloat16() for name, tensor in model.items()}, tmp_path / "base.pth")
    torch.save({f"{KEY}.lora_A": a, f"{KEY}.lora_B": b * (0 if form == "zeros" else 1e-12)}, tmp_path / "lora.pth")
    with raises_code("lora_mismatch"):
        merged(tmp_path, lora=str(tmp_path / "lora.pth"), lora_alpha=16)
    assert not (tmp_path / "merged.pth").exists()


def test_a_model_with_a_lora_left_in_it_is_named_and_both_ways_out_work(model: dict, tmp_path: Path) -> None:
    a, b = pair()
    torch.save(model | {f"{KEY}.lora_A": a, f"{KEY}.lora_B": b}, tmp_path / "both.pth")
    found = inspect(tmp_path / "both.pth")
    assert (found.kind, found.adapter, found.reason.key) == ("lora", "model", "reason.weights.model_and_adapter")
    with raises_code("not_a_model") as caught:
        require_model(found)
    assert caught.value.params["way_out"].key == "reason.weights.merge_or_drop_its_adapter"
    own = merged(tmp_path, "both.pth", lora=str(tmp_path / "both.pth"), lora_alpha=16)
    assert_only(own, model, **{f"{KEY}.weight": model[f"{KEY}.weight"] + b @ a * 2})
    assert_only(merged(tmp_path, "both.pth", without_lora=True), model)


def test_peft_folders_bring_their_alpha(model: dict, tmp_path: Path) -> None:
    a, b = pair()
    folder = tmp_path / "adapter"
    folder.mkdir()
    stem = "base_model.model.rwkv.blocks.0.attention.key"
    save_file({f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}, folder / "adapter_model.safetensors")
    for config, scale in (({"lora_alpha": 4}, 0.5), ({"lora_alpha": 4, "use_rslora": True}, 4 / RANK**0.5)):
        (folder / "adapter_config.json").write_text(json.dumps(config))
        for lora in (folder, folder / "adapter_model.safetensors"):
            found = merged(tmp_path, lora=str(lora))
            assert_only(found, model, **{f"{KEY}.weight": model[f"{KEY}.weight"] + b @ a * scale})
    for config in ({"lora_alpha": 4, "use_dora": True}, {"lora_alpha": 4, "init_lora_weights": "pissa"}, {}):
        (folder / "adapter_config.json").write_text(json.dumps(config))
        with raises_code("conversion_refused"):
            merged(tmp_path, lora=str(folder))


def test_a_pissa_needs_the_file_it_began_with(model: dict, tmp_path: Path) -> None:
    (a0, b0), (a, b) = pair(seed=1), pair()
    torch.save({f"{KEY}.init_lora_A": a0, f"{KEY}.init_lora_B": b0}, tmp_path / "init.pth")
    torch.save({f"{KEY}.lora_A": a, f"{KEY}.lora_B": b}, tmp_path / "trained.pth")
    first = inspect(tmp_path / "init.pth")
    assert (first.kind, first.adapter) == ("lora", "pissa-init")
    with raises_code("lora_mismatch"):
        merged(tmp_path, lora=str(tmp_path / "init.pth"), lora_alpha=1)
    found = merged(tmp_path, lora=str(tmp_path / "trained.pth"), lora_init=str(tmp_path / "init.pth"))
    assert_only(found, model, **{f"{KEY}.weight": model[f"{KEY}.weight"] - b0 @ a0 + b @ a})


@pytest.mark.parametrize("ending", ["bone", "disha"])
@pytest.mark.parametrize(("name", "rank"), [(KEY, 8), (VALUE, 8), (KEY, 48)])
def test_disha_is_added_by_columns(ending: str, name: str, rank: int, model: dict, tmp_path: Path) -> None:
    """As in RWKV-PEFT's layer: the input's groups of ``rank`` are summed, then projected."""
    disha = torch.randn(rank, WIDTH) * 0.1
    torch.save({f"{name}.{ending}": disha}, tmp_path / "d.pth")
    before = model[f"{name}.weight"]
    found = merged(tmp_path, lora=str(tmp_path / "d.pth"))
    x = torch.randn(3, before.shape[1])
    padded = torch.nn.functional.pad(x, (0, -before.shape[1] % rank))
    expected = x @ before.t() + padded.view(3, -1, rank).sum(1) @ disha
    assert torch.allclose(x @ found[f"{name}.weight"].t(), expected, atol=1e-4)


@pytest.mark.parametrize("name", [KEY, VALUE])
def test_bone_multiplies_blocks(name: str, model: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in RWKV-PEFT's merge: every block of rank x rank of the matrix is multiplied by its own, and added."""
    monkeypatch.setattr("webapp.weights.adapter.BLOCK_BYTES", 4096)
    before = model[f"{name}.weight"]
    out, inner = before.shape
    bone = torch.randn(inner // 16, 16, 16) * 0.05
    torch.save({f"{name}.bone": bone}, tmp_path / "b.pth")
    found = merged(tmp_path, lora=str(tmp_path / "b.pth"))
    expected = before.clone()
    for row in range(out // 16):
        for column in range(inner // 16):
            place = (slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16))
            expected[place] += before[place] @ bone[column] + bone[column]
    assert_only(found, model, **{f"{name}.weight": expected})


@pytest.mark.parametrize("shape", [(8, 64), (200, 128), (4, 16, 16), (8, 16, 8)])
def test_a_bone_of_another_size_is_refused(shape: tuple[int, ...], model: dict, tmp_path: Path) -> None:
    torch.save({f"{KEY}.bone": torch.ones(shape)}, tmp_path / "b.pth")
    with raises_code("lora_mismatch"):
        merged(tmp_path, lora=str(tmp_path / "b.pth"))


# In memory


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("kind", ["lora", "pissa", "disha", "bone"])
def test_a_model_read_with_its_adapter_is_the_merged_file(kind: str, dtype: str, tmp_path: Path) -> None:
    tensors = official("7", getattr(torch, dtype))
    torch.save(tensors, tmp_path / "base.pth")
    (a, b), (a0, b0), alpha, start = pair(512, WIDTH), pair(512, WIDTH, 1), 16.0, ""
    name = "blocks.1.ffn.key"
    adapter = {
        "lora": {f"{name}.lora_A": a, f"{name}.lora_B": b, "emb.weight": tensors["emb.weight"] * 2},
        "pissa": {f"{name}.lora_A": a, f"{name}.lora_B": b},
        "disha": {f"{name}.disha": torch.randn(RANK, 512)},
        "bone": {f"{name}.bone": torch.randn(WIDTH // 16, 16, 16)},
    }[kind]
    torch.save(adapter, tmp_path / "adapter.pth")
    if kind == "pissa":
        start = str(tmp_path / "start.pth")
        torch.save({f"{name}.init_lora_A": a0, f"{name}.init_lora_B": b0}, start)
    expected = merged(tmp_path, lora=str(tmp_path / "adapter.pth"), lora_alpha=alpha, lora_init=start)
    choice = AdapterChoice(str(tmp_path / "adapter.pth"), alpha, start)
    check_adapter(tmp_path / "base.pth", choice)
    with open_model(tmp_path / "base.pth", choice) as model:
        for tensor in expected:
            assert torch.equal(model.tensor(tensor), expected[tensor]), tensor
            assert (model.array(tensor) == expected[tensor].float().numpy()).all(), tensor
    assert not torch.equal(expected[f"{name}.weight"], tensors[f"{name}.weight"])


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("a matrix that is not there", "lora_mismatch"),
        ("another width", "lora_mismatch"),
        ("half a pair", "lora_mismatch"),
        ("no adapter", "lora_mismatch"),
        ("no alpha", "conversion_refused"),
        ("packed weights", "conversion_refused"),
        ("no model", "not_a_model"),
        ("nothing there", "file_not_found"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_a_load(
    what: str, code: str, model: dict, tmp_path: Path
) -> None:
    a, b = pair()
    names = {"a matrix that is not there": "blocks.7.att.key"}
    stem = names.get(what, KEY)
    tensors = {f"{stem}.lora_A": a, f"{stem}.lora_B": b}
    if what == "another width":
        tensors[f"{stem}.lora_A"] = torch.ones(RANK, 64)
    if what == "half a pair":
        del tensors[f"{stem}.lora_B"]
    if what == "no adapter":
        tensors = {"blocks.0.att.time_state": torch.zeros(2, 64, 64)}
    torch.save(tensors, tmp_path / "lora.pth")
    base = tmp_path / "base.pth"
    if what == "packed weights":
        convert(base, base := tmp_path / "packed.bin", "bin")
    if what == "no model":
        base = tmp_path / "lora.pth"
    choice = AdapterChoice(str(tmp_path / ("gone.pth" if what == "nothing there" else "lora.pth")))
    with raises_code(code):
        check_adapter(base, AdapterChoice(choice.path, None if what == "no alpha" else 16.0))


# The folder of Hugging Face


@pytest.mark.parametrize("architecture", ["4", "5.1", "6", "7"])
@pytest.mark.parametrize("shard_bytes", [10**9, 100_000])
def test_to_a_folder_and_back_is_byte_equal(
    architecture: str, shard_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.weights.convert.writers.SHARD_BYTES", shard_bytes)
    tensors = official(architecture)
    torch.save(tensors, tmp_path / "rwkv7-g1-0.1b-ctx8192.pth")
    folder = tmp_path / "model"
    done = convert(tmp_path / "rwkv7-g1-0.1b-ctx8192.pth", folder, "hf")
    config = json.loads((folder / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["context_length"]) == (128, 2, 8192)
    assert (len(list(folder.glob("*.safetensors"))) > 1) is (shard_bytes == 100_000)
    assert done.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    found = inspect(folder)
    assert (found.kind, found.naming) == ("model", "hf") and found.config.architecture == architecture
    convert(folder, tmp_path / "back.pth", "pth")
    back = torch.load(tmp_path / "back.pth")
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(back[name].view(torch.int16), tensor.view(torch.int16)), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.pth", "model", "rwkv7-g1-0.1b-ctx8192.pth"]


def test_a_folder_in_the_way_stays_unless_told(tmp_path: Path) -> None:
    torch.save(official("7"), tmp_path / "m.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with raises_code("conversion_target_exists"):
        convert(tmp_path / "m.pth", tmp_path / "out", "hf")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    convert(tmp_path / "m.pth", tmp_path / "out", "hf", ConversionOptions(overwrite=True))
    assert inspect(tmp_path / "out").kind == "model"
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.spelling == "hf"


def test_the_side_files_of_a_folder_are_copied(tmp_path: Path) -> None:
    torch.save(official("7"), tmp_path / "m.pth")
    convert(tmp_path / "m.pth", tmp_path / "one", "hf")
    (tmp_path / "one" / "chat_template.jinja").write_text("{{ messages }}")
    convert(tmp_path / "one", tmp_path / "two", "hf")
    assert (tmp_path / "two" / "chat_template.jinja").read_text() == "{{ messages }}"
