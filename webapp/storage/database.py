"""The SQLite file: opening, migration and connections.

Readers never wait (WAL). Writers of this process queue on a lock, because SQLite's own waiting sleeps and may starve a
writer; other processes wait up to :data:`BUSY_TIMEOUT_S`. With ``synchronous=NORMAL``, committed writes survive the
death of the process; a power failure may lose the last ones, but never damages the file.

On Linux and macOS a file can be deleted or replaced while it is open. SQLite then continues to write to a file without
a name, which is lost when the process ends. So every block first compares the files at their paths with the opened
ones, and raises ``database_gone`` if they differ.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from webapp.errors import StorageError
from webapp.i18n import Text, sentences, system_reason
from webapp.storage import backups
from webapp.storage.migrations import APPLICATION_ID, MIGRATIONS

BUSY_TIMEOUT_S = 10.0
IDLE_CONNECTIONS = 8
FULL_BELOW_BYTES = 1 << 20
"""SQLite reports some failed writes as "disk I/O error"; with less free space than this, the disk counts as full."""

log = logging.getLogger(__name__)


class Database:
    """Thread-safe. ``trace`` is called with every SQL statement.

    ``notices``: messages about this start for a person: the path of the copy made before a migration, or that the
    database is new although there are copies of an earlier one.
    """

    def __init__(self, path: Path | str, trace: Callable[[str], None] | None = None) -> None:
        self.path = Path(path)
        self.notices: list[Text] = []
        self.revisions: dict[str, int] = {}
        """Table -> a number that changes with every change, for tables whose store reports changes."""
        self._trace = trace
        self._idle: list[sqlite3.Connection] = []
        self._in_use = 0
        self._idle_lock = threading.Lock()
        self._write_lock = threading.RLock()
        self._local = threading.local()
        self._rescued: Path | None = None
        self._prepare_file()
        self._files = OpenedFiles(self.path)
        self.has_search_index = self._prepare_schema()
        self._files.add_sidecars()

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading; the whole block sees the database at one moment."""
        with self._lend(is_writer=False) as connection:
            yield connection

    @contextmanager
    def newest(self) -> Iterator[sqlite3.Connection]:
        """Like :meth:`connect`, but sees everything committed by now, even inside a block. For in-memory caches: with
        the view of an earlier block, they would keep outdated data."""
        outer = getattr(self._local, "connection", None), getattr(self._local, "is_writer", False)
        try:
            with self._begin("BEGIN") as connection:
                yield connection
        finally:
            self._local.connection, self._local.is_writer = outer

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection for writing: commits the whole block or, after an exception, nothing. Nests in one thread."""
        with self._lend(is_writer=True) as connection:
            yield connection

    def watch_content(self) -> None:
        """From now on, also detects that the file is overwritten in place. For the server of a data folder: it writes a
        random token into the database at each start, and another token means another file."""
        token = os.urandom(16)
        with self.transaction() as connection:
            connection.execute("DELETE FROM server")
            connection.execute("INSERT INTO server (token) VALUES (?)", (token,))
        with self._errors():
            connection = self._take()
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
                page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'server'").fetchone()[0]
            finally:
                self._give(connection)
        self._files.watch_content(token, (page - 1) * page_bytes, page_bytes)

    def close(self) -> None:
        """Closes the idle connections; the last one merges the WAL into the file.

        If the file was deleted or replaced, closing would lose its content, so it is copied first, and logged.
        """
        if self._idle and (changed := self._files.changed()):
            error = self._gone(*changed)
            log.error("%s", sentences(error.message, error.hint))
        with self._idle_lock:
            idle, self._idle = self._idle, []
            is_in_use = self._in_use > 0
        self._files.forget_sidecars()
        for connection in idle:
            connection.close()
        if not is_in_use:
            self._files.close()

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
        if changed := self._files.changed():
            raise self._gone(*changed)
        self._rescued = None
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
            self._in_use += 1
            if self._idle:
                return self._idle.pop()
        try:
            return self._open()
        except BaseException:
            with self._idle_lock:
                self._in_use -= 1
            raise

    def _give(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.rollback()
        finally:
            with self._idle_lock:
                self._in_use -= 1
        with self._idle_lock:
            if len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def _open(self) -> sqlite3.Connection:
        """Never creates the file: a deleted one would be replaced by an empty one."""
        path = self.path.absolute().as_posix()
        root = "" if path.startswith("/") and not path.startswith("//") else "/"  # C:/x and //server/x on Windows
        connection = sqlite3.connect(
            f"file://{root}{quote(path)}?mode=rw",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.set_trace_callback(self._trace)
        return connection

    def _prepare_file(self) -> None:
        """Creates the file, readable only by its owner, and turns on WAL (stored in the file)."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                self.path.touch(mode=0o600)
            backups.drop_stale_wal(self.path)
        except OSError as exc:
            raise self._refused(exc) from exc
        with self._errors():
            connection = self._open()
            try:
                schema_version(connection, self.path)  # before any change to a file that may belong to another program
                connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()

    def _prepare_schema(self) -> bool:
        """Migrates the schema to the newest version. True if this SQLite has a search index.

        All pending migrations run in one transaction, after a backup: if the process is killed, the database is either
        unchanged or at the newest version.
        """
        with self.connect() as connection:
            is_current = schema_version(connection, self.path) == len(MIGRATIONS)
        if is_current:
            with self.transaction() as connection:
                return prepare_index(connection)
        claim = Claim(self.path)  # never change the tables under a running server of an older version
        copy: Path | None = None
        try:
            with self.transaction() as connection:
                version = schema_version(connection, self.path)
                if 0 < version < len(MIGRATIONS):
                    copy = self._copy(version)
                migrate(connection, version)
                has_index = prepare_index(connection)
        except BaseException:
            if copy is not None:  # of a database that was not changed
                copy.unlink(missing_ok=True)
            raise
        finally:
            claim.release()
        self._notice(version, copy)
        return has_index

    def _copy(self, version: int) -> Path:
        """Uses a separate connection to read the committed data, because the caller's is inside a transaction."""
        source = self._open()
        try:
            return backups.make_copy(source, self.path, version)
        finally:
            source.close()

    def _notice(self, version: int, copy: Path | None) -> None:
        if copy is not None:
            backups.remove_oldest(self.path)
            notice = Text("reason.storage.updated", copy=str(copy))
            self.notices.append(notice)
        elif version == 0 and (earlier := backups.copies_of(self.path)):
            values = {"path": str(self.path), "copy": str(earlier[-1])}
            self.notices.append(Text("reason.storage.new_and_empty", **values))
        for notice in self.notices:
            log.info("%s", notice)

    def _gone(self, path: str, happened: Text) -> StorageError:
        """The error for a file that changed under the server, after a copy of what the open connections still see."""
        place = str(backups.folder_of(self.path))
        with self._write_lock:  # the copy includes writes in progress
            if self._rescued is None and self._files.is_readable:
                with self._idle_lock:
                    source = self._idle.pop() if self._idle else None
                if source is not None:
                    try:
                        self._rescued = backups.make_copy(source, self.path, len(MIGRATIONS))
                    except StorageError as exc:
                        log.error("%s", exc)
                    with self._idle_lock:
                        self._idle.append(source)
            elif not self._files.is_readable:
                self._files.drop_wal()
        if self._rescued is None:
            saved = Text("reason.storage.not_rescued", folder=place)
        else:
            saved = Text("reason.storage.rescued", copy=str(self._rescued))
        return StorageError("database_gone", path=path, happened=happened, saved=saved)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise self._named(exc) from exc

    def _named(self, exc: sqlite3.Error) -> StorageError:
        """By SQLite's message: Python provides SQLite's error codes only from 3.11 on."""
        if hasattr(self, "_files") and (changed := self._files.changed()):
            return self._gone(*changed)
        words, path = str(exc), str(self.path)
        if type(exc) is sqlite3.DatabaseError:  # not its subclasses: "malformed" and "not a database" only
            return StorageError(
                "database_broken",
                path=path,
                reason=backups.sqlite_reason(exc),
                folder=str(backups.folder_of(self.path)),
            )
        if "locked" in words:
            return StorageError("database_locked", path=path, seconds=BUSY_TIMEOUT_S)
        if "disk is full" in words or (
            "disk I/O" in words and shutil.disk_usage(self.path.parent).free < FULL_BELOW_BYTES
        ):
            return StorageError("database_full", path=path)
        if "readonly" in words or ("unable to open" in words and not _is_writable(self.path)):
            return StorageError("database_read_only", path=path)
        return StorageError(reason=backups.sqlite_reason(exc))

    def _refused(self, exc: OSError) -> StorageError:
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StorageError("database_read_only", path=str(self.path))
        if exc.errno == errno.ENOSPC:
            return StorageError("database_full", path=str(self.path))
        return StorageError(reason=Text("reason.common.path_and_error", path=exc.filename, error=system_reason(exc)))


