import os
import sqlite3
import stat
import threading

import pytest

from tests.errors import raises_code
from webapp.errors import StorageError, error_from_dict
from webapp.storage import migrations
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database


def test_a_new_database_and_its_folder_are_readable_only_by_their_owner(tmp_path):
    path = tmp_path / "deep" / "roost.db"
    Database(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_written_is_there_after_reopening(tmp_path):
    first = Database(tmp_path / "roost.db")
    chat = ChatStore(first).create("Rooks")
    first.close()
    assert ChatStore(Database(tmp_path / "roost.db")).get(chat.id) == chat


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    Database(tmp_path / "roost.db").close()
    with sqlite3.connect(tmp_path / "roost.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    with raises_code("database_too_new") as caught:
        Database(tmp_path / "roost.db")
    assert caught.value.params["found"] == 99


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "roost.db").write_bytes(b"this is a diary\n" * 100)
    with raises_code("database_broken"):
        Database(tmp_path / "roost.db")
    assert (tmp_path / "roost.db").read_bytes().startswith(b"this is a diary")


def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path):
    with sqlite3.connect(tmp_path / "roost.db") as connection:
        connection.execute("CREATE TABLE diary (day TEXT)")
    connection.close()
    before = (tmp_path / "roost.db").read_bytes()
    with raises_code("database_broken"):
        Database(tmp_path / "roost.db")
    assert (tmp_path / "roost.db").read_bytes() == before


def test_a_data_folder_below_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as refused:
        Database(tmp_path / "file" / "roost.db")
    assert "Errno" not in refused.value.message


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "roost.db"
    Database(path).close()
    broken = (*migrations.MIGRATIONS, ("CREATE TABLE later (id TEXT)", "THIS IS NOT SQL"))
    with monkeypatch.context() as patched, pytest.raises(StorageError):
        patched.setattr("webapp.storage.database.MIGRATIONS", broken)
        Database(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(migrations.MIGRATIONS),)
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'later'").fetchone() == (0,)


def test_an_appended_migration_runs_once_on_an_old_database(tmp_path, monkeypatch):
    Database(tmp_path / "roost.db").close()
    longer = (*migrations.MIGRATIONS, ("CREATE TABLE later (id TEXT)",))
    monkeypatch.setattr("webapp.storage.database.MIGRATIONS", longer)
    Database(tmp_path / "roost.db").close()
    Database(tmp_path / "roost.db").close()


def test_a_block_that_raises_leaves_nothing_behind(database, store):
    with pytest.raises(ZeroDivisionError), database.transaction():
        store.create("half done")
        raise ZeroDivisionError
    assert store.list() == []


def test_a_transaction_inside_a_reading_block_is_a_bug(database, store):
    with pytest.raises(AssertionError), database.connect():
        store.create()
    assert store.create("the connection is sound again").id


def test_a_block_sees_one_moment_and_the_newest_block_inside_it_later_changes(database, store):
    with database.connect():
        assert store.list() == []  # for SQLite, the transaction starts with the first read
        elsewhere = threading.Thread(target=store.create, args=("since",))
        elsewhere.start()
        elsewhere.join()
        with database.newest():
            assert [chat.title for chat in store.list()] == ["since"]
        assert store.list() == []
    assert [chat.title for chat in store.list()] == ["since"]


def test_many_threads_open_no_more_connections_than_are_kept(database, store):
    store.create()
    threads = [threading.Thread(target=store.list) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(database._idle) <= 8


def test_a_database_that_another_program_locks_is_named_as_that(database, store, monkeypatch):
    monkeypatch.setattr("webapp.storage.database.BUSY_TIMEOUT_S", 0.05)
    for connection in database._idle:
        connection.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with raises_code("database_locked") as locked:
        store.create()
    assert (locked.value.status, locked.value.code) == (503, "database_locked")
    assert error_from_dict(locked.value.to_dict()).hint == locked.value.hint
    other.close()
    assert store.create().id


def test_a_disk_that_is_full_is_named_as_that_and_nothing_stored_is_lost(database, store):
    kept = store.create("kept")
    with database.connect() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then fails as on a full disk
    with raises_code("database_full") as full:
        store.create(system_prompt="x" * 1_000_000)
    assert full.value.status == 507
    assert [chat.id for chat in store.list()] == [kept.id]
    with database.connect() as connection:
        connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
    assert store.create(system_prompt="x" * 1_000_000).id


def test_a_database_that_cannot_be_written_is_named_as_that(database, store):
    with database.connect() as connection:
        connection.execute("PRAGMA query_only = ON")
    with raises_code("database_read_only"):
        store.create()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named_as_that(tmp_path):
    Database(tmp_path / "roost.db").close()
    tmp_path.chmod(0o500)
    try:
        with raises_code("database_read_only"):
            Database(tmp_path / "roost.db")
    finally:
        tmp_path.chmod(0o700)


def test_a_path_with_any_characters_is_opened_and_none_other(tmp_path):
    folder = tmp_path / "100% of ?mode=ro #1 Fööd 聊天"
    folder.mkdir()
    store = ChatStore(Database(folder / "roost.db"))
    assert store.create("Rooks").title == "Rooks"
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
