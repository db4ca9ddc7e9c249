"""Tool definitions in the database."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from webapp.errors import Phrase, ToolInvalid, ToolNotFound
from webapp.storage.database import Database
from webapp.storage.records import to_json
from webapp.tools.definition import Approval, Behaviour, HttpCall, McpTool, ToolDefinition, checked

MOST_TOOLS = 200


@dataclass(frozen=True)
class StoredTool:
    """``updated_at`` (Unix seconds) is what a form must have seen to be saved over it."""

    id: str
    definition: ToolDefinition
    updated_at: float


StoredTools = list[StoredTool]  # inside the class `list` is the method


class ToolStore:
    """Cheap to make, safe from any thread; every method is one transaction. Names are unique among the living."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def list(self) -> StoredTools:
        """By name."""
        with self.database.connect() as connection:
            rows = connection.execute("SELECT * FROM tools WHERE deleted_at IS NULL ORDER BY name, id").fetchall()
        return [_from_row(row) for row in rows]

    def get(self, tool_id: str) -> StoredTool:
        with self.database.connect() as connection:
            return _from_row(_row(connection, tool_id))

    def by_ids(self, tool_ids: Sequence[str]) -> StoredTools:
        """In the given order, without those that are gone."""
        found = {tool.id: tool for tool in self.list()}
        return [found[tool_id] for tool_id in tool_ids if tool_id in found]

    def of_server(self, server_id: str, deleted: bool = False) -> StoredTools:
        """Tools an MCP server brought: those that are offered, or those that were."""
        query = f"SELECT * FROM tools WHERE deleted_at IS {'NOT NULL' if deleted else 'NULL'} ORDER BY name, id"
        with self.database.connect() as connection:
            tools = [_from_row(row) for row in connection.execute(query)]
        return [tool for tool in tools if tool.definition.mcp.server_id == server_id]

    def create(self, definition: ToolDefinition) -> StoredTool:
        """ToolInvalid for a definition that cannot be, a name that is taken, or one tool too many."""
        with self.database.transaction() as connection:
            return _insert(connection, checked(definition))

    def create_all(self, definitions: Sequence[ToolDefinition]) -> StoredTools:
        """All or none."""
        with self.database.transaction() as connection:
            return [_insert(connection, checked(definition)) for definition in definitions]

    def update(self, tool_id: str, definition: ToolDefinition, expected_updated_at: float | None = None) -> StoredTool:
        """ToolInvalid also when it was saved since ``expected_updated_at``."""
        with self.database.transaction() as connection:
            before = _from_row(_row(connection, tool_id))
            if expected_updated_at is not None and before.updated_at != expected_updated_at:
                raise ToolInvalid(field="definition", reason="it was changed elsewhere in the meantime")
            _refuse_taken(connection, checked(definition).name, tool_id)
            after = StoredTool(tool_id, definition, max(time.time(), before.updated_at + 1e-3))
            connection.execute(
                "UPDATE tools SET name = ?, body = ?, updated_at = ? WHERE id = ?",
                (definition.name, _body(definition), after.updated_at, tool_id),
            )
            return after

    def delete(self, tool_id: str) -> None:
        """Hides it until :meth:`restore`."""
        with self.database.transaction() as connection:
            _row(connection, tool_id)
            connection.execute("UPDATE tools SET deleted_at = ? WHERE id = ?", (time.time(), tool_id))

    def put_back(self, tool_id: str, definition: ToolDefinition) -> StoredTool:
        """Brings a deleted tool back as something else; ToolInvalid when the name is taken."""
        with self.database.transaction() as connection:
            _refuse_taken(connection, checked(definition).name, tool_id)
            made = StoredTool(tool_id, definition, time.time())
            connection.execute(
                "UPDATE tools SET name = ?, body = ?, updated_at = ?, deleted_at = NULL WHERE id = ?",
                (definition.name, _body(definition), made.updated_at, tool_id),
            )
            return made

    def restore(self, tool_id: str) -> StoredTool:
        """ToolInvalid when another has its name now."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT * FROM tools WHERE id = ?", (tool_id,)).fetchone()
            if row is None:
                raise ToolNotFound()
            _refuse_taken(connection, row["name"], tool_id)
            connection.execute("UPDATE tools SET deleted_at = NULL WHERE id = ?", (tool_id,))
            return _from_row(row)


def _insert(connection: sqlite3.Connection, definition: ToolDefinition) -> StoredTool:
    count = connection.execute("SELECT count(*) FROM tools WHERE deleted_at IS NULL").fetchone()[0]
    if count >= MOST_TOOLS:
        raise ToolInvalid(field="tools", reason=Phrase("there are {limit} already", limit=MOST_TOOLS))
    _refuse_taken(connection, definition.name, "")
    made = StoredTool(uuid.uuid4().hex, definition, time.time())
    connection.execute(
        "INSERT INTO tools (id, name, body, updated_at) VALUES (?, ?, ?, ?)",
        (made.id, definition.name, _body(definition), made.updated_at),
    )
    return made


def _refuse_taken(connection: sqlite3.Connection, name: str, tool_id: str) -> None:
    query = "SELECT 1 FROM tools WHERE name = ? AND id <> ? AND deleted_at IS NULL"
    if connection.execute(query, (name, tool_id)).fetchone():
        raise ToolInvalid(field="name", reason=Phrase("there is a tool {name} already", name=name))


def _row(connection: sqlite3.Connection, tool_id: str) -> sqlite3.Row:
    found: sqlite3.Row | None = connection.execute(
        "SELECT * FROM tools WHERE id = ? AND deleted_at IS NULL", (tool_id,)
    ).fetchone()
    if found is None:
        raise ToolNotFound()
    return found


def _body(definition: ToolDefinition) -> str:
    return to_json(asdict(definition))


def _from_row(row: sqlite3.Row) -> StoredTool:
    return StoredTool(row["id"], definition_from_dict(json.loads(row["body"])), row["updated_at"])


def definition_from_dict(body: dict[str, Any]) -> ToolDefinition:
    """As :func:`dataclasses.asdict` made it."""
    return ToolDefinition(
        name=body["name"],
        description=body["description"],
        parameters=body["parameters"],
        behaviour=Behaviour(body["behaviour"]),
        fixed_value=body["fixed_value"],
        http=HttpCall(**body["http"]),
        builtin=body["builtin"],
        approval=Approval(body["approval"]),
        mcp=_mcp_tool(body.get("mcp", {})),
    )


def _mcp_tool(body: dict[str, Any]) -> McpTool:
    return McpTool(body.get("server_id", ""), body.get("name", ""), tuple(body.get("hints", ())))
