import json
import subprocess
import sys
import threading
import time

import pytest

from tests.errors import raises_code
from webapp.chat.messages import Message, Role, ThinkMode, ToolCall
from webapp.errors import ChatNotFound
from webapp.services.chat.chat_file import chat_document, chat_markdown
from webapp.storage.chats import VOTED_ANSWERS, ChatStore
from webapp.storage.database import Database


def user(text):
    return Message(Role.USER, text)


def assistant(text, **fields):
    return Message(Role.ASSISTANT, text, **fields)


def texts(store, chat_id):
    return [stored.message.content for stored in store.branch(chat_id)]


def conversation(store, count=4):
    """A chat of alternating messages m0, m1, …"""
    chat = store.create("Rooks")
    parent, made = None, []
    for index in range(count):
        message = user(f"m{index}") if index % 2 == 0 else assistant(f"m{index}")
        made.append(store.add_message(chat.id, parent, message))
        parent = made[-1].id
    return chat, made


def test_a_chat_keeps_everything_it_was_made_with(store):
    chat = store.create(
        "Title", system_prompt="Be kind.", template="g1x", think_mode=ThinkMode.FAST, sampling={"temperature": 0.5}
    )
    assert store.get(chat.id) == chat
    store.set_options(chat.id, think_mode=ThinkMode.NONE)
    store.set_system_prompt(chat.id, "Be brief.")
    store.rename(chat.id, "  New\n name ")
    changed = store.get(chat.id)
    assert (changed.title, changed.system_prompt, changed.think_mode) == ("New name", "Be brief.", ThinkMode.NONE)
    assert (changed.template, changed.sampling) == ("g1x", {"temperature": 0.5})


def test_a_message_is_read_as_it_was_stored(store):
    chat = store.create()
    message = assistant(
        "好\n\n**x**",
        reasoning="why",
        token_ids=(0, 65535, 1 << 31),
        think_mode=ThinkMode.THINK,
        tool_calls=(ToolCall("c1", "get", "{}"),),
        metadata={"a": [1]},
        name="bot",
    )
    stored = store.add_message(chat.id, None, message)
    assert stored.message == message
    assert store.message(stored.id) == stored


def test_a_lone_surrogate_is_stored_as_a_replacement(store):
    chat = store.create("\ud800")
    assert store.add_message(chat.id, None, user("a\udfffb")).message.content == "a\ufffdb"


def test_the_list_is_by_last_use_with_the_last_message_as_snippet(store):
    old, _ = conversation(store)
    new = store.create("Empty")
    assert [(chat.id, chat.snippet) for chat in store.list()] == [(new.id, ""), (old.id, "m3")]
    store.add_message(old.id, old.head_id, user("again"))
    assert [chat.id for chat in store.list()] == [old.id, new.id]
    assert [chat.id for chat in store.list(limit=1, offset=1)] == [new.id]


def test_the_list_can_be_narrowed_by_title_or_message(store):
    chat, _ = conversation(store)
    store.create("Other")
    assert [found.id for found in store.list("rook")] == [chat.id]
    assert [found.id for found in store.list("m2")] == [chat.id]
    assert store.list("nowhere") == []


def test_regenerating_makes_versions_that_can_be_walked(store):
    chat, made = conversation(store, 2)
    second = store.add_message(chat.id, made[0].id, assistant("m1 again"))
    assert texts(store, chat.id) == ["m0", "m1 again"]
    shown = store.branch(chat.id)[1]
    assert (shown.version, shown.version_count, shown.previous_version_id) == (2, 2, made[1].id)
    store.select_version(made[1].id)
    shown = store.branch(chat.id)[1]
    assert (shown.message.content, shown.next_version_id) == ("m1", second.id)


