"""Parses a server's responses: the list of tools, a call's result as text for the model, failures as typed errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from msgspec import Struct, field

from webapp.chat.tool_dialects import as_value
from webapp.errors import McpError, RoostError
from webapp.i18n import Text
from webapp.tools.mcp.server_config import ServerConfig, ServerKind
from webapp.tools.runner import ToolResult, bounded, error_result

RUBBISH = Text("reason.tools.output_not_mcp")
OTHER_FORM = Text("reason.tools.unexpected_form")
WORDS_CHARS = 400


class Seen(Struct):
    """Observed during a connection. ``status`` is that of the last HTTP response, ``said`` the program's last line."""

    status: int = 0
    is_rubbish: bool = False
    said: str = ""
    seconds: float = 0.0


def failure_of(exc: BaseException, config: ServerConfig, seen: Seen) -> RoostError:
    """Converts an exception, also a group of them, to one error."""
    for leaf in leaves(exc):
        if isinstance(leaf, RoostError):
            return leaf
        if isinstance(leaf, ImportError):
            return McpError("mcp_not_installed")
    found = [_failure(leaf, config, seen) for leaf in leaves(exc)]
    return next((error for error in found if type(error) is not McpError), found[0])


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group. Python 3.10 has no class for groups."""
    inner = getattr(exc, "exceptions", None)
    if not isinstance(inner, tuple):
        yield exc
        return
    for part in inner:
        yield from leaves(part)


def is_unsent(exc: BaseException) -> bool:
    """True if nothing has reached the server, because no connection was made."""
    return any(type(leaf).__name__ in ("ConnectError", "ConnectTimeout") for leaf in leaves(exc))


def wants_modern(exc: BaseException) -> bool:
    """True if the server does not support the handshake, but only versions that begin with `server/discover`."""
    from mcp_types import UNSUPPORTED_PROTOCOL_VERSION

    return any(getattr(leaf, "code", None) == UNSUPPORTED_PROTOCOL_VERSION for leaf in leaves(exc))


def _failure(exc: BaseException, config: ServerConfig, seen: Seen) -> McpError:
    words = clean(str(exc) or type(exc).__name__, config)
    if isinstance(exc, TimeoutError):
        return _timed_out(config, seen)
    if hasattr(exc, "error") and hasattr(exc, "code"):
        return _protocol_failure(int(exc.code), words, config, seen)
    if type(exc).__module__.startswith("httpx2"):
        return McpError("mcp_unreachable", name=config.name, reason=words)
    if isinstance(exc, OSError) and config.kind is ServerKind.STDIO:
        return McpError("mcp_command_missing", name=config.name, command=config.command, reason=exc.strerror or words)
    if type(exc).__name__ == "ValidationError":
        return McpError("mcp_not_spoken", name=config.name, reason=OTHER_FORM)
    if isinstance(exc, RuntimeError):
        return McpError("mcp_not_spoken", name=config.name, reason=words)
    return McpError(name=config.name, reason=words)


def _protocol_failure(code: int, words: str, config: ServerConfig, seen: Seen) -> McpError:
    from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

    if code == REQUEST_TIMEOUT:
        return _timed_out(config, seen)
    if config.kind is ServerKind.HTTP and seen.status >= 400:
        return McpError("mcp_refused", name=config.name, found=seen.status)
    if code == CONNECTION_CLOSED and config.kind is ServerKind.STDIO:
        if seen.is_rubbish and not seen.said:
            return McpError("mcp_not_spoken", name=config.name, reason=RUBBISH)
        return McpError("mcp_server_ended", name=config.name, said=clean(seen.said, config) or "—")
    if code == CONNECTION_CLOSED:
        return McpError("mcp_unreachable", name=config.name, reason=words)
    return McpError("mcp_not_spoken", name=config.name, reason=words)


def _timed_out(config: ServerConfig, seen: Seen) -> McpError:
    if seen.is_rubbish:
        return McpError("mcp_not_spoken", name=config.name, reason=RUBBISH)
    return McpError("mcp_timed_out", name=config.name, seconds=f"{seen.seconds:g}")


def clean(text: str, config: ServerConfig) -> str:
    """A server's text for a page or the model: on one line, of limited length, without secrets."""
    return " ".join(config.without_secrets(text).split())[:WORDS_CHARS]


