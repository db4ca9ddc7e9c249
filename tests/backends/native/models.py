"""Tiny models in the native engine, and their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.weights.make_checkpoints import Arrays, write_checkpoint
from webapp.backends.native import library
from webapp.backends.native.model import Layout, NativeModel
from webapp.weights.inspection import inspect

ARCHITECTURES = ("4", "5.0", "5.1", "5.2", "6", "7")
FORMATS = ("f32", "bf16", "f16", "q8", "q6", "q4")
NOTHING, LAST, ALL = 0, 1, 2


def usable_isas() -> list[str]:
    return [name for name in library.ISAS if library.load().roost_self_test(library.ISAS[name]) is None]


def make_model(
    folder: Path, architecture: str, format: str = "f32", isa: str = "", threads: int = 1, **options: Any
) -> tuple[NativeModel, Arrays]:
    """``options`` are passed to ``write_checkpoint``; a model in the same folder is reused."""
    path = folder / f"{architecture}.safetensors"
    weights = write_checkpoint(path, architecture, **options)
    return load_model(path, format, isa, threads), weights


def load_model(
    path: Path, format: str = "f32", isa: str = "", threads: int = 1, calibration: Sequence[Sequence[int]] = ()
) -> NativeModel:
    config = inspect(path).config
    assert config is not None
    is_quantised = format.startswith("q")
    lora = "q8" if is_quantised else format
    layout = Layout(
        format,
        format,
        lora,
        is_quantised,
        threads,
        library.choose_isa(isa),
        max_slots=12,
        max_columns=24,
        calibration=tuple(map(tuple, calibration)),
    )
    return NativeModel.load(str(path), config, layout, lambda progress: None)


def ids_of(model: NativeModel, count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, count).tolist()


def one_by_one(model: NativeModel, slot: int, token_ids: list[int]) -> np.ndarray:
    """Logits after each token, processed one at a time."""
    return np.concatenate([model.step([slot], [[token]], [LAST]).copy() for token in token_ids])
