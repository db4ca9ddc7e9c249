"""The sampler's definition (webapp/engine/sampler.py) for one row, in plain steps and float64."""

from __future__ import annotations

import numpy as np

from webapp.engine.sampler import NO_TOKEN, NOT_FINITE, SamplingBatch

MASK = 2**64 - 1


def uniform(seed: int, position: int) -> float:
    golden = 0x9E3779B97F4A7C15
    return (mix(mix(seed + golden) + (position + 1) * golden) >> 11) / 2**53


def mix(z: int) -> int:
    z &= MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def adjusted(logits: np.ndarray, batch: SamplingBatch, line: int) -> np.ndarray:
    row = logits.astype(np.float32).copy()
    for at in range(batch.starts[line], batch.starts[line + 1]):
        row[batch.ids[at]] += batch.values[at]
    row[batch.banned] = -np.inf
    if batch.mask_of[line] >= 0:
        words = batch.masks[batch.mask_of[line]]
        for token_id in range(len(row)):
            if not int(words[token_id // 32]) >> (token_id % 32) & 1:
                row[token_id] = -np.inf
    return row


def kept(row: np.ndarray, batch: SamplingBatch, line: int) -> np.ndarray:
    """The ids that may be sampled, ascending."""
    weights = np.exp(row.astype(np.float64) - row.max())
    order = np.lexsort((np.arange(len(row)), -row))  # best first; of equal ones, the lowest id
    size = len(row)
    if batch.top_p[line] < 1:
        wanted = float(batch.top_p[line]) * weights.sum()
        cut = row[order[min(int((np.cumsum(weights[order]) < wanted).sum()), size - 1)]]
        size = int((row >= cut).sum())
    if 0 < batch.top_k[line] < size:
        size = int(batch.top_k[line])
    ids = order[:size]
    return np.sort(ids[weights[ids] >= float(batch.min_p[line])])


def sample(logits: np.ndarray, batch: SamplingBatch, line: int) -> int:
    if not np.isfinite(logits).all():
        return NOT_FINITE
    row = adjusted(logits, batch, line)
    if row.max() == -np.inf:
        return NO_TOKEN
    if batch.temperature[line] == 0:
        return int(row.argmax())
    ids = kept(row, batch, line)
    powers = np.exp((row[ids].astype(np.float64) - row.max()) / float(batch.temperature[line]))
    target = uniform(int(batch.seed[line]), int(batch.position[line])) * powers.sum()
    return int(ids[int((np.cumsum(powers) <= target).sum())])


def logprobs(logits: np.ndarray) -> np.ndarray:
    row = logits.astype(np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())
