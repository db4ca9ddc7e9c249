import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.errors import raises_code
from tests.services.chat.watching import text_of, thought_of, watch
from tests.services.scripted_manager import HANG, end
from tests.waiting import PATIENCE_S, WaitRanOut
from webapp.chat.messages import ContentDelta, Failed, Finished, Message, Role, ThinkMode, ToolCall, Waiting
from webapp.engine.outputs import PrefillProgress
from webapp.errors import ChatNotFound, EngineCrashed, QueueFull, RoostError, StorageError
from webapp.manager.handles import LoadingEvent, QueuePosition
from webapp.services.chat import turn_writer
from webapp.services.chat import turns as chat_turns
from webapp.services.chat.turn_writer import Journal
from webapp.services.generation import generation
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database


@pytest.fixture
def journal_writes(monkeypatch):
    """Set when a part of a running answer was stored."""
    written, steps = threading.Event(), []
    append, store_all = ChatStore.append_tokens, Journal._store_all

    def noted(*args):
        append(*args)
        steps.append(args)

    def stored(journal):
        store_all(journal)
        if steps:  # and committed
            written.set()

    monkeypatch.setattr(ChatStore, "append_tokens", noted)
    monkeypatch.setattr(Journal, "_store_all", stored)
    return written


def shown(store, chat_id):
    return [stored.message.content for stored in store.branch(chat_id)]


def test_a_message_is_stored_answered_and_titled(turns_with, store):
    turns, manager = turns_with(" A rook is a bird.")
    chat = store.create()
    live = turns.send(chat.id, "What is a rook?", client="me")
    assert text_of(watch(live)) == "A rook is a bird."
    question, answer = store.branch(chat.id)
    assert (question.id, answer.id) == (live.user_message_id, live.message_id)
    assert (answer.message.content, answer.status, answer.finish_reason) == ("A rook is a bird.", "complete", "stop")
    assert answer.model == "starter.pth"
    assert store.get(chat.id).title == "What is a rook?"
    assert manager.requests[0].client == "me"


def test_the_stats_say_how_the_answer_was_made(turns_with, store):
    turns, _ = turns_with(" Hi.")
    chat = store.create(sampling={"temperature": 0.5})
    live = turns.send(chat.id, "Hello")
    finished = watch(live)[-1]
    assert finished.stats["seed"] == 42
    assert finished.stats["tokens_per_s"] == 2.0
    assert finished.stats["sampling"]["temperature"] == 0.5
    assert (finished.stats["strategy"], finished.stats["state"]) == ("cpu fp32", "kind.pth")
    assert store.message(live.message_id).stats == finished.stats


def test_the_next_prompt_begins_with_every_token_the_last_turn_read(turns_with, store, world):
    turns, manager = turns_with(" Hi there.\n\nHow are you?", " Fine.")
    chat = store.create()
    watch(turns.send(chat.id, "Hello"))
    watch(turns.send(chat.id, "More"))
    first, second = (list(request.prompt_token_ids) for request in manager.requests)
    answer = world.encode(" Hi there.\n\nHow are you?")
    rest = world.encode("\n\n") + world.encode("User: More\n\n") + world.encode("Assistant:")
    assert second == first + answer + rest
    assert manager.requests[1].boundaries[-1] == len(second) - len(world.encode("Assistant:"))


def test_a_stop_spelled_across_tokens_leaves_a_prefix_that_fits(turns_with, store, world):
    r"""The World vocabulary has "。\n" as one token, so the engine's own stop sequences do not match this one."""
    assert world.encode("。\n\n") == [28329, 11]
    turns, manager = turns_with(" 好。\n\nUser: more", " 好")
    chat = store.create()
    events = watch(turns.send(chat.id, "你好"))
    assert text_of(events) == "好。"
    assert events[-1].finish_reason == "stop"
    assert manager.handles[0].is_aborted.is_set()
    watch(turns.send(chat.id, "再见"))
    first, second = (list(request.prompt_token_ids) for request in manager.requests)
    assert second == first + world.encode(" 好。\n\n") + world.encode("User: 再见\n\n") + world.encode("Assistant:")


def test_the_engine_gets_the_usual_tokens_of_each_stop(turns_with, store):
    turns, manager = turns_with(" Hi.")
    watch(turns.send(store.create().id, "Hello"))
    params = manager.requests[0].params
    assert (261, 24281, 59) in params.stop_token_sequences
    assert params.stop_token_ids == (0,)


