"""Packed weights of a model in a file of their own, which the next load maps: no reading, no packing, and processes
that run the same model share it. Those of the native engine are whole models, made where the option ``packed_file``
asks for them; those of WebGPU hold the quantised matrices. (The fast files of ``roost convert`` are for the ``rwkv``
package.)

The name says of which file and layout it is, and holds a digest of the model file (size, date and samples of its bytes:
reading 3 GB takes longer than packing saves), of the layout and of what packs. Another digest is another name, so
nothing old is ever mapped; what an update or a changed model leaves behind goes when its follower is written. It is
written under another name and renamed, so there is no half of one. Whoever maps one checks what is in it.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.backends.native import building

SUFFIX, PART = ".packed", ".part"
PART_LIFE_S = 3600
"""Without a change, after which one that is not whole was left by a load that was killed."""
MOST_BYTES = 16 * 2**30
"""Of all together; the ones longest unused make room."""
SPARE_BYTES = 2**30
"""What a new one leaves free on the disk."""
SAMPLES, SAMPLE_BYTES = 64, 4096


@dataclass(frozen=True)
class PackedFile:
    path: Path
    size_bytes: int


def folder() -> Path:
    return building.cache_folder() / "packed"


def all_files() -> list[PackedFile]:
    """The longest unused first."""
    return _named(SUFFIX)


def _named(suffix: str) -> list[PackedFile]:
    with contextlib.suppress(OSError):
        found = [(entry.stat(), Path(entry.path)) for entry in os.scandir(folder()) if entry.name.endswith(suffix)]
        return [PackedFile(path, stat.st_size) for stat, path in sorted(found, key=lambda row: row[0].st_mtime_ns)]
    return []


def clear() -> int:
    """Deletes all, and what a load that was killed left; returns how many bytes that were. A model that is running
    keeps what it has mapped."""
    return sum(each.size_bytes for each in (*all_files(), *_named(PART)) if _delete(each.path))


def place(model: Path, about: str, packer: str) -> Path:
    """Where the packed file of this model file is or would be. ``about``: the layout; ``packer``: a digest or version
    of what packs."""
    whose = _digest(str(model.resolve()), about)
    return folder() / f"{whose}-{_digest(_identity(model), packer, about, sys.byteorder)}{SUFFIX}"


def opened(path: Path) -> mmap.mmap | None:
    """Mapped, and noted as used; None where there is none."""
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
    """Writes one of ``size`` bytes in any order. Where the disk has no room or cannot be written, :meth:`finish` is
    False and nothing is left."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._file: Any = None
        self._name = Path()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _make_room(path, size)
            if shutil.disk_usage(path.parent).free >= size + SPARE_BYTES and size <= MOST_BYTES:
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
    """Deletes older ones of the same model file and layout, what is beyond the bound, and what was left unfinished."""
    for part in _named(PART):
        with contextlib.suppress(OSError):
            if time.time() - part.path.stat().st_mtime > PART_LIFE_S:
                part.path.unlink()
    whose = path.name.split("-")[0]
    kept = [each for each in all_files() if not (each.path.name.split("-")[0] == whose and _delete(each.path))]
    excess = sum(each.size_bytes for each in kept) + size - MOST_BYTES
    for each in kept:
        if excess > 0 and _delete(each.path):
            excess -= each.size_bytes


def _identity(model: Path) -> str:
    """Of a model file, or of a folder of them: names, sizes, dates and samples of their bytes."""
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
