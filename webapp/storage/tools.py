"""Tool definitions in the database, and the MCP servers that offer some of them, with their secrets: only the owner's
account can read the file.
"""

from __future__ import annotations

import functools
import itertools
import json
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec import Struct, to_builtins
from msgspec.structs import asdict

from webapp.errors import McpServerInvalid, McpServerNotFound, RoostError, ToolInvalid
from webapp.i18n import Text, plain, text_from_plain
from webapp.storage.database import Database
from webapp.storage.records import OWNER_ID, count_of, hide, insert, is_name_taken, later_than, row_of, to_json, update
from webapp.tools.definition import Approval, Behaviour, HttpCall, McpTool, ToolDefinition, checked
from webapp.tools.mcp.server_config import ServerConfig, ServerKind, checked_server

NOT_FOUND = functools.partial(RoostError, "tool_not_found")
MAX_TOOLS = 200
_revisions = itertools.count(1)


class StoredTool(Struct, frozen=True):
    """``updated_at`` (Unix seconds) must equal the form's value when it is saved."""

    id: str
    definition: ToolDefinition
    updated_at: float


StoredTools = list[StoredTool]  # inside the class `list` is the method


class ToolStore:
    """Cheap to create, thread-safe; every method is one transaction. Names are unique among tools that are not deleted.
    ``is_for_guests``: lists only tools that guests may use."""

    def __init__(self, database: Database, is_for_guests: bool = False) -> None:
        self.database = database
        self.is_for_guests = is_for_guests

    def of(self, person_id: str) -> ToolStore:
        """The tools for this person's chats: only tools that guests may use, except for the owner and admins."""
        if self.is_for_guests or person_id == OWNER_ID:
            return self
        query = "SELECT 1 FROM people WHERE id = ? AND is_admin = 1"
        with self.database.connect() as connection:
            is_admin = connection.execute(query, (person_id,)).fetchone() is not None
        return self if is_admin else ToolStore(self.database, is_for_guests=True)

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self.database.transaction() as connection:
            yield connection
        self.database.revisions["tools"] = next(_revisions)

    def list(self) -> StoredTools:
        """By name."""
        with self.database.connect() as connection:
            rows = connection.execute("SELECT * FROM tools WHERE deleted_at IS NULL ORDER BY name, id").fetchall()
        tools = [_tool(row) for row in rows]
        return [tool for tool in tools if tool.definition.for_guests] if self.is_for_guests else tools

    def get(self, tool_id: str) -> StoredTool:
        with self.database.connect() as connection:
            return _tool(row_of(connection, "tools", tool_id, NOT_FOUND))

    def by_ids(self, tool_ids: Sequence[str]) -> StoredTools:
        """In the given order, without deleted tools."""
        found = {tool.id: tool for tool in self.list()}
        return [found[tool_id] for tool_id in tool_ids if tool_id in found]

    def of_server(self, server_id: str, deleted: bool = False) -> StoredTools:
        """Tools of an MCP server: the offered ones, or those that it offered before."""
        query = f"SELECT * FROM tools WHERE deleted_at IS {'NOT NULL' if deleted else 'NULL'} ORDER BY name, id"
        with self.database.connect() as connection:
            tools = [_tool(row) for row in connection.execute(query)]
        return [tool for tool in tools if tool.definition.mcp.server_id == server_id]

    def create(self, definition: ToolDefinition) -> StoredTool:
        """Raises ToolInvalid for a bad definition, a taken name, or too many tools."""
        with self._changing() as connection:
            return _insert_tool(connection, checked(definition))

    def create_all(self, definitions: Sequence[ToolDefinition]) -> StoredTools:
        """All or none."""
        with self._changing() as connection:
            return [_insert_tool(connection, checked(definition)) for definition in definitions]

    def update(self, tool_id: str, definition: ToolDefinition, expected_updated_at: float | None = None) -> StoredTool:
        """Raises ToolInvalid also if it was saved after ``expected_updated_at``."""
        with self._changing() as connection:
            before = _tool(row_of(connection, "tools", tool_id, NOT_FOUND))
            if expected_updated_at is not None and before.updated_at != expected_updated_at:
                raise ToolInvalid(field="definition", reason=Text("reason.storage.changed_elsewhere"))
            return self._write(connection, tool_id, checked(definition), later_than(before.updated_at))

    def delete(self, tool_id: str) -> None:
        """Hides it until :meth:`restore`."""
        with self._changing() as connection:
            hide(connection, "tools", tool_id, NOT_FOUND)

    def put_back(self, tool_id: str, definition: ToolDefinition) -> StoredTool:
        """Restores a deleted tool with another definition; raises ToolInvalid if the name is in use."""
        with self._changing() as connection:
            return self._write(connection, tool_id, checked(definition), time.time())

    def restore(self, tool_id: str) -> StoredTool:
        """Raises ToolInvalid if another tool has its name now."""
        with self._changing() as connection:
            tool = _tool(row_of(connection, "tools", tool_id, NOT_FOUND, with_deleted=True))
            return self._write(connection, tool_id, tool.definition, tool.updated_at)

    def _write(
        self, connection: sqlite3.Connection, tool_id: str, definition: ToolDefinition, updated_at: float
    ) -> StoredTool:
        """Also restores a deleted row."""
        _refuse_taken_tool(connection, definition.name, tool_id)
        body = to_json(to_builtins(definition))
        update(connection, "tools", tool_id, name=definition.name, body=body, updated_at=updated_at, deleted_at=None)
        return StoredTool(tool_id, definition, updated_at)


