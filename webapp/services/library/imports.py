"""Files brought in from elsewhere on the server's disks: copied, linked or moved, with progress and a way to stop."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from webapp.errors import FileMissing, FileOutdated, LibraryError
from webapp.manager.library import ModelLibrary
from webapp.services.jobs import DONE, Job, Jobs, Running
from webapp.services.library.arrivals import check_name_free, home_of, look_into, take_place, to_disk, write_all
from webapp.services.library.disk_space import check_free, writing
from webapp.services.library.file_names import safe_name, whole_path
from webapp.services.library.uploads import UPLOADS
from webapp.weights.file_format import check_readable

KIND = "import"
MODES = ("copy", "link", "move")
PIECE_BYTES = 4 << 20


def start_import(library: ModelLibrary, jobs: Jobs, source_path: str, mode: str, on_done: Callable[[], None]) -> Job:
    """Looks into the file and begins. A link, and a move within one disk, are done when this returns.

    What is wrong with the file, its name or the room for it is raised at once. ``on_done`` is called from the job's
    thread.
    """
    source = whole_path(source_path)
    if mode not in MODES:
        raise FileMissing(path=source_path)
    check_readable(source)
    source = Path(os.path.normpath(source))
    if library.folder_of(source) or library.folder_of(Path(os.path.realpath(source))):
        raise LibraryError(name=source.name, reason="it is in the library already")
    name = safe_name(source.name)
    models_dir = library.folders[0].path
    path = home_of(models_dir, name, look_into(library.reader, source, name))
    check_name_free(path)
    size_bytes = source.stat().st_size
    details = {"name": name, "path": str(path), "mode": mode}
    if mode != "copy" and _at_once(_link if mode == "link" else _rename, source, path):
        return jobs.start(KIND, name, lambda running: None, details, total=size_bytes, status=DONE)
    check_free(models_dir, size_bytes)

    def work(running: Running) -> None:
        part = models_dir / UPLOADS / f"{uuid.uuid4().hex}.copy"
        try:
            _copy(source, part, running)
            to_disk(part)
            take_place(part, path)
            if mode == "move":
                source.unlink()
        finally:
            part.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                part.parent.rmdir()
            on_done()

    return jobs.start(KIND, name, work, details, total=size_bytes, at_once=4)


def _at_once(action: Callable[[Path, Path], None], source: Path, path: Path) -> bool:
    """False when it cannot be done across disks."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            action(source, path)
        except OSError as exc:
            if exc.errno == errno.EXDEV and action is not _link:
                return False
            raise
    return True


def _copy(source_path: Path, part: Path, running: Running) -> None:
    before = _stamp(source_path)
    done = 0
    with writing(part.parent, before[1]):
        part.parent.mkdir(parents=True, exist_ok=True)
        with source_path.open("rb") as source, part.open("xb", buffering=0) as target:
            while piece := source.read(PIECE_BYTES):
                if running.wish:
                    raise InterruptedError
                write_all(target, piece)
                done += len(piece)
                running.report(done)
    if _stamp(source_path) != before or done != before[1]:
        raise FileOutdated(name=source_path.name)
    if running.wish:
        raise InterruptedError


def _link(source: Path, path: Path) -> None:
    """A symbolic link; where the system keeps those for administrators (Windows), a hard one."""
    try:
        os.symlink(source, path)
    except OSError as exc:
        if isinstance(exc, FileExistsError):
            raise
        os.link(source, path)


def _rename(source: Path, path: Path) -> None:
    """Of the file itself, should ``source`` be a link to it."""
    os.rename(os.path.realpath(source), path)
    if source.is_symlink():
        source.unlink()


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
