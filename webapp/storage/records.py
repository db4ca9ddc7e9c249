"""Records of chats and messages: frozen structs, their columns, and the tree of a chat's messages; and functions to
write and read rows, the same for every table.

A chat shows the path from a root of the tree to the chat's head. The tree's functions use an open connection. Siblings
with the same role are versions of each other, in order of creation. Deleting marks a message and all below it with one
time stamp, by which restoring finds exactly those.

The journal contains the text of a streaming answer so far, one row per step: writing a long answer stays linear, and a
killed process loses at most the current step. Finishing a message replaces its rows by the whole text.
"""

from __future__ import annotations

import functools
import json
import re
import sqlite3
import sys
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from webapp.chat.messages import Message, Role, ThinkMode, ToolCall
from webapp.errors import RoostError, StorageError

# rows of any table

_SURROGATES = re.compile("[\ud800-\udfff]")


def storable(text: str) -> str:
    """``text`` with lone surrogates replaced by U+FFFD: a browser can send them, but UTF-8, and so SQLite, cannot."""
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
    """Raises the error from ``missing`` for an unknown id, and for a deleted row unless ``with_deleted``."""
    condition = "" if with_deleted else " AND deleted_at IS NULL"
    query = f"SELECT * FROM {table} WHERE id = ?{condition}"
    row: sqlite3.Row | None = connection.execute(query, (row_id,)).fetchone()
    if row is None:
        raise missing()
    return row


def hide(connection: sqlite3.Connection, table: str, row_id: str, missing: Callable[[], RoostError]) -> None:
    """Deletes a row so that it can be restored; raises the error from ``missing`` if there is none."""
    row_of(connection, table, row_id, missing)
    update(connection, table, row_id, deleted_at=time.time())


def check_person(
    connection: sqlite3.Connection, table: str, row_id: str, person_id: str, missing: Callable[[], RoostError]
) -> None:
    """Raises the error from ``missing`` if the row, deleted or not, belongs to another person or does not exist."""
    query = f"SELECT 1 FROM {table} WHERE id = ? AND person_id = ?"
    if connection.execute(query, (row_id, person_id)).fetchone() is None:
        raise missing()


def is_name_taken(
    connection: sqlite3.Connection, table: str, name: str, row_id: str, ignores_case: bool = False
) -> bool:
    """Whether another row than ``row_id`` ("" for a new one), not deleted, has this name."""
    same = "lower(name) = lower(?)" if ignores_case else "name = ?"
    query = f"SELECT 1 FROM {table} WHERE {same} AND id <> ? AND deleted_at IS NULL"
    return connection.execute(query, (name, row_id)).fetchone() is not None


def count_of(connection: sqlite3.Connection, table: str) -> int:
    """The number of rows that are not deleted."""
    return int(connection.execute(f"SELECT count(*) FROM {table} WHERE deleted_at IS NULL").fetchone()[0])


def later_than(moment: float) -> float:
    """Now, or a millisecond after ``moment``: times that forms compare must differ."""
    return max(time.time(), moment + 1e-3)


# chats and messages

OWNER_ID = "owner"
"""The person who owns the server (:mod:`.people`)."""


class ChatSummary(Struct, frozen=True):
    """A line in the chat list. ``snippet``: the beginning of the last shown message; ``status`` as in
    :class:`StoredMessage`. Times are Unix seconds; ``folder`` "" means no folder."""

    id: str
    title: str
    created_at: float
    updated_at: float
    snippet: str = ""
    status: str = "complete"
    is_pinned: bool = False
    is_archived: bool = False
    folder: str = ""


class ChatTools(Struct, frozen=True):
    """``is_own`` False: nothing was chosen in this chat, it uses its preset's. ``tool_ids`` keep their choice while
    ``is_on`` is False. ``dialect`` "" is the preset's, or the model's own. ``is_free``: the grammar of calls does not
    constrain the answer. ``approved``: tools that need no further approval in this chat."""

    is_own: bool = False
    is_on: bool = False
    tool_ids: tuple[str, ...] = ()
    dialect: str = ""
    is_free: bool = False
    approved: tuple[str, ...] = ()


class Chat(Struct, frozen=True):
    """One conversation without its messages.

    ``preset_id`` "" uses the active preset. Values that a chat does not set come from its preset: ``system_prompt`` and
    ``template`` "", ``think_mode`` and ``state`` None. ``sampling``: overrides by the names of ``SamplingParams``.
    ``head_id``: the last message of the shown branch; None if there is none. ``origin`` as in ``GenerationRequest``;
    ``person_id``: its owner.
    """

    id: str
    title: str = ""
    system_prompt: str = ""
    template: str = ""
    think_mode: ThinkMode | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    created_at: float = 0.0
    updated_at: float = 0.0
    head_id: str | None = None
    preset_id: str = ""
    state: str | None = None
    tools: ChatTools = field(default_factory=ChatTools)
    origin: str = ""
    persona_id: str = ""
    person_id: str = OWNER_ID