def schema_version(connection: sqlite3.Connection, path: Path) -> int:
    """0 for a new file. Raises ``database_broken`` for another program's file, ``database_too_new`` for a newer
    Roost's."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    folder = str(backups.folder_of(path))
    if owner != APPLICATION_ID and tables:
        raise StorageError(
            "database_broken", path=str(path), reason=Text("reason.storage.belongs_to_another_program"), folder=folder
        )
    if version > len(MIGRATIONS):
        raise StorageError("database_too_new", path=str(path), found=version, known=len(MIGRATIONS), folder=folder)
    return version


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Migrates the schema from ``version`` to the newest one, inside the caller's transaction."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _is_writable(path: Path) -> bool:
    """SQLite also writes files next to the database."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def prepare_index(connection: sqlite3.Connection) -> bool:
    """Creates the index if this SQLite supports it, and adds missing messages; otherwise returns False."""
    try:
        connection.execute("CREATE VIRTUAL TABLE IF NOT EXISTS message_search USING fts5(content, tokenize='trigram')")
        connection.execute(
            """INSERT INTO message_search (rowid, content) SELECT seq, content FROM messages
               WHERE status != 'streaming' AND seq NOT IN (SELECT rowid FROM message_search)"""
        )
    except sqlite3.OperationalError as exc:
        if "no such module" in str(exc) or "tokenizer" in str(exc):
            return False
        raise
    return True


