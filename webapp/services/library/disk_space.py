"""Room on a disk, asked for before writing, and what the system says while writing in Roost's own words."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from webapp.errors import DiskFull, FolderNotWritable, LibraryError

RESERVE_BYTES = 64 << 20  # left for the database and the system
FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def size_text(size_bytes: float) -> str:
    """Such as "5.9 GB": thousands, as disks and download pages count; the same in every language."""
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 999.5:
            return f"{size_bytes:.3g} {unit}" if size_bytes < 100 else f"{size_bytes:.0f} {unit}"
    return f"{size_bytes / 1000:.3g} TB"


def free_bytes(folder: Path) -> int:
    """Free on the disk of ``folder``, which need not be there yet."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return shutil.disk_usage(place).free
    return 0


def check_free(folder: Path, needed_bytes: int) -> None:
    """DiskFull when writing that much would leave nothing."""
    free = max(free_bytes(folder) - RESERVE_BYTES, 0)
    if needed_bytes > free:
        raise DiskFull(free=size_text(free), needed=size_text(needed_bytes))


@contextlib.contextmanager
def writing(folder: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turns the system's refusals into DiskFull, FolderNotWritable or LibraryError."""
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or str(exc)
        if exc.errno in FULL:
            raise DiskFull(free=size_text(free_bytes(folder)), needed=size_text(needed_bytes)) from exc
        if exc.errno in REFUSED:
            raise FolderNotWritable(folder=str(folder), reason=reason) from exc
        if exc.errno == errno.EXDEV:
            reason = "it lies on another disk, behind a link"
        raise LibraryError(name=os.path.basename(str(exc.filename or folder)), reason=reason) from exc
