"""The library: the model files on disk, how a name finds a file, and what inspection found in it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct

from webapp.errors import FileMissing, FileReadingFailed, ModelNotFound, RoostError, as_roost_error
from webapp.i18n import Text
from webapp.resources import STARTER_MODEL, resource_dir
from webapp.weights import file_format
from webapp.weights.file_format import is_model_folder, is_model_folder_at
from webapp.weights.file_reader import FileReader
from webapp.weights.inspection import Inspection

STATE_ENDINGS = (".pth", ".safetensors", ".st", ".state", ".npy")
MODEL_ENDINGS = (".pth", ".safetensors", ".st", ".bin", ".gguf")
STATES = "states"
SEPARATOR = ":"


class ModelFolder(Struct, frozen=True):
    """``prefix`` comes before the names of its files; "" for the models folder itself."""

    path: Path
    prefix: str = ""

    def name_of(self, path: Path) -> str:
        """The name, with forward slashes on every system. Raises ValueError if ``path`` is in another folder."""
        relative = path.relative_to(self.path).as_posix()
        return f"{self.prefix}{SEPARATOR}{relative}" if self.prefix else relative


def model_folders(models_dir: Path, extra_dirs: Sequence[Path] = ()) -> tuple[ModelFolder, ...]:
    """The models folder first. A further folder is called by its own name, with a number if that name is in use."""
    found = [ModelFolder(_plain(models_dir))]
    for folder in map(_plain, extra_dirs):
        if all(folder != other.path for other in found):
            found.append(ModelFolder(folder, _free_prefix(folder, {other.prefix for other in found})))
    return tuple(found)


def _plain(folder: Path) -> Path:
    """Absolute and without ``..``, as in the results of :func:`find_file`; links are not resolved."""
    return Path(os.path.abspath(folder))


def _free_prefix(folder: Path, taken: set[str]) -> str:
    name = folder.name.replace(SEPARATOR, "_") or "disk"
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(prefix for prefix in numbered if prefix not in taken)


def walk_models(folder: Path, dates: dict[Path, int] | None = None) -> Iterator[Path]:
    """Model files below ``folder``, except in hidden folders and ``states``. A folder that is one model (see
    :mod:`webapp.weights.file_format`) is returned as one, not its files.

    Links to folders are followed, but each real folder is read once: a link to a parent ends there. ``dates`` receives
    every folder that was read, with its date (see :func:`folder_date`) before reading.
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
    """The time of the last change of names in the folder, in nanoseconds; 0 if there is no folder."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def is_model_name(name: str) -> bool:
    return name.lower().endswith(MODEL_ENDINGS) and not name.startswith(".")


def is_new_folder(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Adds the folder to ``seen``; False if it was there already, even through another link."""
    try:
        found = folder.stat()
    except OSError:
        return False
    is_new = (found.st_dev, found.st_ino) not in seen
    seen.add((found.st_dev, found.st_ino))
    return is_new


def find_file(folder: Path, name: str, allow_outside: bool = False) -> Path | None:
    """The file ``name`` below ``folder``, or anywhere if ``allow_outside``. Links count by their own location."""
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
"""A folder that changed less than two seconds before it was read may have changed again with the same timestamp."""
WALK_PATIENCE_S = 10.0
Walked = TypeVar("Walked")
logger = logging.getLogger(__name__)


class FolderWatch:
    """``picture()`` returns the current names, sizes and dates on disk; it must be cheap.

    Any number of open pages may ask; the disk is checked once per ``pace_s`` for all of them.
    """

    def __init__(self, picture: Callable[[], Hashable], pace_s: float = PACE_S) -> None:
        self._picture = picture
        self._pace_s = pace_s
        self._lock = threading.Lock()
        self._seen: Hashable = None
        self._looked_at = -1e9
        self._revision = 0
        self.news = 0
        """Increases with every :meth:`look_again`."""

    def revision(self) -> int:
        with self._lock:
            if time.monotonic() - self._looked_at >= self._pace_s:
                now = self._picture()
                self._revision += now != self._seen
                self._seen, self._looked_at = now, time.monotonic()
            return self._revision

    def look_again(self) -> None:
        """Makes the next call check the disk at once: Roost itself has just changed a file."""
        with self._lock:
            self._looked_at = -1e9
            self.news += 1

    def wait_change(self, revision: int, timeout_s: float) -> int:
        """The new revision once it differs from ``revision``, or the current one after the timeout."""
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while self.revision() == revision and time.monotonic() < deadline:
            pause.wait(min(self._pace_s, max(deadline - time.monotonic(), 0)))
        return self.revision()


