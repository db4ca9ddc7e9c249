"""What the model itself says after some tokens: raw logits outside any sequence, for diagnosis and comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from webapp.engine.backend import Backend
from webapp.engine.sequence import TokenIds
from webapp.engine.state import RecurrentState


def probe_logits(
    backend: Backend, state: RecurrentState, chunks: list[TokenIds], taken_slot: int | None
) -> NDArray[np.float32]:
    """Logits ``(len(chunks), vocab_size)`` after each chunk, starting from ``state``.

    ``taken_slot`` names a slot in use when no other is free: its state is put back afterwards.
    """
    with _slot_of(backend, taken_slot) as slot:
        backend.write_state(slot, state.copy())
        return np.stack([backend.forward([slot], [chunk])[0].copy() for chunk in chunks])


@contextmanager
def _slot_of(backend: Backend, taken_slot: int | None) -> Iterator[int]:
    if taken_slot is None:
        slot = backend.new_slot()
        try:
            yield slot
        finally:
            backend.free_slot(slot)
        return
    kept = backend.read_state(taken_slot)
    try:
        yield taken_slot
    finally:
        backend.write_state(taken_slot, kept)