class StoredMessage(Struct, frozen=True):
    """A message with its position in the tree.

    ``status``: "complete", "streaming", "stopped" (by a person), "failed" (``error`` says why) or "interrupted" (the
    server ended meanwhile). Versions are siblings with the same role; ``version`` counts from 1.
    """

    id: str
    chat_id: str
    parent_id: str | None
    message: Message
    status: str = "complete"
    finish_reason: str = ""
    stats: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    model: str = ""
    created_at: float = 0.0
    version: int = 1
    version_count: int = 1
    previous_version_id: str | None = None
    next_version_id: str | None = None


class SearchHit(Struct, frozen=True):
    """A result of a search. ``message_id`` is "" for a match in the title.

    ``excerpt``: plain text around the first match; ``positions``: (start, end) of the matches in it.
    """

    chat_id: str
    title: str
    message_id: str
    excerpt: str
    positions: tuple[tuple[int, int], ...] = ()
    role: str = ""
    created_at: float = 0.0


def pack_token_ids(token_ids: Iterable[int]) -> bytes:
    """Four bytes each, little endian."""
    packed = array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_token_ids(data: bytes) -> tuple[int, ...]:
    packed = array("I")
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return tuple(packed)


def message_columns(message: Message) -> dict[str, Any]:
    """The columns of the messages table for the message itself."""
    return {
        "role": message.role.value,
        "content": storable(message.content),
        "reasoning": storable(message.reasoning),
        "tool_calls": to_json([asdict(call) for call in message.tool_calls]),
        "tool_call_id": message.tool_call_id,
        "name": storable(message.name),
        "token_ids": pack_token_ids(message.token_ids),
        "think_mode": message.think_mode.value,
        "metadata": to_json(message.metadata),
    }


def message_to_dict(message: Message) -> dict[str, Any]:
    """For JSON; :func:`message_from_dict` is the inverse."""
    return {
        **asdict(message),
        "role": message.role.value,
        "think_mode": message.think_mode.value,
        "tool_calls": [asdict(call) for call in message.tool_calls],
        "token_ids": list(message.token_ids),
    }


def message_from_dict(values: Mapping[str, Any]) -> Message:
    return Message(
        **{
            **values,
            "role": Role(values["role"]),
            "think_mode": ThinkMode(values["think_mode"]),
            "tool_calls": tuple(ToolCall(**call) for call in values["tool_calls"]),
            "token_ids": tuple(values["token_ids"]),
        }
    )


def note_snapshots(connection: sqlite3.Connection, owner: str, names: Iterable[str]) -> None:
    """Snapshots of a chat or answer are kept until the last of their users is deleted."""
    connection.executemany(
        "INSERT OR IGNORE INTO snapshot_uses (name, owner) VALUES (?, ?)", ((name, owner) for name in names)
    )


def is_known(connection: sqlite3.Connection, person_id: str) -> bool:
    """False for a removed person; a request may have started before the removal."""
    return connection.execute("SELECT 1 FROM people WHERE id = ?", (person_id,)).fetchone() is not None


def release_snapshots(connection: sqlite3.Connection, owner: str) -> list[str]:
    """Names of the snapshots that nothing else uses: they can be deleted."""
    rows = connection.execute(
        """SELECT name FROM snapshot_uses u WHERE owner = ?
           AND NOT EXISTS (SELECT 1 FROM snapshot_uses o WHERE o.name = u.name AND o.owner <> u.owner)""",
        (owner,),
    ).fetchall()
    connection.execute("DELETE FROM snapshot_uses WHERE owner = ?", (owner,))
    return [str(row["name"]) for row in rows]


def _read_json(text: str) -> Any:
    """Fast for empty columns: most columns of most messages are empty, and a chat is read many times per turn."""
    return {} if text == "{}" else [] if text == "[]" else json.loads(text)


def message_from_row(row: sqlite3.Row) -> Message:
    return Message(
        role=Role(row["role"]),
        content=row["content"],
        reasoning=row["reasoning"],
        tool_calls=tuple(ToolCall(**call) for call in _read_json(row["tool_calls"])),
        tool_call_id=row["tool_call_id"],
        name=row["name"],
        token_ids=unpack_token_ids(row["token_ids"]),
        think_mode=ThinkMode(row["think_mode"]),
        metadata=_read_json(row["metadata"]),
    )


