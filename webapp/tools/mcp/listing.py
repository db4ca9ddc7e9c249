"""The tools a server lists, asked for page by page and no further than makes sense."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_TOOLS = 100
"""Of one server. A small model is lost among far fewer."""
MAX_PAGES = 50
NAME_CHARS, DESCRIPTION_CHARS = 128, 1_000
HINTS = {"read_only_hint": "reads", "destructive_hint": "destroys", "open_world_hint": "open_world"}


@dataclass(frozen=True)
class RemoteTool:
    """``hints`` are the server's own claims (``reads``, ``destroys``, ``open_world``): words for the person who decides
    about approval, never a decision."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """``left_out`` counts tools beyond :data:`MAX_TOOLS`."""

    tools: tuple[RemoteTool, ...] = ()
    left_out: int = 0


async def list_tools(client: Any) -> Listing:
    """All pages of the SDK's client; the first of each name counts, a cursor that comes twice ends it."""
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
    """One line's worth of spaces, and no longer than a model should read."""
    text = " ".join(text.split())
    return text if len(text) <= DESCRIPTION_CHARS else f"{text[: DESCRIPTION_CHARS - 1]}…"
