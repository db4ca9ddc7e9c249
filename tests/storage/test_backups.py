"""A database survives its migrations, and its data survives the loss of the file while a server runs."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.errors import raises_code
from tests.waiting import wait_until
from webapp.chat.messages import Message, Role
from webapp.errors import StorageError
from webapp.storage import backups
from webapp.storage.chats import ChatStore
from webapp.storage.database import Claim, Database
from webapp.storage.migrations import MIGRATIONS

posix_only = pytest.mark.skipif(os.name == "nt", reason="Windows does not let an open file be deleted")
OLD = 3
"""The schema version of the old databases below; later migrations add to it."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "roost.db"


@pytest.fixture
def old_database(path, monkeypatch):
    """Makes a database of version OLD with ``rows`` chats."""

    def make(rows=20):
        with monkeypatch.context() as patched:
            patched.setattr("webapp.storage.database.MIGRATIONS", MIGRATIONS[:OLD])
            database = Database(path)
        with database.transaction() as connection:
            connection.executemany(
                "INSERT INTO chats (id, title, created_at, updated_at) VALUES (?, ?, 0, 0)",
                ((f"chat{row}", f"{row} " * 100) for row in range(rows)),
            )
        database.close()

    return make


def content(path):
    """(schema version, titles of all chats), after a check of the whole file."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        return version, [row[0] for row in connection.execute("SELECT title FROM chats ORDER BY id")]


def test_a_migration_leaves_a_copy_of_what_was_before_and_says_where(path, old_database):
    old_database()
    before = content(path)
    database = Database(path)
    (copy,) = backups.copies_of(path)
    assert content(copy) == before
    assert content(path) == (len(MIGRATIONS), before[1])
    assert [notice.params for notice in database.notices] == [{"copy": str(copy)}]
    assert f"-v{OLD}-" in copy.name
    assert sorted(os.listdir(copy.parent)) == [copy.name]
    if os.name != "nt":
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700


def test_no_copy_without_a_migration(path):
    assert Database(path).notices == []
    assert Database(path).notices == []
    assert not backups.folder_of(path).exists()


def test_only_the_newest_copies_are_kept(path, old_database):
    folder = backups.folder_of(path)
    folder.mkdir()
    for day in range(10, 19):
        (folder / f"roost-v2-202611{day}-120000.db").touch()
    (folder / "mine.db").touch()
    old_database()
    Database(path)
    kept = sorted(os.listdir(folder))
    assert len(backups.copies_of(path)) == backups.KEPT_COPIES
    assert "mine.db" in kept and "roost-v2-20261118-120000.db" in kept and "roost-v2-20261114-120000.db" not in kept


def test_without_room_for_a_copy_nothing_is_migrated(path, old_database, monkeypatch):
    old_database()
    before = content(path)
    usage = shutil.disk_usage(path.parent)
    monkeypatch.setattr(backups.shutil, "disk_usage", lambda folder: usage._replace(free=1 << 20))
    with raises_code("backup_no_room") as refused:
        Database(path)
    assert refused.value.params["free"] == 1 < refused.value.params["needed"]
    assert content(path) == before


def test_a_failed_migration_leaves_neither_change_nor_copy(path, old_database, monkeypatch):
    old_database()
    before = content(path)
    broken = (*MIGRATIONS, ("CREATE TABLE later (id TEXT)", "THIS IS NOT SQL"))
    monkeypatch.setattr("webapp.storage.database.MIGRATIONS", broken)
    with pytest.raises(StorageError):
        Database(path)
    assert content(path) == before
    assert backups.copies_of(path) == []


def test_the_tables_under_a_running_server_are_not_changed(path, old_database):
    old_database()
    running = Claim(path)
    with raises_code("data_folder_in_use"):
        Database(path)
    assert content(path)[0] == OLD
    running.release()
    Database(path).close()
    assert content(path)[0] == len(MIGRATIONS)


DIES = """
import os, signal, sys
from webapp.storage import backups
from webapp.storage.database import Database
kill = lambda: os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
def open_and_die(path, at):
    if at == "copying":
        backups._copy = lambda source, part: (part.write_bytes(b"half a cop"), kill())
    elif at == "copied":
        real, backups.make_copy = backups.make_copy, lambda *args: (real(*args), kill())
    seen = 0
    def trace(statement):
        nonlocal seen
        seen += 1
        if at == str(seen):
            kill()
        if at == "-":
            print(seen, flush=True)
    Database(path, trace=trace)
    print(at, "lived after", seen, flush=True)
