"""Runs a backend and the numpy reference on the same random model and returns the differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from tests.engine.driving import forward, load_backend
from tests.reference.numpy_rwkv import NumpyRwkv
from tests.weights.make_checkpoints import write_checkpoint
from webapp.engine.backend import Backend, Footprint
from webapp.engine.registry import REGISTRY, BackendEntry, resolve_strategy
from webapp.engine.state import RecurrentState
from webapp.errors import RoostError
from webapp.weights.inspection import inspect

ARCHITECTURES = ("4", "5.0", "5.1", "5.2", "6", "7")
CHUNKS = (16, 1, 23)
"""The chunks of a prompt; 40 tokens in total."""
SHORT = (10, 1, 9)

STRATEGIES = {
    "native": "native f32",
    "ggml": "rwkv.cpp f32",
    "torch": "torch cpu f32",
    "rwkv_pip": "cpu fp32",
    "webgpu": "webgpu fp32",
}
"""Backend -> its strategy with float32 computation. Add a row for a new backend."""

ROUNDING = {"torch": 1e-5}
"""Backend -> how much logits may differ from those of a separate run: with more rows, torch uses another kernel, which
sums in another order. Other backends give identical bits."""

NO_REFERENCE = ("fake",)


@dataclass(frozen=True)
class Differences:
    """Largest absolute differences from the reference. ``continued``: from a state written into a new slot."""

    chunks: float
    single_tokens: float
    continued: float
    state: float

    def largest(self) -> float:
        return max(getattr(self, field.name) for field in fields(self))


def told_and_loaded(folder: Path, architecture: str, strategy: str) -> tuple[Footprint, Any]:
    """The backend's estimate for a model, and the loaded model."""
    path = folder / "model.safetensors"
    write_checkpoint(path, architecture, n_embd=256, vocab_size=4096, n_layer=3)
    backend, options = resolve_strategy(strategy)
    return backend.footprint(inspect(path), options), load_backend(path, strategy)


def random_steps(
    rng: np.random.Generator, model: Any, fork: Callable[[int], int], vocab_size: int = 256
) -> Iterator[tuple[list[int], list[list[int]], list[tuple[int, ...]]]]:
    """Sequences join, leave, fork, are saved and restored, in 120 moves. For each step: its slots, the tokens for each,
    and all tokens that each has processed afterwards."""
    running: dict[int, tuple[int, ...]] = {}
    saved: list[tuple[tuple[int, ...], Any]] = []
    for _ in range(120):
        action = rng.choice(["step", "step", "step", "join", "leave", "fork", "save", "restore"])
        if action == "join" and len(running) < 8:
            running[model.new_slot()] = ()
        if not running:
            continue
        slot = int(rng.choice(list(running)))
        if action == "leave":
            model.free_slot(slot)
            del running[slot]
        elif action == "fork" and len(running) < 8:
            running[fork(slot)] = running[slot]
        elif action == "save":
            saved = [*saved[-3:], (running[slot], model.save(slot))]
        elif action == "restore" and saved:
            running[slot], state = saved[int(rng.integers(len(saved)))]
            model.restore(slot, state)
        elif action == "step":
            slots = [int(one) for one in rng.permutation(list(running))[: rng.integers(1, len(running) + 1)]]
            fed = [
                rng.integers(0, vocab_size, 1 if rng.random() < 0.6 else rng.integers(1, 12)).tolist() for _ in slots
            ]
            running |= {one: (*running[one], *ids) for one, ids in zip(slots, fed, strict=True)}
            yield slots, fed, [running[one] for one in slots]


def entries() -> list[BackendEntry]:
    return [entry for entry in REGISTRY if entry.name not in NO_REFERENCE]


def _marked(entry: BackendEntry) -> ParameterSet:
    """Shaders on a CPU are too slow for every test run; ``test_webgpu`` has a short part that is not."""
    return pytest.param(entry, id=entry.name, marks=[pytest.mark.graphics] if entry.name == "webgpu" else [])


every_backend = pytest.mark.parametrize("entry", [_marked(entry) for entry in entries()])


def load_or_skip(entry: BackendEntry, path: Path, strategy: str) -> Backend:
    """Skips, with the backend's own reason, if this machine or backend cannot run it."""
    backend_class = entry.load_class()
    found = backend_class.availability()
    if not found.is_available:
        pytest.skip(f"{entry.name}: {found.reason}; {found.way_out}")
    try:
        backend_class.check(inspect(path), resolve_strategy(strategy)[1])
    except RoostError as exc:
        pytest.skip(f"{entry.name}: {exc.message} {exc.hint}")
    return load_backend(path, strategy)


def measure(backend: Backend, reference: NumpyRwkv, seed: int = 0, lengths: Sequence[int] = CHUNKS) -> Differences:
    ids = np.random.default_rng(seed).integers(0, reference.config.vocab_size, sum(lengths)).tolist()
    expected, expected_state = reference.forward(ids)
    slot = backend.new_slot()
    chunks, position = 0.0, 0
    for length in lengths:
        logits = forward(backend, [slot], [ids[position : position + length]])[0]
        position += length
        chunks = max(chunks, difference(logits, expected[position - 1]))
    single = backend.new_slot()
    single_tokens = max(difference(forward(backend, [single], [[t]])[0], e) for t, e in zip(ids, expected, strict=True))
    states = (backend.read_state(slot), backend.read_state(single))
    return Differences(
        chunks=chunks,
        single_tokens=single_tokens,
        continued=_continued(backend, reference, ids, expected),
        state=max(state_difference(state, expected_state) for state in states),
    )


def _continued(backend: Backend, reference: NumpyRwkv, ids: Sequence[int], expected: np.ndarray) -> float:
    half = len(ids) // 2
    _, state = reference.forward(ids[:half])
    slot = backend.new_slot()
    backend.write_state(slot, state)
    return difference(forward(backend, [slot], [ids[half:]])[0], expected[-1])


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """NaN anywhere counts as infinite."""
    largest = float(np.abs(found - expected).max())
    return largest if np.isfinite(largest) else float("inf")


def state_difference(found: RecurrentState, expected: RecurrentState) -> float:
    assert found.architecture == expected.architecture
    assert set(found.arrays) == set(expected.arrays)
    return max(difference(found.arrays[name], expected.arrays[name]) for name in expected.arrays)


def make_pair(
    entry: BackendEntry, folder: Path, architecture: str, strategy: str, file: str = "model.pth", **options: object
) -> tuple[Backend, NumpyRwkv]:
    """A backend and the reference with one random model; ``options`` are passed to ``write_checkpoint``."""
    path = folder / file
    weights = write_checkpoint(path, architecture, **options)
    backend = load_or_skip(entry, path, strategy)
    return backend, NumpyRwkv(backend.config, weights)
