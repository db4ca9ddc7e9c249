"""From a row of logits to a token: one sampler for every backend, RWKV's order of operations.

The order is that of ``PIPELINE.sample_logits`` in the rwkv package's utils.py, which differs from the field's usual
one: the softmax is taken at temperature 1, cut by top_p (the first probability where the cumulative sum reaches top_p
is kept, and all equal to it), then by top_k, and only what is left is raised to ``1 / temperature``. min_p (relative to
the best token, not in the package) cuts beside top_k. Two deliberate differences: temperature 0, top_p 0 and top_k 1
take the best token without a draw, and top_p 1 never cuts (the package keeps the best token alone when rounding leaves
its cumulative sum below 1).

One uniform number is drawn per token, from the sequence's own generator: a seed and the logits decide everything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from webapp.engine.logits_processors import LogitsProcessor
from webapp.engine.outputs import TokenLogprob
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RequestError

FloatArray = NDArray[np.float32]
IdArray = NDArray[np.intp]


class Sampler:
    """Keeps rows of scratch memory, because fresh ones of this size cost more in page faults than the arithmetic."""

    def __init__(self, vocab_size: int) -> None:
        self._logits = np.empty(vocab_size, np.float32)
        self._weights = np.empty(vocab_size, np.float32)
        self._powers = np.empty(vocab_size, np.float64)
        self._is_above = np.empty(vocab_size, np.bool_)
        self._all_ids = np.arange(vocab_size)

    def sample(
        self,
        logits: FloatArray,
        params: SamplingParams,
        processors: Sequence[LogitsProcessor],
        token_ids: Sequence[int],
        rng: np.random.Generator,
    ) -> int:
        """The next token after ``token_ids``; ``logits (vocab_size,)`` are finite and left as they are."""
        row = self._logits
        row[:] = logits
        for process in processors:
            process(token_ids, row)
        best = int(row.argmax())
        if row[best] == -np.inf:
            raise RequestError(reason="bans, biases and constraints together leave no token to choose")
        if params.is_greedy:
            return best
        kept, powers = self._kept(row, params)
        return _draw(kept, powers, rng)

    def kept_distribution(self, logits: FloatArray, params: SamplingParams) -> tuple[IdArray, NDArray[np.float64]]:
        """The tokens that may be drawn, ascending, and their probabilities (sum 1). For params that are not greedy."""
        kept, powers = self._kept(logits, params)
        return kept[powers > 0], powers[powers > 0] / powers.sum()

    def token_logprobs(self, logits: FloatArray, token_id: int, alternatives: int) -> tuple[TokenLogprob, ...]:
        """``token_id`` first, then the best ``alternatives`` tokens, by the model's own distribution."""
        peak = float(logits.max())
        weights = np.subtract(logits, peak, out=self._weights)
        log_total = peak + math.log(np.exp(weights, out=weights).sum(dtype=np.float64))
        best = _best(logits, self._all_ids, alternatives) if alternatives else self._all_ids[:0]
        best = best[np.argsort(-logits[best], kind="stable")]
        return tuple(TokenLogprob(int(t), float(logits[t]) - log_total) for t in (token_id, *best.tolist()))

    def _kept(self, logits: FloatArray, params: SamplingParams) -> tuple[IdArray, NDArray[np.float64]]:
        """As ``kept_distribution``, not normalised and in scratch memory."""
        weights = np.subtract(logits, logits.max(), out=self._weights)
        np.exp(weights, out=weights)  # probabilities relative to the best token's
        kept = self._cut_top_p(weights, params.top_p)
        if params.min_p:
            kept = kept[weights.take(kept) >= params.min_p]
        if 0 < params.top_k < len(kept):
            kept = _best(weights, kept, params.top_k)
        powers = self._powers[: len(kept)]
        powers[:] = weights.take(kept)
        if params.temperature != 1:
            np.power(powers, 1.0 / params.temperature, out=powers)
        return kept, powers

    def _cut_top_p(self, weights: FloatArray, top_p: float) -> IdArray:
        """Sorts only tokens that top_p can keep: those rarer than ``(1 - top_p) / vocab_size`` sum to less than
        ``1 - top_p`` all together, so the cut is never among them."""
        if top_p >= 1.0:
            return self._all_ids
        total = weights.sum(dtype=np.float64)
        floor = 0.999 * total * (1.0 - top_p) / len(weights)  # 0.999: room for rounding
        candidates: IdArray = np.greater(weights, floor, out=self._is_above).nonzero()[0]
        found = weights.take(candidates)
        descending = np.sort(found)[::-1]
        reached = int(descending.cumsum(dtype=np.float64).searchsorted(top_p * total))
        kept: IdArray = candidates[found >= descending[min(reached, len(descending) - 1)]]
        return kept


def _draw(kept: IdArray, powers: NDArray[np.float64], rng: np.random.Generator) -> int:
    """One of ``kept`` by one uniform number, as ``numpy.random.choice`` does it. Overwrites ``powers``."""
    cumulative = np.cumsum(powers, out=powers)
    total = float(cumulative[-1])
    at = min(rng.random() * total, math.nextafter(total, 0.0))  # so that the row found has a weight above 0
    return int(kept[cumulative.searchsorted(at, side="right")])


def _best(values: FloatArray, among: IdArray, count: int) -> IdArray:
    """The ``count`` ids with the highest values, ascending; of equal ones at the edge the lowest ids."""
    found = values.take(among)
    count = min(count, len(among))
    edge = np.partition(found, len(found) - count)[len(found) - count]
    above = among[found > edge]
    equal = among[found == edge][: count - len(above)]
    return np.sort(np.concatenate([above, equal]))
