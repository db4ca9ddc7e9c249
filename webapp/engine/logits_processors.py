"""What changes a row of logits before a token is drawn from it, and learns which token it was.

The engine runs them in a fixed order: :class:`RepetitionPenalty`, :class:`LogitBias`, :class:`TokenBan`, then the
request's constraint, whose processor comes from a :data:`ConstraintFactory` given to the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class LogitsProcessor(Protocol):
    """Belongs to one sequence. An exception from either method ends that sequence alone, with the error."""

    def __call__(self, token_ids: Sequence[int], logits: FloatArray) -> None:
        """Changes ``logits (vocab_size,)`` in place; ``-inf`` rules a token out. ``token_ids``: sampled so far."""

    def accept(self, token_id: int) -> None:
        """This token was drawn and the sequence goes on. Called once a token, after ``__call__``."""


ConstraintFactory = Callable[[dict[str, Any]], LogitsProcessor]
"""Makes the processor of ``GenerationRequest.constraint``; raises a RequestError for a description it cannot use."""


class RepetitionPenalty:
    """RWKV's presence and frequency penalty, fading: ``logits[t] -= presence + count[t] * frequency``.

    After each token every count is multiplied by ``decay``, then the token's own count grows by one; a token once seen
    keeps its presence penalty (``PIPELINE.generate`` in the rwkv package's utils.py). Exempt tokens are never counted.
    Prompt tokens, where they count, do so in full and from the first token on.
    """

    def __init__(
        self,
        presence: float,
        frequency: float,
        decay: float,
        exempt_token_ids: Collection[int] = frozenset(),
        prompt_token_ids: Iterable[int] = (),
    ) -> None:
        self.presence, self.frequency, self.decay = presence, frequency, decay
        self._exempt = frozenset(exempt_token_ids)
        counts = Counter(token_id for token_id in prompt_token_ids if token_id not in self._exempt)
        self._rows = {token_id: row for row, token_id in enumerate(counts)}
        self._token_ids = np.fromiter(counts.keys(), np.int64, len(counts))
        self._counts = np.fromiter(counts.values(), np.float64, len(counts))

    @property
    def counts(self) -> dict[int, float]:
        """Token id -> faded count: all that going on exactly needs."""
        size = len(self._rows)
        return dict(zip(self._token_ids[:size].tolist(), self._counts[:size].tolist(), strict=True))

    def __call__(self, token_ids: Sequence[int], logits: FloatArray) -> None:
        size = len(self._rows)
        logits[self._token_ids[:size]] -= (self.presence + self._counts[:size] * self.frequency).astype(np.float32)

    def accept(self, token_id: int) -> None:
        self._counts *= self.decay
        if token_id in self._exempt:
            return
        row = self._rows.setdefault(token_id, len(self._rows))
        if row == len(self._token_ids):
            self._token_ids = np.concatenate([self._token_ids, np.zeros(row + 16, np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(row + 16)])
        self._token_ids[row] = token_id
        self._counts[row] += 1.0


class LogitBias:
    """Adds a fixed number to some tokens' logits."""

    def __init__(self, biases: Mapping[int, float]) -> None:
        self._token_ids = np.fromiter(biases.keys(), np.int64, len(biases))
        self._biases = np.fromiter(biases.values(), np.float32, len(biases))

    def __call__(self, token_ids: Sequence[int], logits: FloatArray) -> None:
        logits[self._token_ids] += self._biases

    def accept(self, token_id: int) -> None:
        pass


class TokenBan:
    """Rules tokens out. Stateless: sequences may share one."""

    def __init__(self, token_ids: Iterable[int]) -> None:
        self._token_ids = np.array(sorted(set(token_ids)), np.int64)

    def __call__(self, token_ids: Sequence[int], logits: FloatArray) -> None:
        logits[self._token_ids] = -np.inf

    def accept(self, token_id: int) -> None:
        pass
