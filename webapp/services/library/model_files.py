"""Changes to the library's files: uploads in slices, imports from the server's own disks, delete, restore, rename.

The server buffers every request body before Roost sees it, so a 10 GB model in one body would be written twice and
would fill the temporary folder. Slices of a few MiB avoid both and allow progress. An interrupted upload continues if
the same file is chosen again within a day. A folder that is one model is one upload: its files one after another, with
the names and sizes announced at the start. An import copies, links or moves a file, with progress and cancel.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from msgspec import Struct

from webapp.errors import FileMissing, ModelNotFound, RoostError, UploadMissing, WeightsError
from webapp.i18n import Text, size_text
from webapp.manager.library import MODEL_ENDINGS, ModelLibrary
from webapp.manager.manager import ModelManager
from webapp.services.jobs import DONE, Job, Jobs, Running
from webapp.services.library import placing
from webapp.weights.file_format import (
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    SMALLEST_FILE_BYTES,
    check_readable,
    is_model_folder,
    is_model_folder_at,
    sniff,
    stamp_of,
)
from webapp.weights.file_reader import FileReader

UPLOADS = ".uploads"
PIECE_BYTES = 1 << 16  # pieces of a megabyte left each server thread 5 MB of unused heap
KEPT_S = 86400.0
MAX_PARTS = 600
LOCKS = 64
SHOWN_CHARS = 200
ID = re.compile(r"[0-9a-f]{32}")
IMPORT = "import"
IMPORT_MODES = ("copy", "link", "move")
COPY_BYTES = 4 << 20
HOLDS_A_MODEL = ("loading", "ready", "answering", "unloading")
_NO_MODEL = ("unknown_format", "file_truncated")
Parts = tuple[tuple[str, int], ...]
"""Names and sizes in bytes of a folder's files; empty for an upload of one file."""


class Upload(Struct, frozen=True):
    """``done_bytes`` is also the offset of the next slice; ``touched_at``: Unix seconds."""

    id: str
    name: str
    size_bytes: int
    done_bytes: int
    touched_at: float
    parts: Parts = ()


