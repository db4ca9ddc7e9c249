"""What decides the tokens of one sequence, step after step, and how the sequences of a step become a SamplingBatch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from webapp.engine.sampling_batch import SamplingBatch
from webapp.engine.sampling_params import SamplingParams

Words = NDArray[np.uint32]
"""One bit a token of the vocabulary, as in :class:`SamplingBatch`."""
SEED_MASK = 2**64 - 1


class Constraint(Protocol):
    """Which tokens may come next in one sequence. An exception from either method ends that sequence alone."""

    def mask(self, usable: Words) -> Words:
        """``(ceil(vocab_size / 32),)``: 1 for a token that may come next. ``usable`` are the tokens a model can write
        at all; a mask that shares none with it leaves no token to choose."""

    def accept(self, token_id: int) -> None:
        """This token was drawn and the sequence goes on."""


ConstraintFactory = Callable[[dict[str, Any]], Constraint]
"""Makes ``GenerationRequest.constraint`` one; raises a RequestError for a description it cannot use."""


class Adjustments:
    """What is added to single logits: RWKV's fading penalties, and fixed biases.

    ``logits[t] += bias[t] - presence - count[t] * frequency``, without ``presence`` for a token not seen. After each
    token every count is multiplied by ``decay``, then the token's own count grows by one; a token once seen keeps its
    presence penalty (``PIPELINE.generate`` in the rwkv package's utils.py). Exempt tokens are never counted. Prompt
    tokens, where they count, do so in full and from the first token on.
    """

    def __init__(
        self,
        params: SamplingParams,
        exempt_token_ids: Collection[int] = frozenset(),
        prompt_token_ids: Iterable[int] = (),
    ) -> None:
        self._presence, self._frequency = params.presence_penalty, params.frequency_penalty
        self._decay = params.penalty_decay
        self._has_penalty = params.has_penalty
        self._exempt = frozenset(exempt_token_ids)
        counted = prompt_token_ids if params.has_penalty and params.global_penalty else ()
        counts = Counter(token_id for token_id in counted if token_id not in self._exempt)
        ids = [*counts, *(token_id for token_id in params.logit_bias if token_id not in counts)]
        self._rows = {token_id: row for row, token_id in enumerate(ids)}
        self._seen = set(counts)
        self._ids = np.array(ids, np.int32)
        self._counts = np.array([counts[token_id] for token_id in ids], np.float64)
        bias = params.logit_bias
        fixed = [bias.get(token_id, 0.0) - (self._presence if token_id in counts else 0.0) for token_id in ids]
        self._fixed = np.array(fixed, np.float64)

    @property
    def counts(self) -> dict[int, float]:
        """Token id -> faded count of every token seen."""
        return {token_id: float(self._counts[row]) for token_id, row in self._rows.items() if token_id in self._seen}

    def current(self) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Token ids, each once, and what is added to their logits. Views, valid until the next token."""
        size = len(self._rows)
        return self._ids[:size], self._fixed[:size] - self._counts[:size] * self._frequency

    def accept(self, token_id: int) -> None:
        if not self._has_penalty:
            return
        self._counts *= self._decay
        if token_id in self._exempt:
            return
        row = self._rows.setdefault(token_id, len(self._rows))
        if row == len(self._ids):
            self._grow()
        self._ids[row] = token_id
        self._counts[row] += 1.0
        if token_id not in self._seen:
            self._seen.add(token_id)
            self._fixed[row] -= self._presence

    def _grow(self) -> None:
        more = len(self._ids) + 16
        self._ids = np.concatenate([self._ids, np.zeros(more, np.int32)])
        self._counts = np.concatenate([self._counts, np.zeros(more)])
        self._fixed = np.concatenate([self._fixed, np.zeros(more)])


class SequenceSampling:
    """Of one sequence: its parameters, seed, counts and constraint. ``position`` counts the tokens sampled.

    Going on exactly needs ``seed``, ``position``, ``adjustments.counts`` and the constraint's own position.
    """

    def __init__(
        self, params: SamplingParams, seed: int, adjustments: Adjustments, constraint: Constraint | None = None
    ) -> None:
        self.params = params
        self.seed = seed & SEED_MASK  # a negative seed is one too
        self.position = 0
        self.adjustments = adjustments
        self.constraint = constraint

    def accept(self, token_id: int) -> None:
        """The token drawn last, and the sequence goes on."""
        self.adjustments.accept(token_id)
        if self.constraint is not None:
            self.constraint.accept(token_id)


class BatchMaker:
    """Makes the batch of each step. What does not change while the same sequences run is made once."""

    def __init__(self, vocab_size: int, banned_token_ids: Iterable[int]) -> None:
        self.banned = np.array(sorted(t for t in set(banned_token_ids) if 0 <= t < vocab_size), np.int32)
        bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
        bits[:vocab_size] = 1
        bits[self.banned] = 0
        self.usable: Words = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)
        self._members: list[SequenceSampling] = []
        self._fixed: dict[str, NDArray[Any]] = {}

    def make(self, members: Sequence[SequenceSampling], masks: Mapping[int, Words]) -> SamplingBatch:
        """``masks``: by line, of the sequences that have a constraint."""
        if self._members != members:
            self._members, self._fixed = list(members), _fixed_arrays(members)
        adjusted = [member.adjustments.current() for member in members]
        starts = np.zeros(len(members) + 1, np.int32)
        np.cumsum([len(ids) for ids, _ in adjusted], out=starts[1:])
        mask_of = np.full(len(members), -1, np.int32)
        mask_of[list(masks)] = range(len(masks))
        return SamplingBatch(
            position=np.array([member.position for member in members], np.uint64),
            starts=starts,
            ids=np.concatenate([ids for ids, _ in adjusted]),
            values=np.concatenate([values for _, values in adjusted]).astype(np.float32),
            banned=self.banned,
            mask_of=mask_of,
            masks=np.stack(list(masks.values())) if masks else np.zeros((0, len(self.usable)), np.uint32),
            **self._fixed,
        )


def _fixed_arrays(members: Sequence[SequenceSampling]) -> dict[str, NDArray[Any]]:
    params = [member.params for member in members]
    return {
        "temperature": np.array([0.0 if p.is_greedy else p.temperature for p in params], np.float32),
        "top_p": np.array([p.top_p for p in params], np.float32),
        "top_k": np.array([p.top_k for p in params], np.int32),
        "min_p": np.array([p.min_p for p in params], np.float32),
        "seed": np.array([member.seed for member in members], np.uint64),
        "alternatives": np.array([-1 if p.logprobs is None else p.logprobs for p in params], np.int32),
    }
