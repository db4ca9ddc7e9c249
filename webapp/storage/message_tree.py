"""The messages of a chat as a tree: what is shown is the path from a root to the chat's head.

Functions over an open connection. Siblings of one role are versions of each other, in the order they were made.
Deleting marks a message and all below it with one time stamp, which is how restoring finds exactly those again.

The journal holds what an answer being written has so far, one row a step: writing a long answer stays linear, and a
killed process loses at most the step it was writing. Finishing a message replaces its rows by the whole text.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from webapp.errors import MessageNotFound
from webapp.storage.records import StoredMessage, pack_token_ids, stored_message_from_row, unpack_token_ids
from webapp.storage.rows import row_of, storable, update

_PATH = """WITH RECURSIVE path (id, height) AS (
        SELECT ?, 0
        UNION ALL
        SELECT m.parent_id, height + 1 FROM messages m JOIN path ON m.id = path.id WHERE m.parent_id IS NOT NULL
    )"""
_SUBTREE = """WITH RECURSIVE subtree (id) AS (
        SELECT ?
        UNION ALL
        SELECT m.id FROM messages m JOIN subtree ON m.parent_id = subtree.id
    )"""


def path_to(connection: sqlite3.Connection, message_id: str) -> list[StoredMessage]:
    """Root first, ending with this message; always the same number of queries (one more while one is streaming)."""
    rows = connection.execute(
        f"{_PATH} SELECT m.* FROM path JOIN messages m ON m.id = path.id ORDER BY height DESC", (message_id,)
    ).fetchall()
    if not rows or rows[-1]["deleted_at"] is not None:
        raise MessageNotFound()
    messages = [with_journal(connection, stored_message_from_row(row)) for row in rows]
    return with_versions(connection, messages)


def with_versions(connection: sqlite3.Connection, messages: list[StoredMessage]) -> list[StoredMessage]:
    """The same messages, all of one chat, told which versions stand beside them."""
    if not messages:
        return []
    siblings: dict[tuple[str | None, str], list[str]] = defaultdict(list)
    of_one = " AND parent_id IS ?" if len(messages) == 1 else ""
    rows = connection.execute(
        f"SELECT id, parent_id, role FROM messages WHERE chat_id = ? {of_one} AND deleted_at IS NULL ORDER BY seq",
        (messages[0].chat_id, messages[0].parent_id)[: 2 if of_one else 1],
    )
    for row in rows:
        siblings[row["parent_id"], row["role"]].append(row["id"])
    return [_with_version(m, siblings[m.parent_id, m.message.role.value]) for m in messages]


def newest_leaf(connection: sqlite3.Connection, message_id: str) -> str:
    """The youngest message at or below this one: a child is always younger than its parent."""
    row = connection.execute(
        f"""{_SUBTREE} SELECT m.id FROM subtree JOIN messages m ON m.id = subtree.id
            WHERE m.deleted_at IS NULL ORDER BY m.seq DESC LIMIT 1""",
        (message_id,),
    ).fetchone()
    return str(row["id"])


def living_row(connection: sqlite3.Connection, message_id: str) -> sqlite3.Row:
    return row_of(connection, "messages", message_id, MessageNotFound)


def show(connection: sqlite3.Connection, chat_id: str, head_id: str | None) -> None:
    update(connection, "chats", chat_id, head_id=head_id)


def delete_subtree(connection: sqlite3.Connection, message_id: str, now: float) -> None:
    """Hides the message and what follows. Another version takes its place, or the branch ends at its parent."""
    row = living_row(connection, message_id)
    stored = with_versions(connection, [stored_message_from_row(row)])[0]
    connection.execute(
        f"{_SUBTREE} UPDATE messages SET deleted_at = ? WHERE deleted_at IS NULL AND id IN (SELECT id FROM subtree)",
        (message_id, now),
    )
    head_id = connection.execute("SELECT head_id FROM chats WHERE id = ?", (row["chat_id"],)).fetchone()["head_id"]
    if head_id is None or _is_alive(connection, head_id):
        return
    neighbour = stored.previous_version_id or stored.next_version_id
    show(connection, row["chat_id"], newest_leaf(connection, neighbour) if neighbour else row["parent_id"])


def restore_subtree(connection: sqlite3.Connection, message_id: str) -> None:
    """Undoes :func:`delete_subtree` and shows the branch again; messages deleted earlier stay deleted."""
    row = connection.execute("SELECT * FROM messages WHERE id = ?", (message_id,)).fetchone()
    if row is None or (row["parent_id"] is not None and not _is_alive(connection, row["parent_id"])):
        raise MessageNotFound()
    connection.execute(
        f"{_SUBTREE} UPDATE messages SET deleted_at = NULL WHERE deleted_at = ? AND id IN (SELECT id FROM subtree)",
        (message_id, row["deleted_at"]),
    )
    show(connection, row["chat_id"], newest_leaf(connection, message_id))


def _is_alive(connection: sqlite3.Connection, message_id: str) -> bool:
    query = "SELECT 1 FROM messages WHERE id = ? AND deleted_at IS NULL"
    return connection.execute(query, (message_id,)).fetchone() is not None


def _with_version(stored: StoredMessage, versions: list[str]) -> StoredMessage:
    if stored.id not in versions:
        return stored
    place = versions.index(stored.id)
    return replace(
        stored,
        version=place + 1,
        version_count=len(versions),
        previous_version_id=versions[place - 1] if place else None,
        next_version_id=versions[place + 1] if place + 1 < len(versions) else None,
    )


def append_journal(
    connection: sqlite3.Connection, message_id: str, content: str, reasoning: str, token_ids: Iterable[int]
) -> None:
    connection.execute(
        "INSERT INTO journal (message_id, content, reasoning, token_ids) VALUES (?, ?, ?, ?)",
        (message_id, storable(content), storable(reasoning), pack_token_ids(token_ids)),
    )


def clear_journal(connection: sqlite3.Connection, message_id: str) -> None:
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
