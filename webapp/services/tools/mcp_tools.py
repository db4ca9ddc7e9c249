"""A server's tools as stored tools of the house: chats, approval and the model's prompt know no difference.

A tool keeps its id and its name here as long as the server lists it under the same name of its own, also over times
when it did not. What a server says about its tools is checked and bounded; what Roost could not hold a model to is
refused with the reason. Where a tool's description or parameters change after a person has let it run unasked, it is
asked about again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

from webapp.errors import Phrase, ToolInvalid
from webapp.services.tools.trial import usable
from webapp.storage.mcp_servers import StoredServer, ToolList
from webapp.storage.tools import StoredTool, ToolStore
from webapp.tools.definition import Approval, Behaviour, McpTool, ToolDefinition
from webapp.tools.mcp.answers import Listing, RemoteTool

NAME_CHARS = 64
MAX_SCHEMA_CHARS = 20_000
"""A fifth of what a person may write: it comes unasked, and the model reads all of it."""


def sync(store: ToolStore, server: StoredServer, listing: Listing) -> ToolList:
    """Brings the stored tools in line with a listing; says what became of it."""
    before = {tool.definition.mcp.name: tool for tool in store.of_server(server.id, deleted=True)}
    living = {tool.definition.mcp.name: tool for tool in store.of_server(server.id)}
    before |= living
    wanted: dict[str, ToolDefinition] = {}
    refused: dict[str, str] = {}
    for remote in listing.tools:
        try:
            if remote.name not in server.tools.hidden:
                wanted[remote.name] = definition_of(server, remote, before.get(remote.name))
        except ToolInvalid as exc:
            refused[remote.name] = reason_of(exc)
    with store.database.transaction():
        for name in living.keys() - wanted.keys():
            store.delete(living[name].id)
        for name, definition in wanted.items():
            try:
                keep(store, server, definition, before.get(name), name in living)
            except ToolInvalid as exc:  # one tool too many
                refused[name] = reason_of(exc)
    names = tuple(remote.name for remote in listing.tools)
    hidden = tuple(name for name in server.tools.hidden if name in names)
    return ToolList(names, tuple(refused.items()), hidden, listing.left_out)


def definition_of(server: StoredServer, remote: RemoteTool, before: StoredTool | None) -> ToolDefinition:
    """ToolInvalid for what could not be offered. What has not changed is as it was, approval included."""
    known = before.definition if before else ToolDefinition(safe_name(remote.name))
    parameters = remote.parameters or known.parameters
    mcp = McpTool(server.id, remote.name, remote.hints)
    if before and (known.description, dict(known.parameters)) == (remote.description, parameters):
        return replace(known, mcp=mcp)
    length = len(json.dumps(parameters))
    if length > MAX_SCHEMA_CHARS:
        reason = Phrase("it has {found} characters; the limit is {limit}", found=length, limit=MAX_SCHEMA_CHARS)
        raise ToolInvalid(field="parameters", reason=reason)
    return usable(
        replace(
            known,
            description=remote.description,
            parameters=parameters,
            behaviour=Behaviour.MCP,
            approval=Approval.ALWAYS,
            mcp=mcp,
        )
    )


def keep(
    store: ToolStore, server: StoredServer, definition: ToolDefinition, before: StoredTool | None, is_living: bool
) -> None:
    if before is not None and is_living:
        if definition != before.definition:
            store.update(before.id, definition)
        return
    made = replace(definition, name=free_name(store, server, definition))
    if before is None:
        store.create(made)
    else:
        store.put_back(before.id, made)


def take_away(store: ToolStore, server_id: str) -> None:
    """Its tools are no longer offered; :func:`bring_back` knows them again."""
    with store.database.transaction():
        for tool in store.of_server(server_id):
            store.delete(tool.id)


def bring_back(store: ToolStore, server: StoredServer) -> None:
    """Offers what the server listed last, without asking it."""
    kept_out = {*server.tools.hidden, *(name for name, _ in server.tools.refused)}
    wanted = set(server.tools.names) - kept_out - {tool.definition.mcp.name for tool in store.of_server(server.id)}
    with store.database.transaction():
        for tool in store.of_server(server.id, deleted=True):
            if tool.definition.mcp.name in wanted:
                wanted.discard(tool.definition.mcp.name)
                keep(store, server, tool.definition, tool, is_living=False)


def free_name(store: ToolStore, server: StoredServer, definition: ToolDefinition) -> str:
    """The tool's own name, with the server's before it where another tool has that name."""
    taken = {tool.definition.name for tool in store.list()}
    return next(name for name in names_for(server.config.name, definition) if name not in taken)


def names_for(server_name: str, definition: ToolDefinition) -> Iterator[str]:
    yield definition.name
    plain = safe_name(definition.mcp.name)
    prefixed = f"{safe_name(server_name.lower(), 'mcp')}_{plain}"[:NAME_CHARS]
    yield prefixed
    for number in range(2, 10_000):
        yield f"{prefixed[: NAME_CHARS - 6]}_{number}"


def safe_name(text: str, fallback: str = "tool") -> str:
    """What OpenAI's format allows in a name; servers may use dots, slashes and any letter."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", text).strip("_")[:NAME_CHARS] or fallback


def reason_of(error: ToolInvalid) -> str:
    """A Phrase where the error has one."""
    place, reason = str(error.params.get("field", "")), error.params.get("reason", "")
    return reason if place in ("", "tools") else Phrase("{path}: {problem}", path=place, problem=reason)
