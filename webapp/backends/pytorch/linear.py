"""A matrix in 32, 16, 8 or 4 bits and its product with rows of activations.

Input and output rows are float32, whatever the matrix's format. On a CPU, torch has kernels for 8 and 4 bits that are
fast for a few rows; for many rows, or without these kernels, a matrix is dequantised piece by piece and multiplied in
float32. On a GPU it is dequantised to bfloat16, which has the range of float32.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import linear

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
GROUP = 32
"""Weights in a row that share a scale in 4 bits."""
SHRINKS = (1.0, 0.93, 0.86, 0.79)
"""Ranges that are tried for a 4-bit group, relative to the full range: a narrower one clips but has finer steps."""
PIECE_WEIGHTS = 2**21
"""Dequantised at a time: 8 MB in float32."""
KERNEL_INPUTS = 16
"""torch's 8-bit kernel reads so many inputs at a time on AVX-512, and beyond the end of a row of another length."""
FEW_ROWS = {"16": 4, "8": 24}
"""Up to this many rows, a CPU multiplies faster without dequantising. A rough value from one short run on AVX2."""


class Matrix(ABC):
    """``(rows, inputs)``, as in ``nn.Linear``."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """``(n, inputs)`` float32 to ``(n, rows)`` float32."""

    @abstractmethod
    def select(self, rows: Tensor) -> Matrix:
        """A copy of these rows only."""

    @property
    @abstractmethod
    def nbytes(self) -> int: ...


class Dense(Matrix):
    """In the precision of ``weight``. ``factor`` multiplies the output: in float16, a matrix whose products would
    exceed 65,504 is divided by it."""

    def __init__(self, weight: Tensor, factor: float = 1.0) -> None:
        self._weight, self._factor = weight, factor
        self._is_narrow = weight.dtype != torch.float32 and weight.device.type == "cpu"

    def __call__(self, x: Tensor) -> Tensor:
        if self._is_narrow and len(x) > FEW_ROWS["16"]:
            found = _in_pieces(x, self._weight)
        else:
            found = linear(x.to(self._weight.dtype), self._weight).float()
        return found if self._factor == 1.0 else found * self._factor

    def select(self, rows: Tensor) -> Matrix:
        return Dense(self._weight[rows], self._factor)

    @property
    def nbytes(self) -> int:
        return self._weight.nbytes


class Int8(Matrix):
    """One bfloat16 scale per row, values from -127 to 127. Activations are rounded to bfloat16 if torch's kernel
    multiplies them."""

    def __init__(self, values: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
        self._values, self._scales, self._dtype = values, scales, dtype
        is_whole = values.shape[1] % KERNEL_INPUTS == 0
        self._has_kernel = is_whole and values.device.type == "cpu" and has_int8_kernel()

    def __call__(self, x: Tensor) -> Tensor:
        if self._has_kernel and len(x) <= FEW_ROWS["8"]:
            return torch._weight_int8pack_mm(x.bfloat16(), self._values, self._scales).float()
        found = _in_pieces(x.to(self._dtype), self._values)
        return found.float() * self._scales.float()

    def select(self, rows: Tensor) -> Matrix:
        return Int8(self._values[rows], self._scales[rows], self._dtype)

    @property
    def nbytes(self) -> int:
        return self._values.nbytes + self._scales.nbytes


class Int4(Matrix):
    """Two weights per byte; each ``GROUP`` of a row has a scale and the value of level 8, in bfloat16."""

    def __init__(self, packed: Tensor, scales: Tensor, offsets: Tensor, dtype: torch.dtype) -> None:
        """``packed (rows, inputs / 2)``, even inputs in the low half; the others ``(rows, inputs / GROUP)``."""
        self._packed, self._scales, self._offsets, self._dtype = packed, scales, offsets, dtype

    def __call__(self, x: Tensor) -> Tensor:
        rows = max(1, PIECE_WEIGHTS // (2 * self._packed.shape[1]))
        x = x.to(self._dtype)
        pieces = [linear(x, self._widened(slice(start, start + rows))) for start in range(0, len(self._packed), rows)]
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)).float()

    def _widened(self, rows: slice | Tensor) -> Tensor:
        packed = self._packed[rows]
        values = torch.stack([packed & 15, packed >> 4], -1).view(len(packed), -1, GROUP).to(self._dtype) - 8
        scales, offsets = (part[rows].to(self._dtype).unsqueeze(-1) for part in (self._scales, self._offsets))
        return torch.addcmul(offsets, values, scales).flatten(1)

    def select(self, rows: Tensor) -> Matrix:
        return Int4(self._packed[rows], self._scales[rows], self._offsets[rows], self._dtype)

    @property
    def nbytes(self) -> int:
        return self._packed.nbytes + self._scales.nbytes + self._offsets.nbytes


class Int4Kernel(Matrix):
    """4 bits in the layout of torch's CPU kernel."""

    def __init__(self, packed: Tensor, scales: Tensor) -> None:
        self._packed, self._scales = packed, scales

    def __call__(self, x: Tensor) -> Tensor:
        return torch._weight_int4pack_mm_for_cpu(x.bfloat16(), self._packed, GROUP, self._scales).float()

    def select(self, rows: Tensor) -> Matrix:
        raise NotImplementedError("its rows are interleaved")

    @property
    def nbytes(self) -> int:
        return self._packed.nbytes + self._scales.nbytes


