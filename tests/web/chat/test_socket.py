"""The socket of one page: commands in, differences out."""

import re
import shutil
from collections import Counter

import pytest

from tests.web.chat.running_roost import fake_strategy, shown_text
from tests.wording import pattern
from webapp.errors import StorageError
from webapp.storage.chats import ChatStore
from webapp.web.chat import viewer


@pytest.fixture
def page(roost):
    client = roost.socket()
    yield client
    client.close()


def is_frame(kind, **values):
    return lambda frame: isinstance(frame, dict) and frame["type"] == kind and values.items() <= frame.items()


def asked(roost):
    """A page that has sent its first question, and the new chat."""
    page = roost.socket()
    page.open()
    page.send(do="send", chat="", text="Why?")
    chat_id = page.until_type("chat")[-1]["id"]
    return page, chat_id


def test_a_first_message_becomes_a_chat_and_its_answer_streams(roost, page):
    page.open()
    page.send(do="send", chat="", text="Why?", sent_as="c1")
    frames = page.until_type("finished")
    chat = next(frame for frame in frames if isinstance(frame, dict) and frame["type"] == "chat")
    assert chat["url"] == f"/chat/{chat['id']}"
    assert any(is_frame("accepted", sent_as="c1")(frame) for frame in frames)
    assert "<strong>no current</strong>" in shown_text(frames) and "鸟儿很安全。" in shown_text(frames)
    assert len([frame for frame in frames if is_frame("text")(frame)]) < 60


def test_the_list_that_follows_a_new_chat_shows_it_as_the_current_one(roost, page):
    page.open()
    page.send(do="send", chat="", text="Why?")
    chat_id = page.until_type("chat")[-1]["id"]
    drawn = page.until(lambda frame: isinstance(frame, str) and 'id="chat-list"' in frame)[-1]
    assert f'href="/chat/{chat_id}" aria-current="page"' in drawn


def test_the_footer_with_the_figures_is_sent_at_the_end(roost, page):
    page.open()
    page.send(do="send", chat="", text="Why?")
    frames = page.until_type("finished")
    foot = [frame for frame in frames if isinstance(frame, str) and 'id="foot-' in frame][-1]
    assert all(re.search(pattern(f"chat.stats.{key}"), foot) for key in ("speed", "read_again.other"))


def test_an_answer_whose_end_cannot_be_stored_says_why_and_can_be_tried_again(roost, page, monkeypatch):
    def full_disk(*args, **kwargs):
        raise StorageError(reason="database or disk is full")

    with monkeypatch.context() as full:
        full.setattr(ChatStore, "finish_message", full_disk)
        page.open()
        page.send(do="send", chat="", text="Why?")
        frames = page.until_type("finished")
    foot = [frame for frame in frames if isinstance(frame, str) and 'id="foot-' in frame][-1]
    assert "database or disk is full" in foot and 'value="regenerate:' in foot
    chat_id = next(frame for frame in frames if is_frame("chat")(frame))["id"]
    assert "database or disk is full" in roost.get(f"/chat/{chat_id}")


@pytest.mark.parametrize("data", ["", "nonsense", "[]", '{"do": 5}', '{"do": "explode"}', '{"do": "open", "shown": 3}'])
def test_a_bad_frame_gets_a_toast_and_the_loop_continues(roost, page, data):
    page.client.send(data)
    refusal = page.until(lambda frame: isinstance(frame, str) and "toast-error" in frame)
    assert is_frame("refused")(refusal[-2])
    page.open()
    page.until_type("answering")


def test_a_page_opened_during_an_answer_gets_all_of_it(start):
    roost = start(fake_strategy(delay_ms=12))
    first, second = roost.socket(), roost.socket()
    first.open()
    first.send(do="send", chat="", text="Why?")
    chat_id = first.until_type("chat")[-1]["id"]
    first.until(lambda frame: is_frame("text")(frame) and frame["final"])
    second.open(chat_id)
    ends = [client.until_type("finished") for client in (first, second)]
    assert "鸟儿很安全。" in shown_text(ends[1]) and "Birds perch" in shown_text(ends[1])
    first.close()
    second.close()


