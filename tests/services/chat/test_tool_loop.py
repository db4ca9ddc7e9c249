"""Rounds of calls: who is asked, what the model reads, and that nothing runs twice or without approval."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from tests.errors import raises_code
from tests.waiting import wait_until
from webapp.chat.messages import Message, Role, ToolCall
from webapp.errors import ModelError, ToolInvalid
from webapp.i18n import Text
from webapp.services.chat.tool_loop import MAX_ROUNDS, REFUSED, ToolLoop
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database
from webapp.storage.records import Chat, ChatTools
from webapp.storage.tools import StoredTool, ToolStore
from webapp.tools.definition import Approval, Behaviour, ToolDefinition

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}}, "required": ["city"]}
FIXED = ToolDefinition("weather", "", PARAMETERS, Behaviour.FIXED, '{"temperature": "22"}', approval=Approval.ALWAYS)
ASKS = ToolDefinition("ask_me", "", PARAMETERS, Behaviour.ASK, approval=Approval.NEVER)
FREE = replace(FIXED, name="free", approval=Approval.NEVER)
ONCE = replace(FIXED, name="once", approval=Approval.ONCE)


class House:
    """A chat with tools, and a `go_on` that stores the results as ChatTurns does."""

    def __init__(self, path: str) -> None:
        self.database = Database(path)
        self.chats = ChatStore(self.database)
        self.tools = ToolStore(self.database)
        made = self.tools.create_all([FIXED, ASKS, FREE, ONCE])
        self.chat = self.chats.create()
        self.chats.set_tools(self.chat.id, ChatTools(True, True, tuple(tool.id for tool in made)))
        self.rounds: list[list[tuple[str, str]]] = []
        self.loop = ToolLoop(self.chats, self.offered, self.go_on)
        self.question = self.chats.add_message(self.chat.id, None, Message(Role.USER, "?")).id

    def offered(self, chat: Chat) -> list[StoredTool]:
        return self.tools.by_ids(chat.tools.tool_ids)

    def go_on(self, message_id: str, results: Sequence[Message]) -> None:
        self.rounds.append([(message.tool_call_id, message.content) for message in results])
        parent = message_id
        for message in results:
            parent = self.chats.add_message(self.chat.id, parent, message).id

    def answer(self, *calls: tuple[str, object], parent: str = "") -> str:
        made = tuple(ToolCall(f"c{number}", name, json.dumps(value)) for number, (name, value) in enumerate(calls))
        message = Message(Role.ASSISTANT, "", tool_calls=made, token_ids=(1, 2))
        return self.chats.add_message(self.chat.id, parent or self.question, message).id

    def statuses(self, message_id: str) -> list[str]:
        return [state.status for state in self.loop.calls(self.chats.message(message_id))]


@pytest.fixture
def house(tmp_path):
    made = House(str(tmp_path / "roost.db"))
    yield made
    made.database.close()


PARIS = {"city": "Paris"}


def test_a_tool_that_needs_no_approval_runs_and_the_answer_continues(house: House) -> None:
    message_id = house.answer(("free", PARIS))
    house.loop.advance(message_id)
    assert house.rounds == [[("c0", '{"temperature": "22"}')]]
    house.loop.advance(message_id)
    assert len(house.rounds) == 1


def test_a_tool_that_asks_first_waits_until_it_is_approved(house: House) -> None:
    message_id = house.answer(("weather", PARIS))
    house.loop.advance(message_id)
    assert house.statuses(message_id) == ["waiting"] and house.rounds == []
    house.loop.approve(message_id, "c0")
    assert house.rounds == [[("c0", '{"temperature": "22"}')]]
    with raises_code("chat_error"):
        house.loop.approve(message_id, "c0")


def test_an_answer_continues_only_when_every_call_has_its_result(house: House) -> None:
    message_id = house.answer(("weather", PARIS), ("free", PARIS), ("ask_me", PARIS))
    house.loop.advance(message_id)
    assert house.statuses(message_id) == ["waiting", "done", "asking"]
    house.loop.give(message_id, "c2", "it rains")
    house.loop.refuse(message_id, "c0")
    assert [call_id for call_id, _ in house.rounds[0]] == ["c0", "c1", "c2"]
    assert str(REFUSED) in house.rounds[0][0][1] and house.rounds[0][2][1] == "it rains"


def test_a_call_approved_late_does_not_move_later_messages(house: House) -> None:
    message_id = house.answer(("weather", PARIS))
    house.loop.advance(message_id)
    later = house.chats.add_message(house.chat.id, message_id, Message(Role.USER, "Never mind.")).id
    house.loop.approve(message_id, "c0")
    assert house.statuses(message_id) == ["done"] and house.rounds == []
    assert house.chats.branch(house.chat.id)[-1].id == later


def test_a_round_of_a_version_that_is_not_shown_waits_until_it_is(house: House) -> None:
    first = house.answer(("weather", PARIS))
    second = house.answer(("free", PARIS))
    house.loop.approve(first, "c0")
    assert house.rounds == [] and house.chats.branch(house.chat.id)[-1].id == second
    house.chats.select_version(first)
    house.loop.resume(first)
    assert len(house.rounds) == 1


def test_asking_once_asks_once_a_chat(house: House) -> None:
    first = house.answer(("once", PARIS))
    house.loop.advance(first)
    assert house.statuses(first) == ["waiting"]
    house.loop.approve(first, "c0", for_chat=True)
    second = house.answer(("once", PARIS))
    house.loop.advance(second)
    assert house.statuses(second) == ["done"] and len(house.rounds) == 2


def test_edited_arguments_are_checked_and_go_back_as_text(house: House) -> None:
    message_id = house.answer(("weather", PARIS))
    with pytest.raises(ToolInvalid) as caught:
        house.loop.approve(message_id, "c0", '{"city": "paris"}')
    assert caught.value.params["field"] == "arguments.city"
    house.loop.approve(message_id, "c0", '{"city": "Rome"}')
    stored = house.chats.message(message_id).message
    assert stored.tool_calls[0].arguments == '{"city": "Rome"}' and stored.token_ids == ()


def test_wrong_arguments_and_unknown_tools_are_reported_to_the_model(house: House) -> None:
    message_id = house.answer(("free", {"city": 3}), ("nobody", {}))
    house.loop.advance(message_id)
    texts = [text for _, text in house.rounds[0]]
    assert "do not fit" in texts[0] and "nobody does not exist" in texts[1]


def test_rounds_end_by_themselves(house: House) -> None:
    parent = house.question
    for number in range(MAX_ROUNDS + 1):
        parent = house.answer(("free", {"city": f"Paris {'I' * number}"}), parent=parent)
        house.loop.advance(parent)
        parent = house.chats.branch(house.chat.id)[-1].id
    assert len(house.rounds) == MAX_ROUNDS


def test_the_same_call_again_is_not_run_again_and_ends_the_rounds(house: House) -> None:
    """Unless something else came between, or the first call failed."""
    runs: list[str] = []
    real = house.loop._run
    house.loop._run = lambda message_id, call, tool: (runs.append(call.name), real(message_id, call, tool))[1]
    parent = house.question
    for _ in range(5):
        parent = house.answer(("free", PARIS), parent=parent)
        house.loop.advance(parent)
        parent = house.chats.branch(house.chat.id)[-1].id
    assert runs == ["free"] and len(house.rounds) == 2
    [(_, told)] = house.rounds[1]
    assert told.endswith('{"temperature": "22"}') and str(Text("reason.services.repeated_call")) in told
    later = house.chats.add_message(house.chat.id, parent, Message(Role.USER, "And now?")).id
    house.loop.advance(house.answer(("free", PARIS), parent=later))
    assert runs == ["free", "free"] and len(house.rounds) == 3


def test_a_round_that_cannot_continue_now_can_later(house: House) -> None:
    message_id = house.answer(("free", PARIS))

    def refuse(message_id: str, results: Sequence[Message]) -> None:
        raise ModelError("shutting_down")

    closing = ToolLoop(house.chats, house.offered, refuse)
    closing.advance(message_id)
    assert house.rounds == [] and house.statuses(message_id) == ["done"]
    house.loop.advance(message_id)
    assert len(house.rounds) == 1


def test_a_chat_whose_next_answer_starts_late_delays_no_other(house):
    other = house.chats.create()
    house.chats.set_tools(other.id, house.chats.get(house.chat.id).tools)
    question = house.chats.add_message(other.id, None, Message(Role.USER, "?")).id
    call = ToolCall("c0", "weather", '{"city": "Paris"}')
    elsewhere = house.chats.add_message(other.id, question, Message(Role.ASSISTANT, "", tool_calls=(call,))).id
    begun, may_go_on = threading.Event(), threading.Event()

    def go_on(message_id, results):
        if message_id == elsewhere:
            begun.set()
            may_go_on.wait(60)
        else:
            house.go_on(message_id, results)

    house.loop._go_on = go_on
    slow = threading.Thread(target=house.loop.refuse, args=(elsewhere, "c0"))
    slow.start()
    wait_until(begun.is_set)
    mine = house.answer(("weather", {"city": "Paris"}))
    quick = threading.Thread(target=house.loop.refuse, args=(mine, "c0"), daemon=True)
    quick.start()
    quick.join(60)
    went_on = list(house.rounds)
    may_go_on.set()
    slow.join(60)
    assert len(went_on) == 1 and not house.loop._locks._by_key
