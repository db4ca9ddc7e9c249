"""What a sampler is given for a batch of lines of logits, and what it returns: flat arrays that numpy, C++ and a GPU
can take as they are.

How a line is sampled, exactly. Every sampler has to draw the same tokens; the numpy one is
:mod:`webapp.engine.sampler`, and ``tests/reference/plain_sampler.py`` is the same for one line in plain steps.

1. ``adjusted``: the logits in float32, plus ``values`` at ``ids`` (penalties and biases). Then minus infinity at every
   banned token and at every token whose bit in the line's mask is 0.
2. ``temperature`` 0: the largest ``adjusted``, of equals the lowest id. No number is drawn.
3. ``weight = exp(adjusted - max)``, their ``total`` over the vocabulary.
4. ``top_p`` below 1: in descending order, the first token at which the cumulative sum of weights reaches
   ``top_p * total`` is the cut; every token with a logit of at least the cut's is kept. ``top_p`` 1 keeps all.
5. ``top_k`` (0 is off) keeps the ``top_k`` largest of those, of equals at the edge the lowest ids; ``min_p`` keeps
   weights of at least ``min_p``.
6. ``power = exp((adjusted - max) / temperature)``, summed up in ascending order of id; the token is the first whose
   cumulative sum exceeds ``uniform * sum``.

Exponentials are float32 or better and sums correct to about 1e-6 of their value, in any order. So two samplers may
differ where a cut or a draw lies that close to an edge, about once in a million tokens, and nowhere else.

This is the order of ``PIPELINE.sample_logits`` in the rwkv package's utils.py, which differs from the field's usual
one: the softmax is cut at temperature 1 and only what is left is raised to ``1 / temperature``. min_p is not in the
package. Two deliberate differences: temperature 0 takes the best token without a draw, and top_p 1 never cuts.

``uniform`` comes from the line's ``seed`` and ``position`` alone (SplitMix64's output function, Steele, Lea and Flood
2014, applied to a counter; arithmetic modulo 2**64)::

    mix(z):  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
             z = (z ^ (z >> 27)) * 0x94D049BB133111EB
             return z ^ (z >> 31)
    uniform = (mix(mix(seed + G) + (position + 1) * G) >> 11) / 2**53      with G = 0x9E3779B97F4A7C15

so a sequence goes on exactly from any position, and several positions can be drawn at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NOT_FINITE = -1
"""Instead of a token: the line's logits hold NaN or infinity."""
NO_TOKEN = -2
"""Instead of a token: bans and masks leave none."""


@dataclass(frozen=True)
class SamplingBatch:
    """``n`` lines; every array is C-contiguous. Ranges were checked before (:class:`SamplingParams`)."""

    temperature: NDArray[np.float32]
    """``(n,)``; 0 is greedy, which top_p 0 and top_k 1 have been turned into."""
    top_p: NDArray[np.float32]
    top_k: NDArray[np.int32]
    min_p: NDArray[np.float32]
    seed: NDArray[np.uint64]
    position: NDArray[np.uint64]
    """``(n,)``: how many tokens the sequence sampled before this one."""
    starts: NDArray[np.int32]
    """``(n + 1,)``: line ``i`` adds ``values[starts[i]:starts[i+1]]`` to its logits at ``ids[...]``."""
    ids: NDArray[np.int32]
    """Token ids, each at most once in a line."""
    values: NDArray[np.float32]
    banned: NDArray[np.int32]
    """``(b,)`` token ids that no line may draw (a tokenizer's unassigned ids), ascending."""
    mask_of: NDArray[np.int32]
    """``(n,)``: the line's row of ``masks``, -1 for none."""
    masks: NDArray[np.uint32]
    """``(m, ceil(vocab_size / 32))``: bit ``id % 32`` of word ``id // 32`` is 1 for a token that may come next, as
    llguidance writes it. Bits beyond the vocabulary mean nothing."""
    alternatives: NDArray[np.int32]
    """``(n,)``: -1 reports no logprobs, 0 to 20 those of the token and of so many best ones."""

    def __len__(self) -> int:
        return len(self.temperature)


@dataclass(frozen=True)
class Sampled:
    """``token_ids (n,)`` int32, or :data:`NOT_FINITE` / :data:`NO_TOKEN`.

    With ``k`` the largest ``alternatives`` of the batch (the arrays are None where it is -1): ``logprobs (n,)`` of the
    drawn tokens and ``best_ids, best_logprobs (n, k)``, best first, of equals the lowest id first. All of the model's
    own distribution (the logits before adjustments, temperature 1), natural logarithm. Lines that asked for fewer have
    anything in the places beyond.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32] | None = None
    best_ids: NDArray[np.int32] | None = None
    best_logprobs: NDArray[np.float32] | None = None
