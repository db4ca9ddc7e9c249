"""A .pth as torch writes it since version 1.6: a zip of ``data.pkl`` and one uncompressed member per storage.

Read here without torch: the zip directory, the pickle and each member's local header, no tensor data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights.pickle_reader import Inert, PickledTensor, read_pickle
from webapp.weights.tensor_info import (
    ITEM_BYTES,
    MOST_TENSORS,
    MOST_TIMES_STORED,
    FileContents,
    StoredTensor,
    TensorInfo,
    kept_metadata,
    name_problem,
)

MOST_MEMBERS = MOST_TENSORS + 100
MOST_DIRECTORY_BYTES = 16 << 20
STORED = 0
END = struct.Struct("<4s4H2IH")
END_64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR_64 = struct.Struct("<4sIQI")
ENTRY = struct.Struct("<4s6H3I5H2I")
LOCAL = struct.Struct("<4s22xHH")
LONGEST_COMMENT = 65535
FULL_32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Member:
    """``header`` is the byte of its local header; ``size`` that of its content, compressed or not."""

    name: str
    header: int
    size: int
    is_plain: bool


class ZipDirectory:
    """``members`` by name. ``file_truncated`` without a whole directory; WeightsError for one no program writes."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file = file
        self._file_bytes = file.seek(0, 2)
        self._starts: dict[str, int] = {}
        self.members = self._read_members()

    def data_start(self, member: Member) -> int:
        """The byte of the file at which a stored member's content begins; all of it lies inside the file."""
        if member.name in self._starts:
            return self._starts[member.name]
        if not member.is_plain:
            raise self._damaged(Text("reason.weights.member_is_compressed_which_torch_never", name=member.name))
        self._file.seek(member.header)
        header = self._file.read(LOCAL.size)
        if len(header) < LOCAL.size or not header.startswith(b"PK\x03\x04"):
            raise self._cut_off(Text("reason.weights.member_is_not_where_it_should", name=member.name))
        _, name_bytes, extra_bytes = LOCAL.unpack(header)
        start = member.header + LOCAL.size + int(name_bytes) + int(extra_bytes)
        if start + member.size > self._file_bytes:
            raise self._cut_off(Text("reason.weights.member_ends_beyond_the_file", name=member.name))
        self._starts[member.name] = start
        return start

    def read(self, member: Member, limit_bytes: int) -> bytes:
        """The content of a small member."""
        if member.size > limit_bytes:
            raise self._damaged(Text("reason.weights.member_has_bytes", name=member.name, found=member.size))
        self._file.seek(self.data_start(member))
        return self._file.read(member.size)

    def check_apart(self) -> None:
        """That no two of the members asked for so far share a byte, as no program writes them."""
        end, last = 0, ""
        for start, name in sorted((start, name) for name, start in self._starts.items()):
            if start < end:
                raise self._damaged(Text("reason.weights.members_and_overlap", name=last, other=name))
            end, last = start + self.members[name].size, name

    def _read_members(self) -> dict[str, Member]:
        count, size, offset = self._place()
        if count > MOST_MEMBERS or size > MOST_DIRECTORY_BYTES:
            raise self._damaged(Text("reason.weights.too_many_zip_entries", found=count))
        self._file.seek(offset)
        data = self._file.read(size)
        members: dict[str, Member] = {}
        position = 0
        for _ in range(count):
            if position + ENTRY.size > len(data) or data[position : position + 4] != b"PK\x01\x02":
                raise self._no_directory()
            member, position = self._member(data, position)
            if member.name in members:
                raise self._damaged(Text("reason.weights.two_members_named", name=member.name))
            members[member.name] = member
        return members

    def _place(self) -> tuple[int, int, int]:
        """``(entries, bytes, offset)`` of the directory, by the record at the end of the file."""
        begin = max(0, self._file_bytes - END.size - LONGEST_COMMENT)
        # Nearly every file ends with a record without a comment: read that first.
        for start in (max(0, self._file_bytes - END.size), begin):
            self._file.seek(start)
            tail = self._file.read(END.size + LONGEST_COMMENT)
            found = tail.rfind(b"PK\x05\x06")
            if 0 <= found <= len(tail) - END.size:
                _, _, _, _, count, size, offset, _ = END.unpack_from(tail, found)
                place = self._place_64(start + found) or (count, size, offset)
                if place[1] + place[2] > start + found:
                    raise self._no_directory()
                return place
        raise self._no_directory()

    def _place_64(self, end_record: int) -> tuple[int, int, int] | None:
        """Where the numbers are too large for the record itself; None without such a record."""
        if end_record < LOCATOR_64.size:
            return None
        self._file.seek(end_record - LOCATOR_64.size)
        signature, _, record, _ = LOCATOR_64.unpack(self._file.read(LOCATOR_64.size))
        if signature != b"PK\x06\x07":
            return None
        if record + END_64.size > end_record:
            raise self._no_directory()
        self._file.seek(record)
        fields = END_64.unpack(self._file.read(END_64.size))
        if fields[0] != b"PK\x06\x06":
            raise self._no_directory()
        return fields[7], fields[8], fields[9]

    def _member(self, data: bytes, position: int) -> tuple[Member, int]:
        fields = ENTRY.unpack_from(data, position)
        flags, method, packed, size, header = fields[3], fields[4], fields[8], fields[9], fields[16]
        name_bytes, extra_bytes, comment_bytes = fields[10:13]
        name_start = position + ENTRY.size
        extra_start = name_start + name_bytes
        after = extra_start + extra_bytes + comment_bytes
        try:
            name = data[name_start:extra_start].decode("utf-8" if flags & 0x800 else "cp437")
        except UnicodeDecodeError:
            raise self._no_directory() from None
        if FULL_32 in (packed, size, header):
            wide = _wide_fields(data[extra_start : extra_start + extra_bytes])
            # In this order, and only those that the entry itself has no room for.
            size, packed, header = (next(wide, 0) if value == FULL_32 else value for value in (size, packed, header))
        if after > len(data) or header >= self._file_bytes:
            raise self._no_directory()
        is_plain = method == STORED and not flags & 1 and packed == size
        return Member(name, header, size, is_plain), after

    def _cut_off(self, reason: Text | str) -> WeightsError:
        return WeightsError("file_truncated", path=str(self._path), reason=reason)

    def _no_directory(self) -> WeightsError:
        return self._cut_off(Text("reason.weights.no_zip_directory"))

    def _damaged(self, reason: Text | str) -> WeightsError:
        return WeightsError(path=str(self._path), reason=reason)


