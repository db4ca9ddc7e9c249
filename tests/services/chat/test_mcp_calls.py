"""A model calls a server's tool in a chat: approved, run there, answered; and an unreachable server."""

from __future__ import annotations

import pytest

from tests.services.scripted_manager import ScriptedManager
from tests.tools.mcp.conftest import raw
from tests.waiting import wait_until
from tests.wording import error_text
from webapp.chat.messages import Role, ToolCall
from webapp.chat.tool_dialects import all_dialects
from webapp.services.chat.turns import ChatTurns
from webapp.services.tools import McpServers
from webapp.storage.records import ChatTools
from webapp.storage.tools import ToolStore

HERMES = next(dialect for dialect in all_dialects() if dialect.name == "hermes")
CALL = HERMES.calls([ToolCall("", "echo", "{}")])


@pytest.fixture
def servers(database, settings):
    pytest.importorskip("mcp", reason="needs the MCP SDK (pip install -e '.[mcp]')")
    servers = McpServers(database, settings)
    yield servers
    servers.close()


@pytest.fixture
def chat(servers, database, store):
    """A chat whose model may call the tools of a connected server."""
    server = servers.add(raw("modern"))
    wait_until(lambda: servers.state(server).phase == "connected")
    chat = store.create()
    ids = tuple(tool.id for tool in ToolStore(database).list())
    store.set_tools(chat.id, ChatTools(is_own=True, is_on=True, tool_ids=ids, dialect="hermes"))
    return chat


def answered(world, database, settings, servers, store, chat):
    """The messages of the chat after a call was approved and answered."""
    manager = ScriptedManager(world, CALL, "It said modern.")
    turns = ChatTurns(manager, database, settings, servers=servers)
    try:
        assert turns.send(chat.id, "Call it.").wait_finished(60)
        asking = store.branch(chat.id)[-1]
        wait_until(lambda: turns.tools.calls(asking) and turns.tools.calls(asking)[0].tool)
        (state,) = turns.tools.calls(asking)
        assert (state.status, state.call.name) == ("waiting", "echo"), "nothing runs unasked"
        turns.tools.approve(asking.id, state.call.id)
        wait_until(lambda: len(store.branch(chat.id)) == 4 and store.branch(chat.id)[-1].status == "complete")
        return [stored.message for stored in store.branch(chat.id)]
    finally:
        turns.close()


def test_a_model_calls_a_servers_tool_and_answers_with_what_it_said(world, database, settings, servers, store, chat):
    messages = answered(world, database, settings, servers, store, chat)
    assert [message.role for message in messages] == [Role.USER, Role.ASSISTANT, Role.TOOL, Role.ASSISTANT]
    assert messages[2].content == "modern" and messages[3].content == "It said modern."


def test_a_server_that_is_away_is_reported_to_the_model_and_the_chat_continues(
    world, database, settings, servers, store, chat
):
    server = servers.store.list()[0]
    servers.store.update(server.id, raw("exit"))
    messages = answered(world, database, settings, servers, store, chat)
    assert (
        error_text("mcp_server_ended", name="exit", said="") in messages[2].content and '"error"' in messages[2].content
    )
    assert messages[3].content == "It said modern."
