"""The headers of rwkv.cpp's ``.bin`` and of ``.gguf``: enough to say what the file is, not to run it.

GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Its metadata are walked within the bounds below; the
tensors are not.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights.tensor_info import MOST_TENSORS, FileContents, kept_metadata

# rwkv_file_format.inc of rwkv.cpp; types 4 to 6 were removed before version 100 of the file format.
GGMF_TYPES = {0: "FP32", 1: "FP16", 2: "Q4_0", 3: "Q4_1", 7: "Q5_0", 8: "Q5_1", 9: "Q8_0"}
MOST_SIZE = 1 << 24  # of a vocabulary, a width or a number of layers

GGUF_VERSIONS = (1, 2, 3)
GGUF_STRING, GGUF_ARRAY = 8, 9  # gguf_metadata_value_type
GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
MOST_KEYS = 4096
MOST_KEY_BYTES = 1024
MOST_STRING_BYTES = 4 << 20
MOST_STRINGS = 600_000
"""In lists: two of 65,536 tokens each are usual, and the largest vocabularies have 260,000."""
SMALLEST_KEY_BYTES = 13  # an empty name, a type, one byte
SMALLEST_TENSOR_BYTES = 24  # in the table: an empty name, no dimensions, type, offset


def read_ggmf(path: Path) -> FileContents:
    """``metadata``: file_version, vocab_size, n_embd, n_layer, data_type. No tensors."""
    magic_and_sizes = struct.Struct("<4s5i")
    with path.open("rb") as file:
        head = file.read(magic_and_sizes.size)
    if len(head) < magic_and_sizes.size:
        raise WeightsError("file_truncated", path=str(path), reason=Text("reason.weights.header_is_not_complete"))
    _, version, vocab_size, n_embd, n_layer, data_type = magic_and_sizes.unpack(head)
    if not all(0 < size <= MOST_SIZE for size in (vocab_size, n_embd, n_layer)):
        raise WeightsError(path=str(path), reason=Text("reason.weights.sizes_of_no_model"))
    metadata = {
        "file_version": str(version),
        "vocab_size": str(vocab_size),
        "n_embd": str(n_embd),
        "n_layer": str(n_layer),
        "data_type": GGMF_TYPES.get(data_type, f"unknown ({data_type})"),
    }
    return FileContents("ggml-bin", {}, metadata)


def read_gguf(path: Path) -> FileContents:
    """``metadata``: file_version, tensor_count, and every key whose value is a text (``general.architecture``)."""
    with path.open("rb") as file:
        return _Gguf(path, file).contents()


class _Gguf:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._file_bytes = path.stat().st_size
        self._strings_left = MOST_STRINGS

    def contents(self) -> FileContents:
        _, version, tensor_count, key_count = struct.unpack("<4sIQQ", self._take(24))
        if version not in GGUF_VERSIONS:
            raise self._damaged(Text("reason.weights.version_of_gguf_is_unknown", found=version))
        if tensor_count > MOST_TENSORS or key_count > MOST_KEYS:
            raise self._damaged(Text("reason.weights.too_many_tensors", limit=MOST_TENSORS))
        if tensor_count * SMALLEST_TENSOR_BYTES + key_count * SMALLEST_KEY_BYTES > self._file_bytes:
            raise WeightsError(
                "file_truncated", path=str(self._path), reason=Text("reason.weights.header_is_not_complete")
            )
        texts = [self._key() for _ in range(key_count)] if version > 1 else []  # version 1 has 32-bit lengths
        found = [("file_version", str(version)), ("tensor_count", str(tensor_count))]
        return FileContents("gguf", {}, kept_metadata([*found, *((key, text) for key, text in texts if text)]))

    def _key(self) -> tuple[str, str]:
        key = self._string(MOST_KEY_BYTES)
        (kind,) = struct.unpack("<I", self._take(4))
        if kind == GGUF_STRING:
            return key, self._string(MOST_STRING_BYTES)
        if kind == GGUF_ARRAY:
            self._skip_array()
        else:
            self._skip(self._size(kind))
        return key, ""

    def _skip_array(self) -> None:
        """Lists of lists are in the format and in no model."""
        kind, count = struct.unpack("<IQ", self._take(12))
        if kind != GGUF_STRING:
            self._skip(self._size(kind) * count)
            return
        self._strings_left -= count
        if self._strings_left < 0:
            raise self._damaged(Text("reason.weights.lists_are_longer_than_any_vocabulary"))
        for _ in range(count):
            self._skip(self._length(MOST_STRING_BYTES))

    def _size(self, kind: int) -> int:
        try:
            return GGUF_SIZES[kind]
        except KeyError:
            raise self._damaged(Text("reason.weights.value_of_an_unknown_type", code=kind)) from None

    def _string(self, limit_bytes: int) -> str:
        return self._take(self._length(limit_bytes)).decode("utf-8", "replace")

    def _length(self, limit_bytes: int) -> int:
        (length,) = struct.unpack("<Q", self._take(8))
        if length > limit_bytes:
            raise self._damaged(Text("reason.weights.text_is_too_long"))
        return int(length)

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise WeightsError(
                "file_truncated", path=str(self._path), reason=Text("reason.weights.header_is_not_complete")
            )
        return data

    def _skip(self, size: int) -> None:
        if self._file.tell() + size > self._file_bytes:
            raise WeightsError(
                "file_truncated", path=str(self._path), reason=Text("reason.weights.header_is_not_complete")
            )
        self._file.seek(size, 1)

    def _damaged(self, reason: Text | str) -> WeightsError:
        return WeightsError(path=str(self._path), reason=reason)
