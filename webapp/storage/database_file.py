"""The database's file: claimed by one process, and watched while it is open.

One program at a time writes answers into a database: a second one would take the answers of the first for abandoned.
:class:`OpenedFiles` notices a file that was deleted, replaced or overwritten under a running server: inode and device
tell the first two. A file overwritten in place keeps both; a token in it, which the server wrote at its start and looks
for whenever time or size of the file have changed, tells the third.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path

from webapp.errors import StorageError
from webapp.i18n import Text
from webapp.storage.backups import sqlite_reason


class Claim:
    """Held until :meth:`release`, or until its process is gone however that died.

    An exclusive lock on an empty SQLite file beside the database, because SQLite locks on every system and the system
    drops the lock with the process; a file with a process id in it would outlive a crash.
    """

    def __init__(self, database_path: Path) -> None:
        """Raises ``data_folder_in_use`` when another holds it, in this process or in another."""
        path = database_path.with_name(database_path.name + ".lock")
        try:
            self._connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as exc:
            if "locked" in str(exc):
                raise StorageError("data_folder_in_use", path=str(database_path.parent)) from exc
            raise StorageError(reason=sqlite_reason(exc)) from exc

    def release(self) -> None:
        """May be called again."""
        self._connection.close()


SEARCH_BYTES = 1 << 20


class OpenedFiles:
    """The database, and the -wal and -shm beside it, as they were opened."""

    def __init__(self, database: Path) -> None:
        self._database = str(database)
        self._opened = {self._database: os.stat(database)}
        self._token = b""
        self._offset = 0
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        self.is_readable = True
        """False once the open file itself was overwritten: what connections read is a mixture then."""

    def add_sidecars(self) -> None:
        """While a connection is open SQLite neither removes nor replaces them."""
        for path in (self._database + "-wal", self._database + "-shm"):
            if os.path.exists(path):  # there are none where the file system cannot do WAL
                self._opened[path] = os.stat(path)

    def forget_sidecars(self) -> None:
        self._opened = {self._database: self._opened[self._database]}

    def watch_content(self, token: bytes, page_offset: int, page_bytes: int) -> None:
        """``token`` is in the file's page at ``page_offset``; where it is not yet, nothing is watched."""
        if self._descriptor is None:
            self._descriptor = os.open(self._database, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        place = self._read(page_bytes, page_offset).find(token)
        if place >= 0:
            self._token, self._offset = token, page_offset + place
            self._opened[self._database] = os.stat(self._database)

    def close(self) -> None:
        """After the last connection: closing any descriptor of a file drops the locks SQLite has on it (POSIX)."""
        with self._lock:
            descriptor, self._descriptor, self._token = self._descriptor, None, b""
        if descriptor is not None:
            os.close(descriptor)

    def changed(self) -> tuple[str, Text] | None:
        """The first file that is not what was opened, and what happened to it."""
        for path, opened in list(self._opened.items()):
            try:
                now = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return path, Text("reason.storage.was_deleted_or_moved")
            except OSError:  # SQLite will meet it too, and says what it is
                continue
            if os.name != "nt" and (now.st_ino, now.st_dev) != (opened.st_ino, opened.st_dev):
                return path, Text("reason.storage.was_replaced_by_another_file")
            is_touched = (now.st_mtime_ns, now.st_size) != (opened.st_mtime_ns, opened.st_size)
            if path == self._database and self._token and is_touched:
                if not self._has_token():
                    self.is_readable = False
                    return path, Text("reason.storage.was_overwritten")
                self._opened[path] = now
        return None

    def drop_wal(self) -> None:
        """Empties the -wal of an overwritten file: at its close SQLite would write those pages into the new content."""
        with contextlib.suppress(OSError):
            os.truncate(self._database + "-wal", 0)

    def _has_token(self) -> bool:
        with self._lock:
            if not self._token or self._read(len(self._token), self._offset) == self._token:
                return True
            return self._search()

    def _search(self) -> bool:
        """VACUUM by another program moves pages; the token is somewhere else then."""
        position, overlap = 0, len(self._token) - 1
        while data := self._read(SEARCH_BYTES, position):
            place = data.find(self._token)
            if place >= 0:
                self._offset = position + place
                return True
            if len(data) <= overlap:
                break
            position += len(data) - overlap
        return False

    def _read(self, count: int, offset: int) -> bytes:
        assert self._descriptor is not None
        os.lseek(self._descriptor, offset, os.SEEK_SET)  # Windows has no pread
        return os.read(self._descriptor, count)