def test_thinking_is_kept_apart_and_left_out_of_the_next_prompt(turns_with, store, world):
    turns, manager = turns_with([world.encode(">\n17*3 is 51.\n</think>\n51")], " Yes.")
    chat = store.create(think_mode=ThinkMode.THINK)
    events = watch(turns.send(chat.id, "17*3?"))
    assert (thought_of(events).strip(), text_of(events)) == ("17*3 is 51.", "51")
    answer = store.branch(chat.id)[-1].message
    assert (answer.reasoning, answer.content, answer.think_mode) == ("17*3 is 51.", "51", ThinkMode.THINK)
    watch(turns.send(chat.id, "Sure?"))
    first, second = (world.decode(request.prompt_token_ids) for request in manager.requests)
    assert first == "User: 17*3? (think)\n\nAssistant: <think"
    assert second == "User: 17*3? (think)\n\nAssistant: 51\n\nUser: Sure? (think)\n\nAssistant: <think"


def test_the_fast_form_prefills_nothing_again(turns_with, store):
    turns, manager = turns_with(">\nHi.", ">\nFine.")
    chat = store.create(think_mode=ThinkMode.FAST)
    assert text_of(watch(turns.send(chat.id, "Hello"))) == "Hi."
    watch(turns.send(chat.id, "More"))
    first, second = (request.prompt_token_ids for request in manager.requests)
    assert second[: len(first)] == first
    assert second[len(first)] == 63  # the ">" that the model wrote


def test_stop_keeps_the_text_and_continue_writes_in_the_same_message(turns_with, store, world):
    gate = threading.Event()
    turns, manager = turns_with([" One, two,", gate], " three.")
    chat = store.create()
    live = turns.send(chat.id, "Count")
    wait_for_text(live, "One, two,")
    turns.stop(chat.id)
    assert watch(live)[-1].finish_reason == "abort"
    stopped = store.message(live.message_id)
    assert (stopped.message.content, stopped.status) == ("One, two,", "stopped")

    again = turns.continue_answer(live.message_id)
    assert again.message_id == live.message_id
    assert text_of(watch(again)) == "One, two, three."
    done = store.message(live.message_id)
    assert (done.message.content, done.status) == ("One, two, three.", "complete")
    first, second = (list(request.prompt_token_ids) for request in manager.requests)
    assert second == first + world.encode(" One, two,")
    assert done.message.token_ids == tuple(world.encode(" One, two,") + world.encode(" three."))


def test_continue_uses_what_the_router_was_holding_back(turns_with, store):
    turns, _ = turns_with([" One.\n\nUse", end("length")], "ful too.")
    chat = store.create()
    live = turns.send(chat.id, "Go")
    assert text_of(watch(live)) == "One.\n\nUse"
    assert text_of(watch(turns.continue_answer(live.message_id))) == "One.\n\nUseful too."
    assert shown(store, chat.id)[-1] == "One.\n\nUseful too."


def test_continue_inside_thinking_continues_the_thinking(turns_with, store):
    turns, _ = turns_with([">\nHm", end("length")], "m.</think>\n51")
    chat = store.create(think_mode=ThinkMode.THINK)
    live = turns.send(chat.id, "17*3?")
    watch(live)
    watch(turns.continue_answer(live.message_id))
    answer = store.message(live.message_id).message
    assert (answer.reasoning, answer.content) == ("Hmm.", "51")


def test_an_answer_with_only_text_can_be_continued(turns_with, store, world):
    turns, manager = turns_with(" two.")
    chat = store.create()
    question = store.add_message(chat.id, None, Message(Role.USER, "Count"))
    cut = store.add_message(chat.id, question.id, Message(Role.ASSISTANT, "One,"), status="interrupted")
    assert text_of(watch(turns.continue_answer(cut.id))) == "One, two."
    assert world.decode(manager.requests[0].prompt_token_ids).endswith("Assistant: One,")
    assert store.message(cut.id).message.token_ids == tuple(world.encode(" One,") + world.encode(" two."))


def test_half_a_character_at_the_limit_is_not_shown_but_kept(turns_with, store):
    bytes_of_hao = [b + 1 for b in "好".encode()]  # single-byte tokens of the World vocabulary
    turns, _ = turns_with([" a", bytes_of_hao[:2], end("length")], [bytes_of_hao[2:]])
    chat = store.create()
    live = turns.send(chat.id, "Go")
    assert text_of(watch(live)) == "a"
    assert text_of(watch(turns.continue_answer(live.message_id))) == "a好"


