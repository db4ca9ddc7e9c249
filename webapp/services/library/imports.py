"""Files brought in from elsewhere on the server's disks: copied, linked or moved, with progress and a way to stop."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from webapp.errors import FileMissing, FileOutdated, LibraryError, RoostError, as_roost_error
from webapp.manager.library import ModelLibrary
from webapp.services.library.arrivals import check_name_free, home_of, look_into, take_place, to_disk, write_all
from webapp.services.library.disk_space import check_free, writing
from webapp.services.library.file_names import safe_name, whole_path
from webapp.services.library.uploads import UPLOADS
from webapp.weights.file_format import check_readable

MODES = ("copy", "link", "move")
PIECE_BYTES = 4 << 20
KEPT_JOBS = 20
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportJob:
    """``phase``: running, done or failed; then ``error`` is a RoostError's dict. ``path`` is the new file."""

    id: str
    name: str
    source: Path
    path: Path
    mode: str
    total_bytes: int
    done_bytes: int = 0
    phase: str = "running"
    error: dict[str, Any] | None = None
    cancel: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)


class Imports:
    """Into the models folder of ``library``. ``on_change`` is called with every step, from the job's thread."""

    def __init__(self, library: ModelLibrary, on_change: Callable[[], None]) -> None:
        self._library = library
        self._on_change = on_change
        self._lock = threading.Lock()
        self._jobs: dict[str, ImportJob] = {}
        self._threads: list[threading.Thread] = []

    def start(self, source_path: str, mode: str) -> ImportJob:
        """Looks into the file and begins. A link, and a move within one disk, are done when this returns.

        What is wrong with the file, its name or the room for it is raised at once.
        """
        job = self._job(source_path, mode)
        self._put(job)
        if mode == "link":
            self._at_once(job, _link)
        elif mode == "move" and self._at_once(job, _rename):
            pass
        else:
            self._copy_in_background(job)
        return self._jobs[job.id]

    def jobs(self) -> tuple[ImportJob, ...]:
        """The newest first; those that ended stay for a while."""
        with self._lock:
            return tuple(reversed(self._jobs.values()))

    def cancel(self, job_id: str) -> None:
        """A running copy ends and leaves nothing; one that ended is no longer listed. Nothing happens without one."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None and job.phase != "running":
                del self._jobs[job_id]
        if job is not None:
            job.cancel.set()
            self._on_change()

    def wait(self, timeout_s: float | None = None) -> None:
        """Until the copies at hand have ended."""
        for thread in list(self._threads):
            thread.join(timeout_s)

    def close(self) -> None:
        for job in self.jobs():
            job.cancel.set()
        self.wait(5)

    def _job(self, source_path: str, mode: str) -> ImportJob:
        source = whole_path(source_path)
        if mode not in MODES:
            raise FileMissing(path=source_path)
        check_readable(source)
        source = Path(os.path.normpath(source))
        if self._library.folder_of(source) or self._library.folder_of(Path(os.path.realpath(source))):
            raise LibraryError(name=source.name, reason="it is in the library already")
        name = safe_name(source.name)
        path = home_of(self._library.folders[0].path, name, look_into(self._library.reader, source, name))
        check_name_free(path)
        return ImportJob(uuid.uuid4().hex, name, source, path, mode, source.stat().st_size)

    def _at_once(self, job: ImportJob, deed: Callable[[Path, Path], None]) -> bool:
        """False when the deed cannot be done across disks."""
        try:
            with writing(job.path.parent):
                job.path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    deed(job.source, job.path)
                except OSError as exc:
                    if exc.errno == errno.EXDEV:
                        return False
                    raise
        except RoostError:
            self._forget(job)
            raise
        self._put(replace(job, phase="done", done_bytes=job.total_bytes))
        return True

    def _copy_in_background(self, job: ImportJob) -> None:
        try:
            check_free(self._library.models_dir, job.total_bytes)
        except RoostError:
            self._forget(job)
            raise
        thread = threading.Thread(target=self._run, args=(job,), name="roost-import", daemon=True)
        self._threads = [*(other for other in self._threads if other.is_alive()), thread]
        thread.start()

    def _run(self, job: ImportJob) -> None:
        part = self._library.folders[0].path / UPLOADS / f"{job.id}.copy"
        try:
            is_whole = self._copy(job, part)
            if is_whole:
                to_disk(part)
                take_place(part, job.path)
                if job.mode == "move":
                    job.source.unlink()
                self._put(replace(job, phase="done", done_bytes=job.total_bytes))
            else:
                self._forget(job)
        except Exception as exc:
            if not isinstance(exc, (RoostError, OSError)):
                logger.exception("an import failed")
            self._put(replace(job, phase="failed", error=as_roost_error(exc).to_dict()))
        finally:
            part.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                part.parent.rmdir()
            self._on_change()

    def _copy(self, job: ImportJob, part: Path) -> bool:
        """False when it was cancelled."""
        before = _stamp(job.source)
        done = 0
        with writing(part.parent, job.total_bytes):
            part.parent.mkdir(parents=True, exist_ok=True)
            with job.source.open("rb") as source, part.open("xb", buffering=0) as target:
                while piece := source.read(PIECE_BYTES):
                    if job.cancel.is_set():
                        return False
                    write_all(target, piece)
                    done += len(piece)
                    self._put(replace(job, done_bytes=done))
        if _stamp(job.source) != before or done != before[1]:
            raise FileOutdated(name=job.name)
        return not job.cancel.is_set()

    def _put(self, job: ImportJob) -> None:
        with self._lock:
            self._jobs[job.id] = job
            ended = [other.id for other in self._jobs.values() if other.phase != "running"]
            for job_id in ended[:-KEPT_JOBS]:
                del self._jobs[job_id]
        self._on_change()

    def _forget(self, job: ImportJob) -> None:
        with self._lock:
            self._jobs.pop(job.id, None)


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
