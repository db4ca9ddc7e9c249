"""Writes the new file of a conversion in any format, completely under a temporary name, then renames it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import secrets
import shutil
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from msgspec.structs import replace

from webapp.errors import ConversionError
from webapp.weights.convert.plan import Meter, Plan, PlannedTensor
from webapp.weights.file_format import INDEXES
from webapp.weights.ggml_header import (
    DEFAULT_ALIGNMENT,
    GGMF_DTYPES,
    GGMF_HEADER,
    GGMF_RECORD,
    GGMF_VERSIONS,
    GGML_TYPES,
    GGUF_ARRAY,
    GGUF_FLOAT32,
    GGUF_INT32,
    GGUF_STRING,
    GGUF_UINT32,
    GGUF_VERSIONS,
)
from webapp.weights.safetensors_header import DTYPES
from webapp.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    import torch


def bytes_of(tensor: torch.Tensor) -> memoryview:
    import torch

    flat = tensor.detach().contiguous().view(-1)
    raw = flat.view(torch.uint8).numpy()
    return raw.data


def _write_blocks(file: IO[bytes], tensor: PlannedTensor, meter: Meter) -> None:
    for block in tensor.blocks():
        data = bytes_of(block)
        file.write(data)
        meter.block(tensor.info.name, data)
    meter.tensor_done(tensor.info.name)


ENDING = ".converting"
LOCK = ".lock"
SPARE_BYTES = 16 * 2**20  # headers, and a little left for everybody else


@contextlib.contextmanager
def new_container(target: Path, plan: Plan, overwrite: bool) -> Iterator[tuple[Callable[[Meter], None], Path]]:
    """A function that writes it, and its temporary path. A normal exit renames it; an exception removes it."""
    remove_abandoned(target.parent)
    check_room(target, plan.total_bytes, overwrite)
    path = target.with_name(f".{target.name}.{secrets.token_hex(4)}{ENDING}")
    try:
        if plan.container == "folder":
            path.mkdir()
            with (path / LOCK).open("xb") as lock:
                _hold(lock)
                yield partial(write_folder, path, plan), path
            (path / LOCK).unlink()
        else:
            with path.open("xb+") as file:
                _hold(file)
                yield partial(_written, file, plan), path
                os.fsync(file.fileno())
        _put_in_place(path, target, overwrite)
    except BaseException:
        _remove(path)
        raise


def _written(file: BinaryIO, plan: Plan, meter: Meter) -> None:
    WRITERS[plan.container](file, plan, meter)
    file.flush()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_room(target: Path, needed_bytes: int, overwrite: bool) -> None:
    """Raises ``conversion_target_exists`` or ``conversion_no_space``."""
    check_target(target, overwrite)
    free = shutil.disk_usage(target.parent).free
    if needed_bytes + SPARE_BYTES > free:
        raise ConversionError(
            "conversion_no_space", path=target.name, needed=_gigabytes(needed_bytes), free=_gigabytes(free)
        )


def check_target(target: Path, overwrite: bool) -> None:
    """Raises ``conversion_target_exists``."""
    if target.exists() and not overwrite:
        raise ConversionError("conversion_target_exists", path=target.name)


def remove_abandoned(folder: Path) -> int:
    """Deletes files of killed conversions in ``folder``; running ones hold a lock. Returns their number."""
    removed = 0
    for path in folder.glob(f".*{ENDING}"):
        if not _is_held(path / LOCK if path.is_dir() else path):
            with contextlib.suppress(OSError):  # Windows: open elsewhere; anywhere: not ours
                _remove(path)
                removed += 1
    return removed


def _put_in_place(path: Path, target: Path, overwrite: bool) -> None:
    check_target(target, overwrite)  # it may have been created meanwhile
    if path.is_dir() and target.exists():  # no system replaces a non-empty folder
        old = target.with_name(f".{target.name}.{secrets.token_hex(4)}{ENDING}")
        os.rename(target, old)
        os.rename(path, target)
        _remove(old)
    else:
        os.replace(path, target)
    with contextlib.suppress(OSError, AttributeError):  # Windows opens no folders
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _hold(file: BinaryIO) -> None:
    """A lock that is released with the process. Windows needs none, because an open file cannot be deleted."""
    with contextlib.suppress(ImportError, OSError):  # network disks without locks
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_held(path: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


SHARD_BYTES = 5 * 10**9
"""Maximum size of a file in a folder, as used by the hubs' programs."""


