"""Uploads the tensors of a model file to the GPU: checks them, packs them piece by piece in threads, reports progress.

On the GPU a matrix is unchanged in 32 or 16 bits, or in web-rwkv's int8 and NF4 blocks.

Quantised matrices are packed once: a packed file (:mod:`webapp.backends.packed_file`) stores them for the next load. It
contains, for each matrix in order of the names, its values and its scales; then, as JSON, name, kind, rows, inputs and
digests of each; then :data:`FOOTER`. A load uses none of it before all digests were compared.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from webapp.backends import packed_file
from webapp.backends.webgpu.device import Gpu, guarded
from webapp.backends.webgpu.shaders import NF4
from webapp.engine.backend import LoadProgress, ProgressCallback
from webapp.errors import WeightsError
from webapp.i18n import Text

if TYPE_CHECKING:
    from webapp.backends.webgpu.model import Layout
    from webapp.weights.checkpoint import Checkpoint

FloatArray = NDArray[np.float32]

BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "nf4": 4}
BLOCK = {"int8": 128, "nf4": 64}
SCALE_BYTES = {"int8": 4, "nf4": 2}
"""Scales per block: int8 has a minimum and a maximum, NF4 the largest absolute value, all in fp16."""
ALIGNED = 128
"""Elements: a matrix starts at a multiple of this, so that no block contains parts of two matrices."""
FP16_MAX = 65504.0
PACKING_VERSION = 1
"""Version of :func:`pack`'s output: packed files with another version are not used."""
STEPS = 1 << 14
"""From -1 to 1: a lookup table instead of a search among 15 edges, which takes six times as long. A value that is
nearer to an edge than 6e-5 of its block's largest may get the neighbouring level, which is equally near."""

PIECE_ROWS = 2048
"""Rows of a matrix that are packed and sent at a time; a multiple of 32."""
UNFENCED_BYTES = 64 << 20
"""Bytes sent to the GPU before the next wait, which frees the staging memory."""
FOOTER = struct.Struct("<Q16s8s")
"""Size of the JSON in bytes, its digest, MAGIC."""
MAGIC = b"ROOSTWGP"
IN_LAYER = re.compile(r"blocks\.(\d+)\..*\.weight")


class TooLarge(ValueError):
    """A value that fp16 cannot hold."""


def packed_bytes(kind: str, numel: int) -> tuple[int, int]:
    """Bytes of values and of scales."""
    padded = -(-numel // ALIGNED) * ALIGNED
    scales = padded // BLOCK[kind] * SCALE_BYTES[kind] if kind in BLOCK else 0
    return padded * BITS[kind] // 8, scales


def widened(bits: np.ndarray) -> FloatArray:
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


def unpack(kind: str, values: bytes, scales: bytes) -> FloatArray:
    """The values that a shader reads from packed weights, flat and with padding."""
    if kind == "int8":
        ends = np.frombuffer(scales, np.float16).astype(np.float32).reshape(-1, 2)
        codes = np.frombuffer(values, np.uint8).astype(np.float32).reshape(-1, BLOCK[kind])
        return (codes / np.float32(255) * (ends[:, 1:] - ends[:, :1]) + ends[:, :1]).reshape(-1)
    pairs = np.frombuffer(values, np.uint8)
    codes = np.stack([pairs & 15, pairs >> 4], -1).reshape(-1, BLOCK["nf4"])
    scale = np.frombuffer(scales, np.float16).astype(np.float32)[:, None]
    return (np.asarray(NF4, np.float32)[codes] * scale).reshape(-1)


def _half(values: FloatArray) -> NDArray[np.float16]:
    if np.abs(values).max(initial=0) > FP16_MAX:
        raise TooLarge
    return values.astype(np.float16)


def _pack_int8(flat: FloatArray) -> tuple[bytes, bytes]:
    blocks = flat.reshape(-1, BLOCK["int8"])
    ends = np.stack([_half(blocks.min(-1)), _half(blocks.max(-1))], -1)
    low, high = (ends[:, i : i + 1].astype(np.float32) for i in (0, 1))
    codes = (blocks - low) * (np.float32(255) / np.maximum(high - low, np.float32(1e-8)))
    return np.clip(np.rint(codes), 0, 255).astype(np.uint8).tobytes(), ends.tobytes()


def _pack_nf4(flat: FloatArray) -> tuple[bytes, bytes]:
    blocks = flat.reshape(-1, BLOCK["nf4"])
    scale = _half(np.abs(blocks).max(-1))
    share = blocks / np.maximum(scale.astype(np.float32), np.float32(1e-8))[:, None]
    codes = _nearest_level()[((share + np.float32(1)) * np.float32(STEPS / 2)).astype(np.int32).clip(0, STEPS)].reshape(
        -1
    )
    return (codes[0::2] | (codes[1::2] << np.uint8(4))).tobytes(), scale.tobytes()


@functools.cache
def _nearest_level() -> NDArray[np.uint8]:
    levels = np.asarray(NF4)
    middles = (np.arange(STEPS + 1) + 0.5) * 2 / STEPS - 1
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, middles).astype(np.uint8)


