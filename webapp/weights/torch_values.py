"""The allowed content of a .pth's pickle: the classes and functions behind its names, and the records they create.

Everything here only describes. A name that is part of a tensor has a function below, which checks every number and
returns an immutable record; any other name becomes :class:`Inert`. :mod:`.pickle_reader` interprets the opcodes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from webapp.i18n import Text
from webapp.weights.tensor_info import ITEM_BYTES, MAX_DIMENSIONS

STORAGE_KEY = re.compile(r"[0-9A-Za-z_.-]{1,64}")

# Names whose only purpose in a file is to run something when it is opened. The list only chooses the error message; a
# name that is missing here is dropped like any other.
PROGRAM_MODULES = frozenset((
    "_pickle", "asyncio.subprocess", "bdb", "cloudpickle", "code", "codeop", "commands", "ctypes", "dill",
    "ftplib", "importlib", "marshal", "nt", "ntpath", "os", "pdb", "pickle", "pip",
    "pkgutil", "popen2", "posix", "posixpath", "pty", "pydoc", "requests", "runpy", "shutil",
    "smtplib", "socket", "subprocess", "sys", "timeit", "urllib.request", "webbrowser", "winreg", "zipimport",
))  # fmt: skip
PROGRAM_NAMES = frozenset(
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in ("__import__", "breakpoint", "compile", "eval", "exec", "execfile", "exit", "input", "open", "quit")
) | {
    "functools.partial",
    "numpy.load",
    "numpy.testing._private.utils.runstring",
    "operator.attrgetter",
    "operator.methodcaller",
    "torch.load",
    "torch.serialization.load",
    "types.CodeType",
    "types.FunctionType",
}


class DType(Struct, frozen=True):
    """``torch.float16`` and so on, or a storage class; ``name`` is torch's. ``UntypedStorage`` contains bytes."""

    name: str


class Storage(Struct, frozen=True):
    """``numel`` consecutive elements; ``key`` is the name of the zip member ``data/<key>``."""

    key: str
    dtype: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_BYTES[self.dtype]


class PickledTensor(Struct, frozen=True):
    """A view into a storage; ``offset`` and ``strides`` are in elements of ``dtype`` and are checked to stay inside
    it."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Inert(Struct, frozen=True):
    """Replaces an object of an unknown class, or the result of an unknown function."""

    name: str


class Function(Struct, frozen=True):
    """A function that creates tensors, with its name in the file."""

    name: str
    call: Callable[..., Any]


class Damaged(Exception):
    """``args[0]``: the problem."""


class NamesProgram(Exception):
    """``args[0]``: the name."""


def named(module: str, name: str) -> Any:
    """The object for a name in the file. Raises NamesProgram for one whose only purpose is to run something."""
    found = _KNOWN.get((module, name))
    if found is not None:
        return found
    whole = f"{module}.{name}"[:200]
    if module in PROGRAM_MODULES or whole in PROGRAM_NAMES:
        raise NamesProgram(whole)
    return Inert(whole)


def call(function: Any, arguments: Any) -> Any:
    """The result of a function of :func:`named`; raises Damaged for arguments that torch never uses."""
    if isinstance(function, Inert):
        return function
    if not isinstance(function, Function) or type(arguments) is not tuple:
        raise Damaged(Text("reason.weights.calls_no_function"))
    try:
        return function.call(*arguments)
    except TypeError:  # a wrong number of arguments
        raise Damaged(Text("reason.weights.unusual_call", name=function.name)) from None


def build(target: Any, _state: Any) -> None:
    """Sets attributes of a new object. Attributes of a dict (torch's ``_metadata``) are dropped."""
    if type(target) is not dict and not isinstance(target, Inert):
        raise Damaged(Text("reason.weights.changes_described_value"))


def storage_of(description: Any) -> Storage:
    """torch.serialization: ``("storage", type, key, location, numel)``, and one more value in old files."""
    if type(description) is not tuple or not 5 <= len(description) <= 6 or description[0] != "storage":
        raise Damaged(Text("reason.weights.bad_storage"))
    _, kind, key, _location, numel, *_ = description
    if type(kind) is not DType or type(key) is not str or not STORAGE_KEY.fullmatch(key) or not _is_size(numel):
        raise Damaged(Text("reason.weights.bad_storage"))
    return Storage(key, kind.name, numel)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> PickledTensor:
    """``torch._utils._rebuild_tensor`` and ``_rebuild_tensor_v2``; shapes and strides in elements."""
    if type(storage) is not Storage:
        raise Damaged(Text("reason.weights.tensor_without_storage"))
    return _described(storage, storage.dtype, storage.numel, offset, shape, strides)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> Any:
    """``torch._utils._rebuild_tensor_v3``: the storage is bytes, and the tensor has the type (float8, uint16)."""
    if type(storage) is not Storage or type(dtype) is not DType:
        raise Damaged(Text("reason.weights.tensor_without_storage"))
    if dtype.name not in ITEM_BYTES:
        return Inert(f"torch.{dtype.name}")
    numel = storage.numel * ITEM_BYTES[storage.dtype] // ITEM_BYTES[dtype.name]
    return _described(storage, dtype.name, numel, offset, shape, strides)


def _described(storage: Storage, dtype: str, numel: int, offset: Any, shape: Any, strides: Any) -> PickledTensor:
    """Accepts only a view inside the ``numel`` elements of its storage."""
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise Damaged(Text("reason.weights.tensor_has_impossible_sizes"))
    if len(shape) > MAX_DIMENSIONS or not all(map(_is_size, (offset, *shape, *strides))):
        raise Damaged(Text("reason.weights.tensor_has_impossible_sizes"))
    claimed = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # With a stride of 0 a tensor could have more elements than are stored; torch never saves weights so.
    if claimed and (last >= numel or claimed > numel):
        raise Damaged(Text("reason.weights.tensor_reaches_beyond_its_storage"))
    if not claimed and math.prod(size or 1 for size in shape) > 2**40:
        raise Damaged(Text("reason.weights.tensor_has_impossible_sizes"))
    return PickledTensor(storage, dtype, offset, shape, strides)


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**63


def _subclass(function: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    """``torch._tensor._rebuild_from_type_v2``: a tensor with attributes of its own."""
    # refuses nesting, whose depth a file could choose
    if isinstance(function, Function) and function.call is _subclass:
        raise Damaged(Text("reason.weights.tensor_without_storage"))
    return call(function, arguments)


def _ordered(*items: Any) -> Any:
    return Inert("collections.OrderedDict") if items else {}


def _size(sizes: Any = ()) -> Any:
    """``torch.Size``. Functions here must not walk through lists: a file can pass the same long one a hundred thousand
    times."""
    return sizes if type(sizes) is tuple else Inert("torch.Size")


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
_DTYPES = (*ITEM_BYTES, "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2", "complex64")
_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): lambda *_: {},
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): _subclass,
}
_KNOWN: dict[tuple[str, str], Any] = {
    **{names: Function(".".join(names), call) for names, call in _FUNCTIONS.items()},
    **{("torch", name): DType(dtype) for name, dtype in _STORAGES.items()},
    **{("torch", name): DType(name) for name in _DTYPES},
    ("torch.storage", "UntypedStorage"): DType("uint8"),
    ("torch", "UntypedStorage"): DType("uint8"),
}
