"""What a file says about its tensors before one is read: names, shapes, dtypes, and where the bytes lie."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file. ``dtype`` is torch's name without the ``torch.``."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
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
    """Where a tensor's elements are: the first one at byte ``offset`` of the file, ``strides`` counted in elements."""

    info: TensorInfo
    offset: int
    strides: tuple[int, ...]

    @property
    def is_contiguous(self) -> bool:
        return self.strides == contiguous_strides(self.info.shape)


@dataclass(frozen=True)
class FileContents:
    """The table of contents of a file. ``metadata`` holds what is in it besides tensors, as text."""

    format: str
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
