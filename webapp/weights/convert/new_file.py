"""A file that appears under its name whole or not at all.

It is written beside its target under a hidden name, forced to the disk and renamed. A program that is killed midway
leaves only the hidden one, which the next conversion into that folder removes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from webapp.errors import ConversionError

ENDING = ".converting"
SPARE_BYTES = 16 * 2**20  # headers, and a little left for everybody else


@contextlib.contextmanager
def new_file(target: Path, needed_bytes: int, overwrite: bool) -> Iterator[tuple[BinaryIO, Path]]:
    """The open file and its path for now. Leaving without an exception puts it in place; with one removes it."""
    remove_abandoned(target.parent)
    check_room(target, needed_bytes, overwrite)
    path = target.with_name(f".{target.name}.{secrets.token_hex(4)}{ENDING}")
    try:
        with path.open("xb+") as file:
            _hold(file)
            yield file, path
            file.flush()
            os.fsync(file.fileno())
        _put_in_place(path, target, overwrite)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def check_room(target: Path, needed_bytes: int, overwrite: bool) -> None:
    """``conversion_target_exists``, or ``conversion_no_space``."""
    check_target(target, overwrite)
    free = shutil.disk_usage(target.parent).free
    if needed_bytes + SPARE_BYTES > free:
        raise ConversionError(
            "conversion_no_space", path=target.name, needed=_gigabytes(needed_bytes), free=_gigabytes(free)
        )


def check_target(target: Path, overwrite: bool) -> None:
    """``conversion_target_exists``."""
    if target.exists() and not overwrite:
        raise ConversionError("conversion_target_exists", path=target.name)


def remove_abandoned(folder: Path) -> int:
    """Deletes what killed conversions left in ``folder``; those still running hold theirs. How many there were."""
    removed = 0
    for path in folder.glob(f".*{ENDING}"):
        if path.is_file() and not _is_held(path):
            with contextlib.suppress(OSError):  # Windows: open elsewhere; anywhere: not ours
                path.unlink()
                removed += 1
    return removed


def _put_in_place(path: Path, target: Path, overwrite: bool) -> None:
    check_target(target, overwrite)  # somebody may have made it while this one was written
    os.replace(path, target)
    with contextlib.suppress(OSError, AttributeError):  # Windows opens no folders
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _hold(file: BinaryIO) -> None:
    """A lock that goes with the process, however that ends. Windows needs none: an open file cannot be deleted."""
    with contextlib.suppress(ImportError, OSError):  # network disks without locks
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_held(path: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
