"""Every spelling of a model is read as the official one, from a .pth, a .safetensors and a folder of two shards."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.engine.driving import forward, load_backend
from tests.errors import raises_code
from tests.weights.spellings import SPELLINGS, VALUE_RESIDUAL, fla, official, prefixed, write_folder
from webapp.engine.state import ModelConfig
from webapp.errors import WeightsError
from webapp.manager.library import ModelLibrary
from webapp.manager.target import StartReader
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.inspection import inspect, require_model
from webapp.weights.state_file import blend_states, open_state, read_state_file

CASES = [(name, version) for name, (versions, *_) in SPELLINGS.items() for version in versions]
IDS = [1, 2, 3, 200, 7]


def write(path: Path, tensors: dict[str, torch.Tensor], form: str) -> Path:
    if form == "folder":
        return write_folder(path / "model", tensors)
    if form == "safetensors":
        save_file(tensors, path / "m.safetensors")
        return path / "m.safetensors"
    torch.save(tensors, path / "m.pth")
    return path / "m.pth"


def logits(path: Path) -> np.ndarray:
    backend = load_backend(path, "cpu fp32")
    found = forward(backend, [backend.new_slot()], [IDS])[0]
    backend.close()
    return found


@pytest.mark.parametrize(("spelling", "architecture"), CASES)
@pytest.mark.parametrize("form", ["pth", "folder"])
def test_a_spelling_has_the_tensors_of_the_official_file(
    spelling: str, architecture: str, form: str, tmp_path: Path
) -> None:
    """Equal tensors with equal shapes and strides: every computation with them gives the same result."""
    expected = official(architecture)
    path = write(tmp_path, SPELLINGS[spelling][2](expected), form)
    found = inspect(path)
    assert (found.kind, found.naming, found.reason) == ("model", SPELLINGS[spelling][1], "")
    assert found.config is not None and found.config.architecture == architecture
    with open_checkpoint(path) as checkpoint:
        assert set(checkpoint.names()) == set(expected)
        for name, tensor in expected.items():
            read = checkpoint.tensor(name)
            assert (read.dtype, read.stride()) == (tensor.dtype, tensor.stride()), name
            if name in VALUE_RESIDUAL and not torch.equal(read, tensor):
                # left out in these spellings, and no program uses it
                assert spelling in ("fla", "rwkv-rs") and not read.any()
            else:
                assert torch.equal(read, tensor), name
            assert np.array_equal(checkpoint.array(name), read.float().numpy()), name


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling_gives_the_very_same_logits(spelling: str, tmp_path: Path) -> None:
    versions, _, spelled = SPELLINGS[spelling]
    tensors = official(versions[-1])
    torch.save(tensors, tmp_path / "official.pth")
    assert (logits(write(tmp_path, spelled(tensors), "folder")) == logits(tmp_path / "official.pth")).all()


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module"])
def test_a_checkpoint_of_a_trainer_is_unwrapped(wrapper: str, tmp_path: Path) -> None:
    tensors = official("7")
    content = {wrapper: prefixed("module.")(tensors), "epoch": 3, "dtype": torch.bfloat16, "args": None}
    torch.save(content, tmp_path / "m.pth")
    found = inspect(tmp_path / "m.pth")
    assert (found.kind, found.is_published_form) == ("model", False)
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        assert torch.equal(checkpoint.tensor("head.weight"), tensors["head.weight"])


@pytest.mark.parametrize("content", ["tensors", "wrapped", "state"])
def test_the_old_form_of_torch_is_read(content: str, tmp_path: Path) -> None:
    tensors = official("7", torch.float32)
    tensors["blocks.0.att.key.weight"] = tensors["blocks.0.att.key.weight"].t()
    tensors["head.weight"] = tensors["emb.weight"]  # one storage for both
    whole = {
        "tensors": tensors,
        "wrapped": {"model": tensors},
        "state": {"blocks.0.att.time_state": torch.ones(2, 8, 8)},
    }
    torch.save(whole[content], tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    expected = whole["state"] if content == "state" else tensors
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        assert set(checkpoint.names()) == set(expected)
        for name, tensor in expected.items():
            assert torch.equal(checkpoint.tensor(name), tensor), name
    assert inspect(tmp_path / "m.pth").kind == ("state" if content == "state" else "model")


def test_an_old_file_that_was_cut_off_is_reported(tmp_path: Path) -> None:
    torch.save(official("7"), tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "m.pth").read_bytes()
    for size in (len(whole) - 1, len(whole) // 2):
        (tmp_path / "m.pth").write_bytes(whole[:size])
        with raises_code("file_truncated", "file_error"):
            inspect(tmp_path / "m.pth")


def test_a_square_low_rank_matrix_is_turned_as_its_spelling_says(tmp_path: Path) -> None:
    """If rank and width are equal, the shape does not show the orientation."""
    tensors = official("7", n_embd=32, head_size=16)
    with open_checkpoint(write(tmp_path, fla(tensors), "safetensors")) as checkpoint:
        assert torch.equal(checkpoint.tensor("blocks.1.att.w1"), tensors["blocks.1.att.w1"])


def test_two_tensors_of_one_name_keep_their_own(tmp_path: Path) -> None:
    tensors = official("7")
    torch.save(tensors | {"module.emb.weight": tensors["emb.weight"] * 2}, tmp_path / "m.pth")
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        assert torch.equal(checkpoint.tensor("emb.weight"), tensors["emb.weight"])
        assert "module.emb.weight" in checkpoint.names()


def test_a_head_that_was_tied_is_the_embedding(tmp_path: Path) -> None:
    tensors = official("7")
    tensors.pop("head.weight")
    path = write(tmp_path, tensors, "safetensors")
    assert inspect(path).kind == "model"
    with open_checkpoint(path) as checkpoint:
        assert torch.equal(checkpoint.tensor("head.weight"), tensors["emb.weight"])


@pytest.mark.parametrize(
    ("stray", "key"),
    [
        ("blocks.2.att.time_state", "layer_is_nearly_empty"),
        ("blocks.0.ffn.s_emb.weight", "is_rwkv_7a"),
        ("blocks.0.qkv.qq.weight", "is_rwkv_7b"),
        ("blocks.0.ffn.enn.weight", "is_rwkv_8"),
    ],
)
def test_a_model_of_another_kind_is_named(stray: str, key: str, tmp_path: Path) -> None:
    torch.save(official("7") | {stray: torch.zeros(2, 64, 64)}, tmp_path / "m.pth")
    found = inspect(tmp_path / "m.pth")
    assert (found.kind, found.reason.key) == ("unknown", f"reason.weights.{key}")
    with raises_code("not_a_model"):
        require_model(found)


def test_a_folded_first_norm_is_named(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in official("7").items() if ".ln0." not in name}
    path = write(tmp_path, prefixed("rwkv7.", "head.")(tensors), "folder")
    assert inspect(path).reason.key == "reason.weights.folded_norm"


@pytest.mark.parametrize(("vocab_size", "tokenizer"), [(65530, "world"), (65529, "world")])
def test_the_world_vocabulary_without_its_padding(vocab_size: int, tokenizer: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": vocab_size, "n_embd": 8, "head_size": 4, "n_layer": 1}
    assert inspect(write(tmp_path, official("7", **sizes), "pth")).tokenizer == tokenizer


# Folders


def test_a_folder_is_as_large_as_its_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", official("7"), generation_config={"temperature": 1})
    assert inspect(folder).size_bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_a_folder_of_one_file_and_one_of_any_name(tmp_path: Path) -> None:
    tensors = official("6")
    assert inspect(write_folder(tmp_path / "one", tensors, shards=1)).kind == "model"
    folder = write_folder(tmp_path / "named", tensors, shards=1)
    (folder / "model.safetensors").rename(folder / "rwkv6-world.safetensors")
    assert inspect(folder).kind == "model"


def test_a_header_of_640_bytes_is_no_pickle(tmp_path: Path) -> None:
    """Its length, 0x280, begins like a pickle."""
    for size in range(400, 700):
        save_file({"a" * 400: torch.zeros(1)}, tmp_path / "m.safetensors", {"x": "y" * (size - 400)})
        if (tmp_path / "m.safetensors").read_bytes()[:2] == b"\x80\x02":
            break
    assert inspect(tmp_path / "m.safetensors").format == "safetensors"


def damaged(folder: Path, how: str) -> None:
    index = folder / "model.safetensors.index.json"
    first = folder / "model-00001-of-00002.safetensors"
    if how == "missing":
        first.unlink()
    elif how == "cut":
        first.write_bytes(first.read_bytes()[:-5])
    elif how == "outside":
        index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    elif how == "not json":
        index.write_text("{")
    elif how == "huge":
        index.write_text(json.dumps({"weight_map": {}, "x": "y" * 9_000_000}))
    elif how == "twice":
        other = folder / "model-00002-of-00002.safetensors"
        other.write_bytes(first.read_bytes())


@pytest.mark.parametrize("how", ["missing", "cut", "outside", "not json", "huge", "twice"])
def test_a_damaged_folder_is_reported(how: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", official("7"))
    damaged(folder, how)
    with pytest.raises(WeightsError) as caught:
        inspect(folder)
    assert caught.value.code in ("file_truncated", "file_error")
    assert caught.value.params["path"] in (str(folder), str(folder / "model-00001-of-00002.safetensors"))


def test_any_other_folder_is_no_model(tmp_path: Path) -> None:
    write(tmp_path, official("7"), "safetensors")
    with raises_code("file_is_directory"):
        inspect(tmp_path)


# States and archives of other programs

CONFIG = ModelConfig("7", 2, 128, 128, 512, 2, 64, 256)


def states() -> list[torch.Tensor]:
    return [torch.randn(2, 64, 64) for _ in range(2)]


@pytest.mark.parametrize("form", ["list", "key", "prefix", "batch", "npy", "npy batch", "legacy"])
def test_states_as_others_save_them(form: str, tmp_path: Path) -> None:
    layers = states()
    named = {f"blocks.{n}.att.time_state": layer for n, layer in enumerate(layers)}
    path = tmp_path / ("s.npy" if form.startswith("npy") else "s.pth")
    if path.suffix == ".npy":
        array = torch.stack(layers).numpy()
        np.save(path, array[None] if form == "npy batch" else array)
    elif form == "legacy":
        torch.save(named, path, _use_new_zipfile_serialization=False)
    else:
        batch = {name: layer[None] for name, layer in named.items()}
        forms = {
            "list": layers,
            "key": {"state": layers},
            "prefix": prefixed("_forward_module.")(named),
            "batch": batch,
        }
        torch.save(forms[form], path)
    found = read_state_file(path, CONFIG)
    assert np.array_equal(found.layers, torch.stack(layers).numpy())
    assert inspect(path).state_shape == open_state(path).sizes == (2, 2, 64)


@pytest.mark.parametrize("architecture", ["6", "7"])
def test_a_running_state_of_the_package_continues_where_it_stopped(architecture: str, tmp_path: Path) -> None:
    """Its complete state, saved with torch as a list: the next token's logits are those of the original chat."""
    torch.save(official(architecture, torch.float32), tmp_path / "m.pth")
    backend = load_backend(tmp_path / "m.pth", "cpu fp32")
    slot = backend.new_slot()
    forward(backend, [slot], [IDS])
    arrays = backend.read_state(slot).arrays
    running = []
    for layer in range(2):
        matrices = arrays["att_kv"][layer]
        turned = matrices.swapaxes(-1, -2).copy() if architecture == "6" else matrices  # as its code stores them
        running += [arrays["att_x_prev"][layer], turned, arrays["ffn_x_prev"][layer]]
    torch.save([torch.from_numpy(array) for array in running], tmp_path / "left.pth")

    config = inspect(tmp_path / "m.pth").config
    library = ModelLibrary(tmp_path, tmp_path)
    start = StartReader(library, frozenset()).start("left.pth", config)
    assert inspect(tmp_path / "left.pth").kind == "state"
    assert start.info.digest == open_state(tmp_path / "left.pth").digest
    fresh = backend.new_slot()
    backend.write_state(fresh, start.state)
    assert (forward(backend, [slot], [[9]]) == forward(backend, [fresh], [[9]])).all()
    backend.close()
    with raises_code("blend_invalid"):
        blend_states([(open_state(tmp_path / "left.pth"), 1.0), (None, 1.0)])


def test_a_running_state_of_another_width_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(64), torch.ones(2, 64, 64), torch.ones(128)] * 2, tmp_path / "s.pth")
    with raises_code("state_mismatch"):
        read_state_file(tmp_path / "s.pth", CONFIG)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 64, 32), (2, 2, 2, 64, 64)])
def test_an_array_that_is_no_state_is_reported(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.zeros(shape, np.float32))
    with raises_code("file_error"):
        inspect(tmp_path / "s.npy")


def test_an_array_that_was_cut_off_is_reported(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.zeros((2, 2, 64, 64), np.float32))
    (tmp_path / "s.npy").write_bytes((tmp_path / "s.npy").read_bytes()[:-1])
    with raises_code("file_truncated"):
        inspect(tmp_path / "s.npy")


def test_a_zip_with_a_model_in_it_is_to_be_unpacked(tmp_path: Path) -> None:
    torch.save(official("7"), tmp_path / "m.pth")
    with zipfile.ZipFile(tmp_path / "packed.pth", "w") as archive:
        archive.write(tmp_path / "m.pth", "m.pth")
    with raises_code("not_a_model") as caught:
        inspect(tmp_path / "packed.pth")
    assert caught.value.params["way_out"].key == "reason.weights.unpack_it"
