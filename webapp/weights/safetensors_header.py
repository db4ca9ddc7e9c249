"""The header of a .safetensors (or .st) file, read by ourselves: 8 bytes of length, JSON, then the data.

Format: https://github.com/huggingface/safetensors#format. Only the header is read; sizes are checked against the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from webapp.errors import FileTruncated, Phrase, WeightsError
from webapp.weights.tensor_info import FileContents, StoredTensor, TensorInfo, contiguous_strides

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def read_safetensors(path: Path) -> FileContents:
    """Table of contents; raises FileTruncated, or WeightsError for a header that makes no sense."""
    header, data_start = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _damaged(path, "its __metadata__ is not a table")
    file_bytes = path.stat().st_size
    tensors = {name: _entry(path, name, entry, data_start, file_bytes) for name, entry in header.items()}
    return FileContents("safetensors", tensors, {str(key): str(value) for key, value in metadata.items()})


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise _damaged(path, Phrase("its header claims {found} bytes, more than the format allows", found=length))
        raw = file.read(length)
    if len(raw) < length:
        raise FileTruncated(
            path=str(path),
            reason=Phrase("the header needs {expected} bytes, {found} are there", expected=length, found=len(raw)),
        )
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise _damaged(path, "its header is not valid JSON") from exc
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a table")
    return header, 8 + length


def _entry(path: Path, name: str, entry: Any, data_start: int, file_bytes: int) -> StoredTensor:
    try:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError("sizes are whole numbers")
    except (KeyError, TypeError, ValueError) as exc:
        raise _damaged(path, Phrase("the header's entry for {name} makes no sense", name=name)) from exc
    info = TensorInfo(name, shape, dtype)
    if end - begin != info.nbytes:
        told = {"name": name, "found": end - begin, "expected": info.nbytes}
        raise _damaged(path, Phrase("{name} has {found} bytes where its shape needs {expected}", **told))
    if data_start + end > file_bytes:
        told = {"name": name, "end": data_start + end, "found": file_bytes}
        raise FileTruncated(path=str(path), reason=Phrase("{name} ends at byte {end}, the file at {found}", **told))
    return StoredTensor(info, data_start + begin, contiguous_strides(shape))


def _damaged(path: Path, reason: str) -> WeightsError:
    return WeightsError(path=str(path), reason=reason)
