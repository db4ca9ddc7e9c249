"""The packed weights of a model in a file of their own, which the next load maps: no reading, no packing, and processes
that run the same model share it.

It is made only where the option ``packed_file`` asks for it: it takes as much of the disk as the packed weights take of
memory. (The fast files of ``roost convert`` are the ``rwkv`` package's.) Its name says of which file and layout it
is, and holds a digest of the model file (size, date and samples of its bytes: reading 3 GB takes longer than packing
saves), of the layout and of the library's sources. Another digest is another name, so nothing old is ever mapped; what
an update or a changed model leaves behind goes when its follower is written. It is written under another name and
renamed, so there is no half of one; the library checks every number of the directory (``Engine::adopt``). Instruction
sets share it: packed weights are the same for all.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.backends.native import building

if TYPE_CHECKING:
    from webapp.backends.native.model import Layout

SUFFIX = ".packed"
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
    with contextlib.suppress(OSError):
        found = [(entry.stat(), Path(entry.path)) for entry in os.scandir(folder()) if entry.name.endswith(SUFFIX)]
        return [PackedFile(path, stat.st_size) for stat, path in sorted(found, key=lambda row: row[0].st_mtime_ns)]
    return []


def clear() -> int:
    """Deletes all; returns how many bytes that were. A model that is running keeps what it has mapped."""
    return sum(each.size_bytes for each in all_files() if _delete(each.path))


def place(model: Path, layout: Layout) -> Path:
    """Where the packed file of this model file and layout is or would be."""
    about = repr((layout.format, layout.head, layout.lora, layout.embedding_q8, bool(layout.calibration)))
    whose = _digest(str(model.resolve()), about)
    return folder() / f"{whose}-{_digest(_identity(model), building.source_digest(), about, sys.byteorder)}{SUFFIX}"


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


def write(path: Path, directory: bytes, parts: list[tuple[int, int, int]], size: int) -> bool:
    """``parts``: address, length and offset. False where the disk has no room for it or cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_room(path, size)
        if shutil.disk_usage(path.parent).free < size + SPARE_BYTES or size > MOST_BYTES:
            return False
        number, name = tempfile.mkstemp(prefix=path.stem, suffix=".part", dir=path.parent)
    except OSError:
        return False
    try:
        with open(number, "wb") as file:
            file.write(directory)
            for address, length, offset in parts:
                file.seek(offset)
                file.write((ctypes.c_char * length).from_address(address) if length else b"")
            file.truncate(size)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        _delete(Path(name))
        return False
    return True


def _make_room(path: Path, size: int) -> None:
    """Deletes older ones of the same model file and layout, and what is beyond the bound."""
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
