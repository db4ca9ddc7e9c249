"""The folders models are looked for in: what is in them, and a number that grows with every change.

Further folders' files are named ``folder:file``.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from webapp.weights.model_folder import is_model_folder, is_model_folder_at

MODEL_ENDINGS = (".pth", ".safetensors", ".st", ".bin", ".gguf")
STATES = "states"
SEPARATOR = ":"


@dataclass(frozen=True)
class ModelFolder:
    """``prefix`` stands before the names of its files; "" for the models folder itself."""

    path: Path
    prefix: str = ""

    def name_of(self, path: Path) -> str:
        """With forward slashes on every system; ValueError when ``path`` lies elsewhere."""
        relative = path.relative_to(self.path).as_posix()
        return f"{self.prefix}{SEPARATOR}{relative}" if self.prefix else relative


def model_folders(models_dir: Path, extra_dirs: Sequence[Path] = ()) -> tuple[ModelFolder, ...]:
    """The models folder first. A further folder is called by its own name, with a number where that is taken."""
    found = [ModelFolder(_plain(models_dir))]
    for folder in map(_plain, extra_dirs):
        if all(folder != other.path for other in found):
            found.append(ModelFolder(folder, _free_prefix(folder, {other.prefix for other in found})))
    return tuple(found)


def _plain(folder: Path) -> Path:
    """Absolute and without ``..``, as :func:`find_file` answers; links stay as they are."""
    return Path(os.path.abspath(folder))


def _free_prefix(folder: Path, taken: set[str]) -> str:
    name = folder.name.replace(SEPARATOR, "_") or "disk"
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(prefix for prefix in numbered if prefix not in taken)


def walk_models(folder: Path, dates: dict[Path, int] | None = None) -> Iterator[Path]:
    """Model files below ``folder``, but in hidden folders and ``states``. A folder that is one model (see
    :mod:`webapp.weights.model_folder`) is one of them, and nothing in it.

    Links to folders are followed, each real folder is read once: a link that leads back up ends there. ``dates`` gets
    every folder that was read, with its date (see :func:`folder_date`) before it was.
    """
    seen: set[tuple[int, int]] = set()
    is_new_folder(folder, seen)
    if dates is not None:
        dates[folder] = folder_date(folder)
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        if is_model_folder(files) and Path(parent) != folder:
            subfolders.clear()
            yield Path(parent)
            continue
        listed = sorted(sub for sub in subfolders if sub != STATES and not sub.startswith("."))
        subfolders[:] = [sub for sub in listed if is_new_folder(Path(parent, sub), seen)]
        if dates is not None:
            dates.update((Path(parent, sub), folder_date(Path(parent, sub))) for sub in subfolders)
        yield from (Path(parent, name) for name in files if is_model_name(name))


def folder_date(folder: Path) -> int:
    """Of the last change of the names in it, in nanoseconds; 0 for no folder."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def is_model_name(name: str) -> bool:
    return name.lower().endswith(MODEL_ENDINGS) and not name.startswith(".")


def is_new_folder(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Notes the folder in ``seen``; False the second time, by whatever link it is reached."""
    try:
        found = folder.stat()
    except OSError:
        return False
    is_new = (found.st_dev, found.st_ino) not in seen
    seen.add((found.st_dev, found.st_ino))
    return is_new


def find_file(folder: Path, name: str, allow_outside: bool = False) -> Path | None:
    """``name`` below ``folder``, or as it stands when that is allowed; links count as where they stand."""
    try:
        path = Path(os.path.normpath(folder.absolute() / name))
        if path.is_relative_to(os.path.normpath(folder.absolute())) and _is_model(path) and path != folder:
            return path
        outside = Path(name).expanduser().absolute()
        return outside if allow_outside and _is_model(outside) else None
    except (OSError, ValueError, RuntimeError):  # NUL bytes, names too long for the system, no home folder
        return None


def _is_model(path: Path) -> bool:
    return path.is_file() or is_model_folder_at(path)


PACE_S = 0.9
SETTLED_NS = 2_000_000_000
"""A folder changed less than two seconds before it was read may have changed once more within the tick of its date."""
WALK_PATIENCE_S = 10.0
Found = TypeVar("Found")
logger = logging.getLogger(__name__)


class FolderWatch:
    """``picture()`` is what the disk looks like now, cheap to make: names, sizes and dates.

    Any number of open pages ask; the disk is looked at once a ``pace_s`` for all of them together.
    """

    def __init__(self, picture: Callable[[], Hashable], pace_s: float = PACE_S) -> None:
        self._picture = picture
        self._pace_s = pace_s
        self._lock = threading.Lock()
        self._seen: Hashable = None
        self._looked_at = -1e9
        self._revision = 0
        self.news = 0
        """Grows with every :meth:`look_again`."""

    def revision(self) -> int:
        with self._lock:
            if time.monotonic() - self._looked_at >= self._pace_s:
                now = self._picture()
                self._revision += now != self._seen
                self._seen, self._looked_at = now, time.monotonic()
            return self._revision

    def look_again(self) -> None:
        """The next question looks at the disk at once: Roost itself has just changed something."""
        with self._lock:
            self._looked_at = -1e9
            self.news += 1

    def wait_change(self, revision: int, timeout_s: float) -> int:
        """The revision once it is another than ``revision``, or after the time."""
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while self.revision() == revision and time.monotonic() < deadline:
            pause.wait(min(self._pace_s, max(deadline - time.monotonic(), 0)))
        return self.revision()


class FolderIndex(Generic[Found]):
    """What the last walk through the folders found, for API requests, which must never walk themselves.

    ``walk()`` returns that and the date of each folder it read. It runs in a thread of its own, when a folder has
    another date than it had, or ``watch`` was told of news. Dates are compared once a ``pace_s`` at most.
    """

    def __init__(
        self, walk: Callable[[], tuple[Found, dict[Path, int]]], watch: FolderWatch, pace_s: float = PACE_S
    ) -> None:
        self._walk = walk
        self._watch = watch
        self._pace_s = pace_s
        self._changed = threading.Condition()
        self._found: Found | None = None
        self._dates: dict[Path, int] = {}
        self._walked_ns = 0
        self._news = -1
        self._compared_at = -1e9
        self._is_walking = False

    def get(self, is_enough: Callable[[Found], bool]) -> Found | None:
        """At once if nothing changed or the last one ``is_enough``, else after the walk. None when the first walk takes
        longer than ten seconds, or fails."""
        with self._changed:
            if not self._is_walking and self._is_outdated():
                self._is_walking = True
                threading.Thread(target=self._refresh, name="roost-library", daemon=True).start()
            if self._is_walking and (self._found is None or not is_enough(self._found)):
                self._changed.wait_for(lambda: not self._is_walking, WALK_PATIENCE_S)
            return self._found

    def _is_outdated(self) -> bool:
        if self._news != self._watch.news:
            return True
        now = time.monotonic()
        if now - self._compared_at < self._pace_s:
            return False
        self._compared_at = now
        return any(date != folder_date(path) or date > self._walked_ns for path, date in self._dates.items())

    def _refresh(self) -> None:
        news, walked_ns = self._watch.news, time.time_ns() - SETTLED_NS
        found: Found | None = None
        dates: dict[Path, int] = {}
        try:
            found, dates = self._walk()
        except Exception:
            logger.exception("the models folders could not be read")
        finally:
            with self._changed:
                if found is not None:
                    self._found, self._dates, self._walked_ns, self._news = found, dates, walked_ns, news
                self._is_walking = False
                self._changed.notify_all()
