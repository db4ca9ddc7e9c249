"""Conversions in both directions: the same tensors, the same logits, and no incomplete file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import force_setattr
from safetensors.torch import load_file

from tests.engine.driving import forward, load_backend
from tests.errors import raises_code
from tests.weights.make_checkpoints import ARCHITECTURES, write_checkpoint, write_tensors
from webapp.errors import ConversionError, StrategyError
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.convert import source, writers
from webapp.weights.convert.conversion import convert, plan_for
from webapp.weights.convert.plan import ConversionOptions, ConversionProgress
from webapp.weights.inspection import inspect

IDS = [1, 2, 3, 250, 7]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny tensors are processed in several blocks too."""
    from webapp.backends.rwkv_pip import layout

    monkeypatch.setattr(source.Source.blocks, "__defaults__", (10_000,))
    monkeypatch.setattr(layout, "MAX_TURN_BYTES", 50_000)


def logits(path: Path, strategy: str = "cpu fp32") -> np.ndarray:
    backend = load_backend(path, strategy)
    found = forward(backend, [backend.new_slot()], [IDS])[0]
    backend.close()
    return found


def state_dict(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True, mmap=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_there_and_back_gives_the_same_file(architecture: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw.pth"
    write_checkpoint(raw, architecture, dtype="float16", time_state=architecture != "4")
    convert(raw, tmp_path / "model.st", "st")
    convert(tmp_path / "model.st", tmp_path / "back.pth", "pth")
    original, back = state_dict(raw), state_dict(tmp_path / "back.pth")
    assert list(original) == list(back)
    for name, tensor in original.items():
        assert torch.equal(tensor, back[name]) and back[name].dtype == torch.float16, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_st_file_loads_with_identical_logits(architecture: str, tmp_path: Path) -> None:
    raw, st = tmp_path / "raw.pth", tmp_path / "model.st"
    write_checkpoint(raw, architecture, dtype="float16", time_state=architecture != "4")
    convert(raw, st, "st")
    assert (logits(raw) == logits(st)).all()


def test_names_and_turns_are_those_of_web_rwkv(tmp_path: Path) -> None:
    """As in RWKV-Runner's convert_safetensors.py."""
    write_checkpoint(tmp_path / "raw.pth", "6", dtype="float16", time_state=True)
    convert(tmp_path / "raw.pth", tmp_path / "model.st", "st")
    original = state_dict(tmp_path / "raw.pth")
    found = load_file(tmp_path / "model.st")
    assert torch.equal(found["blocks.0.att.time_first"], original["blocks.0.att.time_faaaa"])
    for stored, official in (("time_mix_w1", "time_maa_w1"), ("time_mix_w2", "time_maa_w2")):
        assert torch.equal(found[f"blocks.1.att.{stored}"], original[f"blocks.1.att.{official}"].transpose(-1, -2))
    for name in ("time_decay_w1", "time_decay_w2", "time_state"):
        assert torch.equal(found[f"blocks.1.att.{name}"], original[f"blocks.1.att.{name}"].transpose(-1, -2))
    for name in ("att.key.weight", "ffn.value.weight"):
        assert torch.equal(found[f"blocks.0.{name}"], original[f"blocks.0.{name}"])
    assert not [name for name in found if "maa" in name or "faaaa" in name]
    assert {tensor.dtype for tensor in found.values()} == {torch.float16}


def test_the_reference_library_reads_what_was_written(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", "7")
    convert(tmp_path / "raw.pth", tmp_path / "model.st", "st")
    found, original = load_file(tmp_path / "model.st"), state_dict(tmp_path / "raw.pth")
    assert torch.equal(found["head.weight"], original["head.weight"].half())
    assert torch.equal(found["blocks.1.att.g1"], original["blocks.1.att.g1"].half().t())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_safetensors_file_becomes_a_pth_in_its_own_precision(dtype: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.safetensors", "7", dtype=dtype)
    convert(tmp_path / "raw.safetensors", tmp_path / "model.pth", "pth")
    assert {str(tensor.dtype) for tensor in state_dict(tmp_path / "model.pth").values()} == {f"torch.{dtype}"}
    assert (logits(tmp_path / "raw.safetensors") == logits(tmp_path / "model.pth")).all()


def test_storages_are_aligned_for_maps(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.safetensors", "6")
    convert(tmp_path / "raw.safetensors", tmp_path / "model.pth", "pth")
    with open_checkpoint(tmp_path / "model.pth") as found:
        assert {found.stored(name).offset % 64 for name in found.names()} == {0}


@pytest.mark.parametrize(
    ("architecture", "strategy"),
    [
        *((architecture, strategy) for architecture in ("4", "5.0", "5.1", "5.2", "6") for strategy in ("cpu fp32i8",)),
        ("4", "cpu bf16"),
        ("5.2", "cpu fp32 *1 -> cpu bf16"),
        ("6", "cpu fp32"),
        ("6", "cpu bf16"),
        ("6", "cpu bf16i8"),
        ("6", "cpu fp16i8"),
        ("7", "cpu fp32"),
        ("7", "cpu bf16"),
        ("7", "cpu fp16"),
    ],
)
def test_a_fast_file_gives_the_very_same_logits(
    architecture: str, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWKV_RESCALE_LAYER", "1" if "fp16" in strategy else "0")
    raw, fast = tmp_path / "raw.pth", tmp_path / "fast.pth"
    write_checkpoint(raw, architecture, time_state=architecture in ("5.2", "6", "7"))
    convert(raw, fast, "fast", ConversionOptions(strategy=strategy))
    assert (logits(raw, strategy) == logits(fast, strategy)).all()


def convert_by_package(raw: Path, converted: Path, strategy: str) -> None:
    """The embedding is widened first, as Roost normalises it: the package would do it in bf16."""
    from webapp.backends.rwkv_pip import model_loader

    widened = {
        name: tensor.float() if name.startswith(("emb.", "blocks.0.ln0.")) else tensor
        for name, tensor in state_dict(raw).items()
    }
    torch.save(widened, raw.with_name("widened.pth"))
    module = model_loader.import_package(model_loader.switches_for(inspect(raw).config, strategy, is_music=False))
    with pytest.raises(SystemExit):
        module.RWKV(str(raw.with_name("widened")), strategy, convert_and_save_and_exit=str(converted))


@pytest.mark.parametrize("architecture", ["4", "5.0", "5.1", "5.2", "6"])
@pytest.mark.parametrize("strategy", ["cpu fp32i8", "cpu fp16"])
def test_before_seven_it_is_the_packages_own_file(
    architecture: str, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWKV_RESCALE_LAYER", "1" if "fp16" in strategy else "0")
    raw = tmp_path / "raw.pth"
    write_checkpoint(raw, architecture, n_embd=128)  # the package cannot print the shape of a single head
    convert_by_package(raw, tmp_path / "theirs.pth", strategy)
    convert(raw, tmp_path / "ours.pth", "fast", ConversionOptions(strategy=strategy))
    theirs, ours = state_dict(tmp_path / "theirs.pth"), state_dict(tmp_path / "ours.pth")
    assert set(theirs) == set(ours)
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, ours[name]) and value.dtype == ours[name].dtype, name
            assert value.shape == ours[name].shape, name
        else:
            assert value == ours[name], name


@pytest.mark.parametrize("architecture", ["6", "7"])
def test_a_merged_state_stays_as_it_is_in_a_fast_file(architecture: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", architecture, dtype="float32", time_state=True)
    convert(tmp_path / "raw.pth", tmp_path / "fast.pth", "fast", ConversionOptions(strategy="cpu bf16"))
    original, fast = state_dict(tmp_path / "raw.pth"), state_dict(tmp_path / "fast.pth")
    name = "blocks.1.att.time_state"
    assert torch.equal(original[name], fast[name]) and fast[name].dtype == torch.float32


@pytest.mark.parametrize("architecture", ["6", "7"])
def test_a_fast_file_runs_only_with_its_own_strategy(architecture: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", architecture)
    convert(tmp_path / "raw.pth", tmp_path / "fast.pth", "fast", ConversionOptions(strategy="cpu bf16"))
    with pytest.raises(StrategyError, match="cpu bf16"):
        logits(tmp_path / "fast.pth", "cpu fp32")
    with raises_code("conversion_refused", match="cpu bf16"):
        convert(tmp_path / "fast.pth", tmp_path / "again.st", "st")


def test_a_fast_file_can_be_made_for_a_card_this_machine_lacks(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", "6", n_layer=2)
    convert(
        tmp_path / "raw.pth", tmp_path / "fast.pth", "fast", ConversionOptions(strategy="cuda fp16i8 *1 -> cpu fp32")
    )
    assert inspect(tmp_path / "fast.pth").converted_strategy == "cuda fp16i8 *1 -> cpu fp32"


def test_a_v7_file_from_another_converter_is_refused_with_the_reason(tmp_path: Path) -> None:

    write_checkpoint(tmp_path / "raw.pth", "7")
    convert(tmp_path / "raw.pth", tmp_path / "fast.pth", "fast", ConversionOptions(strategy="cpu fp32"))
    torch.save({k: v for k, v in state_dict(tmp_path / "fast.pth").items() if k != "_roost_layout"}, tmp_path / "x.pth")
    with raises_code("load_failed", "file_error", key="reason.backends.converted_elsewhere"):
        logits(tmp_path / "x.pth")


@pytest.mark.parametrize("strategy", ["", "cpu fp33", "cpu fp32i8", "cpu fp32 -> cpu bf16", "cpu fp32 *99"])
def test_a_strategy_the_model_cannot_take_is_refused(strategy: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", "7")
    with raises_code("strategy_invalid", "conversion_refused"):
        convert(tmp_path / "raw.pth", tmp_path / "fast.pth", "fast", ConversionOptions(strategy=strategy))
    assert [path.name for path in tmp_path.iterdir()] == ["raw.pth"]


def lora_of(path: Path, n_embd: int = 128, rank: int = 4, **changes: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    arrays = {
        "blocks.0.att.key.lora_A": rng.standard_normal((rank, n_embd)).astype(np.float32) * 0.1,
        "blocks.0.att.key.lora_B": rng.standard_normal((n_embd, rank)).astype(np.float32) * 0.1,
        "blocks.1.ln1.weight": np.full((n_embd,), 0.5, np.float32),
        **changes,
    }
    write_tensors(path, arrays)
    return arrays


@pytest.mark.parametrize("target", ["pth", "st"])
def test_a_lora_is_merged(target: str, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "raw.pth", "7", dtype="float32")
    lora = lora_of(tmp_path / "lora.pth")
    options = ConversionOptions(lora=str(tmp_path / "lora.pth"), lora_alpha=8)
    convert(tmp_path / "raw.pth", tmp_path / f"merged.{target}", target, options)
    name = "blocks.0.att.key"
    expected = weights[f"{name}.weight"] + lora[f"{name}.lora_B"] @ lora[f"{name}.lora_A"] * 2
    tolerance = 1e-6 if target == "pth" else 1e-3
    with open_checkpoint(tmp_path / f"merged.{target}") as merged:
        assert np.abs(merged.array(f"{name}.weight") - expected).max() < tolerance
        assert (merged.array("blocks.1.ln1.weight") == 0.5).all()
        assert np.abs(merged.array("blocks.1.att.key.weight") - weights["blocks.1.att.key.weight"]).max() < tolerance


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"blocks.0.att.key.lora_A": np.zeros((4, 64), np.float32)}, {"name": "blocks.0.att.key.weight"}),
        ({"blocks.0.att.key.lora_B": np.zeros((128, 8), np.float32)}, {"name": "blocks.0.att.key.weight"}),
        ({"blocks.9.att.key.lora_A": np.zeros((4, 128), np.float32)}, {"what": "blocks.9.att.key.weight"}),
        ({"blocks.0.att.value.lora_B": np.zeros((128, 4), np.float32)}, {"key": "reason.weights.alone"}),
        ({"blocks.1.ln1.weight": np.zeros(64, np.float32)}, {"what": "blocks.1.ln1.weight"}),
        (
            {"blocks.0.att.key.lora_A": np.full((4, 128), np.nan, np.float32)},
            {"key": "reason.weights.values_not_finite"},
        ),
    ],
)
def test_a_lora_of_another_model_is_refused(
    changes: dict[str, np.ndarray], told: dict[str, str], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "raw.pth", "7")
    lora_of(tmp_path / "lora.pth", **changes)
    options = ConversionOptions(lora=str(tmp_path / "lora.pth"), lora_alpha=8)
    with raises_code("lora_mismatch", "conversion_failed", **told):
        convert(tmp_path / "raw.pth", tmp_path / "merged.pth", "pth", options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora.pth", "raw.pth"]


@pytest.mark.parametrize("alpha", [None, 0.0, float("nan"), -1.0])
def test_a_lora_without_its_alpha_is_not_guessed(alpha: float | None, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", "7")
    lora_of(tmp_path / "lora.pth")
    options = ConversionOptions(lora=str(tmp_path / "lora.pth"), lora_alpha=alpha)
    with raises_code("conversion_refused", key="reason.weights.alpha_unknown"):
        convert(tmp_path / "raw.pth", tmp_path / "merged.pth", "pth", options)


@pytest.mark.parametrize("target", ["st", "fast"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_values_that_are_no_numbers_or_do_not_fit_stop_it(target: str, value: float, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "raw.pth", "7", dtype="float32")
    weights["blocks.1.ffn.key.weight"][3, 3] = value
    write_tensors(tmp_path / "raw.pth", weights)
    with pytest.raises(ConversionError, match=r"blocks\.1\.ffn\.key\.weight"):
        convert(
            tmp_path / "raw.pth",
            tmp_path / f"out.{'st' if target == 'st' else 'pth'}",
            target,
            ConversionOptions(strategy="cpu fp16"),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["raw.pth"]


@pytest.mark.parametrize("after", [0, 1, 20])
@pytest.mark.parametrize("phase", ["convert", "verify"])
def test_a_cancelled_conversion_leaves_nothing(phase: str, after: int, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", "6")
    seen: list[str] = []
    questions = 0

    def is_cancelled() -> bool:
        nonlocal questions
        questions += seen[-1] == phase
        return questions > after

    with raises_code("conversion_cancelled"):
        convert(tmp_path / "raw.pth", tmp_path / "model.st", "st", None, lambda p: seen.append(p.phase), is_cancelled)
    assert [path.name for path in tmp_path.iterdir()] == ["raw.pth"]


def test_progress_rises_to_everything_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.weights.convert.plan.REPORT_EVERY_S", 0)
    write_checkpoint(tmp_path / "raw.pth", "6")
    seen: list[ConversionProgress] = []
    convert(tmp_path / "raw.pth", tmp_path / "model.st", "st", report=seen.append)
    for phase in ("convert", "verify"):
        reports = [(report.done_bytes, report.done_tensors) for report in seen if report.phase == phase]
        assert reports == sorted(reports) and reports[0] == (0, 0)
        assert reports[-1] == (seen[0].total_bytes, seen[0].total_tensors)


def test_the_plan_knows_the_bytes_beforehand(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", "6")
    options = ConversionOptions(strategy="cpu bf16i8")
    for target, name in (("st", "a.st"), ("fast", "b.pth")):
        planned = plan_for(tmp_path / "raw.pth", target, options).total_bytes
        convert(tmp_path / "raw.pth", tmp_path / name, target, options)
        assert planned == sum(info.nbytes for info in inspect(tmp_path / name).tensors)


def test_a_file_in_the_way_stays_unless_told(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", "6")
    (tmp_path / "model.st").write_bytes(b"mine")
    with raises_code("conversion_target_exists"):
        convert(tmp_path / "raw.pth", tmp_path / "model.st", "st")
    assert (tmp_path / "model.st").read_bytes() == b"mine"
    convert(tmp_path / "raw.pth", tmp_path / "model.st", "st", ConversionOptions(overwrite=True))
    assert inspect(tmp_path / "model.st").naming == "web-rwkv"


def test_the_source_is_never_its_own_target(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", "6")
    before = (tmp_path / "raw.pth").read_bytes()
    options = ConversionOptions(strategy="cpu fp32", overwrite=True)
    with raises_code("conversion_refused", key="reason.weights.output_is_input"):
        convert(tmp_path / "raw.pth", tmp_path / "raw.pth", "fast", options)
    assert (tmp_path / "raw.pth").read_bytes() == before


@pytest.mark.parametrize("name", ["model.pth", "model", "model.gguf", "nowhere/model.st"])
def test_a_name_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", "6")
    with raises_code("conversion_refused"):
        convert(tmp_path / "raw.pth", tmp_path / name, "st")


def test_a_full_disk_is_said_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "raw.pth", "6")
    usage = type("Usage", (), {"free": 20_000_000})
    monkeypatch.setattr(writers.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(writers, "SPARE_BYTES", 20_000_000)
    with raises_code("conversion_no_space"):
        convert(tmp_path / "raw.pth", tmp_path / "model.st", "st")


def test_what_there_is_no_need_to_convert_is_said(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", "6")
    convert(tmp_path / "raw.pth", tmp_path / "model.st", "st")
    with raises_code("conversion_refused", key="reason.weights.pth_already"):
        convert(tmp_path / "raw.pth", tmp_path / "again.pth", "pth")
    with raises_code("conversion_refused", key="reason.weights.has_web_rwkv_names"):
        convert(tmp_path / "model.st", tmp_path / "again.st", "st")
    with raises_code("conversion_refused", key="reason.weights.no_such_target"):
        convert(tmp_path / "raw.pth", tmp_path / "model.onnx", "onnx")


def test_only_models_are_converted(tmp_path: Path) -> None:
    from tests.weights.make_checkpoints import write_state

    write_state(tmp_path / "state.pth")
    with raises_code("not_a_model"):
        convert(tmp_path / "state.pth", tmp_path / "model.st", "st")


def test_a_result_that_reads_back_differently_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that loses a byte, and a writer that exchanges two tensors of the same shape."""
    from webapp.weights.convert import writers

    write_checkpoint(tmp_path / "raw.pth", "6")
    honest = writers.WRITERS["safetensors"]

    def losing(file, plan, meter) -> None:
        honest(file, plan, meter)
        file.seek(-5000, 2)
        file.write(bytes(100))

    monkeypatch.setitem(writers.WRITERS, "safetensors", losing)
    with raises_code("conversion_failed", key="reason.weights.written_wrong"):
        convert(tmp_path / "raw.pth", tmp_path / "model.st", "st")

    def mixing(file, plan, meter) -> None:
        key, value = (
            next(t for t in plan.tensors if t.info.name == f"blocks.0.att.{n}.weight") for n in ("key", "value")
        )
        force_setattr(key, "blocks", value.blocks)
        honest(file, plan, meter)

    monkeypatch.setitem(writers.WRITERS, "safetensors", mixing)
    with raises_code("conversion_failed", key="reason.weights.values_differ", name="blocks.0.att.key.weight"):
        convert(tmp_path / "raw.pth", tmp_path / "model.st", "st")
    assert [path.name for path in tmp_path.iterdir()] == ["raw.pth"]
