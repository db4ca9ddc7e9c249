"""The folders models are looked for in: the models folder, and further ones whose files are named ``folder:file``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """Model files below ``folder``, but in hidden folders and ``states``.

    Links to folders are followed, each real folder is read once: a link that leads back up ends there. ``dates`` gets
    every folder that was read, with its date (see :func:`folder_date`) before it was.
    """
    seen: set[tuple[int, int]] = set()
    is_new_folder(folder, seen)
    if dates is not None:
        dates[folder] = folder_date(folder)
    for parent, subfolders, files in os.walk(folder, followlinks=True):
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
        if path.is_relative_to(os.path.normpath(folder.absolute())) and path.is_file():
            return path
        outside = Path(name).expanduser().absolute()
        return outside if allow_outside and outside.is_file() else None
    except (OSError, ValueError, RuntimeError):  # NUL bytes, names too long for the system, no home folder
        return None
