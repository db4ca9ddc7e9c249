"""Sampling: its exact definition, the batch that every sampler gets (flat arrays that numpy, C++ and a GPU can use as
they are), what each sequence adds to it, and the numpy sampler.

Every sampler must sample the same tokens. ``tests/reference/plain_sampler.py`` does it for one line in plain steps.

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

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from webapp.engine.sampling_params import SamplingParams

NOT_FINITE = -1
"""Returned instead of a token: the line's logits contain NaN or infinity."""
NO_TOKEN = -2
"""Returned instead of a token: bans and masks leave no token."""


class SamplingBatch(Struct, frozen=True):
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


class Sampled(Struct, frozen=True):
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
        """Called after this token was sampled, if the sequence continues."""


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
        """Called with the last sampled token, if the sequence continues."""
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


# The numpy sampler. A vocabulary has 65,536 tokens, but a few dozen decide the sample. So a whole line is processed as
# rarely as possible: once for the maxima of its blocks, and once for the exponentials if top_p needs their sum. The
# tokens to keep lie above a bound derived from the blocks' maxima, and only those are sorted. ``numpy.partition`` is
# avoided: on logits with many equal values (the starter has 8,416 different ones) it takes milliseconds.

FloatArray = NDArray[np.float32]
IdArray = NDArray[np.intp]
FIRST_LOOK = 64
"""top_p first searches for its cut among this many of the largest logits."""
SAMPLE_EVERY = 16
"""If the cut is not among those, one logit in this many estimates where top_p cuts."""
SLACK = 1e-3
"""Safety margin below a bound on logits that was computed with rounding."""
GOLDEN, MIX_1, MIX_2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class Candidates(NamedTuple):
    """The tokens of an adjusted line with a logit of at least ``bound`` (minus infinity: all that may be
    sampled), ``ids`` ascending. ``peak``: the line's largest logit; ``total``: its sum of exp(logit - peak)."""

    ids: IdArray
    values: FloatArray
    bound: np.float32
    peak: np.float32
    total: float


