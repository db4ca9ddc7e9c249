"""The configuration of a server: a program on this machine (stdio) or a URL (streamable HTTP)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct, field

from webapp.errors import McpServerInvalid, RoostError
from webapp.i18n import Text

NAME = re.compile(r"[^\s/\\<>\"'`](?:[^\n\r\t/\\<>\"'`]{0,38}[^\s/\\<>\"'`])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_|~-]{1,128}")
OWN_HEADERS = {"host", "content-length", "transfer-encoding", "connection", "content-type", "accept", "mcp-session-id"}
MAX_ARGUMENTS, MAX_ENTRIES, MAX_CHARS = 100, 100, 8_000
DEFAULT_TIMEOUT_S, MIN_TIMEOUT_S, MAX_TIMEOUT_S = 60.0, 1.0, 600.0
HIDDEN = "••••••••"
"""Shown instead of a secret."""
MIN_SECRET_CHARS = 4
"""Shorter values are hidden in forms, but not searched for in the server's texts."""


class ServerKind(str, Enum):
    STDIO = "stdio"
    HTTP = "http"


class ServerConfig(Struct, frozen=True):
    """``command`` with ``args`` is started without a shell; ``env`` is added to a few harmless variables of this
    process. ``timeout_s`` limits each call. The values of ``env`` and ``headers`` are secrets."""

    name: str
    kind: ServerKind = ServerKind.STDIO
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = DEFAULT_TIMEOUT_S

    def __repr__(self) -> str:
        """Without what may be secret."""
        return f"ServerConfig(name={self.name!r}, kind={self.kind!r}, command={self.command!r}, args={self.args!r})"

    @property
    def host(self) -> str:
        """The host of the address in lower case; "" for a program."""
        return (urlsplit(self.url).hostname or "").lower()

    @property
    def shown_url(self) -> str:
        """The address without parts that may contain a key: user name and password, query, fragment."""
        parts = urlsplit(self.url)
        place = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, place, parts.path, "", ""))

    def without_secrets(self, text: str) -> str:
        """``text`` with all secret values hidden; for a server's texts on pages and for the model."""
        values = {value for value in (*self.env.values(), *self.headers.values()) if len(value) >= MIN_SECRET_CHARS}
        parts = {word for value in values for word in value.split() if len(word) > 2 * MIN_SECRET_CHARS}
        for secret in sorted(values | parts, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text


def checked_server(config: ServerConfig) -> ServerConfig:
    """Returns the configuration, or raises McpServerInvalid with the field that is wrong."""
    if not NAME.fullmatch(config.name):
        raise McpServerInvalid(field="name", reason=Text("reason.tools.bad_server_name"))
    if not MIN_TIMEOUT_S <= config.timeout_s <= MAX_TIMEOUT_S:
        raise McpServerInvalid(field="timeout_s", reason=Text("reason.common.must_be_from_1_to_600"))
    if config.kind is ServerKind.STDIO:
        _check_program(config)
    else:
        _check_address(config)
    return config


def _check_program(config: ServerConfig) -> None:
    words = (config.command, *config.args)
    if not config.command.strip():
        raise McpServerInvalid(field="command", reason=Text("reason.common.is_empty"))
    if len(config.args) > MAX_ARGUMENTS or sum(map(len, words)) > MAX_CHARS or any("\0" in word for word in words):
        raise McpServerInvalid(field="command", reason=Text("reason.tools.is_too_long"))
    if len(config.env) > MAX_ENTRIES or sum(map(len, config.env.values())) > MAX_CHARS:
        raise McpServerInvalid(field="env", reason=Text("reason.tools.is_too_long"))
    if not all(VARIABLE.fullmatch(name) for name in config.env) or "\0" in "".join(config.env.values()):
        raise McpServerInvalid(field="env", reason=Text("reason.common.variable_line_form"))


def _check_address(config: ServerConfig) -> None:
    try:
        parts = urlsplit(config.url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_right = False
    if not is_right or len(config.url) > 2_000 or not config.url.isprintable() or " " in config.url:
        raise McpServerInvalid(field="url", reason=Text("reason.tools.not_http_url"))
    if len(config.headers) > MAX_ENTRIES or sum(map(len, config.headers.values())) > MAX_CHARS:
        raise McpServerInvalid(field="headers", reason=Text("reason.tools.is_too_long"))
    for name, value in config.headers.items():
        if not HEADER.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise McpServerInvalid(field="headers", reason=Text("reason.common.header_line_form"))
        if name.lower() in OWN_HEADERS:
            raise McpServerInvalid(field="headers", reason=Text("reason.tools.reserved_header"))


KEYS = ("mcpServers", "servers", "mcp_servers")
URLS = ("url", "serverUrl", "httpUrl")
HTTP_TYPES = ("", "http", "streamable-http", "streamableHttp", "streamable_http")
MAX_SERVERS = 50
EXAMPLE = '{"mcpServers": {"name": {"command": …}}}'


def read_servers(text: str) -> list[ServerConfig]:
    """Reads and checks all servers in the text. Raises McpServerInvalid (field ``json``), which names the invalid
    server."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _invalid(Text("reason.tools.is_not_json_because", error=str(exc)[:200])) from exc
    found = next((value[key] for key in KEYS if isinstance(value, dict) and key in value), None)
    if not isinstance(found, dict) or not found:
        raise _invalid(Text("reason.tools.must_look_like", example=EXAMPLE))
    if len(found) > MAX_SERVERS:
        raise _invalid(Text("reason.tools.too_many_servers", limit=MAX_SERVERS))
    return [_server(name, entry) for name, entry in found.items()]


def _server(name: str, entry: Any) -> ServerConfig:
    if not isinstance(entry, Mapping):
        raise _invalid(_of(name, Text("reason.common.is_not_an_object")))
    try:
        return checked_server(_with_address(name, entry) if _url(entry) else _with_program(name, entry))
    except McpServerInvalid as exc:
        if exc.params["field"] == "json":
            raise
        raise _invalid(_of(f"{name}: {exc.params['field']}", exc.params["reason"])) from exc


def _with_program(name: str, entry: Mapping[str, Any]) -> ServerConfig:
    args = entry.get("args", [])
    if not isinstance(entry.get("command"), str) or not isinstance(args, list):
        raise _invalid(_of(name, Text("reason.tools.command_or_url_missing")))
    words = tuple(_word(name, "args", word) for word in args)
    return ServerConfig(name, ServerKind.STDIO, entry["command"], words, env=_texts(name, "env", entry))


def _with_address(name: str, entry: Mapping[str, Any]) -> ServerConfig:
    kind = entry.get("type", entry.get("transport", ""))
    if kind not in HTTP_TYPES:
        raise _invalid(
            _of(
                name,
                Text("reason.tools.unknown_transport", kind=str(kind)[:40]),
            )
        )
    return ServerConfig(name, ServerKind.HTTP, url=_url(entry), headers=_texts(name, "headers", entry))


def _url(entry: Mapping[str, Any]) -> str:
    return next((entry[key] for key in URLS if isinstance(entry.get(key), str)), "")


def _texts(name: str, key: str, entry: Mapping[str, Any]) -> dict[str, str]:
    found = entry.get(key) or {}
    if not isinstance(found, Mapping):
        raise _invalid(_of(f"{name}: {key}", Text("reason.tools.not_a_text_object")))
    return {str(word): _word(name, key, value) for word, value in found.items()}


def _word(name: str, key: str, value: Any) -> str:
    """Numbers and booleans are written as in JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    raise _invalid(_of(f"{name}: {key}", Text("reason.tools.must_hold_texts")))


def _of(place: str, reason: Text | str) -> Text:
    return Text("reason.common.place_and_problem", path=place[:80], problem=reason)


def _invalid(reason: Text | str) -> McpServerInvalid:
    return McpServerInvalid(field="json", reason=reason)


class ServerState(Struct, frozen=True):
    """``phase``: "idle" (connects at its first call), "connecting", "connected", "failed" (with ``error``). ``server``
    is the server's own name."""

    phase: str = "idle"
    error: RoostError | None = None
    server: str = ""
