"""The operations an RWKV-7 is made of: the plain definition, a chunked torch form and fused kernels (CPU float32).

All classes have the same five methods; the plain one is the definition, the tests hold the others to it.
Shapes: B batch, T time, C channels, H heads of N = 64.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from webapp.training import kernels
from webapp.training.chunked import chunked_wkv

HEAD_SIZE = 64
GROUP_NORM_EPS = 64e-5


class Operations(Protocol):
    def shift(self, x: Tensor, mix: Tensor, before: Tensor) -> tuple[Tensor, ...]:
        """x (B,T,C) -> one x + (x_prev - x) * mix[n] for each row of mix (n,C); before (B,C) precedes x[:, 0]."""

    def time_mix(
        self,
        r: Tensor,
        w: Tensor,
        k: Tensor,
        v: Tensor,
        v_first: Tensor | None,
        vx: Tensor | None,
        a: Tensor,
        g: Tensor,
        params: Tensor,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Everything between the projections of one layer: all (B,T,C); params (8,C) are w0, a0, v0, k_k, k_a, r_k,
        ln_x weight, ln_x bias; state (B,H,N,N) as [value][key]. Returns output (B,T,C) and the final state."""

    def relu_squared(self, x: Tensor) -> Tensor: ...

    def matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (..., a) @ weight (a, b)."""

    def head_loss(
        self, hidden: Tensor, head: Tensor, target: Tensor, weight: Tensor, copies: int, chunk: int
    ) -> Tensor:
        """Mean cross-entropy (nats) over rows, weighted; the last row of head counts `copies` times in the softmax."""


class PlainOperations:
    """The definition, in torch."""

    def shift(self, x: Tensor, mix: Tensor, before: Tensor) -> tuple[Tensor, ...]:
        difference = torch.cat([before[:, None], x[:, :-1]], 1) - x
        return tuple(x + difference * row for row in mix)

    def time_mix(self, r, w, k, v, v_first, vx, a, g, params, state):  # type: ignore[no-untyped-def]
        B, T, C = r.shape
        H = C // HEAD_SIZE
        w0, a0, v0, k_k, k_a, r_k, ln_weight, ln_bias = params
        decay = torch.exp(-math.exp(-0.5) * torch.sigmoid(w0 + w))
        if v_first is not None:
            v = v + (v_first - v) * torch.sigmoid(v0 + vx)
        a = torch.sigmoid(a0 + a)
        kk = F.normalize((k * k_k).view(B, T, H, -1), dim=-1, p=2.0, eps=1e-12)
        k = k * (1 + (a - 1) * k_a)
        r, decay, k, v, a = (t.view(B, T, H, HEAD_SIZE) for t in (r, decay, k, v, a))
        y, state = self.wkv(r, decay, k, v, -kk, kk * a, state)
        y = F.group_norm(y.reshape(B * T, C), H, ln_weight, ln_bias, GROUP_NORM_EPS).view(B, T, C)
        y = y + ((r * k * r_k.view(H, HEAD_SIZE)).sum(-1, keepdim=True) * v).reshape(B, T, C)
        return y * g, state

    def wkv(
        self, r: Tensor, decay: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The recurrence S = S diag(decay) + (S a) bᵀ + v kᵀ, read as S r: all (B,T,H,N), state (B,H,N,N) as
        [value][key]. Returns the reads and the final state."""
        reads = []
        for t in range(r.shape[1]):
            removed = state @ a[:, t, :, :, None]
            state = (
                state * decay[:, t, :, None, :] + removed * b[:, t, :, None, :] + v[:, t, :, :, None] * k[:, t, :, None]
            )
            reads.append((state @ r[:, t, :, :, None])[..., 0])
        return torch.stack(reads, 1), state

    def relu_squared(self, x: Tensor) -> Tensor:
        return torch.relu(x) ** 2

    def matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight

    def head_loss(
        self, hidden: Tensor, head: Tensor, target: Tensor, weight: Tensor, copies: int, chunk: int
    ) -> Tensor:
        return weighed_losses(hidden @ head.t(), target, weight / weight.sum().clamp_min(1e-9), copies)


def weighed_losses(logits: Tensor, target: Tensor, share: Tensor, copies: int) -> Tensor:
    """Sum of share times cross-entropy; the last column of logits (rows, V) stands for `copies` equal ones."""
    counted = torch.cat([logits[:, :-1], logits[:, -1:] + math.log(copies)], 1)
    losses = F.cross_entropy(counted, target, reduction="none") + (target == logits.shape[1] - 1) * math.log(copies)
    return (losses * share).sum()


class ChunkedOperations(PlainOperations):
    """The same with the recurrence in chunks (`chunked`): a sixteenth of the steps, each a product of matrices.

    bf16: the products with weights run in bfloat16 while weights, recurrence, norms and loss stay in float32.
    """

    def __init__(self, bf16: bool = False) -> None:
        self.bf16 = bf16

    def wkv(
        self, r: Tensor, decay: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return chunked_wkv(r, decay, k, v, a, b, state)

    def matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        return (x.bfloat16() @ weight.bfloat16()).to(x.dtype) if self.bf16 else x @ weight

    def head_loss(
        self, hidden: Tensor, head: Tensor, target: Tensor, weight: Tensor, copies: int, chunk: int
    ) -> Tensor:
        """Rows in chunks whose logits are made again in the backward: a whole batch of them fills the memory."""
        share = weight / weight.sum().clamp_min(1e-9)
        parts = [
            checkpoint(self.rows_loss, *rows, head, copies, use_reentrant=False)
            for rows in zip(hidden.split(chunk), target.split(chunk), share.split(chunk), strict=True)
        ]
        return torch.stack(parts).sum()

    def rows_loss(self, hidden: Tensor, target: Tensor, share: Tensor, head: Tensor, copies: int) -> Tensor:
        """Sum of the losses of some rows, each weighed by its share."""
        return weighed_losses(self.matmul(hidden, head.t()), target, share, copies)


class KernelOperations:
    """The same in compiled C++; needs `kernels.compiled_kernels()`."""

    def shift(self, x: Tensor, mix: Tensor, before: Tensor) -> tuple[Tensor, ...]:
        return kernels.TokenShift.apply(x, mix, before)

    def time_mix(self, r, w, k, v, v_first, vx, a, g, params, state):  # type: ignore[no-untyped-def]
        none = torch.empty(0)
        return kernels.TimeMix.apply(
            r, w, k, v, none if v_first is None else v_first, none if vx is None else vx, a, g, params, state
        )

    def relu_squared(self, x: Tensor) -> Tensor:
        return kernels.ReluSquared.apply(x)

    def matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        return kernels.Matmul.apply(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[1])

    def head_loss(
        self, hidden: Tensor, head: Tensor, target: Tensor, weight: Tensor, copies: int, chunk: int
    ) -> Tensor:
        return kernels.HeadLoss.apply(hidden, head, target, weight, copies, chunk)


def operations_for(device: torch.device) -> Operations:
    """Fused on a CPU with a compiler; elsewhere chunked, with bf16 products on a GPU that has them."""
    if device.type == "cpu" and kernels.compiled_kernels() is not None:
        return KernelOperations()
    return ChunkedOperations(bf16=device.type == "cuda" and torch.cuda.is_bf16_supported())