def _wide_fields(extra: bytes) -> Iterator[int]:
    """The 64-bit numbers of an entry's extra field 1."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        position += 4
        if kind == 1:
            body = extra[position : position + size]
            yield from struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8])
            return
        position += size


MAX_PICKLE_BYTES = 32 * 2**20  # a 7B model's is about 0.3 MB
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER, the first thing in an old file
REBUILDS = "torch._utils._rebuild_"


def read_pth(path: Path) -> FileContents:
    """Table of contents; raises ``file_truncated``, ``unsafe_pickle``, ``not_a_model``, ``unknown_format`` or
    WeightsError."""
    with path.open("rb", buffering=0) as file:  # 30 bytes of each member: a buffer would read 8 kB
        return _Archive(path, file).contents()


class _Archive:
    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file_bytes = path.stat().st_size
        self._zip = ZipDirectory(path, file)
        self._root = self._find_root()

    def contents(self) -> FileContents:
        data = self._read_small("data.pkl")
        self._check_byte_order()
        found = self._table(read_pickle(self._path, data)[0])
        tensors = {name: value for name, value in _tensors_of(found).items() if isinstance(value, PickledTensor)}
        if len(tensors) > MOST_TENSORS:
            raise self._damaged(Text("reason.weights.too_many_tensors", limit=MOST_TENSORS))
        stored = {name: self._stored(name, tensor) for name, tensor in tensors.items()}
        self._zip.check_apart()
        if sum(tensor.info.nbytes for tensor in stored.values()) > MOST_TIMES_STORED * self._file_bytes:
            raise self._damaged(Text("reason.weights.data_is_shared_too_often"))
        texts = ((name, value) for name, value in found.items() if isinstance(value, (str, int, float)))
        return FileContents("pth", stored, kept_metadata(texts))

    def _find_root(self) -> str:
        """The folder inside the zip: the name the file had when it was saved, or ``archive``."""
        roots = [name[: -len("data.pkl")] for name in self._zip.members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise WeightsError("unknown_format", path=str(self._path))
        return roots[0]

    def _read_small(self, name: str) -> bytes:
        return self._zip.read(self._zip.members[self._root + name], MAX_PICKLE_BYTES)

    def _check_byte_order(self) -> None:
        if self._root + "byteorder" in self._zip.members and self._read_small("byteorder") != b"little":
            raise self._damaged(Text("reason.weights.was_written_by_a_big_endian"))

    def _table(self, found: Any) -> Mapping[str, Any]:
        if isinstance(found, Inert):
            raise WeightsError(
                "not_a_model",
                path=str(self._path),
                found=Text("reason.weights.object_of_a_program", name=found.name),
                way_out=Text("reason.weights.save_its_weights_alone_torch_save"),
            )
        if type(found) is not dict:
            raise self._damaged(Text("reason.weights.holds_no_table_of_tensors_by"))
        for name, value in _tensors_of(found).items():
            if isinstance(value, Inert) and value.name.startswith(REBUILDS):
                told = {"name": name, "kind": value.name[len(REBUILDS) :]}
                raise self._damaged(Text("reason.weights.unknown_tensor_kind", **told))
        return found

    def _stored(self, name: str, tensor: PickledTensor) -> StoredTensor:
        problem = name_problem(name)
        if problem:
            raise self._damaged(problem)
        needed_bytes = tensor.storage.numel * ITEM_BYTES[tensor.storage.dtype]
        start = self._storage_start(name, tensor.storage.key, needed_bytes)
        info = TensorInfo(name, tensor.shape, tensor.dtype)
        offset = start + tensor.offset * ITEM_BYTES[tensor.dtype]
        return StoredTensor(info, offset, tensor.strides, start + needed_bytes)

    def _storage_start(self, name: str, key: str, needed_bytes: int) -> int:
        member = self._zip.members.get(f"{self._root}data/{key}")
        if member is None:
            raise WeightsError(
                "file_truncated", path=str(self._path), reason=Text("reason.weights.data_of_are_missing", name=name)
            )
        if member.size < needed_bytes:
            told = {"name": name, "expected": needed_bytes, "found": member.size}
            raise WeightsError(
                "file_truncated",
                path=str(self._path),
                reason=Text("reason.weights.data_is_cut_off", **told),
            )
        return self._zip.data_start(member)

    def _damaged(self, reason: Text | str) -> WeightsError:
        return WeightsError(path=str(self._path), reason=reason)


def _tensors_of(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table itself, or the one table in it that holds tensors (trainers call it ``state_dict`` or ``model``)."""
    if any(isinstance(value, PickledTensor) for value in found.values()):
        return found
    inner = [value for value in found.values() if type(value) is dict]
    inner = [table for table in inner if any(isinstance(value, PickledTensor) for value in table.values())]
    return inner[0] if len(inner) == 1 else found


def refuse_bare_pickle(path: Path) -> NoReturn:
    """For a pickle that is not in a zip: ``unsafe_pickle`` when it wants to run code, else ``legacy_pth`` or
    WeightsError."""
    with path.open("rb") as file:
        first, _ = read_pickle(path, file.read(MAX_PICKLE_BYTES))
    if first != LEGACY_MAGIC:
        raise WeightsError(path=str(path), reason=Text("reason.weights.pickle_without_tensors"))
    raise WeightsError("legacy_pth", path=str(path))
