"""Files attached to a message: counted with the model's vocabulary, read completely or searched, depending on their
size."""

import errno
import os
from pathlib import Path

import pytest

from tests.errors import raises_code
from webapp.chat.messages import ReadMode
from webapp.errors import ModelError
from webapp.services.attachments import (
    AUTOMATIC_ID,
    FILE_BYTES,
    ROOM,
    WHOLE_TOKENS,
    Attachments,
    document_kind,
    with_search,
)
from webapp.settings import Settings
from webapp.storage.tools import ToolStore
from webapp.tokenizer.loading import ByteTokenizer
from webapp.tools.builtin import BUILTINS
from webapp.tools.definition import Behaviour, ToolDefinition


class Manager:
    def __init__(self, tokenizer):
        self.now = tokenizer

    def tokenizer(self):
        if self.now is None:
            raise ModelError("no_model")
        return self.now


@pytest.fixture
def manager(world):
    return Manager(world)


@pytest.fixture
def files(database, manager):
    return Attachments(database, manager, Settings(max_prompt_tokens=20_000))


@pytest.fixture
def chat(store):
    return store.create()


def test_a_file_is_counted_as_it_is_in_the_prompt(files, chat, world):
    file = files.attach(chat.id, "../../notes.txt", "苍鹭\r\n\r\n站着".encode("gb18030"))
    assert file.name == "notes.txt" and files.store.text(chat.id, file.id) == "苍鹭\r\n\r\n站着"
    assert file.tokens == len(world.encode("File: notes.txt\n```\n苍鹭\n站着\n```"))
    assert file.mode is ReadMode.WHOLE and files.pending(chat.id) == [file]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"%PDF-1.7\ncut off", "pdf"),
        (b"From a scanner\r\n%PDF-1.4\n1 0 obj ... startxref\n9\n%%EOF\n", "pdf"),
        (b"PK\x03\x04 word/document.xml", "docx"),
        (b"PK\x03\x04 xl/workbook.xml", ""),
        (b"A PDF begins with %PDF-1.7 and a number.", ""),
    ],
)
def test_a_document_is_recognised_by_its_bytes_and_a_text_about_one_is_a_text(files, data, kind):
    assert document_kind(data) == kind
    if data.startswith(b"A PDF"):
        assert files.check("notes.md", data) == data.decode()


def test_a_disk_without_room_for_a_document_is_reported(files, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with raises_code("disk_full"):
        files.check("a.pdf", b"%PDF-1.7\n")


def test_a_long_file_is_searched_unless_the_person_says_otherwise(files, chat):
    file = files.attach(chat.id, "long.txt", b"heron " * (WHOLE_TOKENS + 10))
    assert file.mode is ReadMode.SEARCH
    files.toggle(chat.id, file.id)
    assert files.pending(chat.id)[0].mode is ReadMode.WHOLE
    files.toggle(chat.id, file.id)
    assert files.pending(chat.id)[0].mode is ReadMode.SEARCH


def test_a_file_too_large_for_a_prompt_is_not_read_completely(files, chat):
    file = files.attach(chat.id, "huge.txt", b"heron " * 21_000)
    with raises_code("prompt_too_long"):
        files.toggle(chat.id, file.id)


def test_without_a_model_characters_decide_and_the_count_comes_with_one(files, chat, manager, world):
    manager.now = None
    file = files.attach(chat.id, "a.txt", b"one two three")
    assert (file.tokens, file.mode) == (None, ReadMode.WHOLE)
    assert files.attach(chat.id, "b.txt", b"x" * 16_001).mode is ReadMode.SEARCH
    assert files.pending(chat.id)[0].tokens is None
    manager.now = world
    assert files.pending(chat.id)[0].tokens < 30
    manager.now = ByteTokenizer()
    assert files.pending(chat.id)[0].tokens == len("File: a.txt\n```\none two three\n```")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "attachment_empty"),
        (b" \n\t", "attachment_empty"),
        (b"\xef\xbb\xbf", "attachment_empty"),
        (bytes(100), "attachment_not_text"),
        (b"a" * (FILE_BYTES + 1), "attachment_too_large"),
    ],
)
def test_what_cannot_be_attached_is_refused_and_nothing_is_kept(files, chat, data, error):
    with raises_code(error):
        files.attach(chat.id, "<b>.txt", data)
    assert files.pending(chat.id) == []


def test_a_chat_takes_so_many(files, chat):
    for _ in range(ROOM.most_files):
        files.attach(chat.id, "a", b"a")
    with raises_code("attachments_full"):
        files.attach(chat.id, "a", b"a")


def test_a_file_of_another_chat_is_not_toggled(files, chat, store):
    file = files.attach(chat.id, "a", b"a")
    with raises_code("attachment_not_found"):
        files.toggle(store.create().id, file.id)


def test_the_search_is_offered_once_and_in_a_persons_own_words(database):
    tools = ToolStore(database)
    weather = tools.create(ToolDefinition("weather"))
    assert [tool.id for tool in with_search([weather], tools)] == [weather.id, AUTOMATIC_ID]
    own = tools.create(BUILTINS["search_attachments"].definition)
    assert [tool.id for tool in with_search([weather], tools)] == [weather.id, own.id]
    assert with_search([own], tools) == [own]


def test_a_persons_tool_of_that_name_replaces_it(database):
    tools = ToolStore(database)
    theirs = tools.create(ToolDefinition("search_attachments", behaviour=Behaviour.ASK))
    assert with_search([theirs], tools) == [theirs]
    assert [tool.id for tool in with_search([], tools)] == [AUTOMATIC_ID]
