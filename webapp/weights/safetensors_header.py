"""Our own reader for the header of a .safetensors (or .st) file: 8 bytes of length, JSON, then the data.

Format: https://github.com/huggingface/safetensors#format. Reads only the header; checks sizes against the file. The
cost of a header is limited before any of it is parsed: its bytes, and the possible number of values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights import tensor_info

MAX_HEADER_BYTES = 16 << 20
"""The format allows 100 MB; 20,000 tensors take 3 MB."""
MAX_VALUES = 400_000
"""Number of commas and opening brackets: a matrix's entry has 8, and trainers' metadata have some."""
MAX_DIGITS = 19  # in a 64-bit number

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


def read_safetensors(path: Path) -> tensor_info.FileContents:
    """Table of contents. Raises ``file_truncated``, or WeightsError for a header that is invalid or too large."""
    header, data_start = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _damaged(path, Text("reason.weights.metadata_is_not_a_table"))
    if len(header) > tensor_info.MAX_TENSORS:
        raise _damaged(path, Text("reason.weights.too_many_tensors", limit=tensor_info.MAX_TENSORS))
    file_bytes = path.stat().st_size
    tensors = {name: _entry(path, name, entry, data_start, file_bytes) for name, entry in header.items()}
    _check_apart(path, tensors.values())
    return tensor_info.FileContents("safetensors", tensors, tensor_info.kept_metadata(metadata.items()))


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            params = {"found": length, "limit": MAX_HEADER_BYTES}
            raise _damaged(path, Text("reason.weights.header_is_too_long", **params))
        raw = file.read(length)
    if len(raw) < length:
        raise WeightsError(
            "file_truncated",
            path=str(path),
            reason=Text("reason.weights.header_is_cut_off", expected=length, found=len(raw)),
        )
    if sum(map(raw.count, (b",", b"{", b"["))) > MAX_VALUES:
        raise _damaged(path, Text("reason.weights.too_many_tensors", limit=tensor_info.MAX_TENSORS))
    try:
        header = json.loads(raw, object_pairs_hook=_table, parse_int=_number, parse_constant=_constant)
    except (ValueError, RecursionError) as exc:
        raise _damaged(path, Text("reason.weights.header_is_not_valid_json")) from exc
    if not isinstance(header, dict):
        raise _damaged(path, Text("reason.weights.header_is_not_a_table"))
    return header, 8 + length


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for a duplicate key, because readers differ in which one they use."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number is too large")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _entry(path: Path, name: str, entry: Any, data_start: int, file_bytes: int) -> tensor_info.StoredTensor:
    problem = tensor_info.name_problem(name)
    if problem:
        raise _damaged(path, problem)
    try:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if len(shape) > tensor_info.MAX_DIMENSIONS or not all(
            type(number) is int and number >= 0 for number in (*shape, begin, end)
        ):
            raise ValueError("sizes are whole numbers")
        if math.prod(size or 1 for size in shape) >= 2**60:  # also if another dimension is zero
            raise ValueError("sizes are out of all proportion")
    except (KeyError, TypeError, ValueError) as exc:
        raise _damaged(path, Text("reason.weights.bad_header_entry", name=name)) from exc
    info = tensor_info.TensorInfo(name, shape, dtype)
    if end - begin != info.nbytes:
        params = {"name": name, "found": end - begin, "expected": info.nbytes}
        raise _damaged(path, Text("reason.weights.byte_count_differs", **params))
    if data_start + end > file_bytes:
        params = {"name": name, "end": data_start + end, "found": file_bytes}
        raise WeightsError(
            "file_truncated", path=str(path), reason=Text("reason.weights.ends_after_the_file", **params)
        )
    return tensor_info.StoredTensor(info, data_start + begin, tensor_info.contiguous_strides(shape), data_start + end)


def _check_apart(path: Path, tensors: Iterable[tensor_info.StoredTensor]) -> None:
    """The format does not allow tensors to overlap."""
    end, last = 0, ""
    for tensor in sorted((tensor for tensor in tensors if tensor.info.numel), key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            params = {"name": last, "other": tensor.info.name}
            raise _damaged(path, Text("reason.weights.tensors_overlap", **params))
        end, last = tensor.end, tensor.info.name


def _damaged(path: Path, reason: Text | str) -> WeightsError:
    return WeightsError(path=str(path), reason=reason)
