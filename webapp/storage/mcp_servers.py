"""MCP servers in the database, with their secrets: only the owner's account can read the file."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from webapp.errors import McpServerInvalid, McpServerNotFound
from webapp.i18n import Text, plain, text_from_plain
from webapp.storage.database import Database
from webapp.storage.records import count_of, hide, insert, is_name_taken, later_than, row_of, to_json, update
from webapp.tools.mcp.server_config import ServerConfig, ServerKind, checked_server

MOST_SERVERS = 50


@dataclass(frozen=True)
class ToolList:
    """The last listing of a server, by its own names: ``names`` of all tools, ``refused`` tools that cannot be offered,
    with the reason, ``hidden`` tools that a person switched off. ``left_out``: the number of tools beyond the limit."""

    names: tuple[str, ...] = ()
    refused: tuple[tuple[str, Text | str], ...] = ()
    hidden: tuple[str, ...] = ()
    left_out: int = 0


@dataclass(frozen=True)
class StoredServer:
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
    if count_of(connection, "mcp_servers") >= MOST_SERVERS:
        raise McpServerInvalid(field="name", reason=Text("reason.storage.too_many", limit=MOST_SERVERS))
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