def test_an_answer_that_ended_by_itself_cannot_be_continued(turns_with, store):
    turns, _ = turns_with(" Hi.")
    live = turns.send(store.create().id, "Hello")
    watch(live)
    for message_id in (live.message_id, live.user_message_id):
        with raises_code("nothing_to_continue"):
            turns.continue_answer(message_id)


def test_regenerate_feeds_only_the_generation_prompt(turns_with, store, world):
    turns, manager = turns_with(" One.", " Two.")
    chat = store.create()
    live = turns.send(chat.id, "Hello")
    watch(live)
    again = turns.regenerate(live.message_id)
    watch(again)
    first, second = manager.requests
    assert second.prompt_token_ids == first.prompt_token_ids
    assert second.prompt_token_ids[second.boundaries[-1] :] == tuple(world.encode("Assistant:"))
    answer = store.branch(chat.id)[-1]
    assert (answer.message.content, answer.version, answer.previous_version_id) == ("Two.", 2, live.message_id)


def test_a_question_without_answer_can_be_answered(turns_with, store):
    turns, _ = turns_with(" Hi.")
    chat = store.create()
    question = store.add_message(chat.id, None, Message(Role.USER, "Hello"))
    watch(turns.regenerate(question.id))
    assert shown(store, chat.id) == ["Hello", "Hi."]


def test_editing_makes_a_branch_next_to_the_old_one(turns_with, store):
    turns, _ = turns_with(" One.", " Two.")
    chat = store.create()
    live = turns.send(chat.id, "Hello")
    watch(live)
    edited = turns.edit(live.user_message_id, "Goodbye")
    watch(edited)
    assert shown(store, chat.id) == ["Goodbye", "Two."]
    store.select_version(live.user_message_id)
    assert shown(store, chat.id) == ["Hello", "One."]
    with raises_code("chat_error"):
        turns.edit(live.message_id, "x")


def test_a_rewritten_answer_is_a_version_that_can_be_continued(turns_with, store):
    turns, _ = turns_with(" One.", " a time.")
    chat = store.create()
    live = turns.send(chat.id, "Hello")
    watch(live)
    assert turns.rewrite(live.message_id, "Once upon") == chat.id
    changed = store.branch(chat.id)[-1]
    assert changed.previous_version_id == live.message_id and not changed.message.token_ids
    watch(turns.continue_answer(changed.id))
    assert shown(store, chat.id) == ["Hello", "Once upon a time."]
    store.select_version(live.message_id)
    assert shown(store, chat.id) == ["Hello", "One."]


def test_the_question_of_a_rewritten_answer_looks_as_it_did(turns_with, store):
    """A question contains the think mode of its answer, and is prefilled again if that changes."""
    turns, _ = turns_with()
    chat = store.create()
    question = store.add_message(chat.id, None, Message(Role.USER, "Hello"))
    said = Message(Role.ASSISTANT, "One.", "Hm.", token_ids=(1, 2), think_mode=ThinkMode.THINK_A_BIT)
    turns.rewrite(store.add_message(chat.id, question.id, said).id, "Two.")
    changed = store.branch(chat.id)[-1].message
    assert (changed.content, changed.reasoning, changed.token_ids) == ("Two.", "Hm.", ())
    assert changed.think_mode is ThinkMode.THINK_A_BIT


def test_only_an_answer_without_calls_is_rewritten(turns_with, store):
    turns, _ = turns_with()
    chat = store.create()
    question = store.add_message(chat.id, None, Message(Role.USER, "Hello"))
    calls = (ToolCall("c1", "f", "{}"),)
    answer = store.add_message(chat.id, question.id, Message(Role.ASSISTANT, "", tool_calls=calls))
    for message_id in (question.id, answer.id):
        with raises_code("chat_error"):
            turns.rewrite(message_id, "x")
    with raises_code("prompt_empty"):
        turns.rewrite(answer.id, " ")


def test_no_answer_is_rewritten_while_one_is_being_written(turns_with, store):
    gate = threading.Event()
    turns, _ = turns_with(" One.", [" Two", gate])
    chat = store.create()
    live = turns.send(chat.id, "Hello")
    watch(live)
    going_on = turns.send(chat.id, "And?")
    with raises_code("turn_running"):
        turns.rewrite(live.message_id, "x")
    gate.set()
    watch(going_on)


