"""Samples tokens on the device of the logits, as :mod:`webapp.engine.sampler` defines; on a CPU with numpy.

A model that uses half of its vocabulary or less gets a second head with only those rows, which is used for steps whose
logits are only sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor

from webapp.backends.pytorch.linear import Matrix
from webapp.engine.backend import Logits
from webapp.engine.sampler import NO_TOKEN, NOT_FINITE, Sampled, SamplingBatch, sample_batch, uniforms

if TYPE_CHECKING:
    from webapp.backends.pytorch.model import TorchModel

FIRST_LOOK = 512
"""top_p first searches for its cut among this many of the largest logits, before all are sorted."""


class Head:
    """The model's head, and its part for tokens that can be sampled."""

    def __init__(self, model: TorchModel) -> None:
        self._model = model
        self._banned: NDArray[np.int32] | None = None
        self._usable: Usable | None = None
        self._part: Matrix | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        return self._model.head(hidden)

    def use_only(self, banned: NDArray[np.int32]) -> Usable | None:
        """The remaining tokens, if they are half of all or fewer."""
        if banned is not self._banned:
            size = self._model.config.vocab_size
            ids = np.delete(np.arange(size, dtype=np.int32), banned)
            is_worth_it = 0 < len(ids) <= size // 2
            self._usable = Usable(ids, size) if is_worth_it else None
            self._part = (
                self._model.head.select(torch.from_numpy(ids).to(self._model.head_device)) if is_worth_it else None
            )
            self._banned = banned
        return self._usable

    def usable_logits(self, hidden: Tensor) -> Tensor:
        assert self._part is not None, "use_only() comes first"
        return self._part(hidden)


