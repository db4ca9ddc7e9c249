"""Tables of contents of rwkv.cpp's ``.bin`` and of ``.gguf``: the kind of file, and the positions of its tensors.

``.bin``: rwkv_file_format.inc of rwkv.cpp. Six 32-bit numbers (magic, version 100 or 101, vocabulary, width, layers,
type), then records to the end: number of dimensions, length of the name, type, the dimensions (row length first), name,
data. No padding. Version 100 has no quantised tensors.

GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Its tensors are read only if it says that it is an RWKV
model. Both are read within the limits below, and no number is used that contradicts the file's size.
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights import tensor_info

# rwkv_file_format.inc of rwkv.cpp; types 4 to 6 were removed before version 100 of the file format.
GGMF_TYPES = {0: "FP32", 1: "FP16", 2: "Q4_0", 3: "Q4_1", 7: "Q5_0", 8: "Q5_1", 9: "Q8_0"}
GGMF_DTYPES = {0: "float32", 1: "float16"} | {code: name.lower() for code, name in GGMF_TYPES.items() if code > 1}
GGMF_VERSIONS = (100, 101)
GGMF_HEADER = struct.Struct("<4s5I")
GGMF_RECORD = struct.Struct("<3I")
GGMF_DIMENSIONS = 3
MAX_SIZE = 1 << 24  # for a vocabulary, a width or a number of layers
MAX_ELEMENTS = 1 << 40  # for one tensor

GGUF_VERSIONS = (1, 2, 3)
GGUF_STRING, GGUF_ARRAY, GGUF_UINT32, GGUF_INT32, GGUF_FLOAT32 = 8, 9, 4, 5, 6  # gguf_metadata_value_type
VOCABULARY_LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
GGUF_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
GGUF_DIMENSIONS = 4
GGML_DTYPES = {
    0: "float32",
    1: "float16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    10: "q2_k",
    11: "q3_k",
    12: "q4_k",
    13: "q5_k",
    14: "q6_k",
    20: "iq4_nl",
    23: "iq4_xs",
    30: "bfloat16",
}
"""ggml_type of ggml.h -> dtype of :class:`TensorInfo`, for the types that models use."""
GGML_TYPES = {dtype: code for code, dtype in GGML_DTYPES.items()}
GGUF_TOKEN_TYPES = {"normal": 1, "control": 3, "user-defined": 4, "unused": 5}  # llama_token_type of llama.h
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
MAX_KEYS = 4096
MAX_KEY_BYTES = 1024
MAX_STRING_BYTES = 4 << 20
MAX_STRINGS = 600_000
"""In lists: two of 65,536 tokens each are common; the largest vocabularies have 260,000."""
SMALLEST_KEY_BYTES = 13  # an empty name, a type, one byte
SMALLEST_TENSOR_BYTES = 24  # in the table: an empty name, no dimensions, type, offset


def read_ggmf(path: Path) -> tensor_info.FileContents:
    """``metadata``: file_version, vocab_size, n_embd, n_layer, data_type. Shapes in numpy's order: rows first."""
    with path.open("rb") as file:
        return _Ggmf(path, file).contents()


def read_gguf(path: Path) -> tensor_info.FileContents:
    """``metadata``: file_version, tensor_count, and every key whose value is a text or a number
    (``general.architecture``, ``rwkv7.block_count``). Tensors of RWKV models only."""
    with path.open("rb") as file:
        return _Gguf(path, file).contents()


def read_gguf_vocabulary(path: Path) -> dict[int, bytes] | None:
    """Token bytes by id from a GGUF with an RWKV vocabulary; None for other files, and if its length differs from the
    list of token types. Raises WeightsError for an unreadable header."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            return None
        file.seek(0)
        return _Gguf(path, file).vocabulary()


class _Header:
    """Reads numbers and bytes, never beyond the end of the file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._file_bytes = path.stat().st_size
        self._tensors: dict[str, tensor_info.StoredTensor] = {}

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise self._truncated(Text("reason.weights.header_is_not_complete"))
        return data

    def _skip(self, size: int) -> None:
        if self._file.tell() + size > self._file_bytes:
            raise self._truncated(Text("reason.weights.header_is_not_complete"))
        self._file.seek(size, 1)

    def _tensor(self, name: bytes, dtype: str, dimensions: tuple[int, ...]) -> tensor_info.TensorInfo:
        """``dimensions``: the row's length first, as in ggml."""
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise self._damaged(Text("reason.weights.tensor_name_is_not_printable")) from None
        problem = tensor_info.name_problem(text)
        if problem:
            raise self._damaged(problem)
        if text in self._tensors:
            raise self._damaged(Text("reason.weights.tensor_is_there_twice", name=text))
        numel = math.prod(dimensions)
        row = tensor_info.BLOCKS.get(dtype, (1, 0))[0]
        if not dimensions or min(dimensions) < 1 or numel > MAX_ELEMENTS or dimensions[0] % row:
            raise self._damaged(Text("reason.weights.sizes_of_no_tensor", name=text, sizes=str(dimensions)))
        return tensor_info.TensorInfo(text, dimensions[::-1], dtype)

    def _put(self, info: tensor_info.TensorInfo, offset: int) -> None:
        end = offset + info.nbytes
        if end > self._file_bytes:
            params = {"name": info.name, "end": end, "found": self._file_bytes}
            raise self._truncated(Text("reason.weights.ends_after_the_file", **params))
        self._tensors[info.name] = tensor_info.StoredTensor(
            info, offset, tensor_info.contiguous_strides(info.shape), end
        )

    def _truncated(self, reason: Text | str) -> WeightsError:
        return WeightsError("file_truncated", path=str(self._path), reason=reason)

    def _damaged(self, reason: Text | str) -> WeightsError:
        return WeightsError(path=str(self._path), reason=reason)