def test_choosing_a_version_shows_its_branch_down_to_the_newest_leaf(store):
    chat, made = conversation(store, 4)
    edited = store.add_message(chat.id, None, user("m0 edited"))
    store.add_message(chat.id, edited.id, assistant("answer"))
    assert texts(store, chat.id) == ["m0 edited", "answer"]
    store.select_version(made[0].id)
    assert texts(store, chat.id) == ["m0", "m1", "m2", "m3"]


def test_the_parent_must_be_in_the_same_chat(store):
    _, made = conversation(store)
    with raises_code("message_not_found"):
        store.add_message(store.create().id, made[0].id, user("x"))


def test_deleting_a_message_hides_what_follows_and_undo_restores_it(store):
    chat, made = conversation(store)
    store.delete_message(made[2].id)
    assert texts(store, chat.id) == ["m0", "m1"]
    with raises_code("message_not_found"):
        store.message(made[3].id)
    store.restore_message(made[2].id)
    assert texts(store, chat.id) == ["m0", "m1", "m2", "m3"]


def test_deleting_a_version_shows_the_one_next_to_it(store):
    chat, made = conversation(store, 2)
    second = store.add_message(chat.id, made[0].id, assistant("m1 again"))
    store.delete_message(second.id)
    assert texts(store, chat.id) == ["m0", "m1"]
    assert store.branch(chat.id)[1].version_count == 1


def test_undo_does_not_bring_back_what_was_deleted_before(store):
    chat, made = conversation(store)
    store.delete_message(made[3].id)
    store.delete_message(made[1].id)
    store.restore_message(made[1].id)
    assert texts(store, chat.id) == ["m0", "m1", "m2"]


def test_deleting_in_a_branch_that_is_not_shown_moves_nothing(store):
    chat, made = conversation(store, 2)
    store.add_message(chat.id, made[0].id, assistant("m1 again"))
    store.delete_message(made[1].id)
    assert texts(store, chat.id) == ["m0", "m1 again"]


def test_deleting_the_first_message_leaves_an_empty_chat(store):
    chat, made = conversation(store)
    store.delete_message(made[0].id)
    assert store.branch(chat.id) == []


def test_a_deleted_chat_is_gone_until_it_is_restored(store):
    chat, _ = conversation(store)
    store.delete(chat.id)
    assert store.list() == []
    for use in (store.get, store.branch, store.delete, store.whole):
        with pytest.raises(ChatNotFound):
            use(chat.id)
    store.restore(chat.id)
    assert texts(store, chat.id) == ["m0", "m1", "m2", "m3"]


def test_purging_removes_for_good_what_was_deleted_long_enough_ago(store, database):
    with database.transaction():
        chat, _ = conversation(store, 1010)  # deeper than SQLite lets foreign keys cascade
    kept, kept_made = conversation(store)
    store.delete(chat.id)
    store.delete_message(kept_made[2].id)
    assert store.purge_deleted(time.time() - 60) == 0
    assert store.purge_deleted(time.time() + 1) == 1010 + 1 + 2
    with pytest.raises(ChatNotFound):
        store.restore(chat.id)
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM message_search").fetchone()[0] == 2
    assert texts(store, kept.id) == ["m0", "m1"]


def test_a_running_answer_has_its_text_so_far(store):
    chat, made = conversation(store, 1)
    answer = store.add_message(chat.id, made[0].id, assistant(""), status="streaming")
    store.append_tokens(answer.id, "", "Hm", (1,))
    store.append_tokens(answer.id, "Ro", "", (2, 3))
    shown = store.branch(chat.id)[1]
    assert shown.message == assistant("Ro", reasoning="Hm", token_ids=(1, 2, 3))
    assert shown.status == "streaming"
    store.finish_message(answer.id, assistant("Rook"), "complete", "stop", {"seed": 7}, model="starter")
    done = store.message(answer.id)
    assert (done.message.content, done.status, done.finish_reason) == ("Rook", "complete", "stop")
    assert (done.stats, done.model, done.error) == ({"seed": 7}, "starter", None)