def uniforms(seed: NDArray[np.uint64], position: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A number in [0, 1) for each seed and position."""
    bits = _mix(_mix(seed + GOLDEN) + (position + np.uint64(1)) * GOLDEN)
    found: NDArray[np.float64] = (bits >> np.uint64(11)) * 2.0**-53
    return found


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * MIX_1
    z = (z ^ (z >> np.uint64(27))) * MIX_2
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


def sample_batch(logits: FloatArray, batch: SamplingBatch) -> Sampled:
    """Samples a token for each line of ``logits (n, vocab_size)``, which is overwritten."""
    lines, most = len(batch), int(batch.alternatives.max(initial=-1))
    alternatives = (lines, max(most, 0))
    result = Sampled(
        np.empty(lines, np.int32),
        np.zeros(lines, np.float32),
        np.zeros(alternatives, np.int32),
        np.zeros(alternatives, np.float32),
    )
    draws = uniforms(batch.seed, batch.position).tolist()
    scratch = np.empty(logits.shape[1], np.float32)
    for line, uniform in enumerate(draws):
        _sample_line(line, logits[line], batch, uniform, scratch, result)
    return result if most >= 0 else Sampled(result.token_ids)


def _sample_line(
    line: int, row: FloatArray, batch: SamplingBatch, uniform: float, scratch: FloatArray, result: Sampled
) -> None:
    count, best = int(batch.alternatives[line]), int(row.argmax())
    if not math.isfinite(row[best]) or not math.isfinite(row.min()):
        result.token_ids[line] = NOT_FINITE
        return
    if count < 0:
        best = _adjust(row, batch, line, best)
        result.token_ids[line] = _draw(row, best, batch, line, uniform, scratch)
        return
    raw, log_total, ids = row.copy(), _log_total(row, scratch), largest(row, count)
    best = _adjust(row, batch, line, best)
    result.token_ids[line] = token = _draw(row, best, batch, line, uniform, scratch)
    assert result.logprobs is not None and result.best_ids is not None and result.best_logprobs is not None
    result.logprobs[line] = raw[token] - log_total
    result.best_ids[line, :count], result.best_logprobs[line, :count] = ids, raw[ids] - log_total


def log_probabilities(row: FloatArray, token_id: int, count: int) -> tuple[float, IdArray, FloatArray]:
    """For one finite line: the logprob of ``token_id``, the ``count`` best ids and their logprobs."""
    log_total, ids = _log_total(row, np.empty_like(row)), largest(row, count)
    return float(row[token_id]) - log_total, ids, row[ids] - np.float32(log_total)


def largest(row: FloatArray, count: int) -> IdArray:
    """The ids of the ``count`` largest values, largest first; ties: lowest id first."""
    if not count:
        return np.empty(0, np.intp)
    maxima = np.sort(_group_maxima(row))
    ids = _above(row, maxima[-count] if count <= len(maxima) else -np.inf)
    return ids[np.argsort(-row[ids], kind="stable")[:count]]


def kept_distribution(row: FloatArray, batch: SamplingBatch, line: int) -> tuple[IdArray, NDArray[np.float64]]:
    """The tokens of an adjusted line that may be sampled, ascending, and their probabilities (sum 1)."""
    scratch = np.empty_like(row)
    peak = row.max()
    ids = _kept(row, peak, batch, line, scratch)
    if ids is None:
        ids = np.arange(len(row))
    powers = np.exp((row[ids] - peak).astype(np.float64) / batch.temperature[line])
    return ids[powers > 0], powers[powers > 0] / powers.sum()


def _adjust(row: FloatArray, batch: SamplingBatch, line: int, best: int) -> int:
    """Adds adjustments, applies bans and mask. ``best``: the index of the largest value before; returns it after."""
    peak = row[best]
    start, end = batch.starts[line], batch.starts[line + 1]
    values = batch.values[start:end]
    row[batch.ids[start:end]] += values
    row[batch.banned] = -np.inf
    if batch.mask_of[line] >= 0:
        words = batch.masks[batch.mask_of[line]]
        allowed = np.unpackbits(words.astype("<u4").view(np.uint8), count=len(row), bitorder="little")
        np.copyto(row, -np.inf, where=allowed == 0)
    is_unchanged = row[best] == peak and not values.max(initial=0) > 0
    return best if is_unchanged else int(row.argmax())


def keeps_all(batch: SamplingBatch, line: int, vocab_size: int) -> bool:
    """Whether the line is sampled from all tokens."""
    is_cut = batch.top_p[line] < 1 or 0 < batch.top_k[line] < vocab_size or batch.min_p[line] > 0
    return bool(batch.temperature[line] > 0 and not is_cut)


def draw_line(row: FloatArray, batch: SamplingBatch, line: int, uniform: float) -> int:
    """Samples from an adjusted line; minus infinity marks tokens that may not be sampled."""
    return _draw(row, int(row.argmax()), batch, line, uniform, np.empty_like(row))


def draw_among(found: Candidates, vocab_size: int, batch: SamplingBatch, line: int, uniform: float) -> int | None:
    """The same result as :func:`draw_line`, or None if it depends on tokens outside the candidates."""
    ids, values, bound, peak, total = found
    if batch.temperature[line] == 0:
        return int(ids[values.argmax()])
    top_p, top_k, min_p = float(batch.top_p[line]), int(batch.top_k[line]), float(batch.min_p[line])
    top_k = 0 if top_k >= vocab_size else top_k
    is_all = bound == -np.inf
    is_by_weight = min_p > 0 and float(bound) <= float(peak) + math.log(min_p) - SLACK
    kept = _cut_among(ids, values, peak, top_p, total, top_k)
    if kept is None:
        if not (is_all or is_by_weight):
            return None
    else:
        values = values[np.isin(ids, kept, assume_unique=True)] if len(kept) < len(ids) else values
        ids = kept
    if min_p:
        is_kept = np.exp(values - peak) >= np.float32(min_p)
        ids, values = ids[is_kept], values[is_kept]
    return int(ids[_sampled(values - peak, batch.temperature[line], uniform)])


def find_share(weights: NDArray[np.float64], share: float) -> tuple[int, float]:
    """The index at which the cumulative sum of ``weights`` reaches this share of the total, and the rest within it."""
    sums = weights.cumsum()
    target = share * float(sums[-1])
    place = _search(sums, target, "right")
    return place, target - (float(sums[place - 1]) if place else 0.0)


def find_rest(weights: NDArray[np.float64], rest: float) -> int:
    return _search(weights.cumsum(), rest, "right")


def _draw(row: FloatArray, best: int, batch: SamplingBatch, line: int, uniform: float, scratch: FloatArray) -> int:
    peak = row[best]
    if peak == -np.inf:
        return NO_TOKEN
    temperature = batch.temperature[line]
    if temperature == 0:
        return best
    ids = _kept(row, peak, batch, line, scratch)
    if ids is not None and len(ids) == 1:
        return int(ids[0])
    powers = np.subtract(row, peak, out=scratch) if ids is None else row[ids] - peak
    place = _sampled(powers, temperature, uniform)
    return place if ids is None else int(ids[place])


def _sampled(below: FloatArray, temperature: np.float32, uniform: float) -> int:
    """The index sampled from logits minus their peak, which are overwritten."""
    if temperature != 1:
        below *= np.float32(1) / temperature
    return _place(np.exp(below, out=below), uniform, "right")


def _place(weights: FloatArray, share: float, side: Literal["left", "right"], total: float = 0.0) -> int:
    """The index where the cumulative sum reaches (``left``) or exceeds (``right``) the share of the total: the sum of
    ``weights`` unless given. Searches the block first, then inside it, because one long cumulative sum is slow."""
    sums = _block_sums(weights)
    target = share * (total or float(sums[-1]))
    block, size = _search(sums, target, side), _block_size(len(weights))
    inside = weights[block * size : (block + 1) * size].cumsum(dtype=np.float64)
    return block * size + _search(inside, target - (float(sums[block - 1]) if block else 0.0), side)


def _search(sums: NDArray[np.float64], target: float, side: Literal["left", "right"]) -> int:
    """Searches ``sums``; rounding never leads beyond the last element that adds to the sum."""
    found = int(sums.searchsorted(target, side))
    return found if found < len(sums) else int(sums.searchsorted(sums[-1]))


def _kept(row: FloatArray, peak: np.float32, batch: SamplingBatch, line: int, scratch: FloatArray) -> IdArray | None:
    """The ids that may be sampled, ascending; None for all."""
    top_p, top_k, min_p = float(batch.top_p[line]), int(batch.top_k[line]), float(batch.min_p[line])
    top_k = 0 if top_k >= len(row) else top_k
    if top_p >= 1 and not top_k:
        if not min_p:
            return None
        ids = _above(row, float(peak) + math.log(min_p) - SLACK)
    else:
        ids = _cut(row, peak, top_p, top_k, scratch)
    return ids[np.exp(row[ids] - peak) >= np.float32(min_p)] if min_p else ids


def _cut(row: FloatArray, peak: np.float32, top_p: float, top_k: int, scratch: FloatArray) -> IdArray:
    """Applies top_p and top_k. Both keep a prefix of the same order, so the shorter prefix is kept."""
    total = _total(row, peak, scratch) if top_p < 1 else math.inf
    for bound in _bounds(row, peak, top_p, total, top_k):
        ids = _above(row, bound)
        kept = _cut_among(ids, row[ids], peak, top_p, total, top_k)
        if kept is not None:
            return kept
    return ids


def _bounds(row: FloatArray, peak: np.float32, top_p: float, total: float, top_k: int) -> Iterator[np.float32]:
    """Bounds to try: few logits exceed them, and the cut is probably above. The last is certainly below the cut."""
    maxima = np.sort(_group_maxima(row))
    if top_k <= len(maxima):
        yield maxima[-(top_k or min(FIRST_LOOK, len(maxima)))]
    if top_p < 1:
        sample = -np.sort(-row[::SAMPLE_EVERY])  # estimates the cut from a sample of the logits
        place = _place(np.exp(sample - peak), top_p, "left")
        yield sample[min(len(sample) - 1, place + place // 8 + 8)]
        # tokens rarer than (1 - top_p) / vocab_size make up less than 1 - top_p together
        yield peak + np.float32(math.log(total * (1 - top_p) / len(row)) - SLACK)
    yield np.float32(-np.inf)


def _cut_among(
    ids: IdArray, values: FloatArray, peak: np.float32, top_p: float, total: float, top_k: int
) -> IdArray | None:
    """``ids`` are all ids whose logits reach some bound; returns None if the cut lies below that bound."""
    descending = -np.sort(-values)
    edge = descending[top_k - 1] if 0 < top_k <= len(ids) else None
    weights = np.exp(descending - peak)
    if top_p < 1 and weights.sum(dtype=np.float64) >= top_p * total:
        reached = descending[_place(weights, top_p, "left", total)]
        edge = reached if edge is None else max(edge, reached)
    if edge is None:
        return None
    kept: IdArray = ids[values >= edge]
    if 0 < top_k < len(kept):  # ties at the edge
        above = ids[values > edge]
        kept = np.sort(np.concatenate([above, ids[values == edge][: top_k - len(above)]]))
    return kept


def _above(row: FloatArray, bound: float | np.float32) -> IdArray:
    ids: IdArray = (row >= np.float32(bound)).nonzero()[0]
    return ids


def _group_maxima(row: FloatArray) -> FloatArray:
    """The maxima of about sqrt(n) groups. Every id is in one group; it does not matter in which."""
    size = _block_size(len(row))
    maxima: FloatArray = row[: len(row) // size * size].reshape(-1, size).max(axis=0)
    return np.append(maxima, row[len(row) // size * size :])


def _total(row: FloatArray, peak: np.float32, scratch: FloatArray) -> float:
    """The sum of exp(logit - peak)."""
    weights = np.exp(np.subtract(row, peak, out=scratch), out=scratch)
    size = _block_size(len(row))
    whole = len(row) // size * size
    sums = weights[:whole].reshape(-1, size).sum(axis=0)
    return float(sums.sum(dtype=np.float64)) + float(weights[whole:].sum(dtype=np.float64))


def _log_total(row: FloatArray, scratch: FloatArray) -> float:
    peak = row.max()
    return float(peak) + math.log(_total(row, peak, scratch))


def _block_size(count: int) -> int:
    """About sqrt(count), a power of two: 256 for a vocabulary of 65,536."""
    return 1 << (count.bit_length() // 2)


def _block_sums(values: FloatArray) -> NDArray[np.float64]:
    """The cumulative sum at the end of each block; the last block may be shorter."""
    size = _block_size(len(values))
    whole = len(values) // size * size
    sums = values[:whole].reshape(-1, size).sum(axis=1)
    if whole < len(values):
        sums = np.append(sums, values[whole:].sum())
    up_to: NDArray[np.float64] = sums.cumsum(dtype=np.float64)
    return up_to
