"""One program at a time writes answers into a database: the next would take the answers of the first for abandoned."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from webapp.errors import DataFolderInUse, StorageError


class Claim:
    """Held until :meth:`release`, or until its process is gone however that died.

    An exclusive lock on an empty SQLite file beside the database, because SQLite locks on every system and the system
    drops the lock with the process; a file with a process id in it would outlive a crash.
    """

    def __init__(self, database_path: Path) -> None:
        """DataFolderInUse when another holds it, in this process or in another."""
        path = database_path.with_name(database_path.name + ".lock")
        try:
            self._connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as exc:
            if "locked" in str(exc):
                raise DataFolderInUse(path=str(database_path.parent)) from exc
            raise StorageError(reason=str(exc)) from exc

    def release(self) -> None:
        """May be called again."""
        self._connection.close()