def test_one_turn_per_chat_many_chats_at_once(turns_with, store):
    gate = threading.Event()
    turns, _ = turns_with(*[[" a", gate, " b"]] * 10)
    chats = [store.create() for _ in range(10)]
    lives = [turns.send(chat.id, "Go") for chat in chats]
    for chat, live in zip(chats, lives, strict=True):
        with raises_code("turn_running"):
            turns.send(chat.id, "again")
        assert turns.live(chat.id) is live
    gate.set()
    assert [text_of(watch(live)) for live in lives] == ["a b"] * 10
    assert all(shown(store, chat.id) == ["Go", "a b"] for chat in chats)


def test_of_many_sends_at_once_one_begins(turns_with, store):
    gate = threading.Event()
    turns, _ = turns_with([gate])
    chat = store.create()

    def send(_):
        with contextlib.suppress(RoostError):
            return turns.send(chat.id, "Go")

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(send, range(8)))
    gate.set()
    assert sum(live is not None for live in outcomes) == 1
    assert len(store.branch(chat.id)) == 2


def test_a_refused_request_is_a_failed_turn_and_the_next_message_works(turns_with, store, world):
    turns, manager = turns_with(QueueFull(waiting=64), " Hi.")
    chat = store.create()
    live = turns.send(chat.id, "Hello")
    failed = watch(live)[-1]
    assert isinstance(failed, Failed) and failed.error["code"] == "queue_full"
    stored = store.message(live.message_id)
    assert (stored.status, stored.finish_reason, stored.error) == ("failed", "error", failed.error)
    assert text_of(watch(turns.send(chat.id, "Again"))) == "Hi."
    assert world.decode(manager.requests[1].prompt_token_ids) == "User: Hello\n\nUser: Again\n\nAssistant:"


def test_an_engine_that_dies_leaves_the_text_it_wrote(turns_with, store):
    crash = EngineCrashed(reason="killed").to_dict()
    turns, _ = turns_with([" Half an ans", end("error", crash)])
    live = turns.send(store.create().id, "Hello")
    failed = watch(live)[-1]
    assert isinstance(failed, Failed) and failed.error == crash
    stored = store.message(live.message_id)
    assert (stored.message.content, stored.error) == ("Half an ans", crash)


def test_even_a_bug_is_a_failed_turn(turns_with, store):
    turns, _ = turns_with([" a", ZeroDivisionError("oops")])
    failed = watch(turns.send(store.create().id, "Hello"))[-1]
    assert failed.error["code"] == "internal_error" and "oops" in failed.error["message"]


def test_an_answer_that_cannot_be_stored_is_not_written_on(turns_with, store, monkeypatch):
    def full_disk(*args):
        raise StorageError(reason="disk is full")

    turns, manager = turns_with([" One", threading.Event()])
    monkeypatch.setattr(ChatStore, "append_tokens", full_disk)
    monkeypatch.setattr(turn_writer, "POLL_S", 0.01)
    failed = watch(turns.send(store.create().id, "Go"))[-1]
    assert failed.error["code"] == "storage_error"
    assert manager.handles[0].is_aborted.is_set()


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let an open file be deleted")
def test_an_answer_whose_database_is_deleted_fails_and_is_in_the_copy(turns_with, store, database):
    go_on = threading.Event()
    turns, _ = turns_with([" One", go_on, " two"])
    chat = store.create()
    live = turns.send(chat.id, "Go")
    position = 0
    while "One" not in text_of(live.events_after(0, timeout_s=0)[0]):
        _, position = live.events_after(position, timeout_s=5.0)
    database.path.unlink()
    go_on.set()
    failed = watch(live)[-1]
    assert failed.error["code"] == "database_gone"
    copy = ChatStore(Database(Path(failed.error["params"]["saved"]["params"]["copy"])))
    assert copy.recover() == 1
    assert [(stored.message.role, stored.status) for stored in copy.branch(chat.id)] == [
        (Role.USER, "complete"),
        (Role.ASSISTANT, "interrupted"),
    ]


def test_a_swap_while_the_prompt_is_made_is_a_failed_turn(turns_with, store, monkeypatch):
    """The ids belong to the previous model; another vocabulary would interpret them differently."""
    turns, manager = turns_with(" Hi.")
    tokenizer = manager.tokenizer()

    def swapped():
        manager._info = SimpleNamespace(**vars(manager._info))
        return tokenizer

    monkeypatch.setattr(manager, "tokenizer", swapped)
    assert watch(turns.send(store.create().id, "Hello"))[-1].error["code"] == "model_unloaded"


