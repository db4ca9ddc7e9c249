"""Text files of a chat. A pending file is sent with the next message, whose metadata then contains its id."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import asdict

from webapp.chat.messages import AttachedFile, ReadMode
from webapp.errors import ChatNotFound, RoostError
from webapp.storage.database import Database
from webapp.storage.records import insert, storable

COLUMNS = "id, chat_id, name, mode, size_bytes, tokens, tokenizer, created_at"


class Attachment(Struct, frozen=True):
    """Without the text. ``size_bytes``: size of the file, or of the extracted text for PDF and Word; ``tokens`` were
    counted with the vocabulary ``tokenizer``."""

    id: str
    chat_id: str
    name: str
    mode: ReadMode
    size_bytes: int
    tokens: int | None
    tokenizer: str
    created_at: float

    @property
    def as_attached(self) -> AttachedFile:
        return AttachedFile(self.id, self.name, self.mode, self.size_bytes, self.tokens)


class Room(Struct, frozen=True):
    """The size limit of a chat; ``text`` is ``most_bytes`` in words."""

    most_files: int
    most_bytes: int
    text: str


class AttachmentStore:
    """Cheap to create, thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(
        self,
        chat_id: str,
        name: str,
        text: str,
        size_bytes: int,
        mode: ReadMode,
        room: Room,
        tokens: int | None = None,
        tokenizer: str = "",
    ) -> Attachment:
        """Pending until a message is sent with it. Raises ``attachments_full`` if the chat has no ``room`` for it."""
        made = Attachment(uuid.uuid4().hex, chat_id, storable(name), mode, size_bytes, tokens, tokenizer, time.time())
        with self.database.transaction() as connection:
            _check_room(connection, made, room)
            row = {**asdict(made), "mode": mode.value, "text": storable(text), "characters": len(text)}
            insert(connection, "attachments", row)
        return made

    def get(self, chat_id: str, attachment_id: str) -> Attachment:
        """Raises ``attachment_not_found``, also for a file of another chat."""
        with self.database.connect() as connection:
            return _from_row(_row(connection, chat_id, attachment_id))

    def text(self, chat_id: str, attachment_id: str) -> str:
        with self.database.connect() as connection:
            return str(_row(connection, chat_id, attachment_id, "text")["text"])

    def pending(self, chat_id: str) -> list[Attachment]:
        """In the order in which they were attached."""
        query = f"SELECT {COLUMNS} FROM attachments WHERE chat_id = ? AND is_pending = 1 ORDER BY seq"
        with self.database.connect() as connection:
            return [_from_row(row) for row in connection.execute(query, (chat_id,))]

    def texts(self, chat_id: str, ids: Sequence[str]) -> dict[str, str]:
        """By id; without deleted files and those of other chats."""
        query = f"SELECT id, text FROM attachments WHERE chat_id = ? AND id IN ({', '.join('?' * len(ids))})"
        with self.database.connect() as connection:
            return {row["id"]: row["text"] for row in connection.execute(query, (chat_id, *ids))}

    def has_searchable(self, chat_id: str) -> bool:
        """True if a message of the chat, on any branch, has a file that is only searched."""
        query = "SELECT 1 FROM attachments WHERE chat_id = ? AND is_pending = 0 AND mode = 'search' LIMIT 1"
        with self.database.connect() as connection:
            return connection.execute(query, (chat_id,)).fetchone() is not None

    def set_mode(self, chat_id: str, attachment_id: str, mode: ReadMode) -> None:
        """Raises ``attachment_sent`` for a sent file: the model's input must not change."""
        self._change(chat_id, attachment_id, "UPDATE attachments SET mode = ? WHERE id = ?", mode.value)

    def set_tokens(self, chat_id: str, attachment_id: str, tokens: int, tokenizer: str) -> None:
        query = "UPDATE attachments SET tokens = ?, tokenizer = ? WHERE id = ?"
        self._change(chat_id, attachment_id, query, tokens, tokenizer)

    def remove(self, chat_id: str, attachment_id: str) -> None:
        self._change(chat_id, attachment_id, "DELETE FROM attachments WHERE id = ?")

    def _change(self, chat_id: str, attachment_id: str, statement: str, *values: object) -> None:
        with self.database.transaction() as connection:
            row = _row(connection, chat_id, attachment_id, "name, is_pending")
            if not row["is_pending"]:
                raise RoostError("attachment_sent", name=row["name"])
            connection.execute(statement, (*values, attachment_id))


def mark_sent(connection: sqlite3.Connection, chat_id: str, files: Sequence[AttachedFile]) -> None:
    """Called in the transaction that stores the message with these files."""
    connection.executemany(
        "UPDATE attachments SET is_pending = 0 WHERE chat_id = ? AND id = ?", [(chat_id, file.id) for file in files]
    )


def purge_unnamed(connection: sqlite3.Connection) -> None:
    """Removes files of messages that were deleted permanently."""
    connection.execute(
        """DELETE FROM attachments WHERE is_pending = 0 AND NOT EXISTS (
               SELECT 1 FROM messages m WHERE m.chat_id = attachments.chat_id AND instr(m.metadata, attachments.id))"""
    )


def documents(connection: sqlite3.Connection, chat_id: str) -> list[dict[str, object]]:
    """All of a chat's files with their texts, for its export."""
    names = "id, name, mode, size_bytes, tokens, created_at, text"
    query = f"SELECT {names} FROM attachments WHERE chat_id = ? ORDER BY seq"
    return [dict(row) for row in connection.execute(query, (chat_id,))]


def _check_room(connection: sqlite3.Connection, new: Attachment, room: Room) -> None:
    is_there = "SELECT 1 FROM chats WHERE id = ? AND deleted_at IS NULL"
    if connection.execute(is_there, (new.chat_id,)).fetchone() is None:
        raise ChatNotFound()
    held = "SELECT count(*), coalesce(sum(size_bytes), 0) FROM attachments WHERE chat_id = ?"
    count, total = connection.execute(held, (new.chat_id,)).fetchone()
    if count >= room.most_files or total + new.size_bytes > room.most_bytes:
        raise RoostError("attachments_full", name=new.name, files=room.most_files, limit=room.text)


def _row(connection: sqlite3.Connection, chat_id: str, attachment_id: str, columns: str = COLUMNS) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        f"""SELECT {columns} FROM attachments WHERE id = ? AND chat_id = ?
            AND chat_id IN (SELECT id FROM chats WHERE deleted_at IS NULL)""",
        (attachment_id, chat_id),
    ).fetchone()
    if row is None:
        raise RoostError("attachment_not_found")
    return row


def _from_row(row: sqlite3.Row) -> Attachment:
    return Attachment(**{**dict(row), "mode": ReadMode(row["mode"])})
