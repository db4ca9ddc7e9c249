"""Remembers files that ended the reader process, so that neither a start nor a page opens them again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.i18n import Text, plain, text_from_plain
from webapp.weights.model_folder import is_model_folder_at, stamp_of

EDGE_BYTES = 1 << 16
MOST_RECORDS = 200


@dataclass(frozen=True)
class Mark:
    """Identifies a file and its version. ``digest``: of its first and last 64 KiB; for a folder only size and time."""

    size: int
    mtime_ns: int
    digest: str = ""


class FailedFiles:
    """``path``: a JSON file, created with the first record; None remembers within this process only. Thread-safe;
    another process may also write the file, and its records are seen at the next call."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._records: dict[Mark, Text] = {}
        self._passing: dict[Mark, Text] = {}
        self._read_at: tuple[int, int] | None = None

    def reason(self, path: Path) -> Text | None:
        """Why the file failed before; None if it did not, or has changed since."""
        with self._lock:
            self._refresh()
            known = {**self._passing, **self._records}
        if not known:
            return None
        found = _stat(path)
        if found is None or not any((mark.size, mark.mtime_ns) == found for mark in known):
            return None
        return known.get(_mark(path, found))

    def add(self, path: Path, reason: Text, is_kept: bool = True) -> None:
        """``is_kept``: also across restarts."""
        found = _stat(path)
        if found is None:
            return
        mark = _mark(path, found)
        with self._lock:
            self._refresh()
            (self._records if is_kept else self._passing)[mark] = reason
            for records in (self._records, self._passing):
                while len(records) > MOST_RECORDS:
                    del records[next(iter(records))]
            self._write()

    def forget(self, path: Path) -> None:
        """Called after a file was read successfully."""
        found = _stat(path)
        with self._lock:
            self._refresh()
            if found is None or not (self._records or self._passing):
                return
        mark = _mark(path, found)
        with self._lock:
            self._passing.pop(mark, None)
            if self._records.pop(mark, None) is not None:
                self._write()

    def _refresh(self) -> None:
        """Reads the file again if another process has written it."""
        if self._path is None:
            return
        written_at = _stat(self._path)
        if written_at == self._read_at:
            return
        self._read_at = written_at
        self._records = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            for record in json.loads(self._path.read_text(encoding="utf-8"))[:MOST_RECORDS]:
                mark = Mark(int(record["size"]), int(record["mtime_ns"]), str(record["digest"]))
                self._records[mark] = text_from_plain(record["reason"])

    def _write(self) -> None:
        """If the folder is not writable, only the memory across restarts is lost."""
        if self._path is None or not self._path.parent.is_dir():
            return
        records: list[dict[str, Any]] = [
            {**vars(mark), "reason": plain(reason)} for mark, reason in self._records.items()
        ]
        part = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}.part")
        with contextlib.suppress(OSError):
            part.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
            os.replace(part, self._path)
        part.unlink(missing_ok=True)
        self._read_at = _stat(self._path)


def _stat(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change of an ordinary file, or of a model's folder."""
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or is_model_folder_at(path)):
            return None
        changed, size = stamp_of(path)
    except (OSError, ValueError):
        return None
    return size, changed


def _mark(path: Path, found: tuple[int, int]) -> Mark:
    size, mtime_ns = found
    digest = hashlib.sha256()
    with contextlib.suppress(OSError), path.open("rb") as file:
        digest.update(file.read(EDGE_BYTES))
        file.seek(max(0, size - EDGE_BYTES))
        digest.update(file.read(EDGE_BYTES))
    return Mark(size, mtime_ns, digest.hexdigest())