class Uploads:
    """Uploads to ``models_dir``. Unfinished uploads are in a hidden folder there, and survive a restart."""

    def __init__(self, models_dir: Path, reader: FileReader | None = None) -> None:
        self.models_dir = models_dir
        self.folder = models_dir / UPLOADS
        self._reader = reader or FileReader()
        self._locks = tuple(threading.Lock() for _ in range(LOCKS))

    def start(self, name: str, size_bytes: int, stamp: str = "", parts: Parts = ()) -> Upload:
        """Starts an upload, or continues an unfinished one of the same file or folder (same name, size, ``parts`` and
        ``stamp``, its date).

        Raises ``file_name_unusable``, ``file_name_taken``, ``file_empty``, ``file_is_directory`` for a folder that is
        no model, ``disk_full``.
        """
        clean = placing.safe_name(name, ("",) if parts else MODEL_ENDINGS)
        check_parts(clean, parts)
        if parts:
            size_bytes = sum(size for _, size in parts)
        if size_bytes <= 0:
            raise WeightsError("file_empty", path=clean)
        placing.check_name_free(self.models_dir / clean)
        about = json.dumps({"name": clean, "size_bytes": size_bytes, "parts": parts}, ensure_ascii=False)
        upload_id = hashlib.sha256(f"{about}\n{stamp}".encode()).hexdigest()[:32]
        with self._locked(upload_id):
            there = [path.stat().st_size for path, _ in self._files(upload_id, parts, size_bytes) if path.is_file()]
            placing.check_free(self.models_dir, size_bytes - sum(there))
            with placing.writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._about(upload_id).write_text(about, encoding="utf-8")
                for path, _ in self._files(upload_id, parts, size_bytes):
                    path.parent.mkdir(exist_ok=True)
                    path.open("ab").close()
        return self.get(upload_id)

    def get(self, upload_id: str) -> Upload:
        """Raises UploadMissing for an unknown id."""
        try:
            if not ID.fullmatch(upload_id):
                raise ValueError(upload_id)
            about = json.loads(self._about(upload_id).read_text(encoding="utf-8"))
            size_bytes, parts = int(about["size_bytes"]), tuple((name, size) for name, size in about.get("parts", ()))
            found = [path.stat() for path, _ in self._files(upload_id, parts, size_bytes)]
            done, touched_at = sum(one.st_size for one in found), max(one.st_mtime for one in found)
            return Upload(upload_id, about["name"], size_bytes, done, touched_at, parts)
        except (OSError, ValueError, KeyError) as exc:
            raise UploadMissing(name=upload_id[:32]) from exc

    def write(self, upload_id: str, offset: int, slice_: IO[bytes]) -> Upload:
        """Adds a slice that begins at byte ``offset`` of the file; raises ``upload_offset`` unless that is the next
        byte.

        A file that does not begin like a model is refused after the first slice. That, and more bytes than announced,
        ends and removes the upload. If the disk is full, the data before the slice is kept.
        """
        with self._locked(upload_id):
            upload = self.get(upload_id)
            if offset != upload.done_bytes:
                raise RoostError("upload_offset", name=upload.name, expected=upload.done_bytes, found=offset)
            try:
                self._append(upload, slice_)
                self._check_beginning(upload_id, upload)
            except RoostError as exc:
                if exc.code in ("upload_refused", *_NO_MODEL):
                    self._remove(upload_id)
                raise
            return self.get(upload_id)

    def finish(self, upload_id: str) -> Path:
        """Moves the complete file or folder to its final place, if Roost can read it.

        Otherwise raises WeightsError and deletes it; ``file_name_taken`` keeps it.
        """
        with self._locked(upload_id):
            upload = self.get(upload_id)
            if upload.done_bytes != upload.size_bytes:
                raise RoostError("upload_offset", name=upload.name, expected=upload.done_bytes, found=upload.size_bytes)
            part = self._part(upload_id)
            try:
                path = self.models_dir / upload.name
                if PEFT_WEIGHTS in dict(upload.parts):
                    placing.look_into(self._reader, part / PEFT_WEIGHTS, f"{upload.name}/{PEFT_WEIGHTS}")
                else:
                    path = placing.home_of(
                        self.models_dir, upload.name, placing.look_into(self._reader, part, upload.name)
                    )
            except WeightsError:
                self._remove(upload_id)
                raise
            placing.to_disk(part)
            placing.take_place(part, path)
            self._remove(upload_id)
            return path

    def discard(self, upload_id: str) -> None:
        """Removes the upload. Does nothing if there is none."""
        if ID.fullmatch(upload_id):
            with self._locked(upload_id):
                self._remove(upload_id)

    def pending(self) -> tuple[Upload, ...]:
        """Unfinished uploads; those without a new slice for a day are removed."""
        found = []
        for part in sorted(self.folder.glob("*.part")) if self.folder.is_dir() else []:
            with contextlib.suppress(UploadMissing):
                upload = self.get(part.stem)
                if upload.touched_at < time.time() - KEPT_S:
                    self.discard(upload.id)
                else:
                    found.append(upload)
        return tuple(found)

    def _append(self, upload: Upload, slice_: IO[bytes]) -> None:
        done = upload.done_bytes
        files = self._files(upload.id, upload.parts, upload.size_bytes)
        with placing.writing(self.folder, upload.size_bytes - done):
            try:
                while piece := slice_.read(PIECE_BYTES):
                    if done + len(piece) > upload.size_bytes:
                        raise RoostError("upload_refused", name=upload.name, size=size_text(upload.size_bytes))
                    _write_at(files, done, piece)
                    done += len(piece)
            except OSError:
                with contextlib.suppress(OSError):
                    for path, begin, size in _placed(files):
                        os.truncate(path, min(max(upload.done_bytes - begin, 0), size))
                raise

    def _check_beginning(self, upload_id: str, before: Upload) -> None:
        """Not needed for a folder, whose file names were checked."""
        part = self._part(upload_id)
        if before.parts:
            return
        if before.done_bytes >= SMALLEST_FILE_BYTES or part.stat().st_size < SMALLEST_FILE_BYTES:
            return
        try:
            sniff(part)
        except WeightsError as exc:
            if exc.code in _NO_MODEL:
                raise exc.with_params(path=before.name) from exc
            raise

    def _remove(self, upload_id: str) -> None:
        part = self._part(upload_id)
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        for path in (part, self._about(upload_id)):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        with contextlib.suppress(OSError):  # remove the folder after its last file
            self.folder.rmdir()

    def _part(self, upload_id: str) -> Path:
        return self.folder / f"{upload_id}.part"

    def _files(self, upload_id: str, parts: Parts, size_bytes: int) -> list[tuple[Path, int]]:
        """The files for its bytes, in order, and the size of each."""
        part = self._part(upload_id)
        return [(part / name, size) for name, size in parts] or [(part, size_bytes)]

    def _about(self, upload_id: str) -> Path:
        return self.folder / f"{upload_id}.json"

    def _locked(self, upload_id: str) -> threading.Lock:
        """One lock may serve several uploads: requests may contain any id, and a lock per id would never be freed."""
        return self._locks[hash(upload_id) % LOCKS]