def test_a_killed_process_loses_nothing_it_had_appended(store, database, tmp_path):
    chat, made = conversation(store, 1)
    answer = store.add_message(chat.id, made[0].id, assistant(""), status="streaming")
    for index in range(100):
        store.append_tokens(answer.id, f"{index} ", "", (index,))
    with Database(tmp_path / "roost.db").connect():  # no close: as after kill -9
        reopened = ChatStore(Database(tmp_path / "roost.db"))
    assert reopened.recover() == 1
    recovered = reopened.message(answer.id)
    assert recovered.status == "interrupted"
    assert recovered.message.token_ids == tuple(range(100))
    assert recovered.message.content.split() == [str(index) for index in range(100)]
    assert reopened.recover() == 0
    assert reopened.search("97 98 99")[0].message_id == answer.id


def test_a_reopened_message_continues_at_the_given_place(store):
    _, made = conversation(store, 2)
    store.reopen_message(made[1].id, assistant("m1", token_ids=(5,)))
    store.append_tokens(made[1].id, " and more", "", (6,))
    shown = store.message(made[1].id)
    assert (shown.status, shown.message.content, shown.message.token_ids) == ("streaming", "m1 and more", (5, 6))


def test_showing_a_chat_takes_the_same_few_queries_however_long_it_is(tmp_path):
    statements = []
    store = ChatStore(Database(tmp_path / "counted.db", trace=statements.append))
    counts = []
    for length in (2, 200):
        chat, _ = conversation(store, length)
        statements.clear()
        assert len(store.branch(chat.id)) == length
        counts.append(sum(statement.lstrip().startswith(("SELECT", "WITH")) for statement in statements))
    assert counts == [3, 3]


def test_writing_a_long_answer_writes_each_token_once(tmp_path):
    statements = []
    store = ChatStore(Database(tmp_path / "counted.db", trace=statements.append))
    chat = store.create()
    answer = store.add_message(chat.id, None, assistant(""), status="streaming")
    statements.clear()
    for _ in range(500):
        store.append_tokens(answer.id, "word ", "", (1,))
    assert sum(len(statement) for statement in statements) < 500 * 400


def test_eight_threads_write_and_read_at_once(store):
    chats = [store.create(str(index)) for index in range(8)]
    answers = [store.add_message(chat.id, None, assistant(""), status="streaming") for chat in chats]
    errors = []

    def work(answer):
        try:
            for index in range(60):
                store.append_tokens(answer.id, f"{index},", "", (index,))
                if index % 10 == 0:
                    store.list()
            store.finish_message(answer.id, store.message(answer.id).message)
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(answer,)) for answer in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    expected = "".join(f"{index}," for index in range(60))
    assert [store.message(answer.id).message.content for answer in answers] == [expected] * 8


def test_markdown_has_the_shown_branch_with_thinking_quoted(store):
    chat = store.create("Ro\noks", system_prompt="Be kind.")
    question = store.add_message(chat.id, None, user("What?"))
    store.add_message(chat.id, question.id, assistant("Another version"))
    store.add_message(chat.id, question.id, assistant("A bird.", reasoning="Birds\n\nmaybe"))
    assert chat_markdown(store, chat.id) == (
        "# Ro oks\n\n## System\n\nBe kind.\n\n## User\n\nWhat?\n\n## Assistant\n\n> Birds\n>\n> maybe\n\nA bird.\n"
    )


def test_markdown_keeps_calls_and_results_as_they_were_written(store):
    chat = store.create(title="Birds")
    asked = store.add_message(chat.id, None, Message(Role.USER, "?"))
    calls = (ToolCall("c1", "weather", '{"city":"Paris"}'), ToolCall("c2", "time", "{}"))
    answer = store.add_message(chat.id, asked.id, Message(Role.ASSISTANT, "I look.", tool_calls=calls))
    store.add_message(chat.id, answer.id, Message(Role.TOOL, "# 22\n```", tool_call_id="c1", name="weather"))
    assert chat_markdown(store, chat.id) == (
        "# Birds\n\n## User\n\n?\n\n## Assistant\n\nI look.\n\n"
        '### weather\n\n```json\n{"city":"Paris"}\n```\n\n### time\n\n```json\n{}\n```\n\n'
        "## Tool: weather\n\n````\n# 22\n```\n````\n"
    )


