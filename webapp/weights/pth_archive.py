"""A .pth file written by torch: since version 1.6 a zip of ``data.pkl`` and one uncompressed member per storage; before
that, pickles and storages one after another.

Read without torch: the directory, the pickles and each storage's header, but no tensor data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights.pickle_reader import read_pickle
from webapp.weights.tensor_info import (
    ITEM_BYTES,
    MAX_TENSORS,
    MAX_TIMES_STORED,
    FileContents,
    StoredTensor,
    TensorInfo,
    kept_metadata,
    name_problem,
)
from webapp.weights.torch_values import Inert, PickledTensor, Storage

MAX_MEMBERS = MAX_TENSORS + 100
MAX_DIRECTORY_BYTES = 16 << 20
STORED = 0
END = struct.Struct("<4s4H2IH")
END_64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR_64 = struct.Struct("<4sIQI")
ENTRY = struct.Struct("<4s6H3I5H2I")
LOCAL = struct.Struct("<4s22xHH")
LONGEST_COMMENT = 65535
FULL_32 = 0xFFFFFFFF


class Member(Struct, frozen=True):
    """``header``: position of its local header; ``size`` of its content, compressed or not."""

    name: str
    header: int
    size: int
    is_plain: bool


class ZipDirectory:
    """``members`` by name. Raises ``file_truncated`` if the directory is incomplete; WeightsError for one that no
    program writes."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file = file
        self._file_bytes = file.seek(0, 2)
        self._starts: dict[str, int] = {}
        self.members = self._read_members()

    def data_start(self, member: Member) -> int:
        """The position of a stored member's content, which is completely inside the file."""
        if member.name in self._starts:
            return self._starts[member.name]
        if not member.is_plain:
            raise self._damaged(Text("reason.weights.member_compressed", name=member.name))
        self._file.seek(member.header)
        header = self._file.read(LOCAL.size)
        if len(header) < LOCAL.size or not header.startswith(b"PK\x03\x04"):
            raise self._cut_off(Text("reason.weights.member_misplaced", name=member.name))
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

    def read_if_there(self, name: str, limit_bytes: int) -> bytes:
        return self.read(self.members[name], limit_bytes) if name in self.members else b""

    def check_apart(self) -> None:
        """Raises WeightsError if two of the members used so far overlap; no program writes them so."""
        end, last = 0, ""
        for start, name in sorted((start, name) for name, start in self._starts.items()):
            if start < end:
                raise self._damaged(Text("reason.weights.members_overlap", name=last, other=name))
            end, last = start + self.members[name].size, name

    def _read_members(self) -> dict[str, Member]:
        count, size, offset = self._place()
        if count > MAX_MEMBERS or size > MAX_DIRECTORY_BYTES:
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
        """``(entries, bytes, offset)`` of the directory, from the record at the end of the file."""
        begin = max(0, self._file_bytes - END.size - LONGEST_COMMENT)
        # Nearly every file ends with a record without a comment, so this is tried first.
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
        """For numbers too large for the record itself; None without such a record."""
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
            # In this order, and only those too large for the entry itself.
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
    """The 64-bit numbers in an entry's extra field 1."""
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
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER, at the start of an old file
MAX_INNER_TABLES = 50
"""A trainer's checkpoint has a few: the weights, the optimizer's state, the settings."""
REBUILDS = "torch._utils._rebuild_"


def read_pth(path: Path) -> FileContents:
    """Table of contents; raises ``file_truncated``, ``unsafe_pickle``, ``not_a_model``, ``unknown_format`` or
    WeightsError."""
    with path.open("rb", buffering=0) as file:  # only 30 bytes of each member are needed; a buffer would read 8 kB
        zipped = ZipDirectory(path, file)
        root = _find_root(path, zipped)
        if zipped.read_if_there(root + "byteorder", MAX_PICKLE_BYTES) not in (b"", b"little"):
            raise _damaged(path, Text("reason.weights.big_endian"))
        found = read_pickle(path, zipped.read(zipped.members[root + "data.pkl"], MAX_PICKLE_BYTES))[0]

        def start_of(name: str, storage: Storage) -> int:
            member = zipped.members.get(f"{root}data/{storage.key}")
            if member is None:
                raise _cut_off(path, Text("reason.weights.data_of_are_missing", name=name))
            if member.size < storage.nbytes:
                params = {"name": name, "expected": storage.nbytes, "found": member.size}
                raise _cut_off(path, Text("reason.weights.data_is_cut_off", **params))
            return zipped.data_start(member)

        contents = _contents(path, found, start_of)
        zipped.check_apart()
        return contents


def read_legacy_pth(path: Path) -> FileContents:
    """The format that torch wrote before version 1.6 and can still write: pickles of a magic number, a version, data
    about the machine, the content and the keys of its storages; then, for each storage, its number of elements and its
    bytes."""
    with path.open("rb") as file:
        data = file.read(MAX_PICKLE_BYTES)
        magic, position = read_pickle(path, data)
        if magic != LEGACY_MAGIC:
            raise _damaged(path, Text("reason.weights.pickle_without_tensors"))
        parts = []
        for _ in range(4):
            part, position = read_pickle(path, data, position)
            parts.append(part)
        _version, machine, found, keys = parts
        if type(machine) is dict and machine.get("little_endian") is False:
            raise _damaged(path, Text("reason.weights.big_endian"))
        if type(keys) is not list or len(keys) > MAX_TENSORS:
            raise _damaged(path, Text("reason.weights.no_tensor_table"))
        storages = {tensor.storage.key: tensor.storage for tensor in _tensors_of(found).values() if _is_tensor(tensor)}
        starts: dict[str, int] = {}
        for key in keys:
            file.seek(position)
            size = file.read(8)
            if len(size) < 8:
                raise _cut_off(path, Text("reason.weights.ends_in_the_middle"))
            count = int.from_bytes(size, "little")
            storage = storages.get(key) if type(key) is str else None
            if storage is None or count != storage.numel:
                # A storage without a tensor has an unknown size, so nothing after it can be found.
                raise _damaged(path, Text("reason.weights.no_tensor_table"))
            starts[key] = position + 8
            position += 8 + storage.nbytes
        if position > path.stat().st_size:
            raise _cut_off(path, Text("reason.weights.ends_in_the_middle"))

        def start_of(name: str, storage: Storage) -> int:
            if storage.key not in starts:
                raise _cut_off(path, Text("reason.weights.data_of_are_missing", name=name))
            return starts[storage.key]

        return replace(_contents(path, found, start_of), is_published_form=False)