def check_parts(folder: str, parts: Parts) -> None:
    """The names are untrusted: each must be a valid file name directly in the folder, on every system. Raises
    ``file_name_unusable``; ``file_is_directory`` if the files are neither a model nor an adapter."""
    names = [name for name, _ in parts]
    for name, size in parts:
        if name.startswith(".") or name != placing.safe_name(name, ("",)) or size < 0:
            raise RoostError("file_name_unusable", name=name[:SHOWN_CHARS], endings="")
    if len({name.casefold() for name in names}) != len(names) or len(names) > MAX_PARTS:
        raise RoostError("file_name_unusable", name=folder, endings="")
    if parts and not (is_model_folder(names) or {PEFT_CONFIG, PEFT_WEIGHTS} <= set(names)):
        raise WeightsError("file_is_directory", path=folder)


def _placed(files: list[tuple[Path, int]]) -> Iterator[tuple[Path, int, int]]:
    """Each file, its offset in the concatenation of all, and its size."""
    begin = 0
    for path, size in files:
        yield path, begin, size
        begin += size


def _write_at(files: list[tuple[Path, int]], position: int, piece: bytes) -> None:
    """Writes ``piece`` at byte ``position`` of the concatenation."""
    for path, begin, size in _placed(files):
        first, last = max(position, begin), min(position + len(piece), begin + size)
        if first < last:
            # Unbuffered: a full disk is reported at the write, and closing the file cannot fail.
            with path.open("rb+", buffering=0) as file:
                file.seek(first - begin)
                placing.write_all(file, piece[first - position : last - position])


def start_import(library: ModelLibrary, jobs: Jobs, source_path: str, mode: str, on_done: Callable[[], None]) -> Job:
    """Inspects the file and starts the import. A link, or a move on the same disk, is complete when this returns.

    Errors in the file, its name or the free space are raised at once. ``on_done`` is called from the job's thread.
    """
    source = placing.whole_path(source_path)
    if mode not in IMPORT_MODES:
        raise FileMissing(path=source_path)
    is_folder = is_model_folder_at(source)
    if not is_folder:
        check_readable(source)
    source = Path(os.path.normpath(source))
    if library.folder_of(source) or library.folder_of(Path(os.path.realpath(source))):
        raise RoostError("library_error", name=source.name, reason=Text("reason.services.in_library_already"))
    name = placing.safe_name(source.name, ("",)) if is_folder else placing.safe_name(source.name)
    models_dir = library.folders[0].path
    path = placing.home_of(models_dir, name, placing.look_into(library.reader, source, name))
    placing.check_name_free(path)
    size_bytes = stamp_of(source)[1]
    details = {"name": name, "path": str(path), "mode": mode}
    if mode != "copy" and _at_once(_link if mode == "link" else _rename, source, path):
        return jobs.start(IMPORT, name, lambda running: None, details, total=size_bytes, status=DONE)
    placing.check_free(models_dir, size_bytes)

    def work(running: Running) -> None:
        part = models_dir / UPLOADS / f"{uuid.uuid4().hex}.copy"
        try:
            _copy(source, part, running)
            placing.to_disk(part)
            placing.take_place(part, path)
            if mode == "move":
                shutil.rmtree(source) if is_folder else source.unlink()
        finally:
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                part.parent.rmdir()
            on_done()

    return jobs.start(IMPORT, name, work, details, total=size_bytes, at_once=4)


def _at_once(action: Callable[[Path, Path], None], source: Path, path: Path) -> bool:
    """False if it is impossible across disks."""
    with placing.writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            action(source, path)
        except OSError as exc:
            if exc.errno == errno.EXDEV and action is not _link:
                return False
            raise
    return True


def _copy(source_path: Path, part: Path, running: Running) -> None:
    """For a folder: only its files, not those in its subfolders."""
    before = stamp_of(source_path)
    done = 0
    with placing.writing(part.parent, before[1]):
        part.parent.mkdir(parents=True, exist_ok=True)
        pairs = [(source_path, part)]
        if source_path.is_dir():
            part.mkdir()
            names = [path.name for path in source_path.iterdir() if path.is_file() and not path.name.startswith(".")]
            pairs = [(source_path / name, part / name) for name in sorted(names)]
        for one, other in pairs:
            with one.open("rb") as source, other.open("xb", buffering=0) as target:
                while piece := source.read(COPY_BYTES):
                    if running.stop_status:
                        raise InterruptedError
                    placing.write_all(target, piece)
                    done += len(piece)
                    running.report(done)
    if stamp_of(source_path) != before or done != before[1]:
        raise RoostError("file_outdated", name=source_path.name)
    if running.stop_status:
        raise InterruptedError


