"""ggml's quantised types in numpy: 32 (or 256) numbers of a row become one block with a scale and small integers.

Follows ggml-quants.c (``quantize_row_*_ref``, ``dequantize_row_*``) and ggml-common.h bit by bit, so that a file has
the same bytes as one written by rwkv.cpp's own tools. The K types can only be read; their quantisers search for the
best scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.weights.tensor_info import BLOCKS

Bytes = NDArray[Any]  # uint8; numpy widens it at every shift
Floats = NDArray[np.float32]
WRITABLE = ("float32", "float16", "bfloat16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
READABLE = (*WRITABLE, "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")


def quantize(values: Floats, dtype: str) -> Bytes:
    """The bytes of a tensor. Its rows (the last dimension) must be a multiple of 32 for a quantised type."""
    values = np.ascontiguousarray(values, np.float32)
    if dtype == "float32":
        return values.reshape(-1).view(np.uint8)
    if dtype == "float16":
        return values.astype(np.float16).reshape(-1).view(np.uint8)
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        bits = bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))  # to the nearest, ties to even
        return (bits >> np.uint32(16)).astype(np.uint16).reshape(-1).view(np.uint8)
    blocks = values.reshape(-1, BLOCKS[dtype][0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return QUANTIZERS[dtype](blocks).reshape(-1)


def dequantize(data: Bytes, dtype: str) -> Floats:
    """A flat array. ``data`` may be read-only."""
    if dtype == "float32":
        return data.view(np.float32)
    if dtype == "float16":
        return data.view(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = data.view(np.uint16).astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)
    return DEQUANTIZERS[dtype](data.reshape(-1, BLOCKS[dtype][1])).reshape(-1)


def _half(column: Bytes) -> Floats:
    """Converts ``(blocks, 2 n)`` bytes to 16-bit floats ``(blocks, n)``."""
    return np.ascontiguousarray(column).view(np.float16).astype(np.float32)


def _as_half(scale: Floats) -> Bytes:
    return scale.astype(np.float16).reshape(-1, 1).view(np.uint8)


def _inverse(scale: Floats) -> Floats:
    found: Floats = np.where(scale != 0, np.float32(1) / scale, np.float32(0)).astype(np.float32)
    return found[:, None]


def _nibbles(quants: Bytes) -> Bytes:
    """Byte i contains element i in its low half and element i + 16 in its high half."""
    return (quants[:, :16] & 15) | (quants[:, 16:] & 15) << 4


def _from_nibbles(packed: Bytes) -> Bytes:
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(quants: Bytes) -> Bytes:
    """Bit j of 32 is the fifth bit of element j."""
    return np.packbits(quants >> 4 & 1, axis=1, bitorder="little")


def _symmetric(blocks: Floats, half: int) -> tuple[Bytes, Bytes]:
    """Scale and quants of the types without a minimum: the value with the largest magnitude becomes ``-half``."""
    most = blocks[np.arange(len(blocks)), np.abs(blocks).argmax(axis=1)]
    scale = (most / np.float32(-half)).astype(np.float32)
    quants = (blocks * _inverse(scale) + np.float32(half + 0.5)).astype(np.int8)
    return _as_half(scale), np.minimum(quants, 2 * half - 1).astype(np.uint8)


def _with_minimum(blocks: Floats, top: int) -> tuple[Bytes, Bytes]:
    """Scale and minimum, and quants from 0 to ``top``."""
    least = blocks.min(axis=1)
    scale = ((blocks.max(axis=1) - least) / np.float32(top)).astype(np.float32)
    quants = ((blocks - least[:, None]) * _inverse(scale) + np.float32(0.5)).astype(np.uint8)
    if top == 15:
        quants = np.minimum(quants, np.uint8(top))
    return np.concatenate([_as_half(scale), _as_half(least)], axis=1), quants


def _quantize_q8_0(blocks: Floats) -> Bytes:
    scale = (np.abs(blocks).max(axis=1) / np.float32(127)).astype(np.float32)
    scaled = blocks * _inverse(scale)
    quants = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)  # C's roundf
    return np.concatenate([_as_half(scale), quants.view(np.uint8)], axis=1)


def _quantize_4(pair: tuple[Bytes, Bytes]) -> Bytes:
    return np.concatenate([pair[0], _nibbles(pair[1])], axis=1)


def _quantize_5(pair: tuple[Bytes, Bytes]) -> Bytes:
    return np.concatenate([pair[0], _fifth_bits(pair[1]), _nibbles(pair[1])], axis=1)


QUANTIZERS: dict[str, Callable[[Floats], Bytes]] = {
    "q4_0": lambda blocks: _quantize_4(_symmetric(blocks, 8)),
    "q4_1": lambda blocks: _quantize_4(_with_minimum(blocks, 15)),
    "q5_0": lambda blocks: _quantize_5(_symmetric(blocks, 16)),
    "q5_1": lambda blocks: _quantize_5(_with_minimum(blocks, 31)),
    "q8_0": _quantize_q8_0,
}


def _with_fifth_bits(packed: Bytes, bits: Bytes) -> Floats:
    high = np.unpackbits(bits, axis=1, bitorder="little") << 4
    return (_from_nibbles(packed) | high).astype(np.float32)


def _k_scales(data: Bytes) -> tuple[Floats, Floats]:
    """The eight scales and eight minima of Q4_K and Q5_K, 6 bits each, packed in 12 bytes."""
    low, mid, high = data[:, :4], data[:, 4:8], data[:, 8:]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6) << 4], axis=1)
    minima = np.concatenate([mid & 63, (high >> 4) | (mid >> 6) << 4], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _scaled_with_minima(data: Bytes, quants: Bytes) -> Floats:
    """``quants (blocks, 8, 32)``, scaled by the two factors before the 12 bytes of scales."""
    scales, minima = _k_scales(data[:, 4:16])
    scale, least = _half(data[:, 0:2]) * scales, _half(data[:, 2:4]) * minima
    found: Floats = scale[:, :, None] * quants.astype(np.float32) - least[:, :, None]
    return found


def _pairs_of_32(packed: Bytes) -> Bytes:
    """32 bytes contain 32 elements in their low halves and the next 32 in their high halves."""
    parts = packed.reshape(len(packed), 4, 1, 32)
    return (parts >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1) & 15).reshape(len(packed), 8, 32)


def _dequantize_q4_k(data: Bytes) -> Floats:
    return _scaled_with_minima(data, _pairs_of_32(data[:, 16:]))


def _dequantize_q5_k(data: Bytes) -> Floats:
    places = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = data[:, 16:48].reshape(-1, 1, 32) >> places & 1
    return _scaled_with_minima(data, _pairs_of_32(data[:, 48:]) | high << 4)


def _dequantize_q6_k(data: Bytes) -> Floats:
    count = len(data)
    low = data[:, :128].reshape(count, 2, 1, 64) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1) & 15
    high = data[:, 128:192].reshape(count, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1) & 3
    quants = (low.reshape(count, 8, 32) | high.reshape(count, 8, 32) << 4).astype(np.int8) - np.int8(32)
    scales = _half(data[:, 208:210]) * np.ascontiguousarray(data[:, 192:208]).view(np.int8).astype(np.float32)
    found: Floats = scales[:, :, None] * quants.reshape(count, 16, 16).astype(np.float32)
    return found


def _twos(packed: Bytes) -> Bytes:
    """32 bytes contain four runs of 32 elements with 2 bits."""
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return (packed.reshape(len(packed), 2, 1, 32) >> shifts & 3).reshape(len(packed), 16, 16)


def _dequantize_q2_k(data: Bytes) -> Floats:
    scale = _half(data[:, 80:82]) * (data[:, :16] & 15).astype(np.float32)
    least = _half(data[:, 82:84]) * (data[:, :16] >> 4).astype(np.float32)
    found: Floats = scale[:, :, None] * _twos(data[:, 16:80]).astype(np.float32) - least[:, :, None]
    return found


def _dequantize_q3_k(data: Bytes) -> Floats:
    count = len(data)
    packed = data[:, 96:108]
    low = packed[:, :8].reshape(count, 1, 8) >> np.array([0, 4], np.uint8).reshape(1, 2, 1) & 15
    high = packed[:, 8:].reshape(count, 1, 4) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1) & 3
    scales = (low.reshape(count, 16) | high.reshape(count, 16) << 4).astype(np.int8) - np.int8(32)
    places = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    is_low = (data[:, :32].reshape(count, 1, 32) >> places & 1 ^ 1).reshape(count, 16, 16)
    quants = _twos(data[:, 32:96]).astype(np.int8) - (is_low << 2).astype(np.int8)
    scale = _half(data[:, 108:110]) * scales.astype(np.float32)
    found: Floats = scale[:, :, None] * quants.astype(np.float32)
    return found


DEQUANTIZERS: dict[str, Callable[[Bytes], Floats]] = {
    "q4_0": lambda data: (_from_nibbles(data[:, 2:]).astype(np.float32) - 8) * _half(data[:, 0:2]),
    "q4_1": lambda data: _from_nibbles(data[:, 4:]).astype(np.float32) * _half(data[:, 0:2]) + _half(data[:, 2:4]),
    "q5_0": lambda data: (_with_fifth_bits(data[:, 6:], data[:, 2:6]) - 16) * _half(data[:, 0:2]),
    "q5_1": lambda data: _with_fifth_bits(data[:, 8:], data[:, 4:8]) * _half(data[:, 0:2]) + _half(data[:, 2:4]),
    "q8_0": lambda data: np.ascontiguousarray(data[:, 2:]).view(np.int8).astype(np.float32) * _half(data[:, 0:2]),
    "q2_k": _dequantize_q2_k,
    "q3_k": _dequantize_q3_k,
    "q4_k": _dequantize_q4_k,
    "q5_k": _dequantize_q5_k,
    "q6_k": _dequantize_q6_k,
}
