"""Tests of the reference itself: the basis of parity, and that common mistakes would be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.reference.numpy_rwkv import NumpyRwkv
from tests.weights.make_checkpoints import ARCHITECTURES, write_checkpoint
from webapp.engine.state import RecurrentState
from webapp.weights.inspection import inspect

IDS = list(range(10, 30))


def make_reference(folder: Path, architecture: str, **options: object) -> NumpyRwkv:
    path = folder / "model.pth"
    weights = write_checkpoint(path, architecture, **options)
    return NumpyRwkv(inspect(path).config, weights)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_continuing_from_a_state_equals_continuing_the_sequence(architecture: str, tmp_path: Path) -> None:
    model = make_reference(tmp_path, architecture)
    whole, last = model.forward(IDS)
    _, middle = model.forward(IDS[:9])
    before = middle.digest()
    rest, same = model.forward(IDS[9:], middle)
    assert np.abs(rest - whole[9:]).max() < 1e-5  # the state is float32 between calls
    assert all(np.abs(same.arrays[name] - last.arrays[name]).max() < 1e-4 for name in last.arrays)
    assert middle.digest() == before, "a state that goes in stays as it is"
    last.check(model.config)


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_a_transposed_state_would_show(architecture: str, tmp_path: Path) -> None:
    model = make_reference(tmp_path, architecture)
    _, state = model.forward(IDS)
    turned = RecurrentState(architecture, {**state.arrays, "att_kv": state.arrays["att_kv"].swapaxes(-1, -2)})
    assert np.abs(model.forward([1], state)[0] - model.forward([1], turned)[0]).max() > 1e-2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_of_a_file_matters(architecture: str, tmp_path: Path) -> None:
    model = make_reference(tmp_path, architecture, time_state=architecture != "4")
    expected, _ = model.forward(IDS[:6])
    idle, rng = [], np.random.default_rng(0)
    for name, array in model._weights.items():
        model._weights[name] = array + 0.1 * rng.standard_normal(array.shape)
        if np.abs(model.forward(IDS[:6])[0] - expected).max() < 2e-3:
            idle.append(name)
        model._weights[name] = array
    # RWKV-7 mixes the first layer's value into later ones, so the first layer does not use these.
    assert sorted(idle) == ([f"blocks.0.att.v{i}" for i in range(3)] if architecture == "7" else [])
