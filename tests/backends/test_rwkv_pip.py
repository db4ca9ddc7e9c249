"""Loading and running with the official package: progress, cancelling, failures, precisions, converted files."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from tests.backends.parity import measure
from tests.engine.driving import forward, load_backend
from tests.errors import raises_code
from tests.reference.numpy_rwkv import NumpyRwkv
from tests.weights.make_checkpoints import write_checkpoint, write_tensors
from webapp.backends.rwkv_pip import backend as rwkv_backend
from webapp.backends.rwkv_pip import model_loader
from webapp.backends.rwkv_pip.backend import set_threads
from webapp.engine.backend import LoadProgress
from webapp.engine.state import ModelConfig
from webapp.errors import ModelError, OutOfMemory, StrategyError
from webapp.weights.inspection import inspect

BEFORE_7 = ("4", "5.0", "5.1", "5.2", "6")
ALL = (*BEFORE_7, "7")


def precision_differences(path: Path, strategy: str, architecture: str, **options: object):
    weights = write_checkpoint(path, architecture, **options)
    backend = load_backend(path, strategy)
    found = measure(backend, NumpyRwkv(backend.config, weights))
    backend.close()
    print(f"\nRWKV-{architecture} {strategy}: {found}")
    return found


# Logits have standard deviation 1. Measured over the architectures: bf16 up to 0.07, fp16 0.03, int8 0.08.
@pytest.mark.parametrize(
    ("strategy", "tolerance", "architecture"),
    [*(("cpu bf16", 0.25, architecture) for architecture in ALL), ("cpu fp16", 0.05, "5.2"), ("cpu fp16", 0.05, "7")],
)
def test_half_precision_stays_near(strategy: str, tolerance: float, architecture: str, tmp_path: Path) -> None:
    found = precision_differences(tmp_path / "model.pth", strategy, architecture)
    assert 1e-6 < max(found.chunks, found.single_tokens, found.continued) <= tolerance


@pytest.mark.parametrize("architecture", BEFORE_7)
def test_int8_stays_near(architecture: str, tmp_path: Path) -> None:
    found = precision_differences(tmp_path / "model.pth", "cpu fp32i8", architecture)
    assert 1e-3 < max(found.chunks, found.single_tokens, found.continued) <= 0.25


def test_layers_can_differ_in_precision(tmp_path: Path) -> None:
    found = precision_differences(tmp_path / "model.pth", "cpu fp32 *1 -> cpu bf16 *1 -> cpu fp32", "6")
    assert found.largest() <= 0.25


def test_fp16_halves_its_activations_every_six_layers(tmp_path: Path) -> None:
    found = precision_differences(tmp_path / "model.pth", "cpu fp16", "6", n_layer=7, n_embd=64)
    assert max(found.chunks, found.single_tokens, found.continued) <= 0.05


def test_torchscript_computes_the_same(tmp_path: Path) -> None:
    """In a separate process: torch decides at import whether it compiles, and in this one it does not."""
    code = (
        "import sys, torch, numpy as np; from tests.engine.driving import forward, load_backend\n"
        "for model_path in sys.argv[1:]:\n"
        "    backend = load_backend(model_path)\n"
        "    assert '_actual_script_module' in vars(backend._model.model)\n"
        "    np.save(f'{model_path}.npy', forward(backend, [backend.new_slot()], [[1, 2, 3]]))"
    )
    models = [str(tmp_path / f"{architecture}.pth") for architecture in "67"]
    for path, architecture in zip(models, "67", strict=True):
        write_checkpoint(path, architecture, n_layer=1)
    environment = os.environ | {"RWKV_JIT_ON": "1", "PYTORCH_JIT": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *models], env=environment, check=True)
    for path in models:
        backend = load_backend(path)
        assert "_actual_script_module" not in vars(backend._model.model)
        plain = forward(backend, [backend.new_slot()], [[1, 2, 3]])
        assert np.abs(plain - np.load(f"{path}.npy")).max() <= 1e-4, path


def test_a_prompt_longer_than_a_chunk_is_cut_inside(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model.pth", "5.1", n_layer=1)
    backend = load_backend(tmp_path / "model.pth")
    ids = np.random.default_rng(0).integers(0, 256, 600).tolist()
    at_once, in_pieces = backend.new_slot(), backend.new_slot()
    logits = forward(backend, [at_once], [ids])
    for start in range(0, 600, 100):
        pieces = forward(backend, [in_pieces], [ids[start : start + 100]])
    assert np.abs(logits - pieces).max() <= 1e-3
    assert logits.dtype == np.float32 and logits.shape == (1, 256)


@pytest.mark.parametrize("architecture", ("4", "6", "7"))
@pytest.mark.parametrize("file", ("model.pth", "model.safetensors"))
def test_progress_rises_to_everything(architecture: str, file: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / file, architecture, time_state=architecture != "4")
    seen: list[LoadProgress] = []
    load_backend(tmp_path / file, progress=seen.append)
    figures = [(report.done_bytes, report.done_tensors) for report in seen]
    assert figures == sorted(figures) and figures[0] == (0, 0)
    assert figures[-1] == (seen[0].total_bytes, seen[0].total_tensors)
    steps = [after - before for (_, before), (_, after) in itertools.pairwise(figures)]
    assert max(steps[:-1]) == 1, "every tensor is reported, but for the last few that the package has no use for"
    assert seen[0].total_tensors == len(inspect(tmp_path / file).tensors)


@pytest.mark.parametrize("architecture", ("6", "7"))
@pytest.mark.parametrize("after", (0, 1, 20))
def test_a_load_that_is_cancelled_leaves_nothing(architecture: str, after: int, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model.pth", architecture)

    def cancel_once(report: LoadProgress) -> None:
        if report.done_tensors == after and not cancelled:
            cancelled.append(report)
            raise ModelError("load_cancelled")

    cancelled: list[LoadProgress] = []
    with raises_code("load_cancelled"):
        load_backend(tmp_path / "model.pth", progress=cancel_once)
    load_backend(tmp_path / "model.pth").close()


def test_models_of_every_version_live_side_by_side(tmp_path: Path) -> None:
    backends = []
    for architecture, strategy in (("7", "cpu fp32"), ("6", "cpu fp32"), ("7", "cpu bf16"), ("4", "cpu fp32i8")):
        path = tmp_path / f"{len(backends)}.pth"
        write_checkpoint(path, architecture)
        backends.append((load_backend(path, strategy), []))
    for _ in range(2):
        for backend, seen in backends:
            seen.append(forward(backend, [backend.new_slot()], [[1, 2, 3]]))
    assert all((first == second).all() for _, (first, second) in backends)


def test_closing_gives_the_weights_back(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model.pth", "7")
    backend = load_backend(tmp_path / "model.pth")
    weights = weakref.ref(backend._model.model.z["head.weight"])
    backend.close()
    gc.collect()
    assert weights() is None
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        backend.new_slot()


def test_the_package_prints_to_the_log_and_not_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="webapp.backends")
    for architecture in ("6", "7"):
        write_checkpoint(tmp_path / f"{architecture}.pth", architecture)
        load_backend(tmp_path / f"{architecture}.pth")
    assert capfd.readouterr().out == ""
    assert "Goose" in caplog.text


@pytest.mark.parametrize("architecture", ("4", "6", "7"))
def test_a_missing_tensor_fails_the_load_and_not_the_first_answer(architecture: str, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "model.pth", architecture)
    config = inspect(tmp_path / "model.pth").config
    del weights["blocks.1.ln2.weight"]
    write_tensors(tmp_path / "model.pth", weights)
    with raises_code("load_failed", match=r"blocks\.1\.ln2\.weight"):
        load_backend(tmp_path / "model.pth", config=config)


def test_weights_that_give_no_number_fail_the_load(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "model.pth", "7")
    weights["blocks.0.ln2.weight"][0] = np.nan
    write_tensors(tmp_path / "model.pth", weights)
    with raises_code("load_failed", match="not a number"):
        load_backend(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("architecture", "strategy"), [*((architecture, "cpu fp32i8") for architecture in BEFORE_7), ("6", "cpu bf16")]
)
def test_a_file_converted_by_the_package_loads_only_with_its_own_strategy(
    architecture: str, strategy: str, tmp_path: Path
) -> None:
    raw, converted = tmp_path / "raw.pth", tmp_path / "converted.pth"
    write_checkpoint(raw, architecture, n_embd=128)  # the package cannot print the shape of a single head
    backend = load_backend(raw, strategy)
    expected = forward(backend, [backend.new_slot()], [[1, 2, 3]])
    convert(raw, converted, strategy)

    again = load_backend(converted, strategy)
    assert (forward(again, [again.new_slot()], [[1, 2, 3]]) == expected).all()
    with pytest.raises(StrategyError, match=strategy):
        load_backend(converted, "cpu fp32")


def package_module(path: Path, strategy: str):
    return model_loader.import_package(model_loader.switches_for(inspect(path).config, strategy, is_music=False))


def widened(raw: Path) -> Path:
    """A copy with embedding and its norm in float32, as Roost uses them before RWKV-7."""
    weights = torch.load(raw, weights_only=True)
    for name in ("emb.weight", "blocks.0.ln0.weight", "blocks.0.ln0.bias"):
        weights[name] = weights[name].float()
    torch.save(weights, raw.with_name("widened.pth"))
    return raw.with_name("widened.pth")


def convert(raw: Path, converted: Path, strategy: str) -> None:
    """With the package's own converter."""
    with pytest.raises(SystemExit):
        package_module(raw, strategy).RWKV(str(widened(raw)), strategy, convert_and_save_and_exit=str(converted))


