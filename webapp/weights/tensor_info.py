"""A file's data about its tensors before any is read: names, shapes, dtypes, and byte positions."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

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
"""Bytes of one element, by torch's name of the dtype."""

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
"""ggml's quantised types: elements of a block, all of one row, and its bytes (ggml-common.h)."""

MOST_TENSORS = 20_000
"""Of one file. A 14B model has some 1,600; a checkpoint with its optimizer's state three times as many."""
MOST_DIMENSIONS = 8
MOST_NAME_CHARACTERS = 512
MOST_VALUE_CHARACTERS = 1 << 16
MOST_METADATA_CHARACTERS = 1 << 18
ZEROS = -1
"""In place of a file's number."""
MOST_TIMES_STORED = 8
"""How often over the tensors of a .pth may use the bytes of the file: tied weights are stored once."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file. ``dtype`` is torch's name without the ``torch.``, or one of :data:`BLOCKS`."""

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
    """The same, with the name and shape other files' tensors have: lists of tensors are kept while a page shows them,
    and models of one family have the same thousand names."""
    return TensorInfo(sys.intern(info.name), _shared_shape(info.shape), info.dtype)


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's elements are: the first one at byte ``offset`` of the file, ``strides`` counted in elements.

    ``end`` is the byte after the run of elements it is a view of; none of its own lies beyond. ``file``: which of
    several files; :data:`ZEROS` for a tensor of zeros that no file holds. ``is_turned``: a file of another spelling
    has the transpose; a reader who computes with it wants a copy, row after row.
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
        """From the first element to the end of the last; a view with strides may skip some between."""
        if not self.info.numel or self.info.dtype in BLOCKS:
            return self.info.nbytes
        last = sum((size - 1) * stride for size, stride in zip(self.info.shape, self.strides, strict=True))
        return (last + 1) * ITEM_BYTES[self.info.dtype]

    def viewed(self, name: str, shape: tuple[int, ...], strides: tuple[int, ...], turned: bool = False) -> StoredTensor:
        """The same elements under another name, in another order."""
        info = TensorInfo(name, shape, self.info.dtype)
        return replace(self, info=info, strides=strides, is_turned=self.is_turned or turned)


@dataclass(frozen=True)
class FileContents:
    """The table of contents of a model. ``metadata`` holds what is in it besides tensors, as text; ``files`` where its
    tensors are, none for the one file that was read. ``spelling``: whose names and turns the file has;
    ``is_published_form``: it is just as RWKV's author publishes them, and writing it as .pth would change nothing."""

    format: str
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    files: tuple[Path, ...] = ()
    spelling: str = "official"
    is_published_form: bool = True


def name_problem(name: str) -> Text | str:
    """Why no tensor may be called so; "" when one may. Names are printed, kept, and sent as UTF-8."""
    if len(name) > MOST_NAME_CHARACTERS:
        return Text("reason.weights.tensor_name_is_too_long", found=len(name))
    if not name.isprintable():  # control characters, and halves of characters that no UTF-8 holds
        return Text("reason.weights.tensor_name_is_not_printable")
    return ""


def kept_metadata(found: Iterable[tuple[str, object]]) -> dict[str, str]:
    """What a file says besides tensors, as text. What is out of all proportion is left out, with all that follows."""
    kept: dict[str, str] = {}
    left = MOST_METADATA_CHARACTERS
    for key, value in found:
        text = str(value)
        if len(key) + len(text) > MOST_VALUE_CHARACTERS:
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
