"""What is in each state file, read once a change: sizes, norms, digest, and for which version it was made."""

from __future__ import annotations

import threading
from pathlib import Path

from webapp.errors import FileReadingFailed, RoostError, as_roost_error
from webapp.weights.file_reader import FileReader
from webapp.weights.state_sheet import StateSheet

Stamp = tuple[int, int]


class StateSheets:
    """Safe to use from any thread."""

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._seen: dict[Path, tuple[Stamp, StateSheet | RoostError]] = {}

    def sheet(self, path: Path) -> StateSheet | RoostError:
        """The error of a file that is no state, instead of raising it: others are listed all the same."""
        stamp = stamp_of(path)
        with self._lock:
            seen = self._seen.get(path)
        if seen is not None and seen[0] == stamp:
            return seen[1]
        try:
            found: StateSheet | RoostError = self._reader.state_sheet(path)
        except FileReadingFailed as exc:  # the reader remembers it, and when it may be tried again
            return exc
        except Exception as exc:  # whatever is wrong with one file
            found = as_roost_error(exc)
        with self._lock:
            self._seen[path] = (stamp, found)
        return found

    def forget_others(self, paths: set[Path]) -> None:
        with self._lock:
            for path in set(self._seen) - paths:
                del self._seen[path]


def stamp_of(path: Path) -> Stamp:
    try:
        found = path.stat()
        return found.st_mtime_ns, found.st_size
    except OSError:
        return 0, 0