def write_folder(folder: Path, plan: Plan, meter: Meter) -> None:
    """Writes model.safetensors, or several files with an index; then the documents."""
    shards: list[list[PlannedTensor]] = [[]]
    size = 0
    for tensor in plan.tensors:
        if shards[-1] and size + tensor.info.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.info.nbytes
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= {tensor.info.name: name for tensor in tensors}
        with (folder / name).open("xb") as file:
            write_safetensors(file, replace(plan, tensors=tensors), meter)
            file.flush()
            os.fsync(file.fileno())
    documents = dict(plan.documents)
    if len(shards) > 1:
        documents[INDEXES[0]] = {"metadata": {"total_size": plan.total_bytes}, "weight_map": weight_map}
    for name, content in documents.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for path in plan.copies:
        shutil.copyfile(path, folder / path.name)


CODES = {dtype: code for code, dtype in DTYPES.items()}
HEADER_ALIGNMENT = 8  # of the first tensor; the reference implementation pads its header with spaces


def write_safetensors(file: BinaryIO, plan: Plan, meter: Meter) -> None:
    """Every tensor row by row, in the plan's order."""
    header = json.dumps(_header(plan), separators=(",", ":")).encode()
    header += b" " * (-len(header) % HEADER_ALIGNMENT)
    file.write(len(header).to_bytes(8, "little") + header)
    for tensor in plan.tensors:
        _write_blocks(file, tensor, meter)


def _header(plan: Plan) -> dict[str, Any]:
    header: dict[str, Any] = {"__metadata__": {name: str(value) for name, value in plan.marks.items()}}
    position = 0
    for tensor in plan.tensors:
        assert not tensor.strides, "safetensors knows no strides"
        end = position + tensor.info.nbytes
        header[tensor.info.name] = {
            "dtype": CODES[tensor.info.dtype],
            "shape": list(tensor.info.shape),
            "data_offsets": [position, end],
        }
        position = end
    return header


ROOT = "archive"
STORAGE_ALIGNMENT = 64  # of every storage, as torch's own writer keeps it, so that a map of the file serves as tensors
LOCAL_HEADER_BYTES = 30
ZIP64_EXTRA_BYTES = 20  # zipfile adds it by itself to the header of a large member
PADDING_ID = b"FB"  # torch's id for the extra field that pads
STORAGE_NAMES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


