"""How rows are written and read, the same way in every table."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any

from webapp.errors import RoostError

_SURROGATES = re.compile("[\ud800-\udfff]")


def storable(text: str) -> str:
    """``text`` with lone surrogates as U+FFFD: a browser can send them, UTF-8 and so SQLite cannot hold them."""
    return _SURROGATES.sub("\ufffd", text)


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def insert(connection: sqlite3.Connection, table: str, values: Mapping[str, Any]) -> int:
    """Returns the rowid."""
    statement = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"
    return connection.execute(statement, tuple(values.values())).lastrowid or 0


def update(connection: sqlite3.Connection, table: str, row_id: str, **values: Any) -> int:
    """Returns the number of rows changed: 0 if there is none with this id."""
    assignments = ", ".join(f"{name} = ?" for name in values)
    return connection.execute(f"UPDATE {table} SET {assignments} WHERE id = ?", (*values.values(), row_id)).rowcount


def row_of(
    connection: sqlite3.Connection,
    table: str,
    row_id: str,
    missing: Callable[[], RoostError],
    with_deleted: bool = False,
) -> sqlite3.Row:
    """Raises ``missing`` for an unknown id, and for a deleted row unless ``with_deleted``."""
    condition = "" if with_deleted else " AND deleted_at IS NULL"
    query = f"SELECT * FROM {table} WHERE id = ?{condition}"
    row: sqlite3.Row | None = connection.execute(query, (row_id,)).fetchone()
    if row is None:
        raise missing()
    return row


def is_name_taken(
    connection: sqlite3.Connection, table: str, name: str, row_id: str, ignores_case: bool = False
) -> bool:
    """Whether a row that is not deleted has this name, other than ``row_id`` ("" for a new one)."""
    same = "lower(name) = lower(?)" if ignores_case else "name = ?"
    query = f"SELECT 1 FROM {table} WHERE {same} AND id <> ? AND deleted_at IS NULL"
    return connection.execute(query, (name, row_id)).fetchone() is not None


def count_of(connection: sqlite3.Connection, table: str) -> int:
    """Of the rows that are not deleted."""
    return int(connection.execute(f"SELECT count(*) FROM {table} WHERE deleted_at IS NULL").fetchone()[0])


def later_than(moment: float) -> float:
    """Now, or a millisecond after ``moment``: a time that forms compare must differ from the one before."""
    return max(time.time(), moment + 1e-3)
