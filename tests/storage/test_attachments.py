"""A chat's files: pending until a message uses them, deleted with their chat, and never available to another chat."""

import time

import pytest

from tests.errors import raises_code
from webapp.chat.messages import Message, ReadMode, Role, attached_files, attached_metadata
from webapp.errors import ChatNotFound
from webapp.services.chat.chat_file import chat_document, chat_markdown
from webapp.storage.attachments import AttachmentStore, Room

ROOM = Room(most_files=3, most_bytes=1000, text="1 kB")


@pytest.fixture
def files(database):
    return AttachmentStore(database)


def add(files, chat_id, name="a.txt", text="text", size=10, mode=ReadMode.WHOLE):
    return files.add(chat_id, name, text, size, mode, ROOM, 3, "world")


def send(store, chat_id, *found, parent=None, text="?"):
    metadata = attached_metadata([file.as_attached for file in found])
    return store.add_message(chat_id, parent, Message(Role.USER, text, metadata=metadata))


def test_a_file_is_pending_until_a_message_takes_it(store, files):
    chat = store.create()
    first, second = add(files, chat.id, "a.txt"), add(files, chat.id, "b.txt", mode=ReadMode.SEARCH)
    assert [file.name for file in files.pending(chat.id)] == ["a.txt", "b.txt"]
    stored = send(store, chat.id, first, second)
    assert files.pending(chat.id) == []
    assert attached_files(store.message(stored.id).message) == (first.as_attached, second.as_attached)
    assert files.texts(chat.id, [first.id, "none"]) == {first.id: "text"}


def test_only_files_of_the_chat_are_taken_read_or_changed(store, files):
    mine, other = store.create(), store.create()
    file = add(files, other.id)
    send(store, mine.id, file)
    assert files.pending(other.id) == [file] and files.texts(mine.id, [file.id]) == {}
    for action in (files.get, files.text, files.remove):
        with raises_code("attachment_not_found"):
            action(mine.id, file.id)
    with raises_code("attachment_not_found"):
        files.set_mode(mine.id, file.id, ReadMode.SEARCH)


def test_what_was_sent_stays_as_it_was_read(store, files):
    chat = store.create()
    file = add(files, chat.id)
    send(store, chat.id, file)
    with raises_code("attachment_sent"):
        files.set_mode(chat.id, file.id, ReadMode.SEARCH)
    with raises_code("attachment_sent"):
        files.remove(chat.id, file.id)


def test_a_pending_one_can_be_read_otherwise_or_go(store, files):
    chat = store.create()
    file = add(files, chat.id)
    files.set_mode(chat.id, file.id, ReadMode.SEARCH)
    files.set_tokens(chat.id, file.id, 7, "pile")
    changed = files.get(chat.id, file.id)
    assert (changed.mode, changed.tokens, changed.tokenizer) == (ReadMode.SEARCH, 7, "pile")
    assert not files.has_searchable(chat.id)
    files.remove(chat.id, file.id)
    assert files.pending(chat.id) == []


def test_a_chat_has_room_for_so_much(store, files):
    chat = store.create()
    add(files, chat.id, size=900)
    with raises_code("attachments_full") as full:
        add(files, chat.id, "big.txt", size=101)
    assert "big.txt" in full.value.message and "1 kB" in full.value.message
    add(files, chat.id, size=1)
    add(files, chat.id, size=1)
    with raises_code("attachments_full"):
        add(files, chat.id, size=1)
    with pytest.raises(ChatNotFound):
        add(files, "none")


def test_a_deleted_chat_shows_no_file_and_takes_them_along_for_good(store, files, database):
    chat = store.create()
    file = add(files, chat.id)
    store.delete(chat.id)
    with raises_code("attachment_not_found"):
        files.text(chat.id, file.id)
    store.restore(chat.id)
    assert files.text(chat.id, file.id) == "text"
    store.delete(chat.id)
    store.purge_deleted(time.time() + 1)
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM attachments").fetchone()[0] == 0


def test_files_of_messages_that_are_gone_for_good_go_too_and_others_stay(store, files):
    chat = store.create()
    gone, kept, both = (add(files, chat.id, name) for name in ("gone", "kept", "both"))
    first = send(store, chat.id, gone, both)
    send(store, chat.id, both, text="edited")
    store.delete_message(first.id)
    files.remove(chat.id, kept.id)
    waiting = add(files, chat.id, "waiting")
    assert files.text(chat.id, gone.id)
    store.purge_deleted(time.time() + 1)
    with raises_code("attachment_not_found"):
        files.text(chat.id, gone.id)
    assert files.text(chat.id, both.id) and files.pending(chat.id) == [waiting]


def test_the_exports_have_the_files(store, files):
    chat = store.create(title="Birds")
    file = add(files, chat.id, "notes.md", "# Heron\n```\ncode\n```\n")
    stored = send(store, chat.id, file, text="What is it?")
    document = chat_document(store, chat.id)
    assert document["attachments"][0] | {"created_at": 0} == {
        "id": file.id, "name": "notes.md", "mode": "whole", "size_bytes": 10, "tokens": 3, "created_at": 0,
        "text": "# Heron\n```\ncode\n```\n",
    }  # fmt: skip
    assert document["messages"][0]["metadata"]["attachments"][0]["id"] == file.id
    assert "What is it?\n\n### notes.md\n\n````\n# Heron\n```\ncode\n```\n````\n" in chat_markdown(store, chat.id)
    assert stored.id


def test_half_a_character_in_a_text_does_not_break_the_database(store, files):
    chat = store.create()
    file = add(files, chat.id, "a\ud800.txt", "x\udfffy")
    assert files.text(chat.id, file.id) == "x\ufffdy" and file.name == "a\ufffd.txt"
