"""A .pth as torch.save writes it (a zip of one pickle and one member a storage), written front to back.

Torch wants every tensor in memory for that; here a member is filled block by block. ``torch.load`` opens the result,
with ``weights_only=True`` and ``mmap=True`` too.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import Any, BinaryIO

from webapp.weights.convert.plan import Plan, PlannedTensor
from webapp.weights.convert.progress import Meter
from webapp.weights.convert.tensor_bytes import bytes_of
from webapp.weights.tensor_info import TensorInfo

ROOT = "archive"
ALIGNMENT = 64  # of every storage, as torch's own writer keeps it, so that a map of the file serves as tensors
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
            _write_tensor(archive, f"data/{key}", tensor, meter)
        _write_small(archive, "version", b"3\n")


def _write_tensor(archive: zipfile.ZipFile, name: str, tensor: PlannedTensor, meter: Meter) -> None:
    with archive.open(_member(archive, name, tensor.info.nbytes), "w") as member:
        for block in tensor.blocks():
            data = bytes_of(block)
            member.write(data)
            meter.block(tensor.info.name, data)
    meter.tensor_done(tensor.info.name)


def _write_small(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(_member(archive, name, len(data)), data)


def _member(archive: zipfile.ZipFile, name: str, size_bytes: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{ROOT}/{name}")
    info.file_size = size_bytes
    info.external_attr = 0o600 << 16
    is_large = size_bytes * 1.05 > zipfile.ZIP64_LIMIT  # as ZipFile.open decides
    assert archive.fp is not None
    data_start = archive.fp.tell() + LOCAL_HEADER_BYTES + len(info.filename) + is_large * ZIP64_EXTRA_BYTES + 4
    padding = -data_start % ALIGNMENT
    info.extra = PADDING_ID + struct.pack("<H", padding) + b"Z" * padding
    return info


def pickled(plan: Plan) -> bytes:
    """``data.pkl``: what torch.save makes of a dict of tensors."""
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
    """Pickles as the call that torch makes a tensor with again."""

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
        """Storages are named, not pickled."""
        if not isinstance(obj, _Storage):
            return None
        import torch

        return ("storage", getattr(torch, STORAGE_NAMES[obj.info.dtype]), obj.key, "cpu", obj.info.numel)