def test_json_has_every_version_parents_first(store):
    chat, made = conversation(store, 2)
    store.add_message(chat.id, made[0].id, assistant("again", token_ids=(4, 5)))
    document = json.loads(json.dumps(chat_document(store, chat.id)))
    assert document["format"] == "roost-chat"
    assert [(m["content"], m["parent_id"]) for m in document["messages"]] == [
        ("m0", None),
        ("m1", made[0].id),
        ("again", made[0].id),
    ]
    assert document["messages"][2]["token_ids"] == [4, 5]


WRITER = """
import sys
from webapp.storage.chats import VOTED_ANSWERS, ChatStore
from webapp.storage.database import Database
store = ChatStore(Database(sys.argv[1]))
for index in range(10**9):
    store.append_tokens(sys.argv[2], f"{index} ", "", (index,))
    print(index, flush=True)
"""


def test_after_kill_9_every_token_reported_written_is_there(store, database):
    answer = store.add_message(store.create().id, None, assistant(""), status="streaming")
    command = [sys.executable, "-c", WRITER, str(database.path), answer.id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        reported = [int(writer.stdout.readline()) for _ in range(50)]
        writer.kill()
    assert store.recover() == 1
    assert store.message(answer.id).message.token_ids[:50] == tuple(reported)


def test_chats_have_places_and_an_archive(store):
    first, second, third, fourth = (store.create(title=title) for title in ("first", "second", "third", "fourth"))
    store.place([first.id], is_pinned=True)
    store.place([second.id, third.id], folder="  Work \n notes ")
    assert {row.id for row in store.placed()} == {first.id, second.id, third.id}
    assert [row.id for row in store.loose(10)] == [fourth.id] and store.folders() == ["Work notes"]
    assert {row.id for row in store.list(folder="Work notes")} == {second.id, third.id}
    assert [row.id for row in store.list("third", folder="Work notes")] == [third.id]
    store.place([third.id, fourth.id], is_archived=True)
    assert [row.id for row in store.loose(10)] == [] and len(store.list()) == 2
    assert {(row.id, row.folder) for row in store.list(is_archived=True)} == {(third.id, "Work notes"), (fourth.id, "")}
    store.place([second.id, third.id], folder="")
    store.place([fourth.id], is_archived=False)
    assert store.folders() == [] and {row.id for row in store.loose(10)} == {second.id, fourth.id}


def test_many_chats_are_deleted_and_restored_together_or_not_at_all(store):
    gone, kept, before = (store.create(title=title) for title in ("gone", "kept", "before"))
    store.delete(before.id)
    with raises_code("chat_not_found"):
        store.delete_all([gone.id, "nowhere"])
    assert len(store.list()) == 2, "none of them where one is not there"
    moment, _ = store.delete_all([gone.id, kept.id])
    assert store.list() == []
    store.restore_all(moment)
    assert {row.id for row in store.list()} == {gone.id, kept.id}, "and not what was deleted before"


@pytest.mark.parametrize("whose", ["1", "c.person_id = 'owner'"])
def test_a_tally_of_votes_reads_only_questions_with_votes(store, whose):
    with store.database.connect() as connection:
        plan = [row["detail"] for row in connection.execute("EXPLAIN QUERY PLAN " + VOTED_ANSWERS.format(whose))]
    assert plan[0] == "SCAN q USING INDEX messages_voted"
    assert all(step.startswith(("SEARCH", "USE TEMP")) for step in plan[1:])