class _Ggmf(_Header):
    def contents(self) -> tensor_info.FileContents:
        _, version, vocab_size, n_embd, n_layer, data_type = GGMF_HEADER.unpack(self._take(GGMF_HEADER.size))
        if not all(0 < size <= MAX_SIZE for size in (vocab_size, n_embd, n_layer)):
            raise self._damaged(Text("reason.weights.sizes_of_no_model"))
        if version not in GGMF_VERSIONS:
            raise self._damaged(Text("reason.weights.unknown_rwkv_cpp_version", found=version))
        while self._file.tell() < self._file_bytes:
            self._record(version)
        metadata = {
            "file_version": str(version),
            "vocab_size": str(vocab_size),
            "n_embd": str(n_embd),
            "n_layer": str(n_layer),
            "data_type": GGMF_TYPES.get(data_type, f"unknown ({data_type})"),
        }
        return tensor_info.FileContents("ggml-bin", self._tensors, metadata)

    def _record(self, version: int) -> None:
        if len(self._tensors) == tensor_info.MAX_TENSORS:
            raise self._damaged(Text("reason.weights.too_many_tensors", limit=tensor_info.MAX_TENSORS))
        dimensions, name_bytes, data_type = GGMF_RECORD.unpack(self._take(GGMF_RECORD.size))
        if not 1 <= dimensions <= GGMF_DIMENSIONS or name_bytes > MAX_KEY_BYTES:
            raise self._damaged(Text("reason.weights.damaged_record", place=self._file.tell()))
        sizes = struct.unpack(f"<{dimensions}I", self._take(4 * dimensions))
        name = self._take(name_bytes)
        dtype = GGMF_DTYPES.get(data_type)
        if dtype is None or (version == GGMF_VERSIONS[0] and data_type > 1):
            params = {"name": name.decode("utf-8", "replace"), "type": data_type}
            raise self._damaged(Text("reason.weights.unknown_tensor_type", **params))
        info = self._tensor(name, dtype, sizes)
        self._put(info, self._file.tell())
        self._file.seek(info.nbytes, 1)


