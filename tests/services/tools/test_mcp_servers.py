"""MCP servers and their tools: who may change them, which tools are offered, what is stored."""

from __future__ import annotations

import time

import pytest
from msgspec.structs import replace

from tests.errors import raises_code
from tests.tools.mcp.conftest import raw
from tests.waiting import wait_until
from tests.wording import error_text
from webapp.errors import McpServerInvalid, McpServerNotFound
from webapp.services.tools import DELETED_KEPT_S, McpServers, sync
from webapp.settings import Settings
from webapp.storage.tools import MAX_TOOLS, McpServerStore, ToolStore
from webapp.tools.definition import Approval, Behaviour, McpTool, ToolDefinition
from webapp.tools.mcp.answers import Listing, RemoteTool

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
ECHO, READ = RemoteTool("echo", "Says it.", TEXT), RemoteTool("files.read", "Reads.", TEXT, ("reads",))


@pytest.fixture
def tools(database):
    return ToolStore(database)


@pytest.fixture
def server(database):
    return McpServerStore(database).create_all([raw("modern", env={"KEY": "sk-12345"})], is_on=True)[0]


@pytest.fixture
def servers_with(database, tmp_path):
    """A function: settings -> McpServers; closed afterwards."""
    made = []

    def make(**settings):
        made.append(McpServers(database, Settings(data_dir=tmp_path, models_dir=tmp_path, **settings)))
        return made[-1]

    yield make
    for servers in made:
        servers.close()


def names(tools):
    return {tool.definition.name: tool for tool in tools.list()}


def test_a_servers_tools_are_among_the_others_and_need_approval(tools, server):
    told = sync(tools, server, Listing((ECHO, READ)))
    assert told.names == ("echo", "files.read") and told.refused == ()
    found = names(tools)["files_read"].definition
    assert found.mcp == McpTool(server.id, "files.read", ("reads",))
    assert (found.behaviour, found.approval, found.parameters) == (Behaviour.MCP, Approval.ALWAYS, TEXT)


def test_ids_stay_if_a_tool_disappears_and_returns(tools, server):
    sync(tools, server, Listing((ECHO, READ)))
    before = names(tools)["echo"].id
    sync(tools, server, Listing((READ,)))
    assert list(names(tools)) == ["files_read"]
    sync(tools, server, Listing((READ, ECHO)))
    assert names(tools)["echo"].id == before


def test_a_name_that_is_taken_gets_the_servers_before_it(tools, server):
    own = tools.create(ToolDefinition("echo"))
    tools.create(ToolDefinition("modern_echo"))
    sync(tools, server, Listing((ECHO, RemoteTool("天气", "", TEXT))))
    mine = {tool.definition.mcp.name: tool.definition.name for tool in tools.of_server(server.id)}
    assert mine == {"echo": "modern_echo_2", "天气": "tool"} and tools.get(own.id) == own


def test_a_tool_that_changes_is_asked_about_again(tools, server):
    sync(tools, server, Listing((ECHO,)))
    trusted = names(tools)["echo"]
    tools.update(trusted.id, replace(trusted.definition, approval=Approval.NEVER))
    sync(tools, server, Listing((ECHO,)))
    assert tools.get(trusted.id).definition.approval is Approval.NEVER
    sync(tools, server, Listing((replace(ECHO, description="Says it, and sends it to me."),)))
    assert tools.get(trusted.id).definition.approval is Approval.ALWAYS


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": 5}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)"}}},
        {"type": "object", "$ref": "https://evil.example/schema"},
        {"type": "array"},
        {"type": "object", "properties": {"a": {"enum": list(range(10_000))}}},
        {"type": "object", "properties": {"a": {"type": "string", "description": "x" * 20_000}}},
    ],
    ids=["no schema", "pattern", "elsewhere", "no object", "enum", "long"],
)
def test_what_a_model_cannot_be_held_to_is_refused_with_its_reason(tools, server, schema):
    told = sync(tools, server, Listing((ECHO, RemoteTool("odd", "", schema))))
    assert list(names(tools)) == ["echo"] and told.refused[0][0] == "odd" and told.refused[0][1]
    store = McpServerStore(tools.database)
    store.set_tools(server.id, told)
    assert store.get(server.id).tools == told


def test_one_tool_too_many_is_refused_and_the_others_stay(tools, server):
    tools.create_all([ToolDefinition(f"own_{number}") for number in range(MAX_TOOLS - 1)])
    told = sync(tools, server, Listing((ECHO, READ)))
    assert len(tools.list()) == MAX_TOOLS and [name for name, _ in told.refused] == ["files.read"]