def test_an_answer_continues_when_its_page_closes(start):
    roost = start(fake_strategy(delay_ms=2))
    page, chat_id = asked(roost)
    page.close()
    turn = roost.turns.live(chat_id)
    assert turn.wait_finished(60)
    assert roost.store.branch(chat_id)[-1].finish_reason == "stop"


def test_stop_keeps_the_text_and_continue_uses_it(start):
    roost = start(fake_strategy(delay_ms=12))
    page, chat_id = asked(roost)
    page.until(lambda frame: is_frame("text")(frame) and len(frame["tail"]) > 20)
    page.send(do=f"stop:{chat_id}", chat=chat_id)
    page.until_type("finished")
    page.until(is_frame("answering", message=""))
    stopped = roost.store.branch(chat_id)[-1]
    assert stopped.status == "stopped" and stopped.message.content
    page.send(do=f"continue:{stopped.id}", chat=chat_id)
    frames = page.until_type("finished")
    assert "Birds perch" in shown_text(frames) and "鸟儿很安全。" in shown_text(frames)
    assert roost.store.branch(chat_id)[-1].id == stopped.id
    page.close()


def test_only_what_differs_is_sent_after_a_reconnect(roost, page):
    chat_id = roost.answered()
    html = roost.get(f"/chat/{chat_id}")
    import re

    shown = re.findall(r'data-message="(\w+)" data-fingerprint="(\w+)"', html)
    page.open(chat_id, tuple(shown))
    frames = page.until_type("answering")
    assert not [frame for frame in frames if isinstance(frame, str) and 'class="message' in frame]
    page.open(chat_id, ((shown[0][0], "old"),))
    frames = page.until_type("answering")
    drawn = [frame for frame in frames if isinstance(frame, str) and 'class="message' in frame]
    assert [name in drawn[0] for name, _ in shown] == [True, True]


def test_another_page_sees_a_change_at_once(roost, page):
    chat_id = roost.answered()
    page.open(chat_id)
    page.until_type("answering")
    roost.post("/chat/do", do="rename_chat", chat=chat_id, title="A new name")
    page.until(lambda frame: isinstance(frame, str) and 'id="chat-title"' in frame and "A new name" in frame)
    first = roost.store.branch(chat_id)[0]
    roost.post("/chat/do", do=f"delete_message:{first.id}", chat=chat_id)
    page.until(lambda frame: isinstance(frame, str) and f'id="m-{first.id}" hx-swap-oob="delete"' in frame)


def test_a_chat_deleted_elsewhere_is_reported(roost, page):
    chat_id = roost.answered()
    page.open(chat_id)
    page.until_type("answering")
    roost.post("/chat/do", do=f"delete_chat:{chat_id}")
    page.until_type("gone")


def test_the_strip_follows_the_model(start):
    roost = start(fake_strategy(load_ms=2000))
    page = roost.socket()
    page.open()
    page.until_type("answering")
    roost.app.extensions["model_manager"].load()
    page.until(lambda frame: isinstance(frame, str) and 'id="strip"' in frame and "light-waiting" in frame)
    page.until(lambda frame: isinstance(frame, str) and 'id="strip"' in frame and "light-idle" in frame)
    page.close()


def test_thinking_goes_to_its_fold(start):
    roost = start(fake_strategy("<think>hm, wires</think>\nBecause."))
    chat = roost.store.create()
    page = roost.socket()
    page.open(chat.id)
    page.send(do="send", chat=chat.id, text="Why?")
    frames = page.until_type("finished")
    assert "hm, wires" in shown_text(frames, "reasoning") and "Because." in shown_text(frames)
    page.close()


