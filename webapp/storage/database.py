"""The one SQLite file: opened, migrated, lent out as connections.

Readers never wait (WAL). Writers of this process queue on a lock, because SQLite's own waiting sleeps and starves;
another process waits up to :data:`BUSY_TIMEOUT_S`. ``synchronous=NORMAL`` keeps every committed write through the
death of the process; a power cut may take the last ones, never the file.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from webapp.errors import DatabaseBroken, DatabaseTooNew, Phrase, StorageError
from webapp.storage import search
from webapp.storage.migrations import APPLICATION_ID, MIGRATIONS

BUSY_TIMEOUT_S = 10.0
IDLE_CONNECTIONS = 8


class Database:
    """Safe to share between threads. ``trace`` is called with every SQL statement."""

    def __init__(self, path: Path | str, trace: Callable[[str], None] | None = None) -> None:
        self.path = Path(path)
        self._trace = trace
        self._idle: list[sqlite3.Connection] = []
        self._idle_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._local = threading.local()
        self._prepare_file()
        self.has_search_index = self._prepare_schema()

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with; everything inside sees the database as of one moment."""
        with self._lend(is_writer=False) as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection to write with: all of the block or, after an exception, nothing. Nests within one thread."""
        with self._lend(is_writer=True) as connection:
            yield connection

    def close(self) -> None:
        """Closes what is not lent out; the last close of the file folds the WAL into it."""
        with self._idle_lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def _lend(self, is_writer: bool) -> Iterator[sqlite3.Connection]:
        outer: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if outer is not None:
            assert self._local.is_writer or not is_writer, "a transaction cannot begin inside a reading block"
            yield outer
            return
        if is_writer:
            with self._write_lock, self._begin("BEGIN IMMEDIATE") as connection:
                yield connection
        else:
            with self._begin("BEGIN") as connection:
                yield connection

    @contextmanager
    def _begin(self, statement: str) -> Iterator[sqlite3.Connection]:
        with self._errors():
            connection = self._take()
            self._local.connection, self._local.is_writer = connection, statement != "BEGIN"
            try:
                connection.execute(statement)
                yield connection
                connection.execute("COMMIT")
            finally:
                self._local.connection = None
                self._give(connection)

    def _take(self) -> sqlite3.Connection:
        with self._idle_lock:
            if self._idle:
                return self._idle.pop()
        return self._open()

    def _give(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.rollback()
        with self._idle_lock:
            if len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.set_trace_callback(self._trace)
        return connection

    def _prepare_file(self) -> None:
        """Makes the file, for its owner's eyes only, and turns WAL on (kept in the file)."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
        except OSError as exc:
            raise StorageError(reason=Phrase("{path}: {error}", path=exc.filename, error=exc.strerror)) from exc
        with self._errors():
            connection = self._open()
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()

    def _prepare_schema(self) -> bool:
        with self.transaction() as connection:
            migrate(connection, str(self.path))
            return search.prepare_index(connection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            if type(exc) is sqlite3.DatabaseError:  # not its subclasses: "malformed" and "not a database" only
                raise DatabaseBroken(path=str(self.path), reason=str(exc)) from exc
            raise StorageError(reason=str(exc)) from exc


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Brings the schema to the newest version, inside the caller's transaction."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if owner != APPLICATION_ID and tables:
        raise DatabaseBroken(path=path, reason="it belongs to another program")
    if version > len(MIGRATIONS):
        raise DatabaseTooNew(path=path, found=version, known=len(MIGRATIONS))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
