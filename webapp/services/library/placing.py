"""How files enter and leave the library: names, free disk space, inspection, the final rename, and the trash next to
the files.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import threading
import time
import unicodedata
import uuid
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from webapp.errors import FileMissing, RoostError, WeightsError
from webapp.i18n import Text, size_text, system_reason
from webapp.manager.library import MODEL_ENDINGS, STATES
from webapp.weights.file_format import EXTENSIONS, FORMAT_NAMES, stamp_of
from webapp.weights.file_reader import FileReader
from webapp.weights.inspection import Inspection

LONGEST_BYTES = 200  # most file systems take 255; room for " (2)" and ".part"
FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\u200b-\u200f\u2028-\u202e\u2066-\u2069]')
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def safe_name(name: str, endings: tuple[str, ...] = MODEL_ENDINGS) -> str:
    """The last part of ``name``, without characters that some system does not allow in file names.

    Raises ``file_name_unusable`` if nothing is left or the name has none of these ``endings``; ``("",)`` allows any,
    for folders.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    clean = FORBIDDEN.sub("_", last.encode("utf-8", "replace").decode()).strip(" .")
    clean = f"_{clean}" if RESERVED.fullmatch(clean) else clean
    ending = next((ending for ending in endings if clean.lower().endswith(ending)), None)
    stem = clean[: len(clean) - len(ending or "")].rstrip(" .")
    if ending is None or not stem.strip("_"):
        raise RoostError("file_name_unusable", name=name[:LONGEST_BYTES], endings=" ".join(endings))
    shortened = stem.encode()[: LONGEST_BYTES - len(ending)].decode("utf-8", "ignore").rstrip(" .")
    return shortened + clean[len(clean) - len(ending) :]


def whole_path(given: str) -> Path:
    """A path that a person typed or pasted; quotes and ``~`` are allowed. Raises ``library_error`` unless it is
    absolute, because a browser does not know the folder in which Roost was started."""
    try:
        path = Path(given.strip().strip("\"'")).expanduser()
    except RuntimeError as exc:  # ~ of an unknown user
        raise FileMissing(path=given) from exc
    if not path.is_absolute():
        raise RoostError("library_error", name=given, reason=Text("reason.services.path_not_absolute"))
    return path


RESERVE_BYTES = 64 << 20  # left for the database and the system
FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of ``folder``, which need not exist yet; 0 if unknown."""
    for place in (folder, *folder.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return 0


def check_free(folder: Path, needed_bytes: int) -> None:
    """Raises ``disk_full`` if there would be no space left after writing that much."""
    free = max(free_bytes(folder) - RESERVE_BYTES, 0)
    if needed_bytes > free:
        raise RoostError("disk_full", free=size_text(free), needed=size_text(needed_bytes))


@contextlib.contextmanager
def writing(folder: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Converts errors of the system to ``disk_full``, ``folder_not_writable`` or ``library_error``."""
    try:
        yield
    except OSError as exc:
        reason = system_reason(exc)
        if exc.errno in FULL:
            raise RoostError("disk_full", free=size_text(free_bytes(folder)), needed=size_text(needed_bytes)) from exc
        if exc.errno in REFUSED:
            raise RoostError("folder_not_writable", folder=str(folder), reason=reason) from exc
        if exc.errno == errno.EXDEV:
            reason = Text("reason.services.on_another_disk")
        raise RoostError("library_error", name=os.path.basename(str(exc.filename or folder)), reason=reason) from exc


_placing = threading.Lock()


def look_into(reader: FileReader, path: Path, name: str) -> Inspection:
    """Inspects a file or model folder that is going to be named ``name``. Raises a WeightsError about ``name`` if it is
    unusable."""
    try:
        found = reader.inspect(path, any_name=True)
    except WeightsError as exc:
        raise exc.with_params(path=name) from exc
    allowed = EXTENSIONS[found.format]
    if Path(name).suffix.lower() not in allowed and not path.is_dir():
        raise WeightsError(
            "wrong_extension",
            path=name,
            extension=Path(name).suffix,
            found=FORMAT_NAMES[found.format],
            expected=allowed[0],
        )
    return found