class FolderIndex(Generic[Walked]):
    """The result of the last walk through the folders, for API requests, which must never walk through them themselves.

    ``walk()`` returns the result and the date of each folder that it read. It runs in its own thread when a folder's
    date has changed or ``watch`` has news. Dates are compared at most once per ``pace_s``.
    """

    def __init__(
        self, walk: Callable[[], tuple[Walked, dict[Path, int]]], watch: FolderWatch, pace_s: float = PACE_S
    ) -> None:
        self._walk = walk
        self._watch = watch
        self._pace_s = pace_s
        self._changed = threading.Condition()
        self._found: Walked | None = None
        self._dates: dict[Path, int] = {}
        self._walked_ns = 0
        self._news = -1
        self._compared_at = -1e9
        self._is_walking = False

    def get(self, is_enough: Callable[[Walked], bool]) -> Walked | None:
        """Returns at once if nothing changed or the last result ``is_enough``, otherwise after the walk. None if the
        first walk fails or takes longer than ten seconds."""
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
        found: Walked | None = None
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


class ModelFile(Struct, frozen=True):
    """A file, or a folder that is one model, known by name and not opened. ``name`` is relative, with forward slashes;
    ``folder:name`` in a further folder.

    ``stamp``: date in nanoseconds and size in bytes; zeros if they cannot be read.
    """

    name: str
    path: Path
    stamp: Stamp

    @property
    def size_bytes(self) -> int:
        return self.stamp[1]


class ModelEntry(Struct, frozen=True):
    """One inspected file. Exactly one of ``inspection`` and ``error`` is set."""

    name: str
    path: Path
    size_bytes: int
    inspection: Inspection | None = None
    error: RoostError | None = None


Files = list[ModelFile]  # inside the class `list` is the method
Entries = list[ModelEntry]


