"""The configuration of a server is checked, and its secrets stay hidden."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from tests.errors import raises_code
from webapp.errors import McpServerInvalid
from webapp.tools.mcp.answers import remote_tool, says
from webapp.tools.mcp.server_config import ServerConfig, ServerKind, checked_server, read_servers

HTTP = ServerKind.HTTP


def test_secrets_are_in_no_text_about_a_server():
    config = ServerConfig("a", command="x", env={"KEY": "sk-12345"}, headers={"Authorization": "Bearer abcdefghij"})
    assert "sk-12345" not in repr(config) and "abcdefghij" not in repr(config)
    said = config.without_secrets("sk-12345 was refused; sent Bearer abcdefghij, that is abcdefghij")
    assert said == "•••••••• was refused; sent ••••••••, that is ••••••••"
    assert ServerConfig("a", command="x", env={"DEBUG": "1"}).without_secrets("1 error") == "1 error"


def test_keys_in_an_address_are_not_shown():
    config = ServerConfig("a", HTTP, url="https://me:secret@Api.Example:8443/mcp?key=abc#x")
    assert config.shown_url == "https://Api.Example:8443/mcp" and config.host == "api.example"
    assert "secret" not in repr(config)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (ServerConfig("", command="x"), "name"),
        (ServerConfig("a/b", command="x"), "name"),
        (ServerConfig("a\nb", command="x"), "name"),
        (ServerConfig("x" * 41, command="x"), "name"),
        (ServerConfig("a"), "command"),
        (ServerConfig("a", command="x\0y"), "command"),
        (ServerConfig("a", command="x", args=("y",) * 101), "command"),
        (ServerConfig("a", command="x", env={"A B": "1"}), "env"),
        (ServerConfig("a", command="x", env={"A": "1\0"}), "env"),
        (ServerConfig("a", command="x", timeout_s=0), "timeout_s"),
        (ServerConfig("a", command="x", timeout_s=float("nan")), "timeout_s"),
        (ServerConfig("a", HTTP), "url"),
        (ServerConfig("a", HTTP, url="file:///etc/passwd"), "url"),
        (ServerConfig("a", HTTP, url="http://[::1"), "url"),
        (ServerConfig("a", HTTP, url="http://a:99999/"), "url"),
        (ServerConfig("a", HTTP, url="http://a/\r\nX: y"), "url"),
        (ServerConfig("a", HTTP, url="http://a/", headers={"X Y": "1"}), "headers"),
        (ServerConfig("a", HTTP, url="http://a/", headers={"X": "1\r\nY: 2"}), "headers"),
        (ServerConfig("a", HTTP, url="http://a/", headers={"Host": "b"}), "headers"),
    ],
)
def test_what_cannot_be_a_server_is_said_at_its_field(config, field):
    with pytest.raises(McpServerInvalid) as caught:
        checked_server(config)
    assert caught.value.params["field"] == field


def test_the_json_of_other_programs_is_read():
    text = {
        "mcpServers": {
            "files": {"command": "npx", "args": ["-y", "server", 3], "env": {"PORT": 8080, "ON": True}},
            "far": {"type": "http", "url": "https://a.example/mcp", "headers": {"Authorization": "Bearer x"}},
            "文件": {"serverUrl": "http://127.0.0.1:1/mcp"},
        }
    }
    files, far, chinese = read_servers(json.dumps(text))
    assert files == ServerConfig("files", command="npx", args=("-y", "server", "3"), env={"PORT": "8080", "ON": "true"})
    assert (far.kind, far.url, far.headers) == (HTTP, "https://a.example/mcp", {"Authorization": "Bearer x"})
    assert chinese.name == "文件" and chinese.kind is HTTP
    assert read_servers('{"servers": {"a": {"type": "stdio", "command": "x"}}}')[0].command == "x"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", {"key": "reason.tools.is_not_json_because"}),
        ("[" * 100_000, {"key": "reason.tools.is_not_json_because"}),
        ("[]", {"key": "reason.tools.must_look_like"}),
        ('{"mcpServers": {}}', {"key": "reason.tools.must_look_like"}),
        ('{"mcpServers": {"a": 3}}', {"path": "a", "key": "reason.common.is_not_an_object"}),
        ('{"mcpServers": {"a": {"args": []}}}', {"key": "reason.tools.command_or_url_missing"}),
        ('{"mcpServers": {"a": {"command": "x", "args": "y"}}}', {"key": "reason.tools.command_or_url_missing"}),
        (
            '{"mcpServers": {"a": {"command": "x", "args": [{}]}}}',
            {"path": "a: args", "key": "reason.tools.must_hold_texts"},
        ),
        ('{"mcpServers": {"a": {"command": "x", "env": []}}}', None),
        ('{"mcpServers": {"a": {"command": "x", "env": [1]}}}', {"path": "a: env"}),
        ('{"mcpServers": {"a": {"type": "sse", "url": "http://a/"}}}', {"kind": "sse"}),
        ('{"mcpServers": {"a/b": {"command": "x"}}}', {"path": "a/b: name"}),
        ('{"mcpServers": {"a": {"url": "ftp://x"}}}', {"path": "a: url"}),
    ],
)
def test_wrong_json_is_refused_with_the_servers_name(text, told):
    if told is None:
        assert read_servers(text)[0].env == {}
        return
    with raises_code("mcp_server_invalid", field="json", **told):
        read_servers(text)


@pytest.mark.parametrize(
    ("text", "structured", "is_same"),
    [
        ('{"a": 1}', {"a": 1}, True),
        ("22", {"result": 22}, True),
        ("sunny", {"result": "sunny"}, True),
        ("hello\n", {"content": "hello\n"}, True),
        ("Found one.", {"a": 1}, False),
        ("1", {"a": 1, "b": 2}, False),
        ("", {"a": 1}, False),
    ],
)
def test_structured_content_is_not_said_twice(text, structured, is_same):
    assert says(text, structured) is is_same


def test_a_tool_of_a_server_is_bounded():
    tool = SimpleNamespace(
        name="x" * 500,
        title=None,
        description="many   spaces\n" + "y" * 5000,
        input_schema={"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"},
        annotations=None,
    )
    found = remote_tool(tool)
    assert len(found.name) == 128 and len(found.description) == 1000 and found.description.startswith("many spaces y")
    assert found.parameters == {"type": "object"}
