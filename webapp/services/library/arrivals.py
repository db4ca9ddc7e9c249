"""The last step of every file that comes in: it is looked into, and takes its place in one rename."""

from __future__ import annotations

import os
import threading
from io import FileIO
from pathlib import Path

from webapp.errors import FileNameTaken, WeightsError, WrongExtension, error_from_dict
from webapp.manager.library import STATES
from webapp.services.library.disk_space import writing
from webapp.weights.file_format import EXTENSIONS, FORMAT_NAMES
from webapp.weights.file_reader import FileReader
from webapp.weights.inspection import Inspection

_placing = threading.Lock()


def look_into(reader: FileReader, path: Path, name: str) -> Inspection:
    """What a file that is to be called ``name`` holds; a WeightsError about ``name`` when it cannot be used."""
    try:
        found = reader.inspect(path, any_name=True)
    except WeightsError as exc:
        told = exc.to_dict()
        raise error_from_dict({**told, "params": {**told["params"], "path": name}}) from exc
    allowed = EXTENSIONS[found.format]
    if Path(name).suffix.lower() not in allowed:
        raise WrongExtension(
            path=name, extension=Path(name).suffix, found=FORMAT_NAMES[found.format], expected=allowed[0]
        )
    return found


def home_of(models_dir: Path, name: str, found: Inspection) -> Path:
    """Where the file belongs: states have a folder of their own."""
    return models_dir / STATES / name if found.kind == "state" else models_dir / name


def check_name_free(path: Path) -> None:
    if os.path.lexists(path):
        raise FileNameTaken(name=path.name)


def take_place(part: Path, path: Path) -> None:
    """``part`` becomes ``path``, never in place of another file; both are on one disk."""
    with _placing, writing(path.parent):
        check_name_free(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.rename(part, path)


def write_all(file: FileIO, piece: bytes) -> None:
    """All of ``piece``: a raw file may take a part of it, and says at the next write that the disk is full."""
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]


def to_disk(part: Path) -> None:
    """Past the system's buffers, so that a file never has its name before its bytes are safe."""
    with writing(part.parent), part.open("rb+") as file:
        os.fsync(file.fileno())
