"""A .pth as torch writes it since version 1.6: a zip of ``data.pkl`` and one uncompressed member per storage.

Read here without torch: the zip directory, the pickle and each member's local header, no tensor data.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from webapp.weights.zip_directory import ZipDirectory

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