for path, at in zip(sys.argv[1::2], sys.argv[2::2]):
    if len(sys.argv) == 3:
        open_and_die(path, at)
    elif child := os.fork():
        os.waitpid(child, 0)
    else:
        open_and_die(path, at)
        os._exit(0)
"""


def migrate_and_die(*deaths):
    """Opens databases, each in a process that kills itself at a named moment or at a statement's number; returns the
    output of surviving ones. ``deaths``: pairs of a path and a moment."""
    said = ""
    for group in [deaths] if hasattr(os, "fork") else [[death] for death in deaths]:
        command = [sys.executable, "-c", DIES, *(str(word) for death in group for word in death)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        said += done.stdout
    return said


def test_killed_anywhere_in_a_migration_the_old_database_is_whole(path, old_database, tmp_path):
    old_database()
    before = content(path)

    def copies(moments):
        """Of the old database, each in a folder of its own."""
        for moment in moments:
            (tmp_path / moment).mkdir()
            yield Path(shutil.copy(path, tmp_path / moment / "roost.db")), moment

    [(whole, _)] = unharmed = list(copies(["never"]))
    statements = int(migrate_and_die(*unharmed).rpartition(" ")[2])
    assert content(whole)[0] == len(MIGRATIONS)
    deaths = list(copies(["copying", "copied", *map(str, range(1, statements + 1))]))
    assert migrate_and_die(*deaths) == "", "each died"
    versions = set()
    for died, moment in deaths:
        version, titles = content(died)
        assert (version in (OLD, len(MIGRATIONS)), titles) == (True, before[1]), moment
        versions.add(version)
        Database(died).close()
        assert content(died) == (len(MIGRATIONS), before[1])
        assert all(content(copy) == before for copy in backups.copies_of(died))
        assert list(backups.folder_of(died).glob("*.part")) == []
    assert OLD in versions


def test_killed_from_outside_while_it_writes(path, old_database, tmp_path):
    old_database(rows=2000)
    before = content(path)
    shutil.copy(path, tmp_path / "kept")
    for lines in (3, 9, 14):
        for leftover in path.parent.glob("roost.db*"):
            leftover.unlink()
        shutil.copy(tmp_path / "kept", path)
        with subprocess.Popen([sys.executable, "-c", DIES, str(path), "-"], stdout=subprocess.PIPE) as process:
            for _ in range(lines):
                process.stdout.readline()
            process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        version, titles = content(path)
        assert version in (OLD, len(MIGRATIONS)) and titles == before[1]


def test_a_copy_put_in_place_of_a_killed_servers_database_is_not_mixed_with_it(path, old_database, tmp_path):
    old_database()
    before = content(path)
    database = Database(path)  # still open, so its -wal remains, as after kill -9
    ChatStore(database).create("Written later")
    (copy,) = backups.copies_of(path)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(copy, other / "roost.db")
    shutil.copy(f"{path}-wal", other / "roost.db-wal")
    assert os.path.getsize(other / "roost.db-wal") > 0
    Database(other / "roost.db").close()
    assert content(other / "roost.db")[1] == before[1]


def lose_by_deleting(path):
    path.unlink()


def lose_by_replacing(path):
    shutil.copy(path, f"{path}.new")
    os.replace(f"{path}.new", path)


def lose_the_wal(path):
    os.unlink(f"{path}-wal")


def lose_all(path):
    for suffix in ("", "-wal", "-shm"):
        os.unlink(f"{path}{suffix}")


@posix_only
@pytest.mark.parametrize("lose", [lose_by_deleting, lose_by_replacing, lose_the_wal, lose_all])
def test_a_lost_file_is_noticed_and_all_that_was_stored_is_copied(path, lose):
    database = Database(path)
    store = ChatStore(database)
    chat = store.create("Rooks")
    store.add_message(chat.id, None, Message(Role.USER, "Before the loss"))
    lose(path)
    for use in (store.list, lambda: store.create("After")):
        with raises_code("database_gone") as gone:
            use()
    (copy,) = backups.copies_of(path)
    assert gone.value.params["saved"].params == {"copy": str(copy)}
    assert [found.message.content for found in ChatStore(Database(copy)).branch(chat.id)] == ["Before the loss"]


@posix_only
def test_a_file_put_back_is_used_again(path):
    store = ChatStore(Database(path))
    chat = store.create("Rooks")
    os.rename(path, f"{path}.away")
    with raises_code("database_gone"):
        store.list()
    assert not path.exists()
    os.rename(f"{path}.away", path)
    assert store.list()[0].id == chat.id
    assert store.create("Again").title == "Again"


def emptied(old, path):
    path.write_bytes(b"")


def by_an_older_copy(old, path):
    path.write_bytes(old.read_bytes())


def by_a_larger_database(old, path):
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("CREATE TABLE ballast AS SELECT zeroblob(1000000)")
    path.write_bytes(old.read_bytes())


@pytest.mark.parametrize("overwrite", [emptied, by_an_older_copy, by_a_larger_database])
def test_a_file_overwritten_in_place_is_noticed_and_left_as_it_is(path, tmp_path, overwrite):
    database = Database(path)
    store = ChatStore(database)
    store.create("From before")
    database.watch_content()
    database.close()
    old = tmp_path / "old.db"
    shutil.copy(path, old)
    database = Database(path)
    store = ChatStore(database)
    database.watch_content()
    store.create("Rooks")
    overwrite(old, path)
    there_now = path.read_bytes()
    for use in (store.list, lambda: store.create("After")):
        with raises_code("database_gone") as gone:
            use()
    assert gone.value.params["happened"].key == "reason.storage.was_overwritten"
    assert set(gone.value.params["saved"].params) == {"folder"}
    database.close()
    assert path.read_bytes() == there_now
    if there_now:
        assert [chat.title for chat in ChatStore(Database(path)).list()] == ["From before"]


def test_what_other_programs_may_do_to_a_database_is_no_alarm(path):
    database = Database(path)
    store = ChatStore(database)
    for index in range(50):
        store.create(f"{index}" * 300)
    database.watch_content()
    before = path.stat()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DELETE FROM chats WHERE title LIKE '1%'")
        other.execute("VACUUM")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size != before.st_size or path.stat().st_mtime_ns != before.st_mtime_ns
    os.utime(path)
    assert len(store.list()) == 39
    assert store.create("After").title == "After"


def test_its_own_writing_is_no_alarm(path):
    database = Database(path)
    store = ChatStore(database)
    database.watch_content()
    for _ in range(40):  # past the 1000 pages after which SQLite writes the WAL into the file
        store.create(system_prompt="x" * 200_000)
    assert path.stat().st_size > 4_000_000
    assert len(store.list()) == 40


@posix_only
def test_a_server_that_ends_right_after_the_loss_still_saves(path, caplog):
    database = Database(path)
    chat = ChatStore(database).create("Rooks")
    path.unlink()
    database.close()
    (copy,) = backups.copies_of(path)
    assert ChatStore(Database(copy)).get(chat.id) == chat
    assert str(copy) in caplog.text


@posix_only
def test_what_another_thread_is_writing_gets_into_the_copy(path):
    database = Database(path)
    store = ChatStore(database)
    store.create("Rooks")
    is_writing, may_end = threading.Event(), threading.Event()

    def write():
        with database.transaction():
            store.create("Written meanwhile")
            is_writing.set()
            may_end.wait(60)

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(is_writing.is_set)
    path.unlink()
    threading.Timer(0.05, may_end.set).start()
    with raises_code("database_gone"):
        store.list()
    writer.join()
    (copy,) = backups.copies_of(path)
    assert {chat.title for chat in ChatStore(Database(copy)).list()} == {"Rooks", "Written meanwhile"}


@posix_only
def test_the_next_start_after_a_loss_names_the_copy(path):
    database = Database(path)
    ChatStore(database).create("Rooks")
    path.unlink()
    database.close()
    for leftover in path.parent.glob("roost.db-*"):
        leftover.unlink()
    (notice,) = Database(path).notices
    assert notice.params == {"path": str(path), "copy": str(backups.copies_of(path)[0])}


def test_the_watch_costs_three_calls_a_block(path, monkeypatch):
    database = Database(path)
    asked = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda *args, **options: asked.append(args[0]) or real(*args, **options))
    with database.connect():
        pass
    assert sorted(asked) == [f"{path}{suffix}" for suffix in ("", "-shm", "-wal")]