MADE = [
    *((architecture, strategy) for architecture in ALL for strategy in ("cpu fp32", "cpu bf16", "cpu fp16")),
    *((architecture, "cpu fp32i8") for architecture in BEFORE_7),
    ("6", "cpu fp32 *1 -> cpu bf16i8 *1 -> cpu fp32"),
]


@pytest.mark.parametrize(
    ("architecture", "strategy", "file"),
    [(*made, ("model.pth", "model.safetensors")[n % 2]) for n, made in enumerate(MADE)],
)
def test_a_loaded_model_is_bit_identical_to_that_of_the_packages_constructor(
    architecture: str, strategy: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_loader, "PIECE_BYTES", 5000)
    weights = write_checkpoint(tmp_path / file, architecture, n_embd=128)  # it cannot print the shape of a single head
    raw = tmp_path / "raw.pth"
    write_tensors(raw, weights, "bfloat16")
    raw = raw if architecture == "7" else widened(raw)
    theirs = package_module(raw, strategy).RWKV(str(raw.with_suffix("")), strategy)
    ours = model_loader.load_model(str(tmp_path / file), inspect(tmp_path / file).config, strategy, lambda report: None)
    expected, found = (model.z if hasattr(model, "z") else model.w for model in (theirs, ours.model))
    unused = {"blocks.0.ln0.weight", "blocks.0.ln0.bias"} if architecture == "7" else set()
    assert set(found) == set(expected) - unused
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name
    for name in ("version", "RESCALE_LAYER", "strategy", "n_head", "head_size", "n_embd", "n_layer"):
        assert getattr(ours.model, name, None) == getattr(theirs, name, None), name