def _link(source: Path, path: Path) -> None:
    """A symbolic link; a hard link if only administrators may create symbolic ones (Windows)."""
    try:
        os.symlink(source, path, target_is_directory=source.is_dir())
    except OSError as exc:
        if isinstance(exc, FileExistsError):
            raise
        os.link(source, path)


def _rename(source: Path, path: Path) -> None:
    """Renames the file itself, even if ``source`` is a link to it."""
    os.rename(os.path.realpath(source), path)
    if source.is_symlink():
        source.unlink()


class ModelFiles:
    """``app.extensions["model_files"]``. Every method either succeeds or raises a RoostError and changes nothing."""

    def __init__(self, manager: ModelManager, jobs: Jobs | None = None) -> None:
        self._manager = manager
        self.jobs = jobs or Jobs()
        self.library = manager.library
        self.models_dir = self.library.folders[0].path
        self.uploads = Uploads(self.models_dir, reader=self.library.reader)
        self._trashes = {folder.path: placing.Trash(folder.path) for folder in self.library.folders}
        self._count_lock = threading.Lock()
        self._count = 0

    def revision(self) -> str:
        """Changes whenever the list of files looks different: a file has changed, or another model is loaded."""
        status = self._manager.status()
        return f"{self.library.revision()}-{status.phase}-{status.model}"

    def activity(self) -> int:
        """Changes whenever this class has changed a file."""
        return self._count

    def is_in_use(self, path: Path) -> bool:
        """True for a model that is loaded, loading or unloading."""
        status = self._manager.status()
        return status.phase in HOLDS_A_MODEL and os.path.normpath(status.model_path) == os.path.normpath(path)

    def delete(self, name: str) -> placing.Trashed:
        """Moves it to its folder's trash. Raises ModelNotFound, ``model_in_use``, ``model_kept``."""
        path = self._changeable(name)
        try:
            trashed = self._trash_of(path).put(path)
        except FileMissing as exc:
            raise ModelNotFound(name=name) from exc
        self._files_changed()
        return trashed

    def restore(self, item_id: str) -> str:
        """Returns the restored file's name. Raises ``trash_missing``, ``file_name_taken``."""
        for trash in self._trashes.values():
            if any(item.id == item_id for item in trash.list()):
                path = trash.restore(item_id)
                self._files_changed()
                return self.library.name_of(path)
        raise RoostError("trash_missing", name=item_id[:32])

    def trashed(self) -> tuple[placing.Trashed, ...]:
        """From all folders, last deleted first."""
        found = [item for trash in self._trashes.values() for item in trash.list()]
        return tuple(sorted(found, key=lambda item: -item.deleted_at))

    def empty_trash(self) -> int:
        """Deletes permanently; returns the number of bytes freed."""
        freed = sum(trash.empty() for trash in self._trashes.values() if trash.list())
        self._files_changed()
        return freed

    def rename(self, name: str, new_name: str) -> str:
        """Renames a file within its folder; returns the new name. Raises ``file_name_unusable``, ``file_name_taken``,
        and errors of :meth:`delete`."""
        path = self._changeable(name)
        clean = placing.safe_name(new_name, ("",) if path.is_dir() else (path.suffix.lower(),))
        if clean == path.name:
            return self.library.name_of(path)
        target = path.with_name(clean)
        if not (target.exists() and os.path.samefile(path, target)):  # the names differ only in case
            placing.take_place(path, target)
        else:
            os.rename(path, target)
        self._files_changed()
        return self.library.name_of(target)

    def start_import(self, source_path: str, mode: str) -> Job:
        """As :func:`~webapp.services.library.model_files.start_import`."""
        job = start_import(self.library, self.jobs, source_path, mode, self._files_changed)
        self.library.watch.look_again()
        return job

    def finish_upload(self, upload_id: str) -> str:
        """Returns the name of the uploaded model; for a state, its path in the models folder."""
        path = self.uploads.finish(upload_id)
        self._files_changed()
        return self.library.name_of(path)

    def _changeable(self, name: str) -> Path:
        if not name:
            raise ModelNotFound(name=name)
        path = self.library.find(name)
        if self.library.folder_of(path) is None or self.library.is_bundled(path):
            raise RoostError("model_kept", name=path.name)
        if self.is_in_use(path):
            raise RoostError("model_in_use", name=name)
        return path

    def _trash_of(self, path: Path) -> placing.Trash:
        folder = self.library.folder_of(path)
        assert folder is not None  # checked by _changeable
        return self._trashes[folder.path]

    def _files_changed(self) -> None:
        self.library.watch.look_again()
        with self._count_lock:
            self._count += 1