class ModelLibrary:
    """All models in ``models_dir`` and ``extra_dirs``, with subfolders, except ``states``.

    A file is inspected once after each change. ``bundled_dir`` contains the starter model that comes with Roost; its
    name is found there too. ``reader`` opens the files, in its own process. Safe to use from any thread.
    """

    def __init__(
        self,
        models_dir: Path,
        bundled_dir: Path | None = None,
        extra_dirs: Sequence[Path] = (),
        reader: FileReader | None = None,
    ) -> None:
        self.models_dir = Path(models_dir)
        self.folders = model_folders(self.models_dir, extra_dirs)
        self.bundled_dir = bundled_dir if bundled_dir is not None else resource_dir("models")
        self.reader = reader or FileReader()
        self.watch = FolderWatch(self._picture)
        self._index = FolderIndex(self._walk, self.watch)
        self._seen = SeenFiles()

    def list(self) -> Entries:
        """Sorted by name. An unreadable file is listed with its error."""
        return [self.look_into(file) for file in self.files()]

    def files(self) -> Files:
        """The same files with name, size and date only: none is opened."""
        return self._walk()[0]

    def known_files(self, is_enough: Callable[[Files], bool] = lambda files: False) -> Files:
        """The same files without a walk through the folders in the caller's thread: from the last walk, unless a folder
        changed since then and that result is not ``is_enough``. For API requests."""
        return self._index.get(is_enough) or []

    def _walk(self) -> tuple[Files, dict[Path, int]]:
        found: dict[Path, ModelFile] = {}
        dates: dict[Path, int] = {}
        for folder in self.folders:
            for path in walk_models(folder.path, dates):
                found.setdefault(path, ModelFile(_printable(folder.name_of(path)), path, stamp_of(path)))
        starter = self.bundled_dir / STARTER_MODEL
        if not any(path.name == STARTER_MODEL for path in found) and starter.is_file():
            found[starter] = ModelFile(STARTER_MODEL, starter, stamp_of(starter))
        self._forget_others(found)
        return sorted(found.values(), key=lambda file: file.name.lower()), dates

    def look_into(self, file: ModelFile) -> ModelEntry:
        """What the file contains; from memory if it has not changed since it was inspected."""
        found = self._look_into(file.path, file.stamp) if _is_text(file.path) else _unreadable_name(file)
        if isinstance(found, RoostError):
            return ModelEntry(file.name, file.path, file.size_bytes, error=found)
        return ModelEntry(file.name, file.path, file.size_bytes, inspection=found)

    def entry(self, name: str) -> ModelEntry:
        """The file with this name. Raises ModelNotFound."""
        return self.entry_at(self.find(name))

    def entry_at(self, path: Path) -> ModelEntry:
        """The file at this path, with its name in the library."""
        return self.look_into(ModelFile(self.name_of(path), path, stamp_of(path)))

    def find(self, name: str, allow_outside: bool = False) -> Path:
        """The file with this name; "" is the starter model. Raises ModelNotFound.

        Unless ``allow_outside``, a name that leads out of the folders (``..``, an absolute path) finds nothing; with
        it, a path is also tried as given. A name without its folder's prefix also finds a file in the further folders.
        """
        wanted = name or STARTER_MODEL
        path = self._find_inside(wanted)
        if path is None and wanted == STARTER_MODEL:
            path = find_file(self.bundled_dir, wanted)
        if path is None and allow_outside:
            path = find_file(self.models_dir, wanted, allow_outside=True)
        if path is None:
            raise ModelNotFound(name=wanted)
        return path

    def name_of(self, path: Path) -> str:
        """The name that finds ``path``; only the file name if it is in none of the folders."""
        folder = self.folder_of(path)
        return folder.name_of(path) if folder else path.name

    def folder_of(self, path: Path) -> ModelFolder | None:
        """The folder a file belongs to; None for the bundled model and for files elsewhere."""
        return next((folder for folder in self.folders if path.is_relative_to(folder.path)), None)

    def is_bundled(self, path: Path) -> bool:
        """True for the starter model that comes with this Roost and cannot be deleted."""
        return path.name == STARTER_MODEL and path.parent == self.bundled_dir

    def find_state(self, name: str, allow_outside: bool = False) -> Path:
        """A state file: a name in ``states``, or relative to the models folder. Raises ``state_not_found``."""
        path = find_file(self.models_dir / STATES, name) or find_file(self.models_dir, name, allow_outside)
        if path is None:
            raise FileMissing("state_not_found", path=name)
        return path

    def inspect(self, path: Path) -> Inspection:
        """What the file contains, cached until its size or date changes. Errors as in weights.inspect."""
        found = self._look_into(path, stamp_of(path))
        if isinstance(found, RoostError):
            raise found.with_params()  # a copy: raising the same one again would keep old stack frames
        return found

    def revision(self) -> int:
        """Increases with every change of a model or state file."""
        return self.watch.revision()

    def _find_inside(self, name: str) -> Path | None:
        for folder in self.folders:
            prefix, _, rest = name.partition(SEPARATOR)
            is_named = bool(folder.prefix) and prefix == folder.prefix
            path = find_file(folder.path, rest) if is_named else None
            path = path or find_file(folder.path, name)
            if path is not None:
                return path
        return None

    def _look_into(self, path: Path, stamp: Stamp) -> Inspection | RoostError:
        seen = self._seen.get(path, stamp)
        if seen is not None:
            return seen
        found: Inspection | RoostError
        try:
            found = self.reader.inspect(path)
        except FileReadingFailed as exc:  # the reader remembers it, and when it may be tried again
            return exc
        except Exception as exc:  # whatever is wrong with one file, the others are listed
            found = as_roost_error(exc)
        self._seen.put(path, stamp, found)
        return found

    def _forget_others(self, present: dict[Path, ModelFile]) -> None:
        """Forgets files that are gone, but keeps a model from outside the folders."""
        self._seen.forget(lambda path: path not in present and self.folder_of(path) is not None)

    def _picture(self) -> Hashable:
        states = self.models_dir / STATES
        names = sorted(states.rglob("*")) if states.is_dir() else []
        return tuple((str(file.path), file.stamp) for file in self.files()), tuple((str(p), stamp_of(p)) for p in names)


def _is_text(path: Path) -> bool:
    """False if the name is not valid UTF-8; no page or database could store it."""
    return _printable(str(path)) == str(path)


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _unreadable_name(file: ModelFile) -> RoostError:
    return RoostError("library_error", name=file.name, reason=Text("reason.manager.name_not_utf_8"))


def stamp_of(path: Path) -> Stamp:
    try:
        return file_format.stamp_of(path)
    except OSError:
        return 0, 0


Stamp = tuple[int, int]
"""Modification time in nanoseconds, and size in bytes."""
Found = Inspection | RoostError
MAX_TENSORS = 100_000
"""For all files together. A model has up to about two thousand, with 125 bytes each, as names and shapes are shared."""


class SeenFiles:
    """The files that were not used for the longest time are forgotten first. Safe to use from any thread."""

    def __init__(self, most_tensors: int = MAX_TENSORS) -> None:
        self._most_tensors = most_tensors
        self._tensors = 0
        self._seen: OrderedDict[Path, tuple[Stamp, Found]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, path: Path) -> bool:
        return path in self._seen

    def get(self, path: Path, stamp: Stamp) -> Found | None:
        """None if the file is unknown, has changed, or was forgotten."""
        with self._lock:
            seen = self._seen.get(path)
            if seen is None or seen[0] != stamp:
                return None
            self._seen.move_to_end(path)
            return seen[1]

    def put(self, path: Path, stamp: Stamp, found: Found) -> None:
        """The newest is always kept, however large it is."""
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
