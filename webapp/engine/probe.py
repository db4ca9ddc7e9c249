"""Tokens read outside any sequence: for logits, the state after a text, and how likely each of its tokens was."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.engine.backend import Backend
from webapp.engine.outputs import TokenLogprob
from webapp.engine.sampler import Sampler
from webapp.engine.sequence import TokenIds
from webapp.engine.state import RecurrentState
from webapp.errors import NonFiniteLogits

FloatArray = NDArray[np.float32]
See = Callable[[int, FloatArray], None]
"""Told after each chunk: how many tokens are read, and the logits ``(vocab_size,)`` after the last of them."""


class Probe:
    """Reads ``token_ids`` from ``state``, ``chunk`` tokens at an :meth:`advance`, so that running answers can go on in
    between. It holds no slot from one to the next."""

    def __init__(self, state: RecurrentState, token_ids: TokenIds, chunk: int, see: See | None = None) -> None:
        self.state = state.copy()
        self._chunks = deque(token_ids[start : start + chunk] for start in range(0, len(token_ids), chunk))
        self._read = 0
        self._see = see

    @property
    def is_done(self) -> bool:
        return not self._chunks

    def advance(self, backend: Backend, taken_slot: int | None) -> None:
        """``taken_slot`` names a slot in use when no other is free: its state is put back afterwards."""
        chunk = self._chunks.popleft()
        with _slot_of(backend, taken_slot) as slot:
            backend.write_state(slot, self.state)
            logits = backend.forward([slot], [chunk])[0].copy()
            self.state = backend.read_state(slot)
        self._read += len(chunk)
        if self._see is not None:
            self._see(self._read, logits)

    def result(self) -> Any:
        """Once it is done."""
        return self.state


class LogitsProbe(Probe):
    """Raw logits after the last token ``(vocab_size,)``, or after each ``(len(token_ids), vocab_size)``."""

    def __init__(self, state: RecurrentState, token_ids: TokenIds, chunk: int, every_position: bool) -> None:
        super().__init__(state, token_ids, 1 if every_position else chunk, self._take)
        self._every_position = every_position
        self._rows: list[FloatArray] = []

    def _take(self, read: int, logits: FloatArray) -> None:
        if not self._every_position:
            self._rows.clear()
        self._rows.append(logits)

    def result(self) -> FloatArray:
        return np.stack(self._rows) if self._every_position else self._rows[-1]


class StateProbe(Probe):
    """The state after the last token; NonFiniteLogits when it, or what the model says on the way, is not finite."""

    def __init__(self, state: RecurrentState, token_ids: TokenIds, chunk: int) -> None:
        super().__init__(state, token_ids, chunk, _check_finite)

    def result(self) -> RecurrentState:
        if not all(np.isfinite(array).all() for array in self.state.arrays.values()):
            raise NonFiniteLogits(tokens=self._read)
        return self.state


class ScoreProbe(Probe):
    """For each token but the first: its logprob after those before it, then the best ``alternatives``."""

    def __init__(self, state: RecurrentState, token_ids: TokenIds, sampler: Sampler, alternatives: int) -> None:
        super().__init__(state, token_ids[:-1], 1, self._take)
        self._token_ids = token_ids
        self._sampler = sampler
        self._alternatives = alternatives
        self._scores: list[tuple[TokenLogprob, ...]] = []

    def _take(self, read: int, logits: FloatArray) -> None:
        _check_finite(read, logits)
        self._scores.append(self._sampler.token_logprobs(logits, self._token_ids[read], self._alternatives))

    def result(self) -> tuple[tuple[TokenLogprob, ...], ...]:
        return tuple(self._scores)


def _check_finite(read: int, logits: FloatArray) -> None:
    if not np.isfinite(logits).all():
        raise NonFiniteLogits(tokens=read)


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
