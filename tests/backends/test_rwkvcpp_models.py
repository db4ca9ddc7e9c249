"""The tiny trained models of rwkv.cpp's own tests, through the reference and the package.

``ROOST_SHARED`` is the folder with ``fixtures/rwkv.cpp``; by default it is next to the repository. The
expected logits are rwkv.cpp's, after the bytes ``"in``. Two traps: it normalises RWKV-5's heads with epsilon 1e-5 where
BlinkDL's code and models have 64e-5, and the RWKV-4 model's feed-forward was zeroed in training.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.backends.parity import difference, load_or_skip, measure
from tests.reference.numpy_rwkv import NumpyRwkv
from tests.reference.rwkvcpp_bin import read_bin
from tests.weights.make_checkpoints import write_tensors
from webapp.engine.registry import backend_for
from webapp.weights.inspection import inspect

MODELS = {"4v0-660K": "4", "5v1-730K": "5.0", "5v2-730K": "5.2", "7v0-834K": "7"}
PROMPT = list(b'"in')
BESIDE = Path(__file__).resolve().parents[3] / "shared"
FOLDER = Path(os.environ.get("ROOST_SHARED", BESIDE)) / "fixtures" / "rwkv.cpp"

pytestmark = [
    pytest.mark.fixtures,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="rwkv.cpp's models are not in ../shared (set ROOST_SHARED)"),
]


def official_file(name: str, folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    weights = {key: array.astype(np.float32) for key, array in read_bin(FOLDER / f"tiny-rwkv-{name}-FP32.bin").items()}
    path = folder / "model.safetensors"
    write_tensors(path, weights)
    return path, weights


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_computes_what_rwkv_cpp_computes(name: str, tmp_path: Path) -> None:
    path, weights = official_file(name, tmp_path)
    config = inspect(path).config
    assert config is not None and config.architecture == MODELS[name]
    eps = 1e-5 if config.major == 5 else 64e-5
    logits, _ = NumpyRwkv(config, weights, group_norm_eps=eps).forward(PROMPT)
    expected = np.fromfile(FOLDER / f"expected-logits-{name}.bin", np.float32)
    found = difference(logits[-1], expected)
    print(f"\nnumpy, {name}: {found:.1e}")
    assert found <= 1e-4  # both in float32, or better; measured 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_the_package_computes_what_the_reference_computes_on_trained_weights(name: str, tmp_path: Path) -> None:
    path, weights = official_file(name, tmp_path)
    backend = load_or_skip(backend_for("cpu fp32"), path, "cpu fp32")
    found = measure(backend, NumpyRwkv(backend.config, weights))
    print(f"\nrwkv_pip, {name}: {found}")
    assert found.largest() <= 2e-3