class _Gguf(_Header):
    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path, file)
        self._strings_left = MAX_STRINGS
        self._lists: dict[str, Any] = {}
        """The lists of :data:`VOCABULARY_LISTS`, filled if requested."""
        self._wanted: tuple[str, ...] = ()

    def _counts(self) -> tuple[int, int, int]:
        """Version, number of tensors, number of keys."""
        _, version, tensor_count, key_count = struct.unpack("<4sIQQ", self._take(24))
        if version not in GGUF_VERSIONS:
            raise self._damaged(Text("reason.weights.unknown_gguf_version", found=version))
        if tensor_count > tensor_info.MAX_TENSORS or key_count > MAX_KEYS:
            raise self._damaged(Text("reason.weights.too_many_tensors", limit=tensor_info.MAX_TENSORS))
        if tensor_count * SMALLEST_TENSOR_BYTES + key_count * SMALLEST_KEY_BYTES > self._file_bytes:
            raise self._truncated(Text("reason.weights.header_is_not_complete"))
        return version, tensor_count, key_count

    def contents(self) -> tensor_info.FileContents:
        version, tensor_count, key_count = self._counts()
        texts = [self._key() for _ in range(key_count)] if version > 1 else []  # version 1 has 32-bit lengths
        found = [("file_version", str(version)), ("tensor_count", str(tensor_count))]
        metadata = tensor_info.kept_metadata([*found, *((key, text) for key, text in texts if text)])
        if version > 1 and metadata.get("general.architecture", "").startswith(("rwkv", "arwkv")):
            self._read_tensors(tensor_count, dict(texts).get("general.alignment", ""))
        return tensor_info.FileContents("gguf", self._tensors, metadata)

    def vocabulary(self) -> dict[int, bytes] | None:
        version, _, key_count = self._counts()
        self._wanted = VOCABULARY_LISTS
        texts = dict(self._key() for _ in range(key_count)) if version > 1 else {}
        tokens, types = (self._lists.get(name, []) for name in VOCABULARY_LISTS)
        if texts.get("tokenizer.ggml.model") != "rwkv" or not isinstance(tokens, list) or not tokens:
            return None
        if len(types) not in (0, len(tokens)):
            return None
        kinds = types or [GGUF_TOKEN_TYPES["control"], *[GGUF_TOKEN_TYPES["normal"]] * (len(tokens) - 1)]
        written = (GGUF_TOKEN_TYPES["normal"], GGUF_TOKEN_TYPES["user-defined"])
        return {number: _unescaped(token) for number, token in enumerate(tokens) if kinds[number] in written and token}

    def _read_tensors(self, count: int, alignment: str) -> None:
        step = int(alignment) if alignment.isdigit() else DEFAULT_ALIGNMENT
        if not 1 <= step <= MAX_ALIGNMENT or step & (step - 1):
            raise self._damaged(Text("reason.weights.bad_alignment", found=alignment))
        found = []
        for _ in range(count):
            name = self._take(self._length(MAX_KEY_BYTES))
            (dimensions,) = struct.unpack("<I", self._take(4))
            if dimensions > GGUF_DIMENSIONS:
                raise self._damaged(Text("reason.weights.damaged_record", place=self._file.tell()))
            sizes = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
            data_type, offset = struct.unpack("<IQ", self._take(12))
            if data_type not in GGML_DTYPES:
                params = {"name": name.decode("utf-8", "replace"), "type": data_type}
                raise self._damaged(Text("reason.weights.unknown_tensor_type", **params))
            found.append((self._tensor(name, GGML_DTYPES[data_type], sizes), offset))
        start = -(-self._file.tell() // step) * step
        for info, offset in found:
            if info.name in self._tensors:
                raise self._damaged(Text("reason.weights.tensor_is_there_twice", name=info.name))
            self._put(info, start + offset)

    def _key(self) -> tuple[str, str]:
        key = self._string(MAX_KEY_BYTES)
        (kind,) = struct.unpack("<I", self._take(4))
        if kind == GGUF_STRING:
            return key, self._string(MAX_STRING_BYTES)
        if kind == GGUF_ARRAY:
            self._array(key if key in self._wanted else "")
            return key, ""
        number = struct.unpack(f"<{self._number(kind)}", self._take(self._size(kind)))[0]
        return key, str(number)

    def _array(self, wanted: str) -> None:
        """Stores the list under the name ``wanted``; skips it if that is empty. Lists of lists are allowed in the
        format, but no model has them."""
        kind, count = struct.unpack("<IQ", self._take(12))
        if kind != GGUF_STRING:
            size = self._size(kind) * count
            if wanted and count <= MAX_STRINGS:
                self._lists[wanted] = struct.unpack(f"<{count}{self._number(kind)}", self._take(size))
            else:
                self._skip(size)
            return
        self._strings_left -= count
        if self._strings_left < 0:
            raise self._damaged(Text("reason.weights.list_too_long"))
        if wanted:
            self._lists[wanted] = [self._take(self._length(MAX_KEY_BYTES)) for _ in range(count)]
            return
        for _ in range(count):
            self._skip(self._length(MAX_STRING_BYTES))

    def _size(self, kind: int) -> int:
        return struct.calcsize(f"<{self._number(kind)}")

    def _number(self, kind: int) -> str:
        try:
            return GGUF_NUMBERS[kind]
        except KeyError:
            raise self._damaged(Text("reason.weights.value_of_an_unknown_type", code=kind)) from None

    def _string(self, limit_bytes: int) -> str:
        return self._take(self._length(limit_bytes)).decode("utf-8", "replace")

    def _length(self, limit_bytes: int) -> int:
        (length,) = struct.unpack("<Q", self._take(8))
        if length > limit_bytes:
            raise self._damaged(Text("reason.weights.text_is_too_long"))
        return int(length)


ESCAPES = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
PLAIN_ESCAPES = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def _unescaped(token: bytes) -> bytes:
    """Decodes a token of RWKV as llama.cpp does (llama_unescape_rwkv_token in llama-vocab.cpp)."""

    def replaced(found: re.Match[bytes]) -> bytes:
        return bytes.fromhex(found[1].decode()) if found[1] else PLAIN_ESCAPES.get(found[2], found[2])

    return ESCAPES.sub(replaced, token) if b"\\" in token else token


assert tensor_info.ITEM_BYTES.keys() >= {dtype for dtype in GGML_DTYPES.values() if dtype not in tensor_info.BLOCKS}
