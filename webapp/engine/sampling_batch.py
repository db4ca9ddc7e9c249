"""Input and output of a sampler for a batch of lines of logits: flat arrays that numpy, C++ and a GPU can use as they
are.

The exact definition of sampling. Every sampler must sample the same tokens. The numpy sampler is
:mod:`webapp.engine.sampler`; ``tests/reference/plain_sampler.py`` does the same for one line in plain steps.

1. ``adjusted``: the logits in float32, plus ``values`` at ``ids`` (penalties and biases). Then minus infinity at every
   banned token and at every token whose bit in the line's mask is 0.
2. ``temperature`` 0: the largest ``adjusted``, lowest id for ties. No random number is used.
3. ``weight = exp(adjusted - max)``, their ``total`` over the vocabulary.
4. ``top_p`` below 1: in descending order, the first token at which the cumulative sum of weights reaches
   ``top_p * total`` is the cut; every token with a logit of at least the cut's is kept. ``top_p`` 1 keeps all.
5. ``top_k`` (0 is off) keeps the ``top_k`` largest of those, of equals at the edge the lowest ids; ``min_p`` keeps
   weights of at least ``min_p``.
6. ``power = exp((adjusted - max) / temperature)``, summed up in ascending order of id; the token is the first whose
   cumulative sum exceeds ``uniform * sum``.

Exponentials are float32 or better and sums correct to about 1e-6 of their value, in any order. So two samplers may
differ only if a cut or a sample lies that close to an edge: about once in a million tokens.

This is the order of ``PIPELINE.sample_logits`` in the rwkv package's utils.py, which differs from the field's usual
one: the softmax is cut at temperature 1 and only what is left is raised to ``1 / temperature``. min_p is not in the
package. Two deliberate differences: temperature 0 takes the best token without a draw, and top_p 1 never cuts.

``uniform`` comes from the line's ``seed`` and ``position`` alone (SplitMix64's output function, Steele, Lea and Flood
2014, applied to a counter; arithmetic modulo 2**64)::

    mix(z):  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
             z = (z ^ (z >> 27)) * 0x94D049BB133111EB
             return z ^ (z >> 31)
    uniform = (mix(mix(seed + G) + (position + 1) * G) >> 11) / 2**53      with G = 0x9E3779B97F4A7C15

so a sequence can continue exactly from any position, and several positions can be sampled at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from webapp.engine.sampling_params import SamplingParams

NOT_FINITE = -1
"""Returned instead of a token: the line's logits contain NaN or infinity."""
NO_TOKEN = -2
"""Returned instead of a token: bans and masks leave no token."""


@dataclass(frozen=True)
class SamplingBatch:
    """``n`` lines; every array is C-contiguous. :class:`SamplingParams` has checked the ranges."""

    temperature: NDArray[np.float32]
    """``(n,)``; 0 is greedy. top_p 0 and top_k 1 are converted to it."""
    top_p: NDArray[np.float32]
    top_k: NDArray[np.int32]
    min_p: NDArray[np.float32]
    seed: NDArray[np.uint64]
    position: NDArray[np.uint64]
    """``(n,)``: how many tokens the sequence had sampled before."""
    starts: NDArray[np.int32]
    """``(n + 1,)``: line ``i`` adds ``values[starts[i]:starts[i+1]]`` to its logits at ``ids[...]``."""
    ids: NDArray[np.int32]
    """Token ids, each at most once in a line."""
    values: NDArray[np.float32]
    banned: NDArray[np.int32]
    """``(b,)`` token ids that no line may sample (ids the tokenizer does not assign), ascending."""
    mask_of: NDArray[np.int32]
    """``(n,)``: the line's row in ``masks``, -1 for no mask."""
    masks: NDArray[np.uint32]
    """``(m, ceil(vocab_size / 32))``: bit ``id % 32`` of word ``id // 32`` is 1 if the token may come next, as in
    llguidance. Bits beyond the vocabulary are ignored."""
    alternatives: NDArray[np.int32]
    """``(n,)``: -1 reports no logprobs; 0 to 20 reports the sampled token's and those of this many best tokens."""

    def __len__(self) -> int:
        return len(self.temperature)


