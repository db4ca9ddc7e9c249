"""The rwkv package's int8: a matrix as bytes and four vectors, made in pieces.

The package (model.py 0.8.32, ``RWKV.__init__``) takes up to 12 bytes a weight while it quantises, 1.6 GB for the head
of a 1.6 B model. Here the matrix is gone through three times, a few rows of the file at once, with the same operations
in the same order: the results are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Rows = Callable[[], Iterable[tuple[int, torch.Tensor]]]
    """Starts anew at each call: row number and some float32 rows of the file from there on, all of them in order."""


@dataclass(frozen=True)
class Int8Matrix:
    """``data (n_in, n_out)`` uint8, column-major as the package has it; ``mx, rx (n_out,)`` and ``my, ry (n_in,)``
    float32, ``rx`` and ``ry`` not yet divided by 16."""

    data: torch.Tensor
    mx: torch.Tensor
    rx: torch.Tensor
    my: torch.Tensor
    ry: torch.Tensor


def quantize(rows: Rows, n_in: int, n_out: int) -> Int8Matrix:
    """Rows are not written to."""
    import torch

    is_tall = n_in > n_out  # the package takes the minima of the longer side first
    mx, rx = torch.empty(n_out), torch.empty(n_out)
    my, ry = torch.full((n_in,), torch.inf), torch.full((n_in,), -torch.inf)
    for part, piece in _parts(rows):
        if not is_tall:
            mx[part] = piece.amin(dim=1)
            piece = piece - mx[part, None]
        torch.minimum(my, piece.amin(dim=0), out=my)
    for part, piece in _parts(rows):
        if is_tall:
            mx[part] = (piece - my).amin(dim=1)
        piece = _shifted(piece, my, mx[part, None], is_tall)
        rx[part] = piece.amax(dim=1)
        torch.maximum(ry, piece.div_(rx[part, None]).amax(dim=0), out=ry)
    data = torch.empty((n_out, n_in), dtype=torch.uint8)
    for part, piece in _parts(rows):
        piece = _shifted(piece, my, mx[part, None], is_tall).div_(rx[part, None]).div_(ry)
        data[part] = piece.mul_(256).floor_().clip_(0, 255).to(torch.uint8)
    return Int8Matrix(data.t(), mx, rx, my, ry)


def _parts(rows: Rows) -> Iterable[tuple[slice, torch.Tensor]]:
    for start, piece in rows():
        yield slice(start, start + len(piece)), piece


def _shifted(piece: torch.Tensor, my: torch.Tensor, mx: torch.Tensor, is_tall: bool) -> torch.Tensor:
    """Fresh, with its minima taken off in the package's order: floating point knows the difference."""
    first, second = (my, mx) if is_tall else (mx, my)
    return (piece - first).sub_(second)
