"""RWKV's recurrence: one token of many sequences, or chunks of prompts in matrix form.

Shapes: ``B`` sequences, ``T`` tokens of each, ``H`` heads of ``N`` channels. A state is ``(B, H, N, N)``, value channel
first, as in :class:`webapp.engine.state.RecurrentState`; everything is float32, decays are logarithms. Nothing is
written in place: an error in the middle of a step leaves every state as it was.

A prompt shorter than the longest of its batch is padded with tokens that change nothing: key 0, decay 1 (logarithm 0).

RWKV-5 and 6: ``S[t] = S[t-1] * w + v k'``, output ``S[t-1] r + v (u k . r)``. Within a chunk, token ``t`` sees token
``j`` through the decay between them, ``exp(c[t-1] - c[j])`` with the cumulative sums ``c`` of the logarithms. It is
computed per channel, because its two factors alone would overflow.

RWKV-7: ``S[t] = S[t-1] * w + (S[t-1] a) b' + v k'``, output ``S[t] r``. Decays are above 0.54, so the two factors can
be computed for 16 tokens. The corrections ``u[t] = S[t-1] a`` within a chunk depend on each other through a triangular
system (the WY form; Yang et al. 2024, arXiv 2406.06484). Then a chunk is one product with the state before it.

RWKV-4: a weighted mean of values, with weights relative to the largest so far: ``(B, 3, A)`` are numerator, denominator
and the logarithm of that weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK = 16
MIN_LOG_DECAY = -30.0
"""Its exp is negligible against 1 in float32; without this limit, the sums of a chunk lose their small terms."""


def mean_token(k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """RWKV-4, one token each: ``k, v (B, A)``, ``decay`` (negative) and ``bonus (A,)``. The mean and the new state."""
    top, bottom, largest = state.unbind(1)
    now = bonus + k
    peak = torch.maximum(largest, now)
    old, new = torch.exp(largest - peak), torch.exp(now - peak)
    mean = (old * top + new * v) / (old * bottom + new)
    decayed = largest + decay
    peak = torch.maximum(decayed, k)
    old, new = torch.exp(decayed - peak), torch.exp(k - peak)
    return mean, torch.stack([old * top + new * v, old * bottom + new, peak], 1)


def mean_chunks(
    k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, state: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """RWKV-4, ``k, v (B, T, A)``, of which ``lengths (B,)`` tokens count: the means ``(B, T, A)`` and the new state."""
    means = []
    for start in range(0, k.shape[1], CHUNK):
        size = min(CHUNK, k.shape[1] - start)
        mean, state = _mean_chunk(
            k[:, start : start + size],
            v[:, start : start + size],
            decay,
            bonus,
            state,
            (lengths - start).clamp(0, size),
        )
        means.append(mean)
    return (means[0] if len(means) == 1 else torch.cat(means, 1)), state


def _mean_chunk(
    k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, state: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """The state counts as one more value before the first one: the mean with its weight."""
    size = k.shape[1]
    top, bottom, largest = (part.unsqueeze(1) for part in state.unbind(1))
    at = torch.arange(size, device=k.device)
    behind = (at[:, None] - 1 - at[None, :]).clamp(min=0)  # [t, j]: decays that token t sees token j through
    exponents = k.unsqueeze(1) + behind[:, :, None] * decay  # (B, t, j, A)
    is_later = (at[None, :] > at[:, None])[:, :, None]
    is_now = (at[None, :] == at[:, None])[:, :, None]
    exponents = torch.where(is_now, exponents + bonus, exponents).masked_fill(is_later, -torch.inf)
    from_state = largest + at[:, None] * decay  # (B, t, A)
    peak = torch.maximum(exponents.amax(2), from_state)
    weights, old = torch.exp(exponents - peak.unsqueeze(2)), torch.exp(from_state - peak)
    mean = ((weights * v.unsqueeze(1)).sum(2) + old * top) / (weights.sum(2) + old * bottom)

    count = lengths.view(-1, 1, 1)
    left = count - 1 - at[None, :, None]  # (B, j, 1): decays after token j
    exponents = (k + left * decay).masked_fill(left < 0, -torch.inf)
    from_state = largest + count * decay
    peak = torch.maximum(exponents.amax(1, keepdim=True), from_state)
    weights, old = torch.exp(exponents - peak), torch.exp(from_state - peak)
    after = ((weights * v).sum(1, keepdim=True) + old * top, weights.sum(1, keepdim=True) + old * bottom, peak)
    return mean, torch.cat(after, 1)


def linear_token(parts: Sequence[Tensor], bonus: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """RWKV-5 and 6, one token each: ``r, k, v, log_decay (B, H, N)``, ``bonus (H, N)``."""
    r, k, v, log_decay = parts
    out = torch.matmul(state, r.unsqueeze(-1)).squeeze(-1) + (r * bonus * k).sum(-1, keepdim=True) * v
    decayed = state * torch.exp(log_decay).unsqueeze(-2)
    return out, torch.addcmul(decayed, v.unsqueeze(-1), k.unsqueeze(-2))


def linear_chunks(parts: Sequence[Tensor], bonus: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """RWKV-5 and 6, ``r, k, v, log_decay (B, H, T, N)``: the output ``(B, H, T, N)``, and the new state."""
    r, k, v, log_decay = parts
    length = r.shape[2]
    r, k, v, log_decay = (_in_chunks(part) for part in (r, k, v, log_decay.clamp(min=MIN_LOG_DECAY)))
    sums = log_decay.cumsum(-2)  # (B, H, chunks, CHUNK, N)
    before = sums - log_decay
    between = before.unsqueeze(-2) - sums.unsqueeze(-3)  # [t, j]
    at = torch.arange(CHUNK, device=r.device)
    is_earlier = (at[None, :] < at[:, None]).unsqueeze(-1)
    seen = (torch.exp(between.masked_fill(~is_earlier, -torch.inf)) * k.unsqueeze(-3) * r.unsqueeze(-2)).sum(-1)
    inside = seen @ v + (r * bonus[:, None, None, :] * k).sum(-1, keepdim=True) * v
    reading = r * torch.exp(before)
    total = sums[..., -1:, :]
    written = v.transpose(-1, -2) @ (k * torch.exp(total - sums))  # (B, H, chunks, N, N)
    decays = torch.exp(total)
    outs = []
    for chunk in range(r.shape[2]):
        outs.append(torch.baddbmm(*_flat(inside[:, :, chunk], reading[:, :, chunk], state.transpose(-1, -2))))
        state = torch.addcmul(written[:, :, chunk], state, decays[:, :, chunk])
    return _out_of_chunks(outs, r, length), state


def delta_token(parts: Sequence[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    """RWKV-7, one token each: ``r, k, v, log_decay, a, b (B, H, N)``. One pass over the state computes what is removed
    and the output."""
    r, k, v, log_decay, a, b = parts
    decay = torch.exp(log_decay)
    read = torch.matmul(state, torch.stack([a, decay * r], -1))
    removed, kept = read.unbind(-1)
    out = kept + removed * (b * r).sum(-1, keepdim=True) + v * (k * r).sum(-1, keepdim=True)
    decayed = (state * decay.unsqueeze(-2)).flatten(0, 1)
    pairs = torch.stack([removed, v], -1).flatten(0, 1), torch.stack([b, k], -2).flatten(0, 1)
    return out, decayed.baddbmm_(*pairs).view(state.shape)


def delta_chunks(parts: Sequence[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    """RWKV-7, ``r, k, v, log_decay, a, b (B, H, T, N)``: the output ``(B, H, T, N)``, and the new state."""
    r, k, v, log_decay, a, b = parts
    length = r.shape[2]
    r, k, v, log_decay, a, b = (_in_chunks(part) for part in (r, k, v, log_decay, a, b))
    sums = log_decay.cumsum(-2)
    grown = torch.exp(-sums)
    b, k = b * grown, k * grown
    a, r = a * torch.exp(sums - log_decay), r * torch.exp(sums)
    at = torch.arange(CHUNK, device=r.device)
    is_earlier = at[None, :] < at[:, None]
    is_no_later = at[None, :] <= at[:, None]
    among = (a @ b.transpose(-1, -2)) * is_earlier
    from_values = ((a @ k.transpose(-1, -2)) * is_earlier) @ v
    identity = torch.eye(CHUNK, device=r.device)
    # corrections: u = of_state @ state' + own
    both = torch.linalg.solve_triangular(
        identity - among, torch.cat([a, from_values], -1), upper=False, unitriangular=True
    )
    of_state, own = both.split([a.shape[-1], v.shape[-1]], -1)
    read_b = (r @ b.transpose(-1, -2)) * is_no_later
    read_k = (r @ k.transpose(-1, -2)) * is_no_later
    reading = r + read_b @ of_state
    inside = read_b @ own + read_k @ v
    decays = torch.exp(sums[..., -1:, :])
    size = r.shape[-1]
    moved = (torch.eye(size, device=r.device) + of_state.transpose(-1, -2) @ b) * decays
    written = (own.transpose(-1, -2) @ b + v.transpose(-1, -2) @ k) * decays
    outs = []
    for chunk in range(r.shape[2]):
        outs.append(torch.baddbmm(*_flat(inside[:, :, chunk], reading[:, :, chunk], state.transpose(-1, -2))))
        state = torch.baddbmm(*_flat(written[:, :, chunk], state, moved[:, :, chunk])).view(state.shape)
    return _out_of_chunks(outs, r, length), state


def _in_chunks(part: Tensor) -> Tensor:
    """``(B, H, T, N)`` to ``(B, H, chunks, CHUNK, N)``, padded with zeros."""
    missing = -part.shape[2] % CHUNK
    if missing:
        part = pad(part, (0, 0, 0, missing))
    return part.unflatten(2, (-1, CHUNK))


def _out_of_chunks(outs: list[Tensor], like: Tensor, length: int) -> Tensor:
    """Of ``(B * H, CHUNK, N)`` each."""
    whole = outs[0] if len(outs) == 1 else torch.cat(outs, 1)
    return whole.view(like.shape[0], like.shape[1], -1, like.shape[-1])[:, :, :length]


def _flat(*parts: Tensor) -> list[Tensor]:
    return [part.flatten(0, 1) for part in parts]
