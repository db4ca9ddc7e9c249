"""The JSON other programs keep their MCP servers in: ``{"mcpServers": {name: …}}`` (Claude Desktop, Cursor and most
others) or ``{"servers": {name: …}}`` (VS Code)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from webapp.errors import McpServerInvalid, Phrase
from webapp.tools.mcp.server_config import ServerConfig, ServerKind, checked

KEYS = ("mcpServers", "servers", "mcp_servers")
URLS = ("url", "serverUrl", "httpUrl")
HTTP_TYPES = ("", "http", "streamable-http", "streamableHttp", "streamable_http")
MAX_SERVERS = 50
EXAMPLE = '{"mcpServers": {"name": {"command": …}}}'


def read_servers(text: str) -> list[ServerConfig]:
    """All servers of such a text, checked; McpServerInvalid (field ``json``) that names the one that is wrong."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _invalid(Phrase("it is no JSON: {error}", error=str(exc)[:200])) from exc
    found = next((value[key] for key in KEYS if isinstance(value, dict) and key in value), None)
    if not isinstance(found, dict) or not found:
        raise _invalid(Phrase("it must look like {example}", example=EXAMPLE))
    if len(found) > MAX_SERVERS:
        raise _invalid(Phrase("it has more than {limit} servers", limit=MAX_SERVERS))
    return [_server(name, entry) for name, entry in found.items()]


def _server(name: str, entry: Any) -> ServerConfig:
    if not isinstance(entry, Mapping):
        raise _invalid(_of(name, "it is not an object"))
    try:
        return checked(_with_address(name, entry) if _url(entry) else _with_program(name, entry))
    except McpServerInvalid as exc:
        if exc.params["field"] == "json":
            raise
        raise _invalid(_of(f"{name}: {exc.params['field']}", exc.params["reason"])) from exc


def _with_program(name: str, entry: Mapping[str, Any]) -> ServerConfig:
    args = entry.get("args", [])
    if not isinstance(entry.get("command"), str) or not isinstance(args, list):
        raise _invalid(_of(name, "it needs a command with a list of args, or a url"))
    words = tuple(_word(name, "args", word) for word in args)
    return ServerConfig(name, ServerKind.STDIO, entry["command"], words, env=_texts(name, "env", entry))


def _with_address(name: str, entry: Mapping[str, Any]) -> ServerConfig:
    kind = entry.get("type", entry.get("transport", ""))
    if kind not in HTTP_TYPES:
        raise _invalid(
            _of(
                name,
                Phrase("the transport {kind} is not supported; streamable HTTP and stdio are", kind=str(kind)[:40]),
            )
        )
    return ServerConfig(name, ServerKind.HTTP, url=_url(entry), headers=_texts(name, "headers", entry))


def _url(entry: Mapping[str, Any]) -> str:
    return next((entry[key] for key in URLS if isinstance(entry.get(key), str)), "")


def _texts(name: str, key: str, entry: Mapping[str, Any]) -> dict[str, str]:
    found = entry.get(key) or {}
    if not isinstance(found, Mapping):
        raise _invalid(_of(f"{name}: {key}", "it must be an object of texts"))
    return {str(word): _word(name, key, value) for word, value in found.items()}


def _word(name: str, key: str, value: Any) -> str:
    """Numbers and truth values are written as JSON writes them."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    raise _invalid(_of(f"{name}: {key}", "it must hold texts"))


def _of(place: str, reason: str) -> Phrase:
    return Phrase("{path}: {problem}", path=place[:80], problem=reason)


def _invalid(reason: str) -> McpServerInvalid:
    return McpServerInvalid(field="json", reason=reason)
