"""A real MCP server for tests, made with the official SDK: ``python server.py [http SOCKET] [MODE]``.

``stdio`` by default. ``http`` uses a listening socket, given by its number. The tools are those of :data:`TOOLS`, five
per page; some simulate malicious or faulty servers.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import mcp_types as types
from mcp.server import Server
from mcp.server.lowlevel import NotificationOptions
from server_words import AT_ONCE, HTML, NAMES

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
PAGE = 5
added: list[str] = []
inside: list[asyncio.Event] = []


async def gathered() -> None:
    """Returns when this many calls of it run at the same time."""
    inside.append(asyncio.Event())
    if len(inside) == AT_ONCE:
        for event in inside:
            event.set()
        inside.clear()
    else:
        await asyncio.wait_for(inside[-1].wait(), 60)


def tools() -> list[types.Tool]:
    made = [types.Tool(name=name, description=f"The tool {name}.", input_schema=schema(name)) for name in NAMES]
    made[0].annotations = types.ToolAnnotations(read_only_hint=True)
    made[1].title, made[1].description = "天气", "查询城市天气 🌦"
    made += [types.Tool(name=name, description="Came later.", input_schema=NOTHING) for name in added]
    if "odd" in sys.argv:
        made.append(types.Tool(name="files.read/all", description="x" * 5000, input_schema=NOTHING))
        made.append(types.Tool(name="pattern", input_schema={**TEXT, "properties": {"text": {"pattern": "(?=x)"}}}))
        made.append(types.Tool(name="elsewhere", input_schema={**TEXT, "$ref": "https://evil.example/schema"}))
        made.append(types.Tool(name="no_type", input_schema={"type": "object", "properties": {"a": {"type": 5}}}))
    return made


def schema(name: str) -> dict[str, Any]:
    return TEXT if name in ("echo", "get_weather") else NOTHING


async def list_tools(ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    first = int(params.cursor) if params and params.cursor else 0
    found = tools()
    more = str(first + PAGE) if first + PAGE < len(found) else None
    return types.ListToolsResult(tools=found[first : first + PAGE], next_cursor=more)


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    name, arguments = params.name, params.arguments or {}
    if name == "gather":
        await gathered()
    if name == "grow":
        added.append(f"later_{len(added)}")
        await ctx.session.send_tool_list_changed()
    if name == "picture":
        image = types.ImageContent(type="image", data="AAAA", mime_type="image/png")
        link = types.ResourceLink(type="resource_link", name="notes", uri="file:///notes.txt")
        inside = types.TextResourceContents(uri="file:///a.txt", text="inside")
        embedded = types.EmbeddedResource(type="resource", resource=inside)
        return types.CallToolResult(content=[image, link, embedded])
    if name == "structured":
        return types.CallToolResult(content=[], structured_content={"temperature": 22, "城市": "巴黎"})
    texts = {
        "echo": arguments.get("text", ""),
        "get_weather": f"{arguments.get('text')}：22 度",
        "fail": "no such city <b>",
        "big": "鸟" * 1_700_000,
        "html": HTML,
    }
    text = types.TextContent(type="text", text=texts.get(name, "done"))
    return types.CallToolResult(content=[text], is_error=name == "fail")


def make() -> Server[Any]:
    return Server("tiny", version="1.2", on_list_tools=list_tools, on_call_tool=call_tool)


async def stdio() -> None:
    from mcp.server.stdio import stdio_server

    server = make()
    options = server.create_initialization_options(NotificationOptions(tools_changed=True))
    async with stdio_server() as (read, write):
        await server.run(read, write, options)


def http() -> None:
    import socket

    import uvicorn

    listening = socket.socket(fileno=int(sys.argv[2]))
    app = make().streamable_http_app()
    print("ready", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run([listening])


if __name__ == "__main__":
    if "http" in sys.argv:
        http()
    else:
        asyncio.run(stdio())