def _insert_tool(connection: sqlite3.Connection, definition: ToolDefinition) -> StoredTool:
    if count_of(connection, "tools") >= MAX_TOOLS:
        raise ToolInvalid(field="tools", reason=Text("reason.storage.too_many", limit=MAX_TOOLS))
    _refuse_taken_tool(connection, definition.name, "")
    made = StoredTool(uuid.uuid4().hex, definition, time.time())
    body = to_json(to_builtins(definition))
    insert(connection, "tools", {"id": made.id, "name": definition.name, "body": body, "updated_at": made.updated_at})
    return made


def _refuse_taken_tool(connection: sqlite3.Connection, name: str, tool_id: str) -> None:
    if is_name_taken(connection, "tools", name, tool_id):
        raise ToolInvalid(field="name", reason=Text("reason.storage.tool_name_taken", name=name))


def _tool(row: sqlite3.Row) -> StoredTool:
    return StoredTool(row["id"], definition_from_dict(json.loads(row["body"])), row["updated_at"])


def definition_from_dict(body: dict[str, Any]) -> ToolDefinition:
    """As :func:`msgspec.to_builtins` made it."""
    mcp = body.get("mcp", {})
    return ToolDefinition(
        **{
            **body,
            "behaviour": Behaviour(body["behaviour"]),
            "http": HttpCall(**body["http"]),
            "approval": Approval(body["approval"]),
            "mcp": McpTool(mcp.get("server_id", ""), mcp.get("name", ""), tuple(mcp.get("hints", ()))),
        }
    )


MAX_SERVERS = 50


class ToolList(Struct, frozen=True):
    """The last listing of a server, by its own names: ``names`` of all tools, ``refused`` tools that cannot be offered,
    with the reason, ``hidden`` tools that a person switched off. ``left_out``: the number of tools beyond the limit."""

    names: tuple[str, ...] = ()
    refused: tuple[tuple[str, Text | str], ...] = ()
    hidden: tuple[str, ...] = ()
    left_out: int = 0


class StoredServer(Struct, frozen=True):
    """``updated_at`` (Unix seconds) must equal the form's value when it is saved."""

    id: str
    config: ServerConfig
    is_on: bool
    tools: ToolList
    updated_at: float


StoredServers = list[StoredServer]  # inside the class `list` is the method