def write_pth(file: BinaryIO, plan: Plan, meter: Meter) -> None:
    """The dict of the plan's tensors and marks. ``file`` must be seekable: checksums are filled in afterwards."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _write_small(archive, "data.pkl", pickled(plan))
        _write_small(archive, "byteorder", b"little")
        for key, tensor in enumerate(plan.tensors):
            with archive.open(_member(archive, f"data/{key}", tensor.info.nbytes), "w") as member:
                _write_blocks(member, tensor, meter)
        _write_small(archive, "version", b"3\n")


def _write_small(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(_member(archive, name, len(data)), data)


def _member(archive: zipfile.ZipFile, name: str, size_bytes: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{ROOT}/{name}")
    info.file_size = size_bytes
    info.external_attr = 0o600 << 16
    is_large = size_bytes * 1.05 > zipfile.ZIP64_LIMIT  # as ZipFile.open decides
    assert archive.fp is not None
    data_start = archive.fp.tell() + LOCAL_HEADER_BYTES + len(info.filename) + is_large * ZIP64_EXTRA_BYTES + 4
    padding = -data_start % STORAGE_ALIGNMENT
    info.extra = PADDING_ID + struct.pack("<H", padding) + b"Z" * padding
    return info


def pickled(plan: Plan) -> bytes:
    """``data.pkl``: as torch.save writes a dict of tensors."""
    content: dict[str, Any] = {
        tensor.info.name: _Tensor(_Storage(key, tensor.info), tensor) for key, tensor in enumerate(plan.tensors)
    }
    out = io.BytesIO()
    _Pickler(out).dump(content | dict(plan.marks))
    return out.getvalue()


class _Storage:
    def __init__(self, key: int, info: TensorInfo) -> None:
        self.key = str(key)
        self.info = info


class _Tensor:
    """Pickled as the call with which torch restores a tensor."""

    def __init__(self, storage: _Storage, planned: PlannedTensor) -> None:
        self._storage = storage
        self._planned = planned

    def __reduce__(self) -> Any:
        import torch

        rebuild = torch._utils._rebuild_tensor_v2
        shape, strides = self._planned.info.shape, self._planned.stored_strides()
        return rebuild, (self._storage, 0, shape, strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)

    def persistent_id(self, obj: Any) -> Any:
        """Storages are referenced, not pickled."""
        if not isinstance(obj, _Storage):
            return None
        import torch

        return ("storage", getattr(torch, STORAGE_NAMES[obj.info.dtype]), obj.key, "cpu", obj.info.numel)


def write_bin(file: BinaryIO, plan: Plan, meter: Meter) -> None:
    """rwkv.cpp's format, version 101. The plan's blocks are the tensors' bytes, its marks the numbers in the header."""
    sizes = (int(plan.marks[name]) for name in ("n_vocab", "n_embed", "n_layer", "data_type"))
    file.write(GGMF_HEADER.pack(b"fmgg", GGMF_VERSIONS[-1], *sizes))
    codes = {dtype: code for code, dtype in GGMF_DTYPES.items()}
    for tensor in plan.tensors:
        name, shape = tensor.info.name.encode(), tensor.info.shape
        file.write(GGMF_RECORD.pack(len(shape), len(name), codes[tensor.info.dtype]))
        file.write(struct.pack(f"<{len(shape)}I", *reversed(shape)) + name)
        _write_blocks(file, tensor, meter)


def write_gguf(file: BinaryIO, plan: Plan, meter: Meter) -> None:
    """GGUF, version 3. The plan's blocks are the tensors' bytes; its marks become keys, in order."""
    file.write(struct.pack("<4sIQQ", b"GGUF", GGUF_VERSIONS[-1], len(plan.tensors), len(plan.marks)))
    for key, value in plan.marks.items():
        file.write(_gguf_text(key.encode()) + _gguf_value(value))
    position = 0
    for tensor in plan.tensors:
        name, shape = tensor.info.name.encode(), tensor.info.shape
        place = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        file.write(_gguf_text(name) + place + struct.pack("<IQ", GGML_TYPES[tensor.info.dtype], position))
        position += tensor.info.nbytes + -tensor.info.nbytes % DEFAULT_ALIGNMENT
    file.write(bytes(-file.tell() % DEFAULT_ALIGNMENT))
    for tensor in plan.tensors:
        _write_blocks(file, tensor, meter)
        file.write(bytes(-tensor.info.nbytes % DEFAULT_ALIGNMENT))


def _gguf_text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _gguf_value(value: Any) -> bytes:
    """A text, a number, or a list of bytes or integers, preceded by its type."""
    if isinstance(value, str):
        return struct.pack("<I", GGUF_STRING) + _gguf_text(value.encode("utf-8", "replace"))
    if isinstance(value, float):
        return struct.pack("<If", GGUF_FLOAT32, value)
    if isinstance(value, int):
        return struct.pack("<II", GGUF_UINT32, value)
    is_text = isinstance(value[0], bytes)
    head = struct.pack("<IIQ", GGUF_ARRAY, GGUF_STRING if is_text else GGUF_INT32, len(value))
    return head + (b"".join(map(_gguf_text, value)) if is_text else struct.pack(f"<{len(value)}i", *value))


WRITERS = {"safetensors": write_safetensors, "pth": write_pth, "ggml-bin": write_bin, "gguf": write_gguf}
"""For single files; a folder has several of the first kind."""
