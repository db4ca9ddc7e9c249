"""The formats of matrices on the GPU: unchanged in 32 or 16 bits, or in web-rwkv's int8 and NF4 blocks."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from webapp.backends.webgpu.shaders import NF4

BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "nf4": 4}
BLOCK = {"int8": 128, "nf4": 64}
SCALE_BYTES = {"int8": 4, "nf4": 2}
"""Scales per block: int8 has a minimum and a maximum, NF4 the largest absolute value, all in fp16."""
ALIGNED = 128
"""Elements: a matrix starts at a multiple of this, so that no block contains parts of two matrices."""
FP16_MAX = 65504.0
VERSION = 1
"""Version of :func:`pack`'s output: packed files with another version are not used."""


class TooLarge(ValueError):
    """A value that fp16 cannot hold."""


def packed_bytes(kind: str, numel: int) -> tuple[int, int]:
    """Bytes of values and of scales."""
    padded = -(-numel // ALIGNED) * ALIGNED
    scales = padded // BLOCK[kind] * SCALE_BYTES[kind] if kind in BLOCK else 0
    return padded * BITS[kind] // 8, scales


def widened(bits: np.ndarray) -> NDArray[np.float32]:
    """float32 from a checkpoint's values; bfloat16 is passed as uint16."""
    if bits.dtype == np.uint16:
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.astype(np.float32)


def is_finite(bits: np.ndarray) -> bool:
    """Without converting 16-bit values."""
    if bits.dtype == np.uint16:
        return bool(((bits & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(bits).all())


def pack(kind: str, bits: np.ndarray) -> tuple[bytes, bytes]:
    """Packs rows ``(r, k)`` to bytes of values and scales, padded to :data:`ALIGNED`. ``k`` is a multiple of 4."""
    if kind == "bf16":
        assert bits.dtype == np.uint16
        flat = np.ascontiguousarray(bits).reshape(-1)
    elif kind == "fp16":
        flat = bits if bits.dtype == np.float16 else _half(widened(bits))
        flat = np.ascontiguousarray(flat).reshape(-1)
    else:
        flat = np.ascontiguousarray(widened(bits)).reshape(-1)
    padding = -len(flat) % ALIGNED
    if padding:
        flat = np.concatenate([flat, np.zeros(padding, flat.dtype)])
    if kind == "int8":
        return _pack_int8(flat)
    return _pack_nf4(flat) if kind == "nf4" else (flat.tobytes(), b"")


def unpack(kind: str, values: bytes, scales: bytes) -> NDArray[np.float32]:
    """The values that a shader reads from packed weights, flat and with padding."""
    if kind == "int8":
        ends = np.frombuffer(scales, np.float16).astype(np.float32).reshape(-1, 2)
        codes = np.frombuffer(values, np.uint8).astype(np.float32).reshape(-1, BLOCK[kind])
        return (codes / np.float32(255) * (ends[:, 1:] - ends[:, :1]) + ends[:, :1]).reshape(-1)
    pairs = np.frombuffer(values, np.uint8)
    codes = np.stack([pairs & 15, pairs >> 4], -1).reshape(-1, BLOCK["nf4"])
    scale = np.frombuffer(scales, np.float16).astype(np.float32)[:, None]
    return (np.asarray(NF4, np.float32)[codes] * scale).reshape(-1)


def _half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    if np.abs(values).max(initial=0) > FP16_MAX:
        raise TooLarge
    return values.astype(np.float16)


def _pack_int8(flat: NDArray[np.float32]) -> tuple[bytes, bytes]:
    blocks = flat.reshape(-1, BLOCK["int8"])
    ends = np.stack([_half(blocks.min(-1)), _half(blocks.max(-1))], -1)
    low, high = (ends[:, i : i + 1].astype(np.float32) for i in (0, 1))
    codes = (blocks - low) * (np.float32(255) / np.maximum(high - low, np.float32(1e-8)))
    return np.clip(np.rint(codes), 0, 255).astype(np.uint8).tobytes(), ends.tobytes()


def _pack_nf4(flat: NDArray[np.float32]) -> tuple[bytes, bytes]:
    blocks = flat.reshape(-1, BLOCK["nf4"])
    scale = _half(np.abs(blocks).max(-1))
    share = blocks / np.maximum(scale.astype(np.float32), np.float32(1e-8))[:, None]
    codes = _nearest_level()[((share + np.float32(1)) * np.float32(STEPS / 2)).astype(np.int32).clip(0, STEPS)].reshape(
        -1
    )
    return (codes[0::2] | (codes[1::2] << np.uint8(4))).tobytes(), scale.tobytes()


STEPS = 1 << 14
"""From -1 to 1: a lookup table instead of a search among 15 edges, which takes six times as long. A value that is
nearer to an edge than 6e-5 of its block's largest may get the neighbouring level, which is equally near."""


@functools.cache
def _nearest_level() -> NDArray[np.uint8]:
    levels = np.asarray(NF4)
    middles = (np.arange(STEPS + 1) + 0.5) * 2 / STEPS - 1
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, middles).astype(np.uint8)