def test_a_chat_that_has_not_begun_introduces_the_model_just_chosen(start):
    roost = start(fake_strategy())
    starter = roost.settings.models_dir / "roost-starter-v7.safetensors"
    other = starter.with_name("another.safetensors")
    shutil.copy(starter, other)
    page = roost.socket()
    try:
        page.open()
        page.until_type("answering")
        roost.app.extensions["model_manager"].load(model=other.name)
        frames = page.until(lambda frame: isinstance(frame, str) and 'id="welcome"' in frame)
        assert other.name in frames[-1] and not re.search(pattern("chat.welcome.intro_starter"), frames[-1])
    finally:
        page.close()
        other.unlink()


def test_a_message_needs_few_queries_and_renders_no_panel(start, monkeypatch):
    """The branch is read when question and answer appear, but not when the answer ends."""
    roost = start(fake_strategy())
    chat_id = roost.answered()
    page = roost.socket()
    page.open(chat_id)
    page.until_type("answering")
    statements, branches, panels = [], [], []
    database = roost.app.extensions["database"]
    begin, branch, panel = database._begin, ChatStore.branch, viewer.load_offer

    monkeypatch.setattr(database, "_begin", lambda statement: (statements.append(statement), begin(statement))[1])
    monkeypatch.setattr(ChatStore, "branch", lambda store, name: (branches.append(name), branch(store, name))[1])
    monkeypatch.setattr(viewer, "load_offer", lambda *given: (panels.append(given), panel(*given))[1])
    page.send(do="send", chat=chat_id, text="Why?")
    frames = page.until(is_frame("answering", message=""))
    page.close()
    assert len(branches) == 1 and not panels
    assert not [frame for frame in frames if isinstance(frame, str) and 'id="options"' in frame]
    written = len(roost.store.message(roost.turns.live(chat_id).message_id).message.token_ids)
    journal = min(roost.turns.live(chat_id).event_count, written // 32) + 1  # while it was written
    assert len(statements) <= 10 + journal


def test_a_message_renders_itself_its_answers_footer_the_list_and_the_strip(start):
    """Nothing of the existing branch, and nothing of the panel."""
    roost = start(fake_strategy(delay_ms=2))
    chat_id = roost.answered()
    page = roost.socket()
    page.open(chat_id)
    page.until_type("answering")
    page.send(do="send", chat=chat_id, text="Why?")
    frames = page.until(is_frame("answering", message=""))
    page.close()
    question, answer = (row.id for row in roost.store.branch(chat_id)[-2:])
    first_ids = [re.search(r'id="([\w-]+)"', frame)[1] for frame in frames if isinstance(frame, str)]
    drawn = Counter(first_ids)
    assert drawn.pop("chat-list") <= 2 and drawn.pop("strip") <= 4
    assert drawn == {f"m-{question}": 1, f"foot-{answer}": 1}
    appended = next(frame for frame in frames if isinstance(frame, str) and f"m-{question}" in frame)
    assert re.findall(r' data-message="(\w+)"', appended) == [question, answer]


def test_an_answer_that_ends_before_the_page_looks_is_shown_as_finished(start):
    roost = start(fake_strategy("Yes."))
    page = roost.socket()
    page.open(roost.answered())
    page.until_type("answering")
    for _ in range(3):
        page.send(do="send", chat=page_chat(roost), text="Why?")
        finished = page.until_type("finished")[-1]
        assert finished["fingerprint"]
    page.close()


def page_chat(roost):
    """The chat used last."""
    return roost.store.list()[0].id


def test_other_readers_change_the_list_now_and_then_and_the_page_itself_at_once(start, monkeypatch):
    monkeypatch.setattr(viewer, "LIST_INTERVAL_S", 60.0)
    roost = start(fake_strategy("Yes."))
    chat_id = roost.answered()
    page = roost.socket()
    page.open(chat_id)
    page.until(is_list)
    roost.answered("Elsewhere")
    page.send(do="rename_chat", chat=chat_id, title="Named here")
    frames = page.until(is_list)
    assert len([frame for frame in frames if is_list(frame)]) == 1 and "Named here" in frames[-1]
    page.close()


def is_list(frame):
    return isinstance(frame, str) and 'id="chat-list"' in frame
