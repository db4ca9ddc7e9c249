"""Builds kernels.cpp at first use and wraps it as autograd functions (CPU, float32, head size 64)."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

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
    """The extension module, or None (with one line on stderr) where it cannot be built."""
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")  # ninja of the venv
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
            # -ffast-math only when compiling: linked in, it would switch denormals for the whole process.
            flags = ["-O3", *arch, "-ffast-math", "-fopenmp", "-Wno-psabi"]
            return load_inline(f"roost_rwkv7_{len(arch)}", [source], functions=FUNCTIONS, extra_cflags=flags)
        except (RuntimeError, OSError) as error:
            print(
                f"training: kernels did not build with {arch or 'no arch flag'}: {str(error)[-400:]}",
                file=sys.stderr,
            )
    return None


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory instead of mapping every large tensor afresh.

    Measured on a 6 x 256 model: a step went from 1731 to 1107 ms. Call before the tensors are made; no effect
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
    """x (n, a) @ weight (a, b) through numpy's BLAS: on AMD CPUs OpenBLAS is 1.3 to 3 times as fast as torch's MKL."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return blas(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        return blas(gradient, weight.t()), blas(x.t(), gradient)


def blas(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32 through numpy, without copies of operands that are contiguous or transposed."""
    return torch.from_numpy(a.detach().numpy() @ b.detach().numpy())


class HeadLoss(torch.autograd.Function):
    """Weighted mean cross-entropy of hidden @ head.T in chunks of rows; gradients are made in the forward, so no
    logits are kept. `copies`: how many vocabulary rows the last row of head stands for."""

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
