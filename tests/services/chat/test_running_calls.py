"""A slow tool: it is shown as running, runs once, and can be stopped at any time."""

from __future__ import annotations

import threading

import pytest
from msgspec.structs import replace

from tests.errors import raises_code
from tests.services.chat.test_tool_loop import House
from tests.waiting import wait_until
from webapp.errors import ToolInvalid
from webapp.services.chat.tool_loop import ToolLoop
from webapp.storage.records import ChatTools
from webapp.tools.definition import Approval, Behaviour, McpTool, ToolDefinition
from webapp.tools.runner import ToolResult


class Slow:
    """A server's tool that waits for the test; ``ran`` counts its calls."""

    def __init__(self) -> None:
        self.ran = 0
        self.begun, self.may_end, self.was_stopped = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, definition, arguments, is_stopped):
        self.ran += 1
        self.begun.set()
        while not self.may_end.wait(0.01):
            if is_stopped():
                self.was_stopped.set()
                self.may_end.wait(60)
        return ToolResult("late")


@pytest.fixture
def slow():
    slow = Slow()
    yield slow
    slow.may_end.set()


@pytest.fixture
def house(tmp_path, slow):
    house = House(str(tmp_path / "roost.db"))
    tool = house.tools.create(ToolDefinition("far", behaviour=Behaviour.MCP, mcp=McpTool("s", "far")))
    house.chats.set_tools(house.chat.id, ChatTools(True, True, (tool.id,)))
    house.told, house.threads = [], []

    def start(work):
        house.threads.append(threading.Thread(target=work))
        house.threads[-1].start()

    offered = house.offered if hasattr(house, "offered") else lambda chat: house.tools.by_ids(chat.tools.tool_ids)
    house.loop = ToolLoop(house.chats, offered, house.go_on, (), house.told.append, slow, start=start)
    yield house
    slow.may_end.set()
    for thread in house.threads:
        thread.join(60)
    house.database.close()


def test_a_call_is_shown_to_run_and_runs_once(house, slow):
    message_id = house.answer(("far", {}))
    house.loop.approve(message_id, "c0")
    wait_until(slow.begun.is_set)
    assert house.statuses(message_id) == ["running"] and house.told
    with raises_code("chat_error"):
        house.loop.approve(message_id, "c0")
    house.loop.advance(message_id)
    slow.may_end.set()
    house.threads[0].join(60)
    assert house.statuses(message_id) == ["done"] and slow.ran == 1
    assert house.rounds == [[("c0", "late")]]


def test_a_call_is_stopped_while_it_runs_and_the_answer_continues(house, slow):
    message_id = house.answer(("far", {}))
    house.loop.approve(message_id, "c0")
    wait_until(slow.begun.is_set)
    house.loop.refuse(message_id, "c0")
    assert house.statuses(message_id) == ["done"] and "stopped" in house.rounds[0][0][1]
    wait_until(slow.was_stopped.is_set, "who runs it is told")
    slow.may_end.set()
    house.threads[0].join(60)
    (state,) = house.loop.calls(house.chats.message(message_id))
    assert state.by == "stopped" and "late" not in state.result and len(house.rounds) == 1


def test_what_could_not_begin_can_be_tried_again(house, slow):
    message_id = house.answer(("far", {}))

    def no_thread(work):
        raise RuntimeError("can't start new thread")

    house.loop._start, start = no_thread, house.loop._start
    with pytest.raises(RuntimeError):
        house.loop.approve(message_id, "c0")
    with pytest.raises(ToolInvalid):
        house.loop.approve(message_id, "c0", "[]")
    assert house.statuses(message_id) == ["waiting"]
    house.loop._start = start
    slow.may_end.set()
    house.loop.approve(message_id, "c0")
    house.threads[0].join(60)
    assert house.statuses(message_id) == ["done"]


def test_what_runs_unasked_is_shown_to_run_too(house, slow):
    (tool,) = [tool for tool in house.tools.list() if tool.definition.name == "far"]
    house.tools.update(tool.id, replace(tool.definition, approval=Approval.NEVER))
    message_id = house.answer(("far", {}))
    thread = threading.Thread(target=house.loop.advance, args=(message_id,))
    thread.start()
    wait_until(slow.begun.is_set)
    assert house.statuses(message_id) == ["running"]
    slow.may_end.set()
    thread.join(60)
    assert house.rounds == [[("c0", "late")]]