def _contents(path: Path, found: Any, start_of: Callable[[str, Storage], int]) -> FileContents:
    """``start_of``: position of a storage in the file, given a tensor that uses it."""
    if isinstance(found, Inert):
        raise WeightsError(
            "not_a_model",
            path=str(path),
            found=Text("reason.weights.object_of_a_program", name=found.name),
            way_out=Text("reason.weights.save_weights_alone"),
        )
    table = _tensors_of(found)
    tensors = {name: value for name, value in table.items() if _is_tensor(value)}
    if type(found) is not dict and not tensors:
        raise _damaged(path, Text("reason.weights.no_tensor_table"))
    for name, value in table.items():
        if isinstance(value, Inert) and value.name.startswith(REBUILDS):
            params = {"name": name, "kind": value.name[len(REBUILDS) :]}
            raise _damaged(path, Text("reason.weights.unknown_tensor_kind", **params))
    if len(tensors) > MAX_TENSORS:
        raise _damaged(path, Text("reason.weights.too_many_tensors", limit=MAX_TENSORS))
    stored = {name: _stored(path, name, tensor, start_of) for name, tensor in tensors.items()}
    if sum(tensor.info.nbytes for tensor in stored.values()) > MAX_TIMES_STORED * path.stat().st_size:
        raise _damaged(path, Text("reason.weights.data_shared_too_often"))
    others = found.items() if type(found) is dict else ()
    texts = ((name, value) for name, value in others if isinstance(value, (str, int, float)))
    return FileContents("pth", stored, kept_metadata(texts), is_published_form=table is found)


def _stored(path: Path, name: str, tensor: PickledTensor, start_of: Callable[[str, Storage], int]) -> StoredTensor:
    problem = name_problem(name)
    if problem:
        raise _damaged(path, problem)
    start = start_of(name, tensor.storage)
    info = TensorInfo(name, tensor.shape, tensor.dtype)
    offset = start + tensor.offset * ITEM_BYTES[tensor.dtype]
    return StoredTensor(info, offset, tensor.strides, start + tensor.storage.nbytes)


def _find_root(path: Path, zipped: ZipDirectory) -> str:
    """The folder inside the zip: the file's name when it was saved, or ``archive``."""
    roots = [name[: -len("data.pkl")] for name in zipped.members if name.endswith("/data.pkl")]
    if len(roots) == 1:
        return roots[0]
    inside = next((name for name in zipped.members if name.lower().endswith(PACKED)), None)
    if inside is None:
        raise WeightsError("unknown_format", path=str(path))
    raise WeightsError(
        "not_a_model",
        path=str(path),
        found=Text("reason.weights.archived_model", name=inside),
        way_out=Text("reason.weights.unpack_it"),
    )


PACKED = (".pth", ".pt", ".safetensors", ".st", ".gguf", ".bin")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, PickledTensor)


def _tensors_of(found: Any) -> Mapping[str, Any]:
    """The table itself; or the only table or list in it with tensors (trainers name it ``state_dict`` or ``model``, and
    ``state``); or a list of tensors, with the names of states."""
    if type(found) in (list, tuple):
        return _states_of(found)
    if type(found) is not dict or any(map(_is_tensor, found.values())):
        return found if type(found) is dict else {}
    tables = [value for value in found.values() if type(value) in (dict, list, tuple)]
    if len(tables) > MAX_INNER_TABLES:  # a file can contain the same long one a hundred thousand times
        return found
    inner = [table for table in tables if type(table) is dict and any(map(_is_tensor, table.values()))]
    inner = inner or [named for named in map(_states_of, tables) if named]
    return inner[0] if len(inner) == 1 else found


def _states_of(found: Any) -> dict[str, Any]:
    """One tensor per layer is ``time_state``. Three per layer are the rwkv package's running state of RWKV-5 to 7: the
    attention's last input, its matrices, and the channel mix's last input. Empty for other numbers."""
    if type(found) not in (list, tuple) or not found or not all(map(_is_tensor, found)):
        return {}
    if all(len(tensor.shape) >= 3 for tensor in found):
        return {f"blocks.{layer}.att.time_state": tensor for layer, tensor in enumerate(found)}
    if len(found) % 3 or any(len(tensor.shape) != (3 if place % 3 == 1 else 1) for place, tensor in enumerate(found)):
        return {}
    names = ("att.x_prev", "att.time_state", "ffn.x_prev")
    return {f"blocks.{place // 3}.{names[place % 3]}": tensor for place, tensor in enumerate(found)}


def _cut_off(path: Path, reason: Text | str) -> WeightsError:
    return WeightsError("file_truncated", path=str(path), reason=reason)


def _damaged(path: Path, reason: Text | str) -> WeightsError:
    return WeightsError(path=str(path), reason=reason)