@dataclass(frozen=True)
class Sampled:
    """``token_ids (n,)`` int32, or :data:`NOT_FINITE` / :data:`NO_TOKEN`.

    ``k`` is the largest ``alternatives`` of the batch (the arrays are None if it is -1): ``logprobs (n,)`` of the
    sampled tokens and ``best_ids, best_logprobs (n, k)``, best first, lowest id first for ties. Natural logarithms in
    the model's own distribution (logits before adjustments, temperature 1). For lines that asked for fewer, the entries
    beyond are undefined.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32] | None = None
    best_ids: NDArray[np.int32] | None = None
    best_logprobs: NDArray[np.float32] | None = None


Words = NDArray[np.uint32]
"""One bit for each token of the vocabulary, as in :class:`SamplingBatch`."""
SEED_MASK = 2**64 - 1


class Constraint(Protocol):
    """Which tokens may come next in one sequence. An exception from either method ends only that sequence."""

    def mask(self, usable: Words) -> Words:
        """``(ceil(vocab_size / 32),)``: 1 if the token may come next. ``usable``: the tokens that a model can write at
        all; if a mask contains none of them, no token can be sampled."""

    def accept(self, token_id: int) -> None:
        """Called after this token was sampled, if the sequence goes on."""


@runtime_checkable
class PartedConstraint(Constraint, Protocol):
    """For a text in parts that users return to (bars of music). The state before each part is kept, with its logits, so
    that a different continuation from there needs no prefill."""

    begins_part: bool
    """Whether the last sampled token is the first of a part."""


ConstraintFactory = Callable[[dict[str, Any]], Constraint]
"""Makes a constraint from ``GenerationRequest.constraint``. Raises RequestError for an unusable description."""


class Adjustments:
    """What is added to single logits: RWKV's decaying penalties, and fixed biases.

    ``logits[t] += bias[t] - presence - count[t] * frequency``; ``presence`` only for tokens seen before. After each
    token every count is multiplied by ``decay``, then the token's own count grows by one. A token keeps its presence
    penalty once it was seen (``PIPELINE.generate`` in the rwkv package's utils.py). Exempt tokens are never counted.
    Prompt tokens, if they count, count fully from the first token on. ``count_weights``: tokens of which one use counts
    more or less than one. ``rising_bias``: a bias that grows with each token (both: ChatRWKV, music/run.py).
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
        self._weights = params.count_weights
        counted = prompt_token_ids if params.has_penalty and params.global_penalty else ()
        counts = Counter(token_id for token_id in counted if token_id not in self._exempt)
        rising = {token_id: (first, growth) for token_id, first, growth in params.rising_bias}
        ids = list(dict.fromkeys((*counts, *params.logit_bias, *rising)))
        self._rows = {token_id: row for row, token_id in enumerate(ids)}
        self._seen = set(counts)
        self._ids = np.array(ids, np.int32)
        self._counts = np.array([counts[token_id] for token_id in ids], np.float64)
        bias = params.logit_bias
        fixed = [bias.get(token_id, 0.0) - (self._presence if token_id in counts else 0.0) for token_id in ids]
        self._fixed = np.array(fixed, np.float64)
        self._rising = [(self._rows[token_id], growth) for token_id, (_, growth) in rising.items()]
        for row, (first, _) in zip((row for row, _ in self._rising), rising.values(), strict=True):
            self._fixed[row] += first

    @property
    def counts(self) -> dict[int, float]:
        """Token id -> decayed count of every token seen."""
        return {token_id: float(self._counts[row]) for token_id, row in self._rows.items() if token_id in self._seen}

    @property
    def has_any(self) -> bool:
        return bool(self._rows)

    def current(self) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Token ids (unique), and what is added to their logits. Views, valid until the next token."""
        size = len(self._rows)
        return self._ids[:size], self._fixed[:size] - self._counts[:size] * self._frequency

    def accept(self, token_id: int) -> None:
        for row, growth in self._rising:
            self._fixed[row] += growth
        if not self._has_penalty:
            return
        self._counts *= self._decay
        if token_id in self._exempt:
            return
        row = self._rows.setdefault(token_id, len(self._rows))
        if row == len(self._ids):
            self._grow()
        self._ids[row] = token_id
        self._counts[row] += self._weight(token_id)
        if token_id not in self._seen:
            self._seen.add(token_id)
            self._fixed[row] -= self._presence

    def _weight(self, token_id: int) -> float:
        return next((weight for first, end, weight in self._weights if first <= token_id < end), 1.0)

    def _grow(self) -> None:
        more = len(self._ids) + 16
        self._ids = np.concatenate([self._ids, np.zeros(more, np.int32)])
        self._counts = np.concatenate([self._counts, np.zeros(more)])
        self._fixed = np.concatenate([self._fixed, np.zeros(more)])


class SequenceSampling:
    """The sampling of one sequence: parameters, seed, counts and constraint. ``position`` counts the sampled tokens.

    To continue exactly, one needs ``seed``, ``position``, ``adjustments.counts`` and the constraint's own position.
    """

    def __init__(
        self, params: SamplingParams, seed: int, adjustments: Adjustments, constraint: Constraint | None = None
    ) -> None:
        self.params = params
        self.seed = seed & SEED_MASK  # a negative seed is one too
        self.position = 0
        self.adjustments = adjustments
        self.constraint = constraint
        self.parts = constraint if isinstance(constraint, PartedConstraint) else None

    def accept(self, token_id: int) -> None:
        """Called with the last sampled token, if the sequence goes on."""
        self.adjustments.accept(token_id)
        if self.constraint is not None:
            self.constraint.accept(token_id)


class BatchMaker:
    """Makes the batch of each step. Arrays that stay the same while the same sequences run are made once."""

    def __init__(self, vocab_size: int, banned_token_ids: Iterable[int]) -> None:
        self.banned = np.array(sorted(t for t in set(banned_token_ids) if 0 <= t < vocab_size), np.int32)
        bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
        bits[:vocab_size] = 1
        bits[self.banned] = 0
        self.usable: Words = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)
        self._no_masks = np.zeros((0, len(self.usable)), np.uint32)
        self._members: list[SequenceSampling] = []
        self._fixed: dict[str, NDArray[Any]] = {}

    def make(self, members: Sequence[SequenceSampling], masks: Mapping[int, Words]) -> SamplingBatch:
        """``masks``: by line, for the sequences that have a constraint."""
        if self._members != members:
            self._members, self._fixed = list(members), _fixed_arrays(members)
        mask_of, rows = self._fixed["mask_of"], self._no_masks
        if masks:
            mask_of, rows = mask_of.copy(), np.stack(list(masks.values()))
            mask_of[list(masks)] = range(len(masks))
        return SamplingBatch(
            position=np.array([member.position for member in members], np.uint64),
            banned=self.banned,
            masks=rows,
            **{**self._fixed, "mask_of": mask_of, **_adjusted(members)},
        )


def without(words: Words, token_ids: Iterable[int], usable: Words) -> Words:
    """The mask without these tokens; unchanged if no usable token would be left."""
    left = words.copy()
    for token_id in token_ids:
        if token_id < 32 * len(left):
            left[token_id // 32] &= ~np.uint32(1 << token_id % 32)
    return left if (left & usable).any() else words


def _adjusted(members: Sequence[SequenceSampling]) -> dict[str, NDArray[Any]]:
    """What is added to the lines; {} if there is nothing to add."""
    if not any(member.adjustments.has_any for member in members):
        return {}
    adjusted = [member.adjustments.current() for member in members]
    is_one = len(adjusted) == 1
    values = adjusted[0][1] if is_one else np.concatenate([values for _, values in adjusted])
    return {
        "starts": np.array([0, *accumulate(len(ids) for ids, _ in adjusted)], np.int32),
        "ids": adjusted[0][0] if is_one else np.concatenate([ids for ids, _ in adjusted]),
        "values": values.astype(np.float32),
    }


def _fixed_arrays(members: Sequence[SequenceSampling]) -> dict[str, NDArray[Any]]:
    """The arrays that stay the same while the same sequences run, without adjustments."""
    params = [member.params for member in members]
    return {
        "starts": np.zeros(len(members) + 1, np.int32),
        "ids": np.zeros(0, np.int32),
        "values": np.zeros(0, np.float32),
        "temperature": np.array([0.0 if p.is_greedy else p.temperature for p in params], np.float32),
        "top_p": np.array([p.top_p for p in params], np.float32),
        "top_k": np.array([p.top_k for p in params], np.int32),
        "min_p": np.array([p.min_p for p in params], np.float32),
        "seed": np.array([member.seed for member in members], np.uint64),
        "mask_of": np.full(len(members), -1, np.int32),
        "alternatives": np.array([-1 if p.logprobs is None else p.logprobs for p in params], np.int32),
    }
