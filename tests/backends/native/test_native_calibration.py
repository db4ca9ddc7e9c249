"""Scales that are fitted to the inputs of the matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.backends.native.models import ALL, ARCHITECTURES, load_model
from tests.weights.make_checkpoints import make_tensors, write_checkpoint, write_tensors
from webapp.backends.native.backend import MAX_COLUMNS, MAX_TOKENS, calibration_ids
from webapp.engine.state import ModelConfig
from webapp.errors import WeightsError
from webapp.tokenizer.loading import world_tokenizer

PIECES = [np.random.default_rng(seed).integers(0, 256, 24).tolist() for seed in range(6)]


@pytest.mark.parametrize("format", ("q4", "q6"))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fitted_scales_are_more_exact_if_some_inputs_are_large(architecture: str, format: str, tmp_path: Path) -> None:
    """Trained models have a few channels that are far larger than the others; this one does too."""
    arrays = make_tensors(architecture, 2, 128, 64, 256)
    large = np.random.default_rng(0).random(128) < 0.1
    for name in ("blocks.0.ln1", "blocks.1.ln1", "blocks.0.ln2", "blocks.1.ln2", "ln_out"):
        arrays[f"{name}.weight"][large] *= 8
    write_tensors(path := tmp_path / "model.safetensors", arrays)
    ids = np.random.default_rng(99).integers(0, 256, 60).tolist()
    exact, plain, fitted = (_logits(path, *how, ids) for how in (("f32", ()), (format, ()), (format, PIECES)))
    assert np.square(fitted - exact).mean() < 0.8 * np.square(plain - exact).mean()


def test_threads_and_columns_change_nothing_in_what_is_fitted(tmp_path: Path) -> None:
    write_checkpoint(path := tmp_path / "7.safetensors", "7")
    ids = np.random.default_rng(1).integers(0, 256, 20).tolist()
    one, two = (_logits(path, "q4", PIECES, ids, threads) for threads in (1, 2))
    assert (one == two).all()


@pytest.mark.parametrize("broken", ("nan", "low rank"))
def test_a_file_that_is_refused_is_refused_while_it_is_fitted(broken: str, tmp_path: Path) -> None:
    weights = write_checkpoint(path := tmp_path / "7.safetensors", "7")
    if broken == "nan":
        weights["blocks.1.att.value.weight"][3, 3] = np.nan
    else:
        weights["blocks.1.att.w1"] = np.zeros((128, 48), np.float32)
        weights["blocks.1.att.w2"] = np.zeros((48, 128), np.float32)
    write_tensors(path, weights)
    with pytest.raises(WeightsError):
        load_model(path, "q4", calibration=PIECES)


def test_the_shipped_ids_are_those_of_the_shipped_text() -> None:
    config = ModelConfig("7", 1, 64, 64, 64, 1, 64, 65_536)
    tokenizer = world_tokenizer()
    pieces = calibration_ids(config)
    for piece in pieces:
        assert tuple(tokenizer.encode(tokenizer.decode(piece))) == piece
        assert len(piece) <= MAX_TOKENS <= MAX_COLUMNS
    assert 400 < sum(map(len, pieces)) < 1000
    assert calibration_ids(ModelConfig("4", 1, 64, 64, 64, 0, 0, 50_277)) == ()


def _logits(path: Path, format: str, pieces: list[list[int]], ids: list[int], threads: int = 1) -> np.ndarray:
    model = load_model(path, format, threads=threads, calibration=pieces)
    found = model.step([model.new_slot()], [ids], [ALL]).copy()
    model.close()
    return found