SEARCH_BYTES = 1 << 20


class OpenedFiles:
    """The database and its -wal and -shm files, as they were when opened.

    Detects a file that was deleted, replaced or overwritten under a running server. The first two change inode or
    device. A file overwritten in place keeps both; so the server writes a token into it at its start, and checks for
    it whenever the file's time or size has changed.
    """

    def __init__(self, database: Path) -> None:
        self._database = str(database)
        self._opened = {self._database: os.stat(database)}
        self._token = b""
        self._offset = 0
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        self.is_readable = True
        """False once the open file itself was overwritten: connections then read a mixture."""

    def add_sidecars(self) -> None:
        """While a connection is open, SQLite neither removes nor replaces them."""
        for path in (self._database + "-wal", self._database + "-shm"):
            if os.path.exists(path):  # there are none where the file system cannot do WAL
                self._opened[path] = os.stat(path)

    def forget_sidecars(self) -> None:
        self._opened = {self._database: self._opened[self._database]}

    def watch_content(self, token: bytes, page_offset: int, page_bytes: int) -> None:
        """``token`` is in the file's page at ``page_offset``; if it is not there yet, nothing is watched."""
        if self._descriptor is None:
            self._descriptor = os.open(self._database, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        place = self._read(page_bytes, page_offset).find(token)
        if place >= 0:
            self._token, self._offset = token, page_offset + place
            self._opened[self._database] = os.stat(self._database)

    def close(self) -> None:
        """After the last connection: closing any descriptor of a file releases SQLite's locks on it (POSIX)."""
        with self._lock:
            descriptor, self._descriptor, self._token = self._descriptor, None, b""
        if descriptor is not None:
            os.close(descriptor)

    def changed(self) -> tuple[str, Text] | None:
        """The first file that differs from the opened one, and what happened to it."""
        for path, opened in list(self._opened.items()):
            try:
                now = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return path, Text("reason.storage.was_deleted_or_moved")
            except OSError:  # SQLite will report the same error
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
        """Truncates the -wal of an overwritten file: otherwise closing would write its pages into the new content."""
        with contextlib.suppress(OSError):
            os.truncate(self._database + "-wal", 0)

    def _has_token(self) -> bool:
        with self._lock:
            if not self._token or self._read(len(self._token), self._offset) == self._token:
                return True
            return self._search()

    def _search(self) -> bool:
        """VACUUM by another program moves pages, so the token may be at another position."""
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


class Claim:
    """Only one program at a time may generate answers for a database: a second one would treat the first one's answers
    as abandoned. Held until :meth:`release`, or until the process ends in any way.

    An exclusive lock on an empty SQLite file next to the database, because SQLite's locks work on every system and are
    released with the process; a file with a process id would remain after a crash.
    """

    def __init__(self, database_path: Path) -> None:
        """Raises ``data_folder_in_use`` if this or another process holds it."""
        path = database_path.with_name(database_path.name + ".lock")
        try:
            self._connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as exc:
            if "locked" in str(exc):
                raise StorageError("data_folder_in_use", path=str(database_path.parent)) from exc
            raise StorageError(reason=backups.sqlite_reason(exc)) from exc

    def release(self) -> None:
        """May be called again."""
        self._connection.close()