def home_of(models_dir: Path, name: str, found: Inspection) -> Path:
    """The folder for the file: states have their own."""
    return models_dir / STATES / name if found.kind == "state" else models_dir / name


def check_name_free(path: Path) -> None:
    if os.path.lexists(path):
        raise RoostError("file_name_taken", name=path.name)


def take_place(part: Path, path: Path) -> None:
    """Renames ``part`` to ``path``, but never replaces a file; both are on the same disk."""
    with _placing, writing(path.parent):
        check_name_free(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.rename(part, path)


def replace_file(path: Path, content: bytes) -> None:
    """Writes a small file completely or not at all, readable only by its owner; errors as in :func:`writing`."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def write_all(file: FileIO, piece: bytes) -> None:
    """Writes all of ``piece``: a raw file may write only a part, and reports a full disk at the next write."""
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]


def to_disk(part: Path) -> None:
    """Flushes to disk, so that a file or folder never gets its name before its bytes are safe."""
    for path in part.iterdir() if part.is_dir() else (part,):
        with writing(part.parent), path.open("rb+") as file:
            os.fsync(file.fileno())


TRASH = ".trash"
ABOUT = "about.json"
CONTENT = "content"
ID = re.compile(r"[0-9a-f]{32}")


class Trashed(Struct, frozen=True):
    """``name``: its old path relative to the trash's folder, with forward slashes; ``deleted_at``: Unix seconds."""

    id: str
    name: str
    size_bytes: int
    deleted_at: float


class Trash:
    """Deleted files from below ``folder`` that can be restored. Deleting is one rename on the same disk, for any size;
    nothing is copied. No state is kept in memory, so two processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._trash = self.folder / TRASH

    def put(self, path: Path) -> Trashed:
        """Raises FileMissing if it is gone already: two requests may delete it at the same time, and the second gets
        this error."""
        name = path.relative_to(self.folder).as_posix()
        size = path.lstat().st_size if path.is_symlink() else _size(path)
        item = Trashed(uuid.uuid4().hex, name, size, time.time())
        place = self._trash / item.id
        with writing(self.folder):
            place.mkdir(parents=True)
            (place / ABOUT).write_text(json.dumps(asdict(item), ensure_ascii=False), encoding="utf-8")
            try:
                os.rename(path, place / CONTENT)
            except OSError as exc:
                shutil.rmtree(place, ignore_errors=True)
                if isinstance(exc, FileNotFoundError):
                    raise FileMissing(path=name) from exc
                raise
        return item

    def list(self) -> tuple[Trashed, ...]:
        """Last deleted first. Damaged entries are skipped, and removed when the trash is emptied."""
        found = [self._read(place) for place in self._trash.iterdir()] if self._trash.is_dir() else []
        return tuple(sorted((item for item in found if item), key=lambda item: -item.deleted_at))

    def restore(self, item_id: str) -> Path:
        """Moves it back; raises ``trash_missing``, or ``file_name_taken`` if another file has its name now."""
        item = self._read(self._trash / item_id) if ID.fullmatch(item_id) else None
        if item is None:
            raise RoostError("trash_missing", name=item_id)
        path = self.folder / item.name
        take_place(self._trash / item_id / CONTENT, path)
        shutil.rmtree(self._trash / item_id, ignore_errors=True)
        return path

    def empty(self) -> int:
        """Deletes permanently; returns the number of bytes."""
        freed = sum(item.size_bytes for item in self.list())
        with writing(self.folder), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._trash)
        return freed

    def _read(self, place: Path) -> Trashed | None:
        try:
            about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
            item = Trashed(place.name, str(about["name"]), int(about["size_bytes"]), float(about["deleted_at"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        is_inside = Path(os.path.normpath(self.folder / item.name)).is_relative_to(self.folder)
        return item if is_inside and os.path.lexists(place / CONTENT) else None


def _size(path: Path) -> int:
    try:
        return stamp_of(path)[1]
    except OSError as exc:
        raise FileMissing(path=path.name) from exc
