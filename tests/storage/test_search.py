import pytest

from webapp.chat.messages import Message, Role
from webapp.storage.chats import excerpt_of


@pytest.fixture(params=["with the index", "without it"])
def searched(request, store, database):
    """A store with a few messages; every test runs with trigram search and with LIKE alone."""
    if request.param == "without it":
        database.has_search_index = False
    chat = store.create("Birds 鸟类")
    parent = store.add_message(chat.id, None, Message(Role.USER, "Is the Rook a corvid? 100%"))
    store.add_message(chat.id, parent.id, Message(Role.ASSISTANT, "乌鸦和秃鼻乌鸦都是鸦科鸟类。"))
    store.add_message(chat.id, parent.id, Message(Role.ASSISTANT, 'It says "AND NOT" (content:*) ^x'))
    return store


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("rook", 1),
        ("ROOK corvid", 1),
        ("rook castle", 0),
        ("orvi", 1),
        ("乌鸦", 1),
        ("鸦科鸟类", 1),
        ("乌", 1),
        ("is", 1),
        ("100%", 1),
        ("0%_", 0),
        ("%", 1),
        ('"AND NOT"', 1),
        ("(content:*)", 1),
        ('" OR 1=1 --', 0),
        ("NEAR(a b)", 0),
        ("", 0),
        ("  ", 0),
        ("\0\0", 0),
        ("\ud800", 0),
    ],
)
def test_words_are_found_everywhere_and_never_parsed_as_syntax(searched, query, count):
    assert len([hit for hit in searched.search(query) if hit.message_id]) == count


def test_titles_are_found_before_messages(searched):
    hits = searched.search("鸟类")
    assert [hit.message_id == "" for hit in hits] == [True, False]


def test_a_version_that_is_not_shown_is_found(searched):
    assert searched.search("鸦科鸟")[0].role == "assistant"


def test_deleted_messages_and_chats_are_not_found(searched):
    hit = searched.search("corvid")[0]
    searched.delete_message(hit.message_id)
    assert searched.search("corvid") == searched.search("鸦科鸟") == []
    searched.restore_message(hit.message_id)
    assert searched.search("corvid")
    searched.delete(hit.chat_id)
    assert searched.search("corvid") == searched.search("Birds") == []


def test_a_finished_message_is_found_only_by_its_new_text(searched):
    hit = searched.search("corvid")[0]
    searched.finish_message(hit.message_id, Message(Role.USER, "a jackdaw"))
    assert searched.search("corvid") == []
    assert searched.search("jackdaw")


def test_the_excerpt_says_where_the_words_are():
    text = "x " * 100 + "the Rook\nand the rook" + " y" * 100
    excerpt, positions = excerpt_of(text, ["rook"])
    assert [excerpt[start:end] for start, end in positions] == ["Rook", "rook"]
    assert excerpt.startswith("…") and excerpt.endswith("…")
    assert "\n" not in excerpt and len(excerpt) <= 162