class Weights:
    """A context manager: a successful end keeps the new packed file."""

    def __init__(self, source: Checkpoint, layout: Layout, gpu: Gpu, progress: ProgressCallback) -> None:
        self.names = set(source.names())
        self.sent_bytes = 0
        """Bytes of the model's weights on the GPU."""
        self._source, self._layout, self._gpu, self._progress = source, layout, gpu, progress
        self._left = {name: source.info(name).nbytes for name in self.names}
        self._total_bytes = self._left_bytes = sum(self._left.values())
        self._unfenced_bytes = 0
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "webgpu-pack")
        self._kept: KeptMatrices | None = None

    def __enter__(self) -> Weights:
        rows = [
            (name, self._layout.kind(int(layer[1]), name), *self.shape(name))
            for name in sorted(self.names)
            if (layer := IN_LAYER.fullmatch(name)) and len(self._source.info(name).shape) == 2
        ]
        rows = [row for row in rows if row[1] in BLOCK]
        if rows and self._layout.has_packed_file:
            about = repr(("webgpu", self._layout.format, self._layout.quantised_layers, self._source.merged))
            place = packed_file.place(self._source.path, about, str(PACKING_VERSION))
            self._kept = KeptMatrices(place, rows)
            self._kept.open(self._pool)
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._kept is not None:
            self._kept.close(is_whole=kind is None)

    def report(self, step: str = "", done: int = 0, total: int = 0) -> None:
        """``step``, ``done`` and ``total`` as in LoadProgress."""
        done_bytes, tensors = self._total_bytes - self._left_bytes, len(self.names)
        self._progress(
            LoadProgress(done_bytes, self._total_bytes, tensors - len(self._left), tensors, step, done, total)
        )

    def finish(self) -> None:
        self._left, self._left_bytes = {}, 0
        self.report()

    def refuse(self, reason: Text | str) -> NoReturn:
        raise WeightsError(path=str(self._source.path), reason=reason)

    # read

    def kind(self, layer: int, name: str) -> str:
        """bfloat16 is kept if 16 bits are requested, because fp16 cannot represent all its values."""
        kind = self._layout.kind(layer, name)
        if kind == "fp16" and name in self.names and self._source.info(name).dtype == "bfloat16":
            return "bf16"
        return kind

    def shape(self, name: str) -> tuple[int, int]:
        """Of a matrix."""
        shape = self._source.info(name).shape
        if len(shape) != 2:
            self.refuse(Text("reason.common.is_not_a_matrix", name=name))
        return shape[0], shape[1]

    def is_kept(self, name: str) -> bool:
        """Whether it is packed already, so that its values need not be read."""
        return self._kept is not None and self._kept.is_open and name in self._kept.places

    def array(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """In the file's format, bfloat16 as uint16; other formats than 16- and 32-bit floats as float32. Raises
        WeightsError for NaN and infinity."""
        values = self._source.bits(name)
        if self._source.info(name).dtype not in ("float32", "float16", "bfloat16"):
            values = values.astype(np.float32)
        if shape is not None and values.shape != shape:
            self.refuse(misshapen(name))
        if not is_finite(values):
            self.refuse(Text("reason.backends.not_finite", name=name))
        return values

    def vector(self, name: str, size: int | None = None) -> FloatArray:
        """Flat float32."""
        values = widened(self.array(name)).reshape(-1)
        if size is not None and values.size != size:
            self.refuse(misshapen(name))
        self.count(name)
        return values

    def low_rank(self, name: str, inputs: int | None = None, rows: int | None = None) -> np.ndarray:
        """``(rows, inputs)``; files store it transposed."""
        values = self.array(name)
        if values.ndim != 2 or inputs not in (None, values.shape[0]) or rows not in (None, values.shape[1]):
            self.refuse(misshapen(name))
        return values.T

    def count(self, name: str, share: float = 1, step: str = "") -> None:
        """Counts this part of the tensor as done."""
        if name in self._left:
            now = min(self._left[name], math.ceil(share * self._source.info(name).nbytes))
            self._left_bytes -= now
            self._left[name] -= now
            if not self._left[name]:
                del self._left[name]
        self.report(step)

    # sent

    def upload(self, values: FloatArray) -> Any:
        buffer = self._gpu.buffer(values.nbytes)
        self.sent_bytes += values.nbytes
        with guarded():
            self._gpu.write(buffer, 0, np.ascontiguousarray(values, np.float32))
        return buffer

    def send(
        self,
        kind: str,
        name: str,
        rows: range,
        inputs: int,
        values: np.ndarray | None,
        to: tuple[Any, int],
        scales_to: tuple[Any, int],
    ) -> None:
        """Sends rows of a matrix to a buffer, from the given byte on. ``values``: the whole matrix; None if the packed
        file has it."""
        (buffer, at), (scales, scale_at) = to, scales_to
        is_packing = kind in BLOCK and values is not None
        whole = len(rows) if values is None else len(values)
        starts = range(rows.start, rows.stop, PIECE_ROWS)
        try:
            for start, (value, scale) in zip(starts, self._pieces(kind, name, rows, inputs, values), strict=True):
                with guarded():
                    self._gpu.write(buffer, at, value)
                    if len(scale):
                        self._gpu.write(scales, scale_at, scale)
                    self._unfenced_bytes += len(value)
                    if self._unfenced_bytes > UNFENCED_BYTES:
                        self._gpu.wait(buffer)
                        self._source.release()
                        self._unfenced_bytes = 0
                at, scale_at = at + len(value), scale_at + len(scale)
                if is_packing and self._kept is not None:
                    self._kept.put(name, value, scale)
                piece = min(PIECE_ROWS, rows.stop - start)
                self.count(name, piece / whole, "quantising" if is_packing else "")
        except TooLarge:
            self.refuse(Text("reason.webgpu.beyond_fp16", name=name))

    def _pieces(
        self, kind: str, name: str, rows: range, inputs: int, values: np.ndarray | None
    ) -> Iterator[tuple[Any, Any]]:
        padding = -inputs % 4

        def packed(start: int) -> tuple[bytes, bytes]:
            assert values is not None
            piece = values[start : min(start + PIECE_ROWS, rows.stop)]
            below = -len(piece) % 4
            if padding or below:
                piece = np.pad(piece, ((0, below), (0, padding)))
            return pack(kind, piece)

        starts = range(rows.start, rows.stop, PIECE_ROWS)
        if values is not None:
            yield from self._pool.map(packed, starts)
            return
        assert self._kept is not None
        for start in starts:
            yield self._kept.piece(name, start, min(start + PIECE_ROWS, rows.stop))


class KeptPlace(NamedTuple):
    """The position of a matrix in a packed file."""

    kind: str
    rows: int
    inputs: int
    value_at: int
    value_bytes: int
    scale_at: int
    scale_bytes: int


class KeptMatrices:
    """A packed file that is read if it is complete, otherwise written. ``rows``: name, kind, rows, inputs."""

    def __init__(self, path: Path, rows: Sequence[tuple[str, str, int, int]]) -> None:
        self.places: dict[str, KeptPlace] = {}
        self.is_open = False
        self._path = path
        self._rows: list[list[Any]] = [list(row) for row in rows]
        self._mapped: Any = None
        self._writer: packed_file.Writer | None = None
        self._written: dict[str, list[Any]] = {}
        at = 0
        for name, kind, height, inputs in rows:
            sizes = packed_bytes(kind, -(-height // 4) * 4 * (-(-inputs // 4) * 4))
            self.places[name] = KeptPlace(kind, height, inputs, at, sizes[0], at + sizes[0], sizes[1])
            at += sum(sizes)
        self._data_bytes = at

    def open(self, pool: ThreadPoolExecutor) -> None:
        """Maps the file if it is undamaged and has the requested content; otherwise starts a new one."""
        self._mapped = packed_file.opened(self._path)
        if self._mapped is not None and self._is_whole(pool):
            self.is_open = True
            return
        self._mapped = None
        size = self._data_bytes + len(self._directory([("0" * 32, "0" * 32)] * len(self._rows)))
        self._writer = packed_file.Writer(self._path, size)

    def piece(self, name: str, first: int, last: int) -> tuple[memoryview, memoryview]:
        """Data of rows ``first`` to ``last``, which are multiples of 32 or the end."""
        place = self.places[name]
        parts = []
        for at, size, unit in (
            (place.value_at, place.value_bytes, 8 // BITS[place.kind]),
            (place.scale_at, place.scale_bytes, BLOCK[place.kind] // SCALE_BYTES[place.kind]),
        ):
            width = -(-place.inputs // 4) * 4
            start, end = (row * width // unit for row in (first, last))
            parts.append(memoryview(self._mapped)[at + start : at + (size if last == place.rows else end)])
        return parts[0], parts[1]

    def put(self, name: str, values: bytes, scales: bytes) -> None:
        """Adds the next rows."""
        if self._writer is None:
            return
        place = self.places[name]
        digests = self._written.setdefault(name, [place.value_at, place.scale_at, _hasher(), _hasher()])
        for index, part in enumerate((values, scales)):
            self._writer.put(digests[index], part)
            digests[index] += len(part)
            digests[2 + index].update(part)

    def close(self, is_whole: bool) -> None:
        """After a failed load, nothing is kept."""
        self._mapped = None
        if self._writer is not None:
            if is_whole and self._written.keys() == self.places.keys():
                digests = [tuple(part.hexdigest() for part in self._written[row[0]][2:]) for row in self._rows]
                self._writer.put(self._data_bytes, self._directory(digests))
                self._writer.finish()
            self._writer.abandon()

    def _directory(self, digests: Sequence[tuple[str, ...]]) -> bytes:
        text = json.dumps([[*row, *each] for row, each in zip(self._rows, digests, strict=True)]).encode()
        return text + FOOTER.pack(len(text), _hasher(text).digest(), MAGIC)

    def _is_whole(self, pool: ThreadPoolExecutor) -> bool:
        view = memoryview(self._mapped)
        if len(view) < self._data_bytes + FOOTER.size:
            return False
        length, digest, magic = FOOTER.unpack(view[-FOOTER.size :])
        text = bytes(view[self._data_bytes : -FOOTER.size])
        if magic != MAGIC or length != len(text) or _hasher(text).digest() != digest:
            return False
        found = json.loads(text)
        if [row[:4] for row in found] != self._rows:
            return False

        def is_unharmed(row: list[Any]) -> bool:
            place = self.places[row[0]]
            parts = ((place.value_at, place.value_bytes), (place.scale_at, place.scale_bytes))
            return [_hasher(view[at : at + size]).hexdigest() for at, size in parts] == row[4:]

        return all(pool.map(is_unharmed, found))


def misshapen(name: str) -> Text:
    return Text("reason.backends.shape_does_not_fit", name=name)


def _hasher(data: Any = b"") -> Any:
    return hashlib.blake2b(data, digest_size=16)
