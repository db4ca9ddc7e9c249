"""MCP servers in the database, with their secrets: the file is its owner's alone."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from webapp.errors import McpServerInvalid, McpServerNotFound, Phrase, phrase_from_dict
from webapp.storage.database import Database
from webapp.storage.records import to_json
from webapp.tools.mcp.server_config import ServerConfig, ServerKind, checked

MOST_SERVERS = 50


@dataclass(frozen=True)
class ToolList:
    """What a server offered when it was last asked, by its own names: ``names`` of all, ``refused`` those that cannot
    be offered with the reason, ``hidden`` those a person does not want offered. ``left_out`` were too many."""

    names: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    hidden: tuple[str, ...] = ()
    left_out: int = 0


@dataclass(frozen=True)
class StoredServer:
    """``updated_at`` (Unix seconds) is what a form must have seen to be saved over it."""

    id: str
    config: ServerConfig
    is_on: bool
    tools: ToolList
    updated_at: float


StoredServers = list[StoredServer]  # inside the class `list` is the method


class McpServerStore:
    """Cheap to make, safe from any thread; every method is one transaction. Names are unique among the living,
    whatever their case."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def list(self) -> StoredServers:
        """By name."""
        query = "SELECT * FROM mcp_servers WHERE deleted_at IS NULL ORDER BY lower(name), id"
        with self.database.connect() as connection:
            return [_from_row(row) for row in connection.execute(query)]

    def get(self, server_id: str) -> StoredServer:
        with self.database.connect() as connection:
            return _from_row(_row(connection, server_id))

    def create_all(self, configs: Sequence[ServerConfig], is_on: bool) -> StoredServers:
        """All or none; McpServerInvalid for one that cannot be, a name that is taken, or one server too many."""
        with self.database.transaction() as connection:
            return [_insert(connection, checked(config), is_on) for config in configs]

    def update(self, server_id: str, config: ServerConfig, expected_updated_at: float | None = None) -> StoredServer:
        """McpServerInvalid also when it was saved since ``expected_updated_at``."""
        with self.database.transaction() as connection:
            before = _from_row(_row(connection, server_id))
            if expected_updated_at is not None and before.updated_at != expected_updated_at:
                raise McpServerInvalid(field="name", reason="it was changed elsewhere in the meantime")
            _refuse_taken(connection, checked(config).name, server_id)
            updated_at = max(time.time(), before.updated_at + 1e-3)
            connection.execute(
                "UPDATE mcp_servers SET name = ?, kind = ?, body = ?, updated_at = ? WHERE id = ?",
                (config.name, config.kind.value, _body(config), updated_at, server_id),
            )
            return StoredServer(server_id, config, before.is_on, before.tools, updated_at)

    def switch(self, server_id: str, is_on: bool) -> None:
        with self.database.transaction() as connection:
            _row(connection, server_id)
            connection.execute("UPDATE mcp_servers SET is_on = ? WHERE id = ?", (is_on, server_id))

    def set_tools(self, server_id: str, tools: ToolList) -> None:
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE mcp_servers SET tools = ? WHERE id = ?", (to_json(_tools_body(tools)), server_id)
            )

    def delete(self, server_id: str) -> None:
        """Hides it until :meth:`restore`."""
        with self.database.transaction() as connection:
            _row(connection, server_id)
            connection.execute("UPDATE mcp_servers SET deleted_at = ? WHERE id = ?", (time.time(), server_id))

    def restore(self, server_id: str) -> StoredServer:
        """McpServerInvalid when another has its name now."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT * FROM mcp_servers WHERE id = ?", (server_id,)).fetchone()
            if row is None:
                raise McpServerNotFound()
            _refuse_taken(connection, row["name"], server_id)
            connection.execute("UPDATE mcp_servers SET deleted_at = NULL WHERE id = ?", (server_id,))
            return _from_row(row)

    def purge(self, deleted_before: float) -> None:
        """Removes for good, with its secrets, what was deleted before then (Unix seconds)."""
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM mcp_servers WHERE deleted_at < ?", (deleted_before,))


def _insert(connection: sqlite3.Connection, config: ServerConfig, is_on: bool) -> StoredServer:
    count = connection.execute("SELECT count(*) FROM mcp_servers WHERE deleted_at IS NULL").fetchone()[0]
    if count >= MOST_SERVERS:
        raise McpServerInvalid(field="name", reason=Phrase("there are {limit} already", limit=MOST_SERVERS))
    _refuse_taken(connection, config.name, "")
    made = StoredServer(uuid.uuid4().hex, config, is_on, ToolList(), time.time())
    connection.execute(
        "INSERT INTO mcp_servers (id, name, kind, body, is_on, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
        (made.id, config.name, config.kind.value, _body(config), is_on, made.updated_at),
    )
    return made


def _refuse_taken(connection: sqlite3.Connection, name: str, server_id: str) -> None:
    query = "SELECT 1 FROM mcp_servers WHERE lower(name) = lower(?) AND id <> ? AND deleted_at IS NULL"
    if connection.execute(query, (name, server_id)).fetchone():
        raise McpServerInvalid(field="name", reason=Phrase("there is a server {name} already", name=name))


def _row(connection: sqlite3.Connection, server_id: str) -> sqlite3.Row:
    query = "SELECT * FROM mcp_servers WHERE id = ? AND deleted_at IS NULL"
    found: sqlite3.Row | None = connection.execute(query, (server_id,)).fetchone()
    if found is None:
        raise McpServerNotFound()
    return found


def _body(config: ServerConfig) -> str:
    body = asdict(config)
    del body["name"], body["kind"]
    return to_json(body)


def _from_row(row: sqlite3.Row) -> StoredServer:
    body = json.loads(row["body"])
    config = ServerConfig(row["name"], ServerKind(row["kind"]), **{**body, "args": tuple(body["args"])})
    return StoredServer(row["id"], config, bool(row["is_on"]), _tool_list(json.loads(row["tools"])), row["updated_at"])


def _tools_body(tools: ToolList) -> dict[str, Any]:
    refused = [(name, reason.to_dict() if isinstance(reason, Phrase) else reason) for name, reason in tools.refused]
    return {**asdict(tools), "refused": refused}


def _tool_list(body: dict[str, Any]) -> ToolList:
    refused = tuple(
        (str(name), phrase_from_dict(reason) if isinstance(reason, dict) else str(reason))
        for name, reason in body.get("refused", ())
    )
    names, hidden = tuple(body.get("names", ())), tuple(body.get("hidden", ()))
    return ToolList(names, refused, hidden, int(body.get("left_out", 0)))
