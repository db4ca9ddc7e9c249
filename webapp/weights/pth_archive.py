"""A .pth as torch writes it since version 1.6: a zip of ``data.pkl`` and one uncompressed member per storage.

Read here without torch: the zip directory, the pickle (restricted) and each member's local header, no tensor data.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import BinaryIO, NoReturn

from webapp.errors import FileTruncated, LegacyPth, Phrase, UnknownFormat, WeightsError
from webapp.weights.restricted_pickle import PickledTensor, load_restricted
from webapp.weights.tensor_info import ITEM_BYTES, FileContents, StoredTensor, TensorInfo

MAX_PICKLE_BYTES = 64 * 2**20  # a 7B model's is about 0.3 MB
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then lengths of name and extra field (zip APPNOTE 4.3.7)
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER, the first thing in an old file


def read_pth(path: Path) -> FileContents:
    """Table of contents; raises FileTruncated, UnsafePickle, UnknownFormat or WeightsError."""
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _Archive(path, file, archive).contents()
        # ValueError: a damaged name is not UTF-8, a damaged offset lies before the file.
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, struct.error) as exc:
            raise FileTruncated(path=str(path), reason="the zip directory at its end is missing or damaged") from exc


class _Archive:
    def __init__(self, path: Path, file: BinaryIO, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._file = file
        self._file_bytes = path.stat().st_size
        self._zip = archive
        self._root = self._find_root()
        self._data_starts: dict[str, int] = {}

    def contents(self) -> FileContents:
        data = self._read_small("data.pkl")
        self._check_byte_order()
        found = load_restricted(self._path, data)
        if not isinstance(found, dict):
            raise UnknownFormat(path=str(self._path))
        tensors: dict[str, StoredTensor] = {}
        metadata: dict[str, str] = {}
        for name, value in found.items():
            if isinstance(value, PickledTensor):
                tensors[str(name)] = self._stored(str(name), value)
            elif isinstance(value, (str, int, float)):
                metadata[str(name)] = str(value)
        return FileContents("pth", tensors, metadata)

    def _find_root(self) -> str:
        """The folder inside the zip: the name the file had when it was saved, or ``archive``."""
        roots = [name[: -len("data.pkl")] for name in self._zip.namelist() if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise UnknownFormat(path=str(self._path))
        return roots[0]

    def _read_small(self, name: str) -> bytes:
        member = self._zip.getinfo(self._root + name)
        if member.file_size > MAX_PICKLE_BYTES:
            raise self._damaged(Phrase("its {name} has {found} bytes", name=name, found=member.file_size))
        self._data_start(member)
        return self._zip.read(member)

    def _check_byte_order(self) -> None:
        if self._root + "byteorder" in self._zip.namelist() and self._read_small("byteorder") != b"little":
            raise self._damaged("it was written by a big-endian machine")

    def _stored(self, name: str, tensor: PickledTensor) -> StoredTensor:
        item_bytes = ITEM_BYTES[tensor.storage.dtype]
        start = self._storage_start(name, tensor.storage.key, tensor.storage.numel * item_bytes)
        info = TensorInfo(name, tensor.shape, tensor.storage.dtype)
        return StoredTensor(info, start + tensor.offset * item_bytes, tensor.strides)

    def _storage_start(self, name: str, key: str, needed_bytes: int) -> int:
        try:
            member = self._zip.getinfo(f"{self._root}data/{key}")
        except KeyError:
            raise FileTruncated(
                path=str(self._path), reason=Phrase("the data of {name} are missing", name=name)
            ) from None
        if member.file_size < needed_bytes:
            told = {"name": name, "expected": needed_bytes, "found": member.file_size}
            raise FileTruncated(
                path=str(self._path), reason=Phrase("{name} needs {expected} bytes, {found} are there", **told)
            )
        return self._data_start(member)

    def _data_start(self, member: zipfile.ZipInfo) -> int:
        """Byte of the file at which a member's data begin; checks that they lie inside the file, uncompressed."""
        if member.filename in self._data_starts:
            return self._data_starts[member.filename]
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise self._damaged(Phrase("its member {name} is compressed, which torch never does", name=member.filename))
        self._file.seek(member.header_offset)
        header = self._file.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            reason = Phrase("the member {name} is not where it should be", name=member.filename)
            raise FileTruncated(path=str(self._path), reason=reason)
        _, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
        start: int = member.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
        if start + member.file_size > self._file_bytes:
            reason = Phrase("the member {name} ends beyond the file", name=member.filename)
            raise FileTruncated(path=str(self._path), reason=reason)
        self._data_starts[member.filename] = start
        return start

    def _damaged(self, reason: str) -> WeightsError:
        return WeightsError(path=str(self._path), reason=reason)


def refuse_bare_pickle(path: Path) -> NoReturn:
    """For a pickle that is not in a zip: UnsafePickle when it wants to run code, else LegacyPth or WeightsError."""
    with path.open("rb") as file:
        first = load_restricted(path, file.read(MAX_PICKLE_BYTES))
    if first != LEGACY_MAGIC:
        raise WeightsError(path=str(path), reason="it is a pickle without tensors")
    raise LegacyPth(path=str(path))