class TorchLogits(Logits):
    """Lines that are computed on request from the output of the layers for each wanted token."""

    def __init__(self, head: Head, hidden: Tensor) -> None:
        self._head, self._hidden = head, hidden
        self._logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self._hidden)

    def to_numpy(self, lines: Sequence[int]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = self._all()[list(lines)].cpu().numpy()
        return found

    def sample(self, lines: Sequence[int], batch: SamplingBatch) -> Sampled:
        with torch.inference_mode():
            usable = self._head.use_only(batch.banned) if batch.alternatives.max(initial=-1) < 0 else None
            if usable is not None:
                batch = usable.narrowed(batch)
                logits = self._head.usable_logits(self._hidden[list(lines)])
            else:
                logits = self._all()[list(lines)]
            sampled = sample_batch(logits.numpy(), batch) if logits.device.type == "cpu" else draw(logits, batch)
        return sampled if usable is None else Sampled(usable.widened(sampled.token_ids))

    def _all(self) -> Tensor:
        if self._logits is None:
            self._logits = self._head.logits(self._hidden)
        return self._logits


class Usable(Struct, frozen=True):
    """``ids``, ascending, numbered from 0: equal logits keep their order, so the same tokens are sampled."""

    ids: NDArray[np.int32]
    vocab_size: int

    def narrowed(self, batch: SamplingBatch) -> SamplingBatch:
        places = np.full(self.vocab_size, -1, np.int32)
        places[self.ids] = np.arange(len(self.ids), dtype=np.int32)
        ids = places[batch.ids]
        is_kept = ids >= 0
        before = np.concatenate([[0], np.cumsum(is_kept)])
        masks = batch.masks
        if len(masks):
            bits = np.unpackbits(masks.astype("<u4").view(np.uint8).reshape(len(masks), -1), axis=1, bitorder="little")
            narrow = np.zeros((len(masks), -(-len(self.ids) // 32) * 32), np.uint8)
            narrow[:, : len(self.ids)] = bits[:, self.ids]
            masks = np.packbits(narrow, axis=1, bitorder="little").view("<u4").astype(np.uint32)
        return replace(
            batch,
            ids=ids[is_kept],
            values=batch.values[is_kept],
            starts=before[batch.starts].astype(np.int32),
            banned=batch.banned[:0],
            masks=masks,
        )

    def widened(self, token_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        return np.where(token_ids >= 0, self.ids[np.maximum(token_ids, 0)], token_ids)


def draw(logits: Tensor, batch: SamplingBatch) -> Sampled:
    """Samples a token for each line of ``logits (n, vocab_size)`` float32, which is overwritten. Runs on any device
    with float64, which is used for sums."""
    device, size = logits.device, logits.shape[1]
    is_finite = torch.isfinite(logits).all(-1)
    most = int(batch.alternatives.max(initial=-1))
    raw = torch.log_softmax(logits.double(), -1).float() if most >= 0 else None

    def column(values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).to(device).unsqueeze(-1)

    _adjust(logits, batch)
    peak = logits.amax(-1, keepdim=True)
    ids = torch.arange(size, device=device)
    best = torch.where(logits == peak, ids, size).amin(-1)  # lowest id for ties: argmax does not guarantee it
    token_ids = best
    if (batch.temperature > 0).any():
        weights = torch.exp(logits - peak)
        is_kept = _kept(logits, peak, weights, batch)
        temperature = column(np.where(batch.temperature > 0, batch.temperature, 1))
        sums = torch.where(is_kept, torch.exp((logits - peak) / temperature), 0.0).double().cumsum(-1)
        uniform = torch.from_numpy(uniforms(batch.seed, batch.position)).to(device).unsqueeze(-1)
        indices = torch.searchsorted(sums, uniform * sums[:, -1:], right=True).squeeze(-1)
        last = torch.searchsorted(sums, sums[:, -1:].contiguous()).squeeze(-1)  # rounding must not lead beyond it
        token_ids = torch.where(column(batch.temperature).squeeze(-1) > 0, torch.minimum(indices, last), best)
    token_ids = torch.where(peak.squeeze(-1) == -torch.inf, NO_TOKEN, token_ids)
    token_ids = torch.where(is_finite, token_ids, NOT_FINITE)
    if raw is None:
        return Sampled(token_ids.to(torch.int32).cpu().numpy())
    logprobs = raw.gather(-1, token_ids.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    best_logprobs, best_ids = torch.sort(raw, dim=-1, descending=True, stable=True)
    found = (token_ids.to(torch.int32), logprobs, best_ids[:, :most].to(torch.int32), best_logprobs[:, :most])
    return Sampled(*(part.cpu().numpy() for part in found))


def _adjust(logits: Tensor, batch: SamplingBatch) -> None:
    device, size = logits.device, logits.shape[1]
    if len(batch.ids):
        line_of = np.repeat(np.arange(len(batch)), np.diff(batch.starts))
        places = torch.from_numpy(line_of * size + batch.ids).to(device)
        logits.view(-1).index_add_(0, places, torch.from_numpy(batch.values).to(device))
    if len(batch.banned):
        logits[:, torch.from_numpy(batch.banned).long().to(device)] = -torch.inf
    if len(batch.masks):
        words = torch.from_numpy(batch.masks.view(np.int32)).to(device)
        bits = (words.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32, device=device)) & 1
        allowed = bits.flatten(1)[:, :size].bool()
        lines = np.flatnonzero(batch.mask_of >= 0)
        rows = torch.from_numpy(batch.mask_of[lines]).long().to(device)
        at = torch.from_numpy(lines).to(device)
        logits[at] = logits[at].masked_fill(~allowed[rows], -torch.inf)


def _kept(logits: Tensor, peak: Tensor, weights: Tensor, batch: SamplingBatch) -> Tensor:
    """Which tokens may be sampled, ``(n, vocab_size)``."""
    device, size = logits.device, logits.shape[1]

    def column(values: NDArray[np.float32] | NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(values).to(device).unsqueeze(-1)

    is_kept = weights >= column(batch.min_p)
    top_k = np.where((batch.top_k <= 0) | (batch.top_k >= size), size, batch.top_k).astype(np.int32)
    if (batch.top_p >= 1).all() and (top_k >= size).all():
        return is_kept
    shares = column(np.where(batch.top_p < 1, batch.top_p, 2).astype(np.float32)).double()  # 2: never reached
    wanted = shares * weights.double().sum(-1, keepdim=True)
    counts = column(top_k)
    look = min(size, max(FIRST_LOOK, int(top_k[top_k < size].max(initial=0))))
    largest = torch.topk(logits, look, sorted=True).values
    reached = torch.exp(largest - peak).double().cumsum(-1)
    if look < size:
        is_enough = (reached[:, -1:] >= wanted) | (shares > 1) | (counts < size)
        if not bool(is_enough.all()):
            largest = torch.sort(logits, -1, descending=True).values
            reached = torch.exp(largest - peak).double().cumsum(-1)
    last = largest.shape[1] - 1
    lowest = torch.full_like(peak, -torch.inf)
    cut = torch.searchsorted(reached, wanted).clamp(max=last)
    by_share = torch.where(shares > 1, lowest, largest.gather(-1, cut))
    by_count = torch.where(counts >= size, lowest, largest.gather(-1, (counts.long() - 1).clamp(0, last)))
    is_above, is_edge = logits > by_count, logits == by_count
    room = counts - is_above.sum(-1, keepdim=True)  # for ties at the edge: the lowest ids
    within = is_above | (is_edge & (is_edge.cumsum(-1) <= room))
    return is_kept & (logits >= by_share) & torch.where(counts >= size, True, within)
