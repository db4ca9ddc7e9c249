"""The operations of an RWKV-7: the plain definition, a chunked torch form and fused kernels (CPU float32).

All classes have the same five methods; the plain class is the definition, and tests compare the others with it. Shapes:
B batch, T time, C channels, H heads of N = 64.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# kernels.cpp, built at first use and wrapped as autograd functions (CPU, float32, head size 64)

FUNCTIONS = [
    "time_mix_forward",
    "time_mix_backward",
    "shift_forward",
    "shift_backward",
    "relu2_forward",
    "relu2_backward",
    "cross_entropy_",
]


@lru_cache(maxsize=1)
def compiled_kernels() -> ModuleType | None:
    """The extension module, or None (and one line on stderr) if it cannot be compiled."""
    # finds the virtual environment's ninja
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
    if sys.platform == "win32" or not (shutil.which("g++") or shutil.which("clang++")) or not shutil.which("ninja"):
        print(
            "training: no C++ compiler or ninja found; using plain torch, several times slower",
            file=sys.stderr,
        )
        return None
    from torch.utils.cpp_extension import load_inline

    source = (Path(__file__).parent / "kernels.cpp").read_text(encoding="utf-8")
    for arch in (["-march=native"], []):
        try:
            # -ffast-math only for compiling: as a linker flag it would flush denormals in the whole process.
            flags = ["-O3", *arch, "-ffast-math", "-fopenmp", "-Wno-psabi"]
            return load_inline(f"roost_rwkv7_{len(arch)}", [source], functions=FUNCTIONS, extra_cflags=flags)
        except (RuntimeError, OSError) as error:
            print(
                f"training: kernels did not build with {arch or 'no arch flag'}: {str(error)[-400:]}",
                file=sys.stderr,
            )
    return None


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory instead of mapping every large tensor again.

    On a 6 x 256 model this reduced a step from 1731 to 1107 ms. Call it before tensors are created; it has no effect
    outside Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: never mmap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-2, 256 << 20)  # M_TOP_PAD
    except (OSError, AttributeError):
        return


class TimeMix(torch.autograd.Function):
    """(r, w, k, v, v_first, vx, a, g, params, state) -> (output, final state); see kernels.cpp."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        *inputs, state = [t.contiguous() for t in arguments]
        output, final, y, sa, snapshots = compiled_kernels().time_mix_forward(*inputs, state)
        ctx.save_for_backward(*inputs, y, sa, snapshots)
        ctx.set_materialize_grads(False)
        return output, final

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        d_final = torch.empty(0) if d_final is None else d_final.contiguous()
        gradients = compiled_kernels().time_mix_backward(d_output.contiguous(), d_final, *ctx.saved_tensors)
        if not ctx.saved_tensors[4].numel():  # layer 0 has no value residual
            gradients[4] = gradients[5] = None
        return tuple(gradients)