def test_the_packages_kernels_are_compiled_for_pth_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWKV_CUDA_ON", "1")
    monkeypatch.setattr(model_loader.requirements, "check_torch_devices", lambda devices: None)
    write_checkpoint(tmp_path / "model.safetensors", "6")
    config = inspect(tmp_path / "model.safetensors").config
    with pytest.raises(StrategyError) as caught:
        model_loader.load_model(str(tmp_path / "model.safetensors"), config, "cuda fp16", lambda report: None)
    assert caught.value.params["reason"].key == "strategy.problem.kernels_need_pth.reason"


@pytest.mark.parametrize(
    "exc",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried ..."),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_running_out_of_memory_has_its_own_error(exc: Exception) -> None:
    with pytest.raises(OutOfMemory), rwkv_backend.running():
        raise exc
    with pytest.raises(OutOfMemory), rwkv_backend.loading("model.pth"):
        raise exc


def test_a_real_allocation_that_fails_is_out_of_memory(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory), rwkv_backend.running():
        torch.empty(2**60, dtype=torch.uint8)


def test_other_failures_keep_their_words() -> None:
    with raises_code("load_failed", match=r"model\.pth .*KeyError: 'x'"), rwkv_backend.loading("/models/model.pth"):
        raise KeyError("x")
    with pytest.raises(ValueError, match="as it was"), rwkv_backend.running():
        raise ValueError("as it was")


def test_threads_are_as_set_otherwise_one_for_a_small_model() -> None:
    before = torch.get_num_threads()
    small = ModelConfig("7", n_layer=6, n_embd=192, n_att=192, n_ffn=768, n_head=3, head_size=64, vocab_size=65536)
    large = replace(small, n_embd=2048)
    set_threads(2, small)
    assert torch.get_num_threads() == 2
    set_threads(0, large)
    assert torch.get_num_threads() == 2, "torch's own choice"
    set_threads(0, small)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)