def make_matrix(weight: Tensor, format: str, device: str, factor: float = 1.0) -> Matrix:
    """``weight (rows, inputs)`` in any float dtype, on the CPU. 4 bits become 8 if a row is not a whole number of
    groups. ``factor`` as in :class:`Dense`."""
    rows, inputs = weight.shape
    if format in DTYPES:
        if factor != 1.0:
            weight = weight.float() / factor
        return Dense(weight.to(DTYPES[format], copy=True).contiguous().to(device), factor)
    widened = torch.float32 if device == "cpu" else torch.bfloat16
    step = max(1, PIECE_WEIGHTS // inputs)
    pieces = (weight[start : start + step].float() for start in range(0, rows, step))
    if format == "q4" and inputs % GROUP == 0:
        found = zip(*map(quantised_to_4_bits, pieces), strict=True)
        values, scales, offsets = (torch.cat(parts) for parts in found)
        if device == "cpu" and has_int4_kernel() and rows % 32 == 0:
            packed = torch._convert_weight_to_int4pack_for_cpu(values.view(rows, inputs).to(torch.int32), 1)
            return Int4Kernel(packed, torch.stack([scales, offsets], -1).transpose(0, 1).contiguous())
        pairs = values.view(rows, inputs // 2, 2)
        return Int4((pairs[..., 0] | pairs[..., 1] << 4).to(device), scales.to(device), offsets.to(device), widened)
    values, scales = (torch.cat(parts) for parts in zip(*map(quantised_to_8_bits, pieces), strict=True))
    return Int8(values.to(device), scales.to(device), widened)


def quantised_to_8_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values and one scale per row: a bfloat16 not below the exact scale, so that nothing is clipped."""
    exact = (weight.abs().amax(-1) / 127).clamp(min=1e-20)
    scales = (exact * (1 + 2**-8)).bfloat16()
    values = (weight / scales.float().unsqueeze(-1)).round().clamp(-127, 127)
    return values.to(torch.int8), scales


def quantised_to_4_bits(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values 0 to 15 ``(rows, groups, GROUP)`` uint8, scales and offsets ``(rows, groups)`` in bfloat16: a weight is
    ``(value - 8) * scale + offset``. Chooses the range with the smallest sum of squared errors."""
    groups = weight.view(len(weight), -1, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    middle, half = (low + high) / 2, (high - low) / 2
    least = torch.full_like(low, torch.inf)
    values = torch.zeros_like(groups, dtype=torch.uint8)
    scales, offsets = (torch.zeros_like(low, dtype=torch.bfloat16) for _ in range(2))
    for shrink in SHRINKS:
        step = (half * (2 * shrink / 15)).clamp(min=1e-20).bfloat16()
        zero = (middle + step.float() / 2).bfloat16()
        wide, at = step.float().unsqueeze(-1), zero.float().unsqueeze(-1)
        found = ((groups - at) / wide + 8).round().clamp(0, 15)
        errors = ((found - 8) * wide + at - groups).square().sum(-1)
        is_better = errors < least
        least = torch.where(is_better, errors, least)
        scales, offsets = torch.where(is_better, step, scales), torch.where(is_better, zero, offsets)
        values = torch.where(is_better.unsqueeze(-1), found.to(torch.uint8), values)
    return values, scales, offsets


def _in_pieces(x: Tensor, weight: Tensor) -> Tensor:
    """The product in the precision of ``x``."""
    rows = max(1, PIECE_WEIGHTS // weight.shape[1])
    pieces = [linear(x, weight[start : start + rows].to(x.dtype)) for start in range(0, len(weight), rows)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)


@functools.cache
def has_int8_kernel() -> bool:
    """Whether this torch multiplies 8-bit weights on this CPU; found by a trial, because the operator is not public."""
    values = torch.arange(-32, 32, dtype=torch.int8).repeat(32, 1)
    x, scales = torch.ones(2, 64, dtype=torch.bfloat16), torch.full((32,), 0.5, dtype=torch.bfloat16)
    try:
        found = torch._weight_int8pack_mm(x, values, scales)
    except (RuntimeError, AttributeError, TypeError):
        return False
    return bool((found == -16).all())


@functools.cache
def has_int4_kernel() -> bool:
    """The same for 4-bit weights."""
    x = torch.ones(2, 64, dtype=torch.bfloat16)
    scales = torch.tensor([0.5, 1.0], dtype=torch.bfloat16).repeat(2, 32, 1)
    try:
        packed = torch._convert_weight_to_int4pack_for_cpu(torch.full((32, 64), 9, dtype=torch.int32), 1)
        found = torch._weight_int4pack_mm_for_cpu(x, packed, GROUP, scales)
    except (RuntimeError, AttributeError, TypeError):
        return False
    return bool((found == 64 * 1.5).all())