def test_a_chat_whose_turn_found_no_thread_is_not_blocked(turns_with, store, monkeypatch):
    def no_thread(thread):
        raise RuntimeError("can't start new thread")

    turns, _ = turns_with(" Hi.")
    chat = store.create()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        live = turns.send(chat.id, "Go")
    assert isinstance(watch(live)[-1], Failed)
    assert store.message(live.message_id).status == "failed"
    assert text_of(watch(turns.send(chat.id, "Again"))) == "Hi."


def test_sampling_that_cannot_be_is_a_failed_turn(turns_with, store):
    turns, _ = turns_with()
    chat = store.create(sampling={"temperature": 9000})
    assert watch(turns.send(chat.id, "Hello"))[-1].error["code"] == "sampling_invalid"


def test_waiting_is_reported_in_words_a_page_can_show(turns_with, store):
    turns, _ = turns_with([LoadingEvent(1, 9), LoadingEvent(2, 9), QueuePosition(3), PrefillProgress("", 5, 7), " Hi."])
    events = watch(turns.send(store.create().id, "Hello"))
    waits = [event for event in events if isinstance(event, Waiting)]
    assert waits == [Waiting("loading", 1, 9), Waiting("queued", 3), Waiting("reading", 5, 7)]


def test_a_viewer_who_comes_late_or_again_sees_all_of_it(turns_with, store):
    gate = threading.Event()
    turns, _ = turns_with([" One", gate, " two"])
    chat = store.create()
    live = turns.send(chat.id, "Go")
    wait_for_text(live, "One")
    early, position = live.events_after(0, 1)
    gate.set()
    rest = watch(live, position)
    assert text_of(early) + text_of(rest) == "One two"
    assert watch(turns.live(chat.id)) == early + rest
    assert live.events_after(len(early + rest), 60) == ([], len(early + rest))


def test_what_a_viewer_sees_is_stored_soon_even_without_more_events(turns_with, store, journal_writes):
    gate = threading.Event()
    turns, _ = turns_with([" One", gate])
    chat = store.create()
    live = turns.send(chat.id, "Go")
    wait_for_text(live, "One")
    assert turn_writer.JOURNAL_S <= 0.25 and journal_writes.wait(60)
    assert shown(store, chat.id) == ["Go", "One"]
    gate.set()


def test_an_answer_is_stored_while_it_is_written_after_so_many_tokens(turns_with, store, journal_writes, monkeypatch):
    monkeypatch.setattr(turn_writer, "JOURNAL_S", 600.0)
    gate = threading.Event()
    turns, _ = turns_with([[33] * 40, gate])
    chat = store.create()
    turns.send(chat.id, "Go")
    assert journal_writes.wait(PATIENCE_S)
    assert len(store.branch(chat.id)[-1].message.token_ids) >= turn_writer.JOURNAL_TOKENS == 32
    gate.set()


def test_a_short_answer_is_stored_once(turns_with, store, journal_writes, monkeypatch):
    monkeypatch.setattr(turn_writer, "JOURNAL_S", 60.0)
    turns, _ = turns_with(" One")
    live = turns.send(store.create().id, "Go")
    watch(live)
    assert not journal_writes.is_set() and store.message(live.message_id).message.content == "One"


def test_a_viewer_waits_no_longer_than_asked(turns_with, store, monkeypatch):
    monkeypatch.setattr(generation, "ABORT_GRACE_S", 0.02)
    turns, _ = turns_with([QueuePosition(1), HANG])
    live = turns.send(store.create().id, "Go")
    events, position = live.events_after(0, 10)
    assert live.events_after(position, 0.01) == ([], position)
    assert events
    turns.close()


def test_finished_turns_are_forgotten_after_a_while(turns_with, store, monkeypatch):
    turns, _ = turns_with(" Hi.")
    chat = store.create()
    watch(turns.send(chat.id, "Hello"))
    assert turns.live(chat.id) is not None
    monkeypatch.setattr(chat_turns, "FINISHED_KEPT_S", 0.0)
    assert turns.live(chat.id) is None


def test_stop_works_though_the_engine_does_not_answer(turns_with, store, monkeypatch):
    monkeypatch.setattr(generation, "ABORT_GRACE_S", 0.02)
    turns, _ = turns_with([" One", HANG])
    chat = store.create()
    live = turns.send(chat.id, "Go")
    wait_for_text(live, "One")
    turns.stop(chat.id)
    assert watch(live)[-1].finish_reason == "abort"
    assert shown(store, chat.id) == ["Go", "One"]


