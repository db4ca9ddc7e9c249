"""The commands for answers side by side, as a page posts them; parts that browser tests do not cover."""

import re
from types import SimpleNamespace

import pytest

from tests.errors import raises_code
from tests.web.chat.running_roost import fake_strategy
from webapp.web.chat.commands import Commands, FrameFields, read_command
from webapp.web.chat.live import ChatContext
from webapp.web.roles import Role


@pytest.fixture
def chat(start):
    """``perform(do, role, **fields)`` is a command; ``written()`` waits for the answers and returns their rows."""
    roost = start(fake_strategy(" Hi.", slots=9))
    chat_id = roost.store.create().id

    def written():
        for live in roost.turns.answers(chat_id):
            assert live.wait_finished(60)
        return roost.store.versions(roost.store.branch(chat_id)[-1].id)

    def perform(do, role=Role.OWNER, **fields):
        with roost.app.test_request_context():
            context = ChatContext(roost.app, "en", roost.app.extensions["people"].owner)
            commands = Commands(context, "me", lambda: role)
            return commands.perform(read_command(FrameFields({"do": do, "chat": chat_id, **fields})))

    return SimpleNamespace(roost=roost, id=chat_id, perform=perform, written=written)


def test_a_form_asks_for_many_and_without_scripts_the_page_shows_and_keeps_them(chat):
    _, page = chat.roost.post("/chat/do", do="send", chat=chat.id, text="Why?", answers="5")
    rows = chat.written()
    page = chat.roost.get(f"/chat/{chat.id}")
    assert re.findall(r'class="answer card[^"]*" id="m-(\w+)"', page) == [row.id for row in rows] and len(rows) == 5
    ticked = {f"keep:{rows[1].id}": "1", f"keep:{rows[4].id}": "1"}
    address, page = chat.roost.post("/chat/do", do=f"keep_ticked:{rows[0].id}", chat=chat.id, **ticked)
    assert [row.id for row in chat.written()] == [rows[1].id, rows[4].id]
    assert "restore_beside" in address and 'value="restore_beside:' in page
    chat.roost.post("/chat/do", do=f"restore_beside:{rows[0].parent_id}", chat=chat.id)
    assert [row.id for row in chat.written()] == [row.id for row in rows]


@pytest.mark.parametrize("answers", ["0", "33", "many", "1e400"])
def test_a_number_of_answers_that_cannot_be_is_refused_and_nothing_is_stored(chat, answers):
    with raises_code("bad_frame"):
        chat.perform("send", text="Why?", answers=answers)
    assert chat.roost.store.branch(chat.id) == []


def test_what_cannot_be_decided_or_compared_is_refused(chat):
    chat.perform("send", text="Why?")
    [alone] = chat.written()
    for do, fields, code in (
        (f"vote:{alone.id}", {}, "chat_error"),
        (f"keep:{alone.id}", {}, "chat_error"),
        ("keep:gone", {}, "message_not_found"),
        (f"keep_ticked:{alone.id}", {}, "bad_frame"),
        (f"compare:{alone.id}", {"first": "preset:gone", "second": "state:"}, "preset_not_found"),
        (f"compare:{alone.id}", {"first": "poem:1", "second": "state:"}, "bad_frame"),
        (f"compare:{alone.id}", {"first": "state:gone.pth", "second": "state:"}, "state_not_found"),
        (f"fork:{alone.id}:1", {}, "bad_frame"),
        (f"fork:{alone.id}:x:1", {}, "bad_frame"),
        ("stop_answer:gone", {}, "message_not_found"),
    ):
        with raises_code(code):
            chat.perform(do, **fields)
    assert chat.written() == [alone]


def test_guests_ask_for_many_but_do_not_have_models_swapped(chat):
    chat.perform("send", role=Role.GUEST, text="Why?", answers="2")
    first = chat.written()[0]
    preset = chat.roost.app.extensions["presets"].active().id
    fields = {"first": f"preset:{preset}", "second": "state:"}
    with raises_code("owner_only"):
        chat.perform(f"compare:{first.id}", role=Role.GUEST, **fields)
    chat.perform(f"compare:{first.id}", **fields)
    assert len(chat.written()) == 4


def test_the_form_that_compares_says_what_was_marked_best(chat):
    chat.perform("send", text="Why?")
    [answer] = chat.written()
    assert "data-votes" not in chat.roost.get(f"/chat/several/{answer.id}")
    chat.perform(f"compare:{answer.id}", first="state:", second="state:")
    chat.perform(f"vote:{chat.written()[-1].id}")
    told = re.search(r"data-votes>([^<]+)<", chat.roost.get(f"/chat/several/{answer.id}"))[1]
    assert "1 of 2" in told


def test_a_vote_is_kept_if_the_end_of_an_answer_is_reported_after_it(chat):
    chat.perform("send", text="Why?", answers="2")
    voted = chat.written()[1].id
    end = ("finished", voted)
    socket = chat.roost.socket()
    socket.open(chat.id)
    socket.send(do=f"vote:{voted}", chat=chat.id)
    frames = socket.until(lambda frame: isinstance(frame, str) and "beside-head" in frame and 'pressed="true"' in frame)
    frames += socket.until(lambda frame: isinstance(frame, dict) and (frame["type"], frame.get("message")) == end)
    socket.close()
    feet = [frame for frame in frames if isinstance(frame, str) and f'id="foot-{voted}"' in frame]
    assert re.search(rf'value="vote:{voted}" aria-pressed="true"', feet[-1])
