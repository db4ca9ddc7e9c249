"""What an answer being written has so far, one row per step: writing a long answer stays linear, and a killed process
loses at most the step it was writing. Finishing a message replaces its rows by the whole text."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import replace

from webapp.storage.records import StoredMessage, pack_token_ids, storable, stored_message_from_row, unpack_token_ids


def append(
    connection: sqlite3.Connection, message_id: str, content: str, reasoning: str, token_ids: Iterable[int]
) -> None:
    connection.execute(
        "INSERT INTO journal (message_id, content, reasoning, token_ids) VALUES (?, ?, ?, ?)",
        (message_id, storable(content), storable(reasoning), pack_token_ids(token_ids)),
    )


def clear(connection: sqlite3.Connection, message_id: str) -> None:
    connection.execute("DELETE FROM journal WHERE message_id = ?", (message_id,))


def with_journal(connection: sqlite3.Connection, stored: StoredMessage) -> StoredMessage:
    """The message with what was written since; itself unless it is streaming."""
    if stored.status != "streaming":
        return stored
    rows = connection.execute("SELECT * FROM journal WHERE message_id = ? ORDER BY seq", (stored.id,)).fetchall()
    message = replace(
        stored.message,
        content=stored.message.content + "".join(row["content"] for row in rows),
        reasoning=stored.message.reasoning + "".join(row["reasoning"] for row in rows),
        token_ids=stored.message.token_ids + unpack_token_ids(b"".join(row["token_ids"] for row in rows)),
    )
    return replace(stored, message=message)


def abandoned(connection: sqlite3.Connection) -> list[StoredMessage]:
    """Messages still marked as being written, with all that was written."""
    rows = connection.execute("SELECT * FROM messages WHERE status = 'streaming'").fetchall()
    return [with_journal(connection, stored_message_from_row(row)) for row in rows]