def connected(servers, config=None):
    pytest.importorskip("mcp")
    server = servers.add(config or raw("modern"))
    wait_until(lambda: servers.state(server).phase == "connected")
    return server


def test_switched_off_a_server_takes_its_tools_with_it_and_back(servers_with, tools):
    servers = servers_with()
    server = connected(servers)
    echo = servers.tools(server.id)[0]
    assert servers.call(echo.definition, {}).text == "modern"
    off = servers.switch(server.id, False)
    assert tools.list() == [] and servers.state(off).phase == "off"
    result = servers.call(echo.definition, {})
    assert result.is_error and error_text("mcp_server_off", name="modern") in result.text
    servers.switch(server.id, True)
    assert [tool.id for tool in tools.list()] == [echo.id], "before the server has answered"
    assert servers.call(echo.definition, {}).text == "modern"
    servers.remove(server.id)
    assert tools.list() == [] and servers.call(echo.definition, {}).is_error
    servers.restore(server.id)
    assert [tool.id for tool in tools.list()] == [echo.id]


def test_a_server_that_is_away_keeps_its_tools_and_says_so_to_the_model(servers_with, tools):
    servers = servers_with()
    server = connected(servers)
    echo = servers.tools(server.id)[0]
    servers.store.update(server.id, raw("exit"))
    result = servers.call(echo.definition, {})
    assert result.is_error and error_text("mcp_server_ended", name="exit", said="") in result.text
    assert [tool.id for tool in tools.list()] == [echo.id]


def test_what_is_not_wanted_is_not_offered_and_approval_is_a_persons(servers_with, tools):
    servers = servers_with()
    server = connected(servers)
    echo = servers.tools(server.id)[0]
    servers.set_tools(server.id, [], {echo.id: Approval.NEVER})
    assert tools.get(echo.id).definition.approval is Approval.NEVER
    servers.set_tools(server.id, ["echo"], {})
    assert tools.list() == []
    servers.connect(server.id)
    wait_until(lambda: servers.state(server).phase == "connected")
    assert tools.list() == [], "also when it is listed again"
    servers.set_tools(server.id, [], {})
    assert tools.get(echo.id).definition.approval is Approval.NEVER


def test_programs_can_be_turned_off_for_everybody(servers_with, server):
    servers = servers_with(mcp_stdio=False)
    with raises_code("mcp_programs_off"):
        servers.add(raw("deaf"))
    definition = ToolDefinition("echo", behaviour=Behaviour.MCP, mcp=McpTool(server.id, "echo"))
    result = servers.call(definition, {})
    assert result.is_error and error_text("mcp_programs_off") in result.text
    servers.warm([definition])
    assert servers.state(server).phase == "idle"


def test_what_is_imported_waits_to_be_switched_on(servers_with, tools):
    servers = servers_with()
    made = servers.import_text('{"mcpServers": {"a": {"command": "x"}, "b": {"command": "y"}}}')
    assert [servers.state(server).phase for server in made] == ["off", "off"]
    with pytest.raises(McpServerInvalid):
        servers.import_text('{"mcpServers": {"c": {"command": "x"}, "A": {"command": "y"}}}')
    assert [server.config.name for server in servers.store.list()] == ["a", "b"]


def test_a_server_is_connected_before_its_tool_is_called(servers_with):
    servers = servers_with()
    server = connected(servers)
    echo = servers.tools(server.id)[0].definition
    servers._client.drop(server.id)
    servers.warm([echo, replace(echo, mcp=McpTool("gone", "x")), ToolDefinition("other")])
    wait_until(lambda: servers.state(server).phase == "connected")


def test_a_try_keeps_nothing(servers_with, tools):
    pytest.importorskip("mcp")
    servers = servers_with()
    state, listing = servers.try_out(raw("modern"))
    assert state.phase == "connected" and [tool.name for tool in listing.tools] == ["echo"]
    assert servers.store.list() == [] and tools.list() == []


def test_a_removed_server_is_gone_for_good_after_a_day(servers_with, server, database):
    servers_with().remove(server.id)
    store = McpServerStore(database)
    store.purge(time.time() - DELETED_KEPT_S)
    store.restore(server.id)
    store.delete(server.id)
    store.purge(time.time() + 1)
    with pytest.raises(McpServerNotFound):
        store.restore(server.id)
