"""The pickle inside a .pth, read without running anything and without torch.

Only the few names a state dict is made of are known, and each becomes a description: a storage type its dtype, a
storage a :class:`Storage`, a tensor a :class:`PickledTensor`. Any other name is refused with :class:`UnsafePickle`.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.errors import Phrase, UnsafePickle, WeightsError


@dataclass(frozen=True)
class StorageType:
    dtype: str


@dataclass(frozen=True)
class Storage:
    """A run of ``numel`` elements; ``key`` names the zip member ``data/<key>``."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class PickledTensor:
    """A view into a storage; ``offset`` and ``strides`` in elements, checked to lie inside it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Dict(dict[Any, Any]):
    """Stands for OrderedDict; what a state dict carries as attributes (``_metadata``) is dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> PickledTensor:
    shape, strides = tuple(shape), tuple(strides)
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise ValueError("a tensor is not built from a storage")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor has impossible sizes")
    numel = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # A stride of 0 could claim more elements than are stored; torch never saves weights so.
    if numel and (last >= storage.numel or numel > storage.numel):
        raise ValueError("a tensor reaches beyond its storage")
    return PickledTensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}

_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    **{("torch", name): StorageType(dtype) for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafePickle(
                path=str(self._path), reason=Phrase("it names {name}", name=f"{module}.{name}")
            ) from None

    def persistent_load(self, pid: Any) -> Storage:
        marker, storage_type, key, _location, numel, *_ = pid
        if marker != "storage" or type(numel) is not int or numel < 0:
            raise ValueError("a storage is not described as torch does it")
        return Storage(str(key), storage_type.dtype, numel)


def load_restricted(path: Path, data: bytes) -> Any:
    """The object in ``data`` with tensors as descriptions; UnsafePickle, or WeightsError when it is damaged."""
    try:
        _check_memo(data)
        return _Unpickler(path, data).load()
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
    ) as exc:
        raise WeightsError(
            path=str(path), reason=Phrase("its table of contents is damaged ({error})", error=str(exc))
        ) from exc


def _check_memo(data: bytes) -> None:
    # The C unpickler allocates its memo up to the highest index named, so that 20 bytes could ask for 64 GB.
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(data):
            raise ValueError("a memo index is out of all proportion")
