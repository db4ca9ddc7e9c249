"""Backups of the database file: one before each migration, and one if the file was deleted under a running server.

They are complete databases in the folder ``backups`` next to it. To restore one, stop Roost and replace the database
with it. Names contain the schema version and the time: ``roost-v5-20261129-093012.db``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import time
from pathlib import Path

from webapp.errors import StorageError
from webapp.i18n import Text, system_reason

FOLDER = "backups"
KEPT_COPIES = 5
ROOM_MARGIN_BYTES = 16 << 20
_PART = ".part"
SAID_BY_SQLITE = {
    "database or disk is full": "system.sqlite_full",
    "database is locked": "system.sqlite_locked",
    "attempt to write a readonly database": "system.sqlite_readonly",
    "disk I/O error": "system.sqlite_io",
    "unable to open database file": "system.sqlite_open",
    "database disk image is malformed": "system.sqlite_malformed",
    "file is not a database": "system.sqlite_not_a_database",
}
"""SQLite's messages and their catalogue keys; Python provides SQLite's error codes only from 3.11 on."""


def sqlite_reason(error: sqlite3.Error) -> Text | str:
    key = SAID_BY_SQLITE.get(str(error))
    return Text(key) if key else str(error)


def folder_of(database: Path) -> Path:
    return database.parent / FOLDER


def copies_of(database: Path) -> list[Path]:
    """Every finished copy, oldest first."""
    pattern = re.compile(re.escape(database.stem) + r"-v\d+-(\d{8}-\d{6}(?:-\d+)?)\.db")
    try:
        names = os.listdir(folder_of(database))
    except OSError:
        return []
    found = sorted((match[1], name) for name in names if (match := pattern.fullmatch(name)))
    return [folder_of(database) / name for _, name in found]


def make_copy(source: sqlite3.Connection, database: Path, version: int) -> Path:
    """Copies what ``source`` reads to a new file in the folder, readable only by its owner.

    The copy gets its name when it is complete and on disk, so if the process dies, only a ``.part`` remains, which the
    next copy removes. Raises ``backup_no_room`` or ``backup_failed``.
    """
    folder = folder_of(database)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in folder.glob(f"{database.stem}-*{_PART}"):
            old.unlink(missing_ok=True)
        _check_room(source, folder)
        target = _free_name(database, version)
        part = target.with_name(target.name + _PART)
        part.touch(mode=0o600)
        try:
            _copy(source, part)
            os.replace(part, target)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        _sync_folder(folder)
    except (OSError, sqlite3.Error) as exc:
        reason = system_reason(exc) if isinstance(exc, OSError) else sqlite_reason(exc)
        raise StorageError("backup_failed", folder=str(folder), reason=reason) from exc
    return target


def remove_oldest(database: Path) -> None:
    """Keeps the newest :data:`KEPT_COPIES`."""
    for copy in copies_of(database)[:-KEPT_COPIES]:
        with contextlib.suppress(OSError):
            copy.unlink()


def drop_stale_wal(database: Path) -> None:
    """Removes the -wal of a killed server if its database was replaced with a copy.

    SQLite would write those pages into the copy. The header shows it: a copy is not in WAL mode, but every database
    that Roost has opened is. Call it before the process's first connection.
    """
    sidecars = [database.with_name(database.name + suffix) for suffix in ("-wal", "-shm")]
    if not sidecars[0].exists():
        return
    with database.open("rb") as file:
        header = file.read(20)
    if header[18:20] == b"\x01\x01":
        for path in sidecars:
            path.unlink(missing_ok=True)


def _check_room(source: sqlite3.Connection, folder: Path) -> None:
    """Checks the free space for the copy, and as much again for the migration."""
    pages = source.execute("PRAGMA page_count").fetchone()[0]
    page_bytes = source.execute("PRAGMA page_size").fetchone()[0]
    needed = 2 * pages * page_bytes + ROOM_MARGIN_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError("backup_no_room", folder=str(folder), needed=needed >> 20, free=free >> 20)


def _copy(source: sqlite3.Connection, target: Path) -> None:
    copy = sqlite3.connect(target, isolation_level=None)
    try:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, complete without -wal and -shm
    finally:
        copy.close()


def _free_name(database: Path, version: int) -> Path:
    stem = f"{database.stem}-v{version}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = folder_of(database)
    path, number = folder / f"{stem}.db", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.db", number + 1
    return path


def _sync_folder(folder: Path) -> None:
    """Writes the new name to disk; Windows has no such call and does not need it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
