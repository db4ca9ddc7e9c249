"""A vector or a few rows times an int8 matrix on a CPU, in place of the package's own.

The package (model.py 0.8.32, ``torch_mm8_one`` and ``_seq``) restores the whole matrix, in four passes over float32
copies, each time it is used: 1.1 GB for the head of a 1.6 B model, at every token. The scales can be taken out of the
sum instead:

    y[m] = rx[m] * sum_n (x[n] ry[n]) (w[n, m] + 0.5)  +  sum_n x[n] my[n]  +  mx[m] * sum_n x[n]

and what is left needs the bytes as numbers, a block of columns at a time.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCK_WEIGHTS = 2**20
"""Widened at a time: 4 MB, which a processor's cache holds."""


def install(module: ModuleType) -> None:
    """In a copy of the package that runs without TorchScript."""
    module.__dict__["mm8_one"] = module.__dict__["mm8_seq"] = int8_product


def int8_product(
    x: torch.Tensor, w: torch.Tensor, mx: torch.Tensor, rx: torch.Tensor, my: torch.Tensor, ry: torch.Tensor
) -> torch.Tensor:
    """``x (n_in,)`` or ``(T, n_in)``; ``w (n_in, n_out)`` bytes with columns in sequence. Computed in float32."""
    import torch

    wide = x.float()
    scaled = wide * ry.float().flatten()
    out = torch.empty((*x.shape[:-1], w.shape[1]), device=x.device)
    columns = max(1, BLOCK_WEIGHTS // w.shape[0])
    for start in range(0, w.shape[1], columns):
        block = w[:, start : start + columns].float()
        out[..., start : start + columns] = scaled @ block
    out = (out + 0.5 * scaled.sum(-1, keepdim=True)) * rx.float()
    out += (wide @ my.float().flatten()).unsqueeze(-1) + wide.sum(-1, keepdim=True) * mx.float()
    return out.to(x.dtype)
