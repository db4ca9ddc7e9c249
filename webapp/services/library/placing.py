"""How a file comes into the library: its name, room on the disk, a look into it, and its place in one rename."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import threading
import unicodedata
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from webapp.errors import FileMissing, RoostError, WeightsError
from webapp.i18n import Text, system_reason
from webapp.manager.library import MODEL_ENDINGS, STATES
from webapp.weights.file_format import EXTENSIONS, FORMAT_NAMES
from webapp.weights.file_reader import FileReader
from webapp.weights.inspection import Inspection

LONGEST_BYTES = 200  # most file systems take 255; room for " (2)" and ".part"
FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\u200b-\u200f\u2028-\u202e\u2066-\u2069]')
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def safe_name(name: str, endings: tuple[str, ...] = MODEL_ENDINGS) -> str:
    """The last part of ``name``, without what some system does not allow in a file name.

    Raises ``file_name_unusable`` when nothing is left, or it does not end as one of ``endings``; a folder may end as it
    likes: ``("",)``.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    clean = FORBIDDEN.sub("_", last.encode("utf-8", "replace").decode()).strip(" .")
    clean = f"_{clean}" if RESERVED.fullmatch(clean) else clean
    ending = next((ending for ending in endings if clean.lower().endswith(ending)), None)
    stem = clean[: len(clean) - len(ending or "")].rstrip(" .")
    if ending is None or not stem.strip("_"):
        raise RoostError("file_name_unusable", name=name[:LONGEST_BYTES], endings=" ".join(endings))
    return _shortened(stem, LONGEST_BYTES - len(ending)) + clean[len(clean) - len(ending) :]


def _shortened(stem: str, limit_bytes: int) -> str:
    return stem.encode()[:limit_bytes].decode("utf-8", "ignore").rstrip(" .")


def whole_path(given: str) -> Path:
    """A path as a person types or pastes it, quotes and ``~`` allowed; raises ``library_error`` unless it begins at the
    root, because a browser does not know the folder Roost was started in."""
    try:
        path = Path(given.strip().strip("\"'")).expanduser()
    except RuntimeError as exc:  # ~ of nobody
        raise FileMissing(path=given) from exc
    if not path.is_absolute():
        raise RoostError("library_error", name=given, reason=Text("reason.services.path_not_absolute"))
    return path


RESERVE_BYTES = 64 << 20  # left for the database and the system
FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def size_text(size_bytes: float) -> str:
    """Such as "5.9 GB": thousands, as disks and download pages count; the same in every language."""
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 999.5:
            return f"{size_bytes:.3g} {unit}" if size_bytes < 100 else f"{size_bytes:.0f} {unit}"
    return f"{size_bytes / 1000:.3g} TB"


def free_bytes(folder: Path) -> int:
    """Free on the disk of ``folder``, which need not be there yet."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return shutil.disk_usage(place).free
    return 0


def check_free(folder: Path, needed_bytes: int) -> None:
    """Raises ``disk_full`` when writing that much would leave nothing."""
    free = max(free_bytes(folder) - RESERVE_BYTES, 0)
    if needed_bytes > free:
        raise RoostError("disk_full", free=size_text(free), needed=size_text(needed_bytes))


@contextlib.contextmanager
def writing(folder: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turns the system's refusals into ``disk_full``, ``folder_not_writable`` or ``library_error``."""
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
    """What a file, or a model's folder, that is to be called ``name`` holds; a WeightsError about ``name`` when it
    cannot be used."""
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
    """Where the file belongs: states have a folder of their own."""
    return models_dir / STATES / name if found.kind == "state" else models_dir / name


def check_name_free(path: Path) -> None:
    if os.path.lexists(path):
        raise RoostError("file_name_taken", name=path.name)


def take_place(part: Path, path: Path) -> None:
    """``part`` becomes ``path``, never in place of another file; both are on one disk."""
    with _placing, writing(path.parent):
        check_name_free(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.rename(part, path)


def write_all(file: FileIO, piece: bytes) -> None:
    """All of ``piece``: a raw file may take a part of it, and says at the next write that the disk is full."""
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]


def to_disk(part: Path) -> None:
    """Past the system's buffers, so that a file or folder never has its name before its bytes are safe."""
    for path in part.iterdir() if part.is_dir() else (part,):
        with writing(part.parent), path.open("rb+") as file:
            os.fsync(file.fileno())