def stored_message_from_row(row: sqlite3.Row) -> StoredMessage:
    """Without its versions: :func:`with_versions` adds them."""
    same = ("id", "chat_id", "parent_id", "status", "finish_reason", "model", "created_at")
    return StoredMessage(
        message=message_from_row(row),
        stats=_read_json(row["stats"]),
        error=json.loads(row["error"]) if row["error"] else None,
        **{name: row[name] for name in same},
    )


CHAT_COLUMNS = (
    "id", "title", "system_prompt", "template", "created_at", "updated_at", "preset_id", "state", "origin", "person_id",
    "persona_id",
)  # fmt: skip
"""Columns that are fields of :class:`Chat` with the same value."""


def chat_from_row(row: sqlite3.Row) -> Chat:
    return Chat(
        think_mode=ThinkMode(row["think_mode"]) if row["think_mode"] else None,
        sampling=json.loads(row["sampling"]),
        head_id=row["head_id"],
        tools=chat_tools_from_json(row["tools"]),
        **{name: row[name] for name in CHAT_COLUMNS},
    )


def chat_columns(chat: Chat) -> dict[str, Any]:
    """The columns of the chats table for a new chat; the others have defaults."""
    return {name: getattr(chat, name) for name in CHAT_COLUMNS} | {
        "think_mode": chat.think_mode.value if chat.think_mode is not None else "",
        "sampling": to_json(chat.sampling),
        "tools": chat_tools_to_json(chat.tools),
    }


def chat_tools_from_json(text: str) -> ChatTools:
    found = json.loads(text)
    return ChatTools(
        is_own=bool(found.get("is_own", found.get("is_on") or found.get("tool_ids"))),  # "is_own" was added later
        is_on=bool(found.get("is_on")),
        tool_ids=tuple(found.get("tool_ids", ())),
        dialect=str(found.get("dialect", "")),
        is_free=bool(found.get("is_free")),
        approved=tuple(found.get("approved", ())),
    )


def chat_tools_to_json(tools: ChatTools) -> str:
    return json.dumps(asdict(tools), separators=(",", ":"))


# the tree of a chat's messages

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
    """Root first, ending with this message; a constant number of queries (one more during streaming)."""
    rows = connection.execute(
        f"{_PATH} SELECT m.* FROM path JOIN messages m ON m.id = path.id ORDER BY height DESC", (message_id,)
    ).fetchall()
    if not rows or rows[-1]["deleted_at"] is not None:
        raise StorageError("message_not_found")
    messages = [with_journal(connection, stored_message_from_row(row)) for row in rows]
    return with_versions(connection, messages)


def with_versions(connection: sqlite3.Connection, messages: list[StoredMessage]) -> list[StoredMessage]:
    """The same messages, all from one chat, with their other versions."""
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
    """The newest message at or below this one: a child is always newer than its parent."""
    row = connection.execute(
        f"""{_SUBTREE} SELECT m.id FROM subtree JOIN messages m ON m.id = subtree.id
            WHERE m.deleted_at IS NULL ORDER BY m.seq DESC LIMIT 1""",
        (message_id,),
    ).fetchone()
    return str(row["id"])


MESSAGE_NOT_FOUND = functools.partial(StorageError, "message_not_found")


def living_row(connection: sqlite3.Connection, message_id: str) -> sqlite3.Row:
    return row_of(connection, "messages", message_id, MESSAGE_NOT_FOUND)


def show(connection: sqlite3.Connection, chat_id: str, head_id: str | None) -> None:
    update(connection, "chats", chat_id, head_id=head_id)


def delete_subtree(connection: sqlite3.Connection, message_id: str, now: float) -> None:
    """Hides the message and those below. Another version replaces it, or the branch ends at its parent."""
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
        raise StorageError("message_not_found")
    connection.execute(
        f"{_SUBTREE} UPDATE messages SET deleted_at = NULL WHERE deleted_at = ? AND id IN (SELECT id FROM subtree)",
        (message_id, row["deleted_at"]),
    )
    show(connection, row["chat_id"], newest_leaf(connection, message_id))


def _is_alive(connection: sqlite3.Connection, message_id: str) -> bool:
    query = "SELECT 1 FROM messages WHERE id = ? AND deleted_at IS NULL"
    return connection.execute(query, (message_id,)).fetchone() is not None


def _with_version(stored: StoredMessage, versions: list[str]) -> StoredMessage:
    if len(versions) < 2 or stored.id not in versions:
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
    """The message with the text from the journal; unchanged unless it is streaming."""
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
    """Messages still marked as streaming, with their text so far."""
    rows = connection.execute("SELECT * FROM messages WHERE status = 'streaming'").fetchall()
    return [with_journal(connection, stored_message_from_row(row)) for row in rows]
