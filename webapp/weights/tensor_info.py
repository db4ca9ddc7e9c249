"""A file's table of contents: names, shapes, dtypes and byte positions of its tensors, before any is read."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from webapp.i18n import Text

ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
}
"""Bytes per element, by torch's name of the dtype."""

BLOCKS = {
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q8_0": (32, 34),
    "q2_k": (256, 84),
    "q3_k": (256, 110),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
    "iq4_nl": (32, 18),
    "iq4_xs": (256, 136),
}
"""ggml's quantised types: elements per block, all in one row, and its bytes (ggml-common.h)."""

MAX_TENSORS = 20_000
"""Per file. A 14B model has about 1,600; a checkpoint with its optimizer's state three times as many."""
MAX_DIMENSIONS = 8
MAX_NAME_CHARACTERS = 512
MAX_VALUE_CHARACTERS = 1 << 16
MAX_METADATA_CHARACTERS = 1 << 18
ZEROS = -1
"""Used instead of a file's number."""
MAX_TIMES_STORED = 8
"""How many times the size of the file the tensors of a .pth may have in total: tied weights are stored once."""


class TensorInfo(Struct, frozen=True):
    """``dtype``: torch's name without ``torch.``, or one of :data:`BLOCKS`."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        if self.dtype in BLOCKS:
            elements, size = BLOCKS[self.dtype]
            return self.numel // elements * size
        return self.numel * ITEM_BYTES[self.dtype]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype, "nbytes": self.nbytes}


@lru_cache(1024)
def _shared_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


def shared(info: TensorInfo) -> TensorInfo:
    """The same, sharing name and shape with tensors of other files: pages keep lists of tensors, and models of one
    family have the same thousand names."""
    return TensorInfo(sys.intern(info.name), _shared_shape(info.shape), info.dtype)


class StoredTensor(Struct, frozen=True):
    """The position of a tensor's elements: the first is at byte ``offset`` of the file; ``strides`` are in elements.

    ``end``: the position after the stored run of which it is a view; none of its elements is beyond it. ``file``:
    number of the file; :data:`ZEROS` for a tensor of zeros without a file. ``is_turned``: the file's spelling stores
    the transpose; copy it row by row before computing with it.
    """

    info: TensorInfo
    offset: int
    strides: tuple[int, ...]
    end: int
    file: int = 0
    is_turned: bool = False

    @property
    def is_contiguous(self) -> bool:
        return self.strides == contiguous_strides(self.info.shape)

    @property
    def span_bytes(self) -> int:
        """From the first element to the end of the last; a view with strides may skip some in between."""
        if not self.info.numel or self.info.dtype in BLOCKS:
            return self.info.nbytes
        last = sum((size - 1) * stride for size, stride in zip(self.info.shape, self.strides, strict=True))
        return (last + 1) * ITEM_BYTES[self.info.dtype]

    def viewed(self, name: str, shape: tuple[int, ...], strides: tuple[int, ...], turned: bool = False) -> StoredTensor:
        """The same elements with another name and order."""
        info = TensorInfo(name, shape, self.info.dtype)
        return replace(self, info=info, strides=strides, is_turned=self.is_turned or turned)


class FileContents(Struct, frozen=True):
    """The table of contents of a model. ``metadata``: other data in it, as text; ``files``: the files with its tensors,
    empty for a single file. ``spelling``: that of its names and orientations; ``is_published_form``: exactly as RWKV's
    author publishes models, so writing it as .pth would change nothing."""

    format: str
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    files: tuple[Path, ...] = ()
    spelling: str = "official"
    is_published_form: bool = True


def name_problem(name: str) -> Text | str:
    """Why a tensor may not have this name; "" if it may. Names are printed, stored, and sent as UTF-8."""
    if len(name) > MAX_NAME_CHARACTERS:
        return Text("reason.weights.tensor_name_is_too_long", found=len(name))
    if not name.isprintable():  # control characters, and lone surrogates, which UTF-8 cannot contain
        return Text("reason.weights.tensor_name_is_not_printable")
    return ""


def kept_metadata(found: Iterable[tuple[str, object]]) -> dict[str, str]:
    """The file's metadata as text. An entry that is far too large, and everything after it, is left out."""
    kept: dict[str, str] = {}
    left = MAX_METADATA_CHARACTERS
    for key, value in found:
        text = str(value)
        if len(key) + len(text) > MAX_VALUE_CHARACTERS:
            continue
        left -= len(key) + len(text)
        if left < 0:
            break
        kept[_as_utf8(key)] = _as_utf8(text)
    return kept


def _as_utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