class TokenShift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mix: Tensor, before: Tensor) -> tuple[Tensor, ...]:
        x, before = x.contiguous(), before.contiguous()  # a carried x[:, -1] is a strided view
        ctx.save_for_backward(x, mix, before)
        return compiled_kernels().shift_forward(x, mix, before).unbind(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(compiled_kernels().shift_backward([t.contiguous() for t in gradients], *ctx.saved_tensors))


class ReluSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return compiled_kernels().relu2_forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return compiled_kernels().relu2_backward(gradient.contiguous(), *ctx.saved_tensors)


class Matmul(torch.autograd.Function):
    """x (n, a) @ weight (a, b) with numpy's BLAS: on AMD CPUs OpenBLAS is 1.3 to 3 times as fast as torch's MKL."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return blas(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        return blas(gradient, weight.t()), blas(x.t(), gradient)


def blas(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32 with numpy; contiguous or transposed operands are not copied."""
    return torch.from_numpy(a.detach().numpy() @ b.detach().numpy())


class HeadLoss(torch.autograd.Function):
    """Weighted mean cross-entropy of hidden @ head.T in chunks of rows. The forward pass computes the gradients, so no
    logits are stored. `copies`: how many vocabulary rows the last row of head represents."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, target: Tensor, weight: Tensor, copies: int, chunk: int
    ) -> Tensor:
        weight = weight / weight.sum().clamp_min(1e-9)
        d_hidden, d_head, loss = torch.empty_like(hidden), torch.zeros_like(head), hidden.new_zeros(())
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            logits = blas(hidden[rows], head.t())
            losses = compiled_kernels().cross_entropy_(
                logits, target[rows].contiguous(), weight[rows].contiguous(), float(copies)
            )
            loss = loss + torch.dot(losses, weight[rows])
            d_hidden[rows] = blas(logits, head)
            d_head += blas(logits.t(), hidden[rows])
        ctx.save_for_backward(d_hidden, d_head)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_head = ctx.saved_tensors
        return d_hidden * gradient, d_head * gradient, None, None, None, None


HEAD_SIZE = 64
GROUP_NORM_EPS = 64e-5


class Operations(Protocol):
    def shift(self, x: Tensor, mix: Tensor, before: Tensor) -> tuple[Tensor, ...]:
        """x (B,T,C) -> one x + (x_prev - x) * mix[n] for each row of mix (n,C); before (B,C) comes before x[:, 0]."""

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
        ln_x weight, ln_x bias; state (B,H,N,N) as [value][key]. Returns the output (B,T,C) and the final state."""

    def relu_squared(self, x: Tensor) -> Tensor: ...

    def matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (..., a) @ weight (a, b)."""

    def head_loss(
        self, hidden: Tensor, head: Tensor, target: Tensor, weight: Tensor, copies: int, chunk: int
    ) -> Tensor:
        """Weighted mean cross-entropy (nats) over rows; the last row of head counts `copies` times in the softmax."""


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
        """The recurrence S = S diag(decay) + (S a) bᵀ + v kᵀ, read with S r: all (B,T,H,N), state (B,H,N,N) as
        [value][key]. Returns the outputs and the final state."""
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
        return weighted_losses(hidden @ head.t(), target, weight / weight.sum().clamp_min(1e-9), copies)


def weighted_losses(logits: Tensor, target: Tensor, share: Tensor, copies: int) -> Tensor:
    """Sum of share times cross-entropy; the last column of logits (rows, V) represents `copies` equal ones."""
    counted = torch.cat([logits[:, :-1], logits[:, -1:] + math.log(copies)], 1)
    losses = F.cross_entropy(counted, target, reduction="none") + (target == logits.shape[1] - 1) * math.log(copies)
    return (losses * share).sum()


class ChunkedOperations(PlainOperations):
    """The recurrence in chunks (`chunked`): a sixteenth of the steps, each a matrix product.

    bf16: products with weights run in bfloat16; weights, recurrence, norms and loss stay in float32.
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
        """Rows in chunks whose logits are computed again in the backward pass: those of a whole batch would fill the
        memory."""
        share = weight / weight.sum().clamp_min(1e-9)
        parts = [
            checkpoint(self.rows_loss, *rows, head, copies, use_reentrant=False)
            for rows in zip(hidden.split(chunk), target.split(chunk), share.split(chunk), strict=True)
        ]
        return torch.stack(parts).sum()

    def rows_loss(self, hidden: Tensor, target: Tensor, share: Tensor, head: Tensor, copies: int) -> Tensor:
        """Sum of the losses of some rows, multiplied by their shares."""
        return weighted_losses(self.matmul(hidden, head.t()), target, share, copies)


class KernelOperations:
    """Compiled C++; needs `compiled_kernels()`."""

    def shift(self, x: Tensor, mix: Tensor, before: Tensor) -> tuple[Tensor, ...]:
        return TokenShift.apply(x, mix, before)

    def time_mix(self, r, w, k, v, v_first, vx, a, g, params, state):  # type: ignore[no-untyped-def]
        none = torch.empty(0)
        return TimeMix.apply(
            r, w, k, v, none if v_first is None else v_first, none if vx is None else vx, a, g, params, state
        )

    def relu_squared(self, x: Tensor) -> Tensor:
        return ReluSquared.apply(x)

    def matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        return Matmul.apply(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[1])

    def head_loss(
        self, hidden: Tensor, head: Tensor, target: Tensor, weight: Tensor, copies: int, chunk: int
    ) -> Tensor:
        return HeadLoss.apply(hidden, head, target, weight, copies, chunk)


def operations_for(device: torch.device) -> Operations:
    """Fused on a CPU with a compiler, otherwise chunked; with bf16 products on a GPU that supports them."""
    if device.type == "cpu" and compiled_kernels() is not None:
        return KernelOperations()
    return ChunkedOperations(bf16=device.type == "cuda" and torch.cuda.is_bf16_supported())


CHUNK = 16


def in_chunks(x: Tensor, filling: float = 0.0) -> Tensor:
    """(B,T,H,N) -> (B,H,chunks,CHUNK,N); the last chunk is padded with steps that have no effect."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % CHUNK), value=filling)
    batch, steps, heads, size = x.shape
    return x.view(batch, steps // CHUNK, CHUNK, heads, size).permute(0, 3, 1, 2, 4)


def chunked_wkv(
    r: Tensor, decay: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """All (B,T,H,N), float32 or float64; state (B,H,N,N) as [value][key]. Returns reads (B,T,H,N), final state.

    Uses only torch operations that autograd and every device support.

    The step is S_t = S_{t-1} diag(w_t) + (S_{t-1} a_t) b_tᵀ + v_t k_tᵀ, read as y_t = S_t r_t. With P_t the product of
    the decays of a chunk so far and Ŝ_t = S_t diag(1 / P_t), the decay leaves the sum. Let

        ã_t = P_{t-1} a_t,   r̃_t = P_t r_t,   b̃_t = b_t / P_t,   k̃_t = k_t / P_t,   u_t = S_{t-1} a_t.

    Then u_t = S_0 ã_t + Σ_{s<t} (u_s b̃_s·ã_t + v_s k̃_s·ã_t): a unit triangular system, solved for all chunks at
    once. Only the state is passed from chunk to chunk: U = W S_0ᵀ + Z, S_L = (S_0 + Uᵀ B̃ + Vᵀ K̃) diag(P_L).

    A decay is at least exp(-exp(-0.5)) = 0.545, so 1 / P stays below 2e4 within 16 steps; float32 carries that.
    """
    steps = r.shape[1]
    r, k, v, a, b = (in_chunks(x) for x in (r, k, v, a, b))
    decay = in_chunks(decay, filling=1.0)
    so_far = decay.cumprod(-2)
    a, r, b, k = a * (so_far / decay), r * so_far, b / so_far, k / so_far
    before = r.new_ones(CHUNK, CHUNK).tril(-1)  # [t][s]: s < t
    up_to = r.new_ones(CHUNK, CHUNK).tril()
    system = torch.eye(CHUNK, dtype=r.dtype, device=r.device) - (a @ b.mT) * before
    known = torch.cat([a, ((a @ k.mT) * before) @ v], -1)
    w, z = torch.linalg.solve_triangular(system, known, upper=False, unitriangular=True).chunk(2, -1)
    added = v.mT @ k
    states, removed = [], []
    for chunk in range(r.shape[2]):
        states.append(state)
        removed.append(w[:, :, chunk] @ state.mT + z[:, :, chunk])
        state = (state + removed[-1].mT @ b[:, :, chunk] + added[:, :, chunk]) * so_far[:, :, chunk, -1:]
    u, starts = torch.stack(removed, 2), torch.stack(states, 2)
    reads = r @ starts.mT + ((r @ b.mT) * up_to) @ u + ((r @ k.mT) * up_to) @ v
    return reads.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :steps], state
