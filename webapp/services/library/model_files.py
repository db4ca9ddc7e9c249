"""Changes to the library's files: import, delete, restore, rename; never of a loaded model."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from webapp.errors import FileMissing, ModelNotFound, RoostError
from webapp.manager.manager import ModelManager
from webapp.services.jobs import Job, Jobs
from webapp.services.library import placing
from webapp.services.library.uploads import Uploads, start_import

HOLDS_A_MODEL = ("loading", "ready", "answering", "unloading")


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
        """As :func:`~webapp.services.library.uploads.start_import`."""
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
