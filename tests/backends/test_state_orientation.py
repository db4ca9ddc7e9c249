"""A state file has the same meaning for Roost, the reference and the rwkv package: transposed in v5 and v6, not in
v7."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.driving import forward, load_backend
from tests.reference.numpy_rwkv import NumpyRwkv
from tests.weights.make_checkpoints import make_tensors, make_time_state, write_checkpoint, write_state
from webapp.backends.rwkv_pip.model_loader import import_package
from webapp.cli import main
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.weights.inspection import inspect
from webapp.weights.state_file import merged_state, read_state_file

pytest.importorskip("rwkv", reason="the rwkv package is not installed")

IDS = [5, 80, 3, 200, 17, 9]
LAYERS, WIDTH, HEAD = 2, 64, 32
TOLERANCE = 2e-4
"""float32 against float64 over six tokens of a two-layer model; a wrongly transposed state differs much more."""


def model_and_state(folder: Path, architecture: str) -> tuple[Path, Path, ModelConfig]:
    write_checkpoint(folder / "model.pth", architecture, n_layer=LAYERS, n_embd=WIDTH, head_size=HEAD, dtype="float32")
    write_state(folder / "state.pth", LAYERS, WIDTH // HEAD, HEAD, seed=3)
    config = inspect(folder / "model.pth").config
    assert config is not None and config.architecture == architecture
    return folder / "model.pth", folder / "state.pth", config


def reference_of(config: ModelConfig, architecture: str) -> NumpyRwkv:
    return NumpyRwkv(config, make_tensors(architecture, LAYERS, WIDTH, HEAD, config.vocab_size))


def from_file(path: Path, config: ModelConfig) -> RecurrentState:
    return RecurrentState.from_time_state(config, read_state_file(path, config).layers)


@pytest.mark.parametrize("architecture", ["5.0", "5.1", "5.2", "6", "7"])
def test_a_model_started_from_a_state_file_follows_the_reference(tmp_path, architecture):
    path, state_path, config = model_and_state(tmp_path, architecture)
    start = from_file(state_path, config)
    expected = reference_of(config, architecture).forward(IDS, start)[0][-1]
    backend = load_backend(path)
    try:
        found = {}
        for name, layers in (("right", start.arrays["att_kv"]), ("turned", start.arrays["att_kv"].swapaxes(-1, -2))):
            slot = backend.new_slot()
            backend.write_state(slot, RecurrentState.from_time_state(config, layers))
            found[name] = forward(backend, [slot], [IDS])[0]
    finally:
        backend.close()
    assert np.abs(found["right"] - expected).max() <= TOLERANCE
    assert np.abs(found["turned"] - expected).max() > 100 * TOLERANCE


@pytest.mark.parametrize("architecture", ["5.2", "6", "7"])
def test_the_reference_started_from_a_state_file_does_as_the_package_itself(tmp_path, architecture):
    """v5 and v6: the package's own code for a state merged in the model. v7, where the package ignores such a state:
    the file's tensors are put into its state list unchanged, as RWKV-Runner's rwkv.py loads v7 states."""
    import torch

    _, state_path, config = model_and_state(tmp_path, architecture)
    expected = reference_of(config, architecture).forward(IDS, from_file(state_path, config))[0][-1]
    tensors = make_time_state(LAYERS, WIDTH // HEAD, HEAD, seed=3)
    weights = make_tensors(architecture, LAYERS, WIDTH, HEAD, config.vocab_size)
    merged = weights if architecture == "7" else weights | tensors
    torch.save({name: torch.from_numpy(np.array(a)) for name, a in merged.items()}, tmp_path / "merged.pth")
    switches = {"RWKV_V7_ON": "1" if architecture == "7" else "0", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
    module = import_package(switches | {"RWKV_DML_ON": "0", "RWKV_DE_VERSION": "0"})
    model = module.RWKV(str(tmp_path / "merged"), "cpu fp32")
    state = None
    if architecture == "7":
        state = model.generate_zero_state()
        for layer in range(LAYERS):
            state[3 * layer + 1] = torch.from_numpy(tensors[f"blocks.{layer}.att.time_state"].copy())
    logits, _ = model.forward(IDS, state)
    assert np.abs(logits.float().numpy() - expected).max() <= TOLERANCE


@pytest.mark.parametrize("architecture", ["5.2", "6", "7"])
def test_a_state_copied_out_of_a_model_is_the_one_that_was_merged(tmp_path, architecture):
    sizes = {"n_layer": LAYERS, "n_embd": WIDTH, "head_size": HEAD}
    write_checkpoint(tmp_path / "m.pth", architecture, **sizes, dtype="float32", time_state=True)
    found = merged_state(tmp_path / "m.pth")
    written = make_time_state(LAYERS, WIDTH // HEAD, HEAD)
    np.testing.assert_array_equal(found.layers, np.stack([written[n] for n in sorted(written)]))
    assert (found.origin.architecture, found.origin.known_from) == (architecture[0], "model")


@pytest.mark.parametrize("architecture", ["5.2", "6", "7"])
def test_it_is_the_same_out_of_a_file_in_web_rwkv_naming_which_turns_it(tmp_path, architecture):
    sizes = {"n_layer": LAYERS, "n_embd": WIDTH, "head_size": HEAD}
    write_checkpoint(tmp_path / "m.pth", architecture, **sizes, time_state=True)
    assert main(["convert", str(tmp_path / "m.pth"), str(tmp_path / "m.st"), "--to", "st"]) == 0
    assert inspect(tmp_path / "m.st").naming == "web-rwkv"
    original, turned = merged_state(tmp_path / "m.pth"), merged_state(tmp_path / "m.st")
    np.testing.assert_allclose(turned.layers, original.layers, atol=1e-3)  # fp16
