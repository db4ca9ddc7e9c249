"""Packed weights of a model in their own file, which the next load maps: without reading and packing again, and shared
by processes that run the same model. Files of the native engine contain whole models, created with the option
``packed_file``; files of WebGPU contain the quantised matrices. (The fast files of ``roost convert`` are for the
``rwkv`` package.)

The name contains a digest of the model file (size, date and samples of its bytes: reading 3 GB takes longer than
packing saves), of the layout and of the packing code. A different digest is a different name, so an outdated file is
never mapped; files left by an update or a changed model are deleted when their replacement is written. A file is
written under another name and renamed, so no partial file is used. Users of the file check its content.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

from webapp.backends.native import building

SUFFIX, PART = ".packed", ".part"
PART_LIFE_S = 3600
"""Seconds without a change after which an incomplete file counts as left by a killed load."""
MAX_BYTES = 16 * 2**30
"""Limit for all files together; the least recently used are deleted."""
SPARE_BYTES = 2**30
"""Must stay free on the disk after a new file."""
SAMPLES, SAMPLE_BYTES = 64, 4096


class PackedFile(Struct, frozen=True):
    path: Path
    size_bytes: int


def folder() -> Path:
    return building.cache_folder() / "packed"


def all_files() -> list[PackedFile]:
    """Least recently used first."""
    return _named(SUFFIX)


def _named(suffix: str) -> list[PackedFile]:
    with contextlib.suppress(OSError):
        found = [(entry.stat(), Path(entry.path)) for entry in os.scandir(folder()) if entry.name.endswith(suffix)]
        return [PackedFile(path, stat.st_size) for stat, path in sorted(found, key=lambda row: row[0].st_mtime_ns)]
    return []


def clear() -> int:
    """Deletes all files, also those left by killed loads; returns the number of bytes. A running model keeps its mapped
    file."""
    return sum(each.size_bytes for each in (*all_files(), *_named(PART)) if _delete(each.path))


def place(model: Path, about: str, packer: str) -> Path:
    """The path of the packed file for this model file. ``about``: the layout; ``packer``: a digest or version of the
    packing code."""
    whose = _digest(str(model.resolve()), about)
    return folder() / f"{whose}-{_digest(_identity(model), packer, about, sys.byteorder)}{SUFFIX}"


def opened(path: Path) -> mmap.mmap | None:
    """Maps the file and marks it as used; None if there is none."""
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        os.utime(path)
    except (OSError, ValueError):
        return None
    if hasattr(mmap, "MADV_WILLNEED"):
        mapped.madvise(mmap.MADV_WILLNEED)
    return mapped


class Writer:
    """Writes a file of ``size`` bytes in any order. If the disk is full or not writable, :meth:`finish` returns False
    and nothing remains."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._file: Any = None
        self._name = Path()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _make_room(path, size)
            if shutil.disk_usage(path.parent).free >= size + SPARE_BYTES and size <= MAX_BYTES:
                number, name = tempfile.mkstemp(prefix=path.stem, suffix=PART, dir=path.parent)
                self._file, self._name = os.fdopen(number, "wb"), Path(name)
        except OSError:
            return

    def put(self, offset: int, data: Any) -> None:
        if self._file is None:
            return
        try:
            self._file.seek(offset)
            self._file.write(data)
        except OSError:
            self.abandon()

    def finish(self) -> bool:
        if self._file is None:
            return False
        try:
            self._file.truncate(self._size)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._name, self._path)
        except OSError:
            self.abandon()
            return False
        self._file = None
        return True

    def abandon(self) -> None:
        """May be called at any time."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()
            _delete(self._name)


def _make_room(path: Path, size: int) -> None:
    """Deletes older files of the same model and layout, files beyond the limit, and incomplete files."""
    for part in _named(PART):
        with contextlib.suppress(OSError):
            if time.time() - part.path.stat().st_mtime > PART_LIFE_S:
                part.path.unlink()
    whose = path.name.split("-")[0]
    kept = [each for each in all_files() if not (each.path.name.split("-")[0] == whose and _delete(each.path))]
    excess = sum(each.size_bytes for each in kept) + size - MAX_BYTES
    for each in kept:
        if excess > 0 and _delete(each.path):
            excess -= each.size_bytes


def _identity(model: Path) -> str:
    """Identity of a model file or folder: names, sizes, dates and samples of bytes."""
    digest = hashlib.blake2b(digest_size=16)
    files = sorted(each for each in model.iterdir() if each.is_file()) if model.is_dir() else [model]
    for each in files:
        stat = each.stat()
        digest.update(f"{each.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        with open(each, "rb") as file:
            for i in range(SAMPLES):
                file.seek(max(0, stat.st_size - SAMPLE_BYTES) * i // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


def _delete(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.unlink()
        return True
    return False
