"""Deleted files that can come back: a hidden folder beside them, one folder a file in it.

Putting a file there is one rename on its own disk, however large it is; nothing is copied.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from webapp.errors import FileMissing, RoostError
from webapp.services.library.placing import writing
from webapp.weights.model_folder import stamp_of

TRASH = ".trash"
ABOUT = "about.json"
CONTENT = "content"
ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Trashed:
    """``name`` is where it was, relative to the trash's folder with forward slashes; ``deleted_at`` in Unix seconds."""

    id: str
    name: str
    size_bytes: int
    deleted_at: float


class Trash:
    """Of the files below ``folder``. Nothing is kept in memory, so two processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._trash = self.folder / TRASH

    def put(self, path: Path) -> Trashed:
        """Raises FileMissing when it is gone already: two requests may delete it at the same time, and the second gets
        this error."""
        name = path.relative_to(self.folder).as_posix()
        size = path.lstat().st_size if path.is_symlink() else _size(path)
        item = Trashed(uuid.uuid4().hex, name, size, time.time())
        place = self._trash / item.id
        with writing(self.folder):
            place.mkdir(parents=True)
            (place / ABOUT).write_text(json.dumps(vars(item), ensure_ascii=False), encoding="utf-8")
            try:
                os.rename(path, place / CONTENT)
            except OSError as exc:
                shutil.rmtree(place, ignore_errors=True)
                if isinstance(exc, FileNotFoundError):
                    raise FileMissing(path=name) from exc
                raise
        return item

    def list(self) -> tuple[Trashed, ...]:
        """The last deleted first. Damaged entries are left out, and removed when the trash is emptied."""
        found = [self._read(place) for place in self._trash.iterdir()] if self._trash.is_dir() else []
        return tuple(sorted((item for item in found if item), key=lambda item: -item.deleted_at))

    def restore(self, item_id: str) -> Path:
        """Back to where it was; ``trash_missing``, or ``file_name_taken`` when another file stands there now."""
        item = self._read(self._trash / item_id) if ID.fullmatch(item_id) else None
        if item is None:
            raise RoostError("trash_missing", name=item_id)
        path = self.folder / item.name
        if os.path.lexists(path):
            raise RoostError("file_name_taken", name=item.name)
        with writing(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.rename(self._trash / item_id / CONTENT, path)
            shutil.rmtree(self._trash / item_id, ignore_errors=True)
        return path

    def empty(self) -> int:
        """Deletes for good; the bytes that were in it."""
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