MAX_TOOLS = 100
"""Per server. A small model can use far fewer."""
MAX_PAGES = 50
NAME_CHARS, DESCRIPTION_CHARS = 128, 1_000
HINTS = {"read_only_hint": "reads", "destructive_hint": "destroys", "open_world_hint": "open_world"}


class RemoteTool(Struct, frozen=True):
    """``hints`` are the server's own claims (``reads``, ``destroys``, ``open_world``). They are shown to the user who
    approves calls, and decide nothing."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    hints: tuple[str, ...] = ()


class Listing(Struct, frozen=True):
    """``left_out``: number of tools beyond :data:`MAX_TOOLS`."""

    tools: tuple[RemoteTool, ...] = ()
    left_out: int = 0


async def list_tools(client: Any) -> Listing:
    """Reads all pages with the SDK's client. Of tools with the same name the first counts; a repeated cursor ends the
    list."""
    found: dict[str, RemoteTool] = {}
    left_out, cursor, seen = 0, None, set()
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            if len(found) < MAX_TOOLS or tool.name in found:
                found.setdefault(tool.name, remote_tool(tool))
            else:
                left_out += 1
        cursor = page.next_cursor
        if not cursor or cursor in seen:
            break
        seen.add(cursor)
    return Listing(tuple(found.values()), left_out)


def remote_tool(tool: Any) -> RemoteTool:
    annotations = tool.annotations
    hints = tuple(word for name, word in HINTS.items() if annotations is not None and getattr(annotations, name))
    title = tool.title or (annotations.title if annotations is not None else None) or ""
    schema = {key: value for key, value in tool.input_schema.items() if key != "$schema"}
    return RemoteTool(tool.name[:NAME_CHARS], described(tool.description or title), schema, hints)


def described(text: str) -> str:
    """A description with single spaces, cut to a length that a model should read."""
    text = " ".join(text.split())
    return text if len(text) <= DESCRIPTION_CHARS else f"{text[: DESCRIPTION_CHARS - 1]}…"


def tool_result(result: Any) -> ToolResult:
    """Converts the SDK's CallToolResult; ``isError`` makes it an error result."""
    text = result_text(result)
    return (
        error_result(text or Text("reason.tools.tool_failed_silently"))
        if result.is_error
        else ToolResult(bounded(text))
    )


def result_text(result: Any) -> str:
    """The text blocks, then the structured content unless the text contains it."""
    text = "\n".join(filter(None, (block_text(block) for block in result.content)))
    structured = result.structured_content
    if structured is None or says(text, structured):
        return text
    return "\n".join(filter(None, (text, json.dumps(structured, ensure_ascii=False))))


def says(text: str, structured: Any) -> bool:
    """Whether the text is the structured content. Servers often repeat it as text, without the ``result`` or
    ``content`` around a single value."""
    wanted = [structured]
    if isinstance(structured, dict) and len(structured) == 1:
        wanted += structured.values()
    return text in wanted or as_value(text) in wanted


def block_text(block: Any) -> str:
    """The text of a block; for content that a text model cannot read, a note of its kind."""
    if block.type == "text":
        return str(block.text)
    if block.type in ("image", "audio"):
        return f"[{block.type}: {block.mime_type}, {_bytes(block.data)}]"
    if block.type == "resource_link":
        return f"[resource: {block.name}, {block.uri}]"
    if block.type == "resource":
        resource = block.resource
        if getattr(resource, "text", None) is not None:
            return f"[resource: {resource.uri}]\n{resource.text}"
        return f"[resource: {resource.uri}, {_bytes(resource.blob)}]"
    return f"[{block.type}]"


def _bytes(base64_text: str) -> str:
    return f"{len(base64_text) * 3 // 4:,} bytes"
