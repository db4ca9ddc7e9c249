"""The first bytes of rwkv.cpp's ``.bin`` and of ``.gguf``: enough to say what the file is, not to run it."""

from __future__ import annotations

import struct
from pathlib import Path

from webapp.errors import FileTruncated
from webapp.weights.tensor_info import FileContents

# rwkv_file_format.inc of rwkv.cpp; types 4 to 6 were removed before version 100 of the file format.
GGMF_TYPES = {0: "FP32", 1: "FP16", 2: "Q4_0", 3: "Q4_1", 7: "Q5_0", 8: "Q5_1", 9: "Q8_0"}
GGUF_STRING = 8  # gguf_metadata_value_type


def read_ggmf(path: Path) -> FileContents:
    """``metadata``: file_version, vocab_size, n_embd, n_layer, data_type. No tensors."""
    magic_and_sizes = struct.Struct("<4s5i")
    with path.open("rb") as file:
        head = file.read(magic_and_sizes.size)
    if len(head) < magic_and_sizes.size:
        raise FileTruncated(path=str(path), reason="its header is not complete")
    _, version, vocab_size, n_embd, n_layer, data_type = magic_and_sizes.unpack(head)
    metadata = {
        "file_version": str(version),
        "vocab_size": str(vocab_size),
        "n_embd": str(n_embd),
        "n_layer": str(n_layer),
        "data_type": GGMF_TYPES.get(data_type, f"unknown ({data_type})"),
    }
    return FileContents("ggml-bin", {}, metadata)


def read_gguf(path: Path) -> FileContents:
    """``metadata``: file_version, tensor_count, and the first key when it is text (``general.architecture``)."""
    counts = struct.Struct("<4sIQQ")
    with path.open("rb") as file:
        head = file.read(4096)
    if len(head) < counts.size:
        raise FileTruncated(path=str(path), reason="its header is not complete")
    _, version, tensor_count, key_count = counts.unpack_from(head)
    metadata = {"file_version": str(version), "tensor_count": str(tensor_count)}
    if key_count:
        metadata |= _first_key(head[counts.size :])
    return FileContents("gguf", {}, metadata)


def _first_key(data: bytes) -> dict[str, str]:
    try:
        key, position = _string(data, 0)
        (value_type,) = struct.unpack_from("<I", data, position)
        return {key: _string(data, position + 4)[0]} if value_type == GGUF_STRING else {}
    except struct.error:
        return {}


def _string(data: bytes, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, position)
    end = position + 8 + length
    return data[position + 8 : end].decode("utf-8", "replace"), end