class McpServerStore:
    """Cheap to create, thread-safe; every method is one transaction. Names are unique, ignoring case, among servers
    that are not deleted."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def list(self) -> StoredServers:
        """By name."""
        query = "SELECT * FROM mcp_servers WHERE deleted_at IS NULL ORDER BY lower(name), id"
        with self.database.connect() as connection:
            return [_server(row) for row in connection.execute(query)]

    def get(self, server_id: str) -> StoredServer:
        with self.database.connect() as connection:
            return _server(row_of(connection, "mcp_servers", server_id, McpServerNotFound))

    def create_all(self, configs: Sequence[ServerConfig], is_on: bool) -> StoredServers:
        """Creates all or none. Raises McpServerInvalid for a bad configuration, a taken name, or too many servers."""
        with self.database.transaction() as connection:
            return [_insert_server(connection, checked_server(config), is_on) for config in configs]

    def update(self, server_id: str, config: ServerConfig, expected_updated_at: float | None = None) -> StoredServer:
        """Raises McpServerInvalid also if it was saved after ``expected_updated_at``."""
        with self.database.transaction() as connection:
            before = _server(row_of(connection, "mcp_servers", server_id, McpServerNotFound))
            if expected_updated_at is not None and before.updated_at != expected_updated_at:
                raise McpServerInvalid(field="name", reason=Text("reason.storage.changed_elsewhere"))
            _refuse_taken_server(connection, checked_server(config).name, server_id)
            updated_at = later_than(before.updated_at)
            update(connection, "mcp_servers", server_id, **_columns(config), updated_at=updated_at)
            return StoredServer(server_id, config, before.is_on, before.tools, updated_at)

    def switch(self, server_id: str, is_on: bool) -> None:
        with self.database.transaction() as connection:
            row_of(connection, "mcp_servers", server_id, McpServerNotFound)
            update(connection, "mcp_servers", server_id, is_on=is_on)

    def set_tools(self, server_id: str, tools: ToolList) -> None:
        with self.database.transaction() as connection:
            update(connection, "mcp_servers", server_id, tools=to_json(_tools_body(tools)))

    def delete(self, server_id: str) -> None:
        """Hides it until :meth:`restore`."""
        with self.database.transaction() as connection:
            hide(connection, "mcp_servers", server_id, McpServerNotFound)

    def restore(self, server_id: str) -> StoredServer:
        """Raises McpServerInvalid if another server has its name now."""
        with self.database.transaction() as connection:
            row = row_of(connection, "mcp_servers", server_id, McpServerNotFound, with_deleted=True)
            _refuse_taken_server(connection, row["name"], server_id)
            update(connection, "mcp_servers", server_id, deleted_at=None)
            return _server(row)

    def purge(self, deleted_before: float) -> None:
        """Permanently removes servers deleted before this time (Unix seconds), with their secrets."""
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM mcp_servers WHERE deleted_at < ?", (deleted_before,))


def _insert_server(connection: sqlite3.Connection, config: ServerConfig, is_on: bool) -> StoredServer:
    if count_of(connection, "mcp_servers") >= MAX_SERVERS:
        raise McpServerInvalid(field="name", reason=Text("reason.storage.too_many", limit=MAX_SERVERS))
    _refuse_taken_server(connection, config.name, "")
    made = StoredServer(uuid.uuid4().hex, config, is_on, ToolList(), time.time())
    columns = {"id": made.id, **_columns(config), "is_on": is_on, "updated_at": made.updated_at}
    insert(connection, "mcp_servers", columns)
    return made


def _refuse_taken_server(connection: sqlite3.Connection, name: str, server_id: str) -> None:
    if is_name_taken(connection, "mcp_servers", name, server_id, ignores_case=True):
        raise McpServerInvalid(field="name", reason=Text("reason.storage.server_name_taken", name=name))


def _columns(config: ServerConfig) -> dict[str, str]:
    body = asdict(config)
    name, kind = body.pop("name"), body.pop("kind")
    return {"name": name, "kind": kind.value, "body": to_json(body)}


def _server(row: sqlite3.Row) -> StoredServer:
    body = json.loads(row["body"])
    config = ServerConfig(row["name"], ServerKind(row["kind"]), **{**body, "args": tuple(body["args"])})
    return StoredServer(row["id"], config, bool(row["is_on"]), _tool_list(json.loads(row["tools"])), row["updated_at"])


def _tools_body(tools: ToolList) -> dict[str, Any]:
    refused = [(name, plain(reason)) for name, reason in tools.refused]
    return {**asdict(tools), "refused": refused}


def _tool_list(body: dict[str, Any]) -> ToolList:
    refused = tuple((str(name), text_from_plain(reason)) for name, reason in body.get("refused", ()))
    names, hidden = tuple(body.get("names", ())), tuple(body.get("hidden", ()))
    return ToolList(names, refused, hidden, int(body.get("left_out", 0)))
