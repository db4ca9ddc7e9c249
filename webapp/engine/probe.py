"""Probes process tokens outside any sequence: for logits, the state after a text, or the probability of its tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from webapp.engine.backend import Backend, Row, Want, line_starts
from webapp.engine.outputs import TokenLogprob
from webapp.engine.sampler import log_probabilities
from webapp.engine.scheduler import TokenIds
from webapp.engine.state import RecurrentState, Snapshot
from webapp.errors import ModelError

FloatArray = NDArray[np.float32]


class Probe:
    """Processes ``token_ids`` from ``state``, ``chunk`` tokens per :func:`advance`, so that running answers can
    continue in between. It occupies no slot between two calls."""

    want: Want = "last"
    needs_state = False
    """Whether the probe needs the state after the last token."""

    def __init__(self, state: RecurrentState, token_ids: TokenIds, chunk: int) -> None:
        self.state = state
        """Read-only: it may be the initial state of all sequences."""
        self._chunks = deque(_cut(token_ids, chunk))
        self._read = 0

    @property
    def is_done(self) -> bool:
        return not self._chunks

    @property
    def chunk(self) -> TokenIds:
        """The next tokens to process; empty when it is done."""
        return self._chunks[0] if self._chunks else ()

    def took(self, backend: Backend, slot: int, rows: Iterable[FloatArray]) -> None:
        """Called after the chunk was processed in ``slot``, with its logits."""
        count = len(self._chunks.popleft())
        if self._chunks or self.needs_state:
            self.state = backend.read_state(slot)
        for row in rows:
            self.take(row)
        self._read += count

    def take(self, row: FloatArray) -> None:
        """Receives logits ``(vocab_size,)``, once per wanted line. They are valid only during the call."""

    def result(self) -> Any:
        """The result. Call it only when ``is_done``."""


def advance(backend: Backend, probes: Sequence[Probe], slots: Sequence[int]) -> None:
    """Processes one chunk of each probe in its slot, in one backend step. Overwrites the slots."""
    for probe, slot in zip(probes, slots, strict=True):
        backend.write_state(slot, probe.state.copy())
    batch = [Row(slot, probe.chunk, probe.want) for probe, slot in zip(probes, slots, strict=True)]
    logits, starts = backend.step(batch), line_starts(batch)
    for probe, slot, start, end in zip(probes, slots, starts, starts[1:], strict=False):
        probe.took(backend, slot, logits.to_numpy(range(start, end)))


class LogitsProbe(Probe):
    """Raw logits after the last token ``(vocab_size,)``, or after each ``(len(token_ids), vocab_size)``."""

    def __init__(self, state: RecurrentState, token_ids: TokenIds, chunk: int, every_position: bool) -> None:
        self.want = "all" if every_position else "last"
        super().__init__(state, token_ids, chunk)
        self._rows: list[FloatArray] = []

    def take(self, row: FloatArray) -> None:
        if self.want == "last":
            self._rows.clear()
        self._rows.append(row.copy())

    def result(self) -> FloatArray:
        return np.stack(self._rows) if self.want == "all" else self._rows[-1]


class StateProbe(Probe):
    """The state after the last token, or only its arrays in ``names``. Raises ``non_finite_logits`` if the state, or
    logits on the way, are not finite."""

    needs_state = True

    def __init__(self, state: RecurrentState, token_ids: TokenIds, chunk: int, names: tuple[str, ...] = ()) -> None:
        super().__init__(state, token_ids, chunk)
        self._names = names

    def take(self, row: FloatArray) -> None:
        _check_finite(self._read, row)

    def result(self) -> RecurrentState:
        if not all(np.isfinite(array).all() for array in self.state.arrays.values()):
            raise ModelError("non_finite_logits", tokens=self._read)
        if not self._names:
            return self.state
        return replace(self.state, arrays={name: self.state.arrays[name] for name in self._names})


class ScoreProbe(Probe):
    """For each token from ``first`` (at least 1) on: its logprob after those before it, then the best ``alternatives``.

    ``before`` has consumed ``read`` of the first ``first`` tokens; if that is all of them, it has logits. ``keep``
    receives the state after those tokens, with its logits, if the probe passes it.
    """

    want: Want = "all"

    def __init__(
        self,
        before: Snapshot,
        token_ids: TokenIds,
        chunk: int,
        alternatives: int,
        first: int = 1,
        read: int = 0,
        keep: Callable[[Snapshot], object] | None = None,
    ) -> None:
        super().__init__(before.state, (), chunk)
        self._token_ids = token_ids
        self._alternatives = alternatives
        self._first, self._read, self._keep = first, read, keep
        self._scores: list[tuple[TokenLogprob, ...]] = []
        self.needs_state = keep is not None
        if read == first:
            assert before.logits is not None
            self.take(before.logits)
        # the logits after the first ``first`` tokens are the logits of the last of these tokens
        scored = first if keep is not None or read == first else first - 1
        unscored = _cut(token_ids[read:scored], chunk)
        wants: list[Want] = ["nothing"] * len(unscored)
        if unscored and scored == first:
            wants[-1] = "last"
        self._chunks.extend(unscored)
        self._chunks.extend(_cut(token_ids[scored:-1], chunk))
        self._wants = deque(wants)
        self.want = self._wants.popleft() if self._wants else "all"

    def took(self, backend: Backend, slot: int, rows: Iterable[FloatArray]) -> None:
        has_passed = self._read >= self._first
        super().took(backend, slot, rows)
        self.want = self._wants.popleft() if self._wants else "all"
        if self._keep is not None and self._read == self._first and not has_passed:
            self._keep(Snapshot(self.state, self._row_after_first))

    def take(self, row: FloatArray) -> None:
        position = self._first + len(self._scores)
        _check_finite(position, row)
        token_id = self._token_ids[position]
        logprob, ids, logprobs = log_probabilities(row, token_id, self._alternatives)
        best = zip(ids.tolist(), logprobs.tolist(), strict=True)
        self._scores.append((TokenLogprob(token_id, logprob), *(TokenLogprob(*each) for each in best)))
        if len(self._scores) == 1:
            self._row_after_first = row.copy()

    def result(self) -> tuple[tuple[TokenLogprob, ...], ...]:
        return tuple(self._scores)


def _cut(token_ids: TokenIds, size: int) -> list[TokenIds]:
    return [token_ids[start : start + size] for start in range(0, len(token_ids), size)]


def _check_finite(read: int, logits: FloatArray) -> None:
    if not np.isfinite(logits).all():
        raise ModelError("non_finite_logits", tokens=read)
