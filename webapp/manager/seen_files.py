"""What files were found to hold, remembered until they change, within bounds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from webapp.errors import RoostError
from webapp.weights.inspection import Inspection

Stamp = tuple[int, int]
"""Time of the last change in ns, and size in bytes."""
Found = Inspection | RoostError
MOST_TENSORS = 100_000
"""In all: a model has up to some two thousand, of 125 bytes each now that names and shapes are shared."""


class SeenFiles:
    """The files not asked about for longest are forgotten first. Safe to use from any thread."""

    def __init__(self, most_tensors: int = MOST_TENSORS) -> None:
        self._most_tensors = most_tensors
        self._tensors = 0
        self._seen: OrderedDict[Path, tuple[Stamp, Found]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, path: Path) -> bool:
        return path in self._seen

    def get(self, path: Path, stamp: Stamp) -> Found | None:
        """None for a file that was never seen, has changed since, or was forgotten."""
        with self._lock:
            seen = self._seen.get(path)
            if seen is None or seen[0] != stamp:
                return None
            self._seen.move_to_end(path)
            return seen[1]

    def put(self, path: Path, stamp: Stamp, found: Found) -> None:
        """The newest is kept, however large it is."""
        with self._lock:
            self._remove(path)
            self._seen[path] = (stamp, found)
            self._tensors += _weight(found)
            while self._tensors > self._most_tensors and len(self._seen) > 1:
                self._remove(next(iter(self._seen)))

    def forget(self, is_gone: Callable[[Path], bool]) -> None:
        with self._lock:
            for path in [path for path in self._seen if is_gone(path)]:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        seen = self._seen.pop(path, None)
        self._tensors -= _weight(seen[1]) if seen else 0


def _weight(found: Found) -> int:
    return len(found.tensors) if isinstance(found, Inspection) else 0