def test_stop_where_nothing_is_written_does_nothing(turns_with, store):
    turns, _ = turns_with()
    turns.stop(store.create().id)


def test_closing_keeps_what_is_written_as_interrupted(turns_with, store):
    turns, _ = turns_with([" One", threading.Event()])
    chat = store.create()
    live = turns.send(chat.id, "Go")
    wait_for_text(live, "One")
    turns.close()
    assert live.is_finished
    assert store.message(live.message_id).status == "interrupted"
    with raises_code("shutting_down"):
        turns.send(chat.id, "More")


def test_an_answer_left_by_a_dead_server_is_interrupted_at_the_next_start(turns_with, store):
    chat = store.create()
    question = store.add_message(chat.id, None, Message(Role.USER, "Go"))
    answer = store.add_message(chat.id, question.id, Message(Role.ASSISTANT, ""), status="streaming")
    store.append_tokens(answer.id, "One", "", (33,))
    turns_with()
    assert (store.message(answer.id).status, shown(store, chat.id)) == ("interrupted", ["Go", "One"])


def test_a_second_server_on_the_same_data_leaves_the_answers_of_the_first_alone(turns_with, store):
    gate = threading.Event()
    turns, _ = turns_with([" One", gate, " two"])
    live = turns.send(store.create().id, "Go")
    wait_for_text(live, "One")
    with raises_code("data_folder_in_use") as caught:
        turns_with()
    assert "--data" in caught.value.hint
    assert store.message(live.message_id).status == "streaming"
    gate.set()
    assert text_of(watch(live)) == "One two"
    turns.close()
    turns_with()


def test_what_was_deleted_long_ago_is_gone_at_the_next_start(turns_with, store):
    kept, old, new = store.create(), store.create(), store.create()
    for chat in (old, new):
        store.delete(chat.id)
    with store.database.transaction() as connection:
        connection.execute("UPDATE chats SET deleted_at = deleted_at - 90000 WHERE id = ?", (old.id,))
    turns_with()
    store.restore(new.id)
    with pytest.raises(ChatNotFound):
        store.restore(old.id)
    assert {summary.id for summary in store.list()} == {kept.id, new.id}


def test_a_message_deleted_while_it_is_written_is_restored_completely(turns_with, store):
    gate = threading.Event()
    turns, _ = turns_with([" One", gate, " two"])
    live = turns.send(store.create().id, "Go")
    wait_for_text(live, "One")
    store.delete_message(live.message_id)
    gate.set()
    assert isinstance(watch(live)[-1], Finished)
    store.restore_message(live.message_id)
    assert store.message(live.message_id).message.content == "One two"


def test_ids_of_another_vocabulary_are_not_fed_to_this_model(turns_with, store, world):
    turns, manager = turns_with(" Fine.")
    chat = store.create()
    question = store.add_message(chat.id, None, Message(Role.USER, "Hello"))
    foreign = Message(Role.ASSISTANT, "Hi.", token_ids=(9, 9, 9), metadata={"tokenizer": "20B_tokenizer.json"})
    store.add_message(chat.id, question.id, foreign)
    watch(turns.send(chat.id, "More"))
    assert "Assistant: Hi.\n\nUser: More" in world.decode(manager.requests[0].prompt_token_ids)


def test_a_chats_own_template_is_used(turns_with, store, world):
    turns, manager = turns_with(" Hi.")
    watch(turns.send(store.create(template="bob_alice").id, "Hello"))
    assert world.decode(manager.requests[0].prompt_token_ids) == "Bob: Hello\n\nAlice:"


def test_what_cannot_begin_says_so_at_once(turns_with, store):
    turns, _ = turns_with()
    with raises_code("prompt_empty"):
        turns.send(store.create().id, " \n")
    with pytest.raises(ChatNotFound):
        turns.send("nowhere", "Hello")
    with raises_code("message_not_found"):
        turns.regenerate("nothing")


def wait_for_text(live, text):
    """Waits until the log has this much content."""
    seen, position = "", 0
    while seen != text:
        events, position = live.events_after(position, PATIENCE_S)
        if not events:
            raise WaitRanOut(f"only {seen!r} came")
        seen += "".join(event.text for event in events if isinstance(event, ContentDelta))
