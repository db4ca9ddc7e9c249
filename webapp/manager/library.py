"""The model files on disk, and how a name finds one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from webapp.errors import FileMissing, ModelNotFound, RoostError, as_roost_error, error_from_dict
from webapp.resources import STARTER_MODEL, resource_dir
from webapp.weights.inspection import Inspection, inspect

MODEL_ENDINGS = (".pth", ".safetensors", ".st", ".bin", ".gguf")
STATE_ENDINGS = (".pth", ".safetensors", ".st", ".state")
STATES = "states"

Stamp = tuple[int, int]


@dataclass(frozen=True)
class ModelEntry:
    """One file. Exactly one of ``inspection`` and ``error`` is set. ``name`` is relative, with forward slashes."""

    name: str
    path: Path
    size_bytes: int
    inspection: Inspection | None = None
    error: RoostError | None = None


Entries = list[ModelEntry]  # inside the class `list` is the method


class ModelLibrary:
    """Everything under ``models_dir``, subfolders too, but ``states``. What a file holds is read once a change.

    ``bundled_dir`` holds the starter model that came with Roost; it is found by name from there too.
    """

    def __init__(self, models_dir: Path, bundled_dir: Path | None = None) -> None:
        self.models_dir = Path(models_dir)
        self._bundled_dir = bundled_dir if bundled_dir is not None else resource_dir("models")
        self._lock = threading.Lock()
        self._seen: dict[Path, tuple[Stamp, Inspection | RoostError]] = {}

    def list(self) -> Entries:
        """Sorted by name. A file that cannot be read is listed with its error."""
        entries = [self._entry(path, path.relative_to(self.models_dir).as_posix()) for path in self._model_files()]
        if not any(entry.path.name == STARTER_MODEL for entry in entries):
            starter = self._bundled_dir / STARTER_MODEL
            entries += [self._entry(starter, STARTER_MODEL)] if starter.is_file() else []
        return sorted(entries, key=lambda entry: entry.name.lower())

    def find(self, name: str, allow_outside: bool = False) -> Path:
        """The file of a name relative to the folder; "" is the starter model. ModelNotFound otherwise.

        Unless ``allow_outside``, a name that leads out of the folder (``..``, an absolute path) finds nothing. With it,
        a path is also tried as given.
        """
        wanted = name or STARTER_MODEL
        path = find_file(self.models_dir, wanted, allow_outside)
        if path is None and wanted == STARTER_MODEL:
            path = find_file(self._bundled_dir, wanted)
        if path is None:
            raise ModelNotFound(name=wanted)
        return path

    def find_state(self, name: str, allow_outside: bool = False) -> Path:
        """A state's file: a name in ``states``, or one relative to the models folder. FileMissing otherwise."""
        path = find_file(self.models_dir / STATES, name) or find_file(self.models_dir, name, allow_outside)
        if path is None:
            raise FileMissing(path=name)
        return path

    def inspect(self, path: Path) -> Inspection:
        """What the file holds, remembered until its size or date changes. Errors as of weights.inspect."""
        found = self._look_into(path)
        if isinstance(found, RoostError):
            raise error_from_dict(found.to_dict())  # a new one: raised again it would keep every frame of the last time
        return found

    def _entry(self, path: Path, name: str) -> ModelEntry:
        found = self._look_into(path)
        size = _stamp(path)[1]
        if isinstance(found, RoostError):
            return ModelEntry(name, path, size, error=found)
        return ModelEntry(name, path, size, inspection=found)

    def _look_into(self, path: Path) -> Inspection | RoostError:
        stamp = _stamp(path)
        with self._lock:
            seen = self._seen.get(path)
        if seen is not None and seen[0] == stamp:
            return seen[1]
        found: Inspection | RoostError
        try:
            found = inspect(path)
        except Exception as exc:  # whatever is wrong with one file, the others are listed
            found = as_roost_error(exc)
        with self._lock:
            self._seen[path] = (stamp, found)
        return found

    def _model_files(self) -> Iterator[Path]:
        for folder, subfolders, files in os.walk(self.models_dir):
            subfolders[:] = sorted(sub for sub in subfolders if sub != STATES and not sub.startswith("."))
            yield from (Path(folder, name) for name in files if name.lower().endswith(MODEL_ENDINGS))


def find_file(folder: Path, name: str, allow_outside: bool = False) -> Path | None:
    """``name`` below ``folder``, or as it stands when that is allowed; links count as where they stand."""
    try:
        path = Path(os.path.normpath(folder.absolute() / name))
        if path.is_relative_to(os.path.normpath(folder.absolute())) and path.is_file():
            return path
        outside = Path(name).expanduser().absolute()
        return outside if allow_outside and outside.is_file() else None
    except (OSError, ValueError, RuntimeError):  # NUL bytes, names too long for the system, no home folder
        return None


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
        return found.st_mtime_ns, found.st_size
    except OSError:
        return 0, 0
