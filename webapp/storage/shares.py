"""Links to one chat as a read-only page: its state when the link was made, or its current state."""

from __future__ import annotations

import json
import secrets
import time

from msgspec import Struct

from webapp.chat.messages import Role
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database
from webapp.storage.records import insert, storable, to_json

ID_BYTES = 18
SHOWN = (Role.USER, Role.ASSISTANT)


class Share(Struct, frozen=True):
    """``id``: the secret in its URL; ``is_live``: it follows the chat. ``made_at``: Unix seconds."""

    id: str
    chat_id: str
    title: str
    made_at: float
    is_live: bool


class Shares:
    """Cheap to create, thread-safe; every method is one transaction. A share of a deleted chat is hidden; it is
    restored or permanently deleted with the chat."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def make(self, chat_id: str, is_live: bool) -> Share:
        """For the branch shown now. Raises ChatNotFound."""
        title = ChatStore(self._database).get(chat_id).title
        body = None if is_live else to_json(self.messages(chat_id))
        made = Share(secrets.token_urlsafe(ID_BYTES), chat_id, title, time.time(), is_live)
        row = {"id": made.id, "chat_id": chat_id, "title": storable(title), "made_at": made.made_at, "body": body}
        with self._database.transaction() as connection:
            insert(connection, "shares", row)
        return made

    def all(self, person_id: str) -> list[Share]:
        """The shares of a person's chats, newest first."""
        return self._found("c.person_id = ?", (person_id,))

    def find(self, share_id: str) -> Share | None:
        found = self._found("s.id = ?", (share_id,))
        return found[0] if found else None

    def text(self, share: Share) -> list[tuple[str, str]]:
        """(role, Markdown) of each message: no system prompt, no thinking, no calls, no files."""
        if share.is_live:
            return self.messages(share.chat_id)
        with self._database.connect() as connection:
            row = connection.execute("SELECT body FROM shares WHERE id = ?", (share.id,)).fetchone()
        return [(role, text) for role, text in json.loads(row["body"])] if row else []

    def end(self, share_id: str) -> None:
        """Does nothing for an unknown id."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM shares WHERE id = ?", (share_id,))

    def _found(self, where: str, values: tuple[str, ...]) -> list[Share]:
        query = f"""SELECT s.id, s.chat_id, CASE WHEN s.body IS NULL THEN c.title ELSE s.title END AS title, s.made_at,
                           s.body IS NULL AS is_live
                    FROM shares s JOIN chats c ON c.id = s.chat_id
                    WHERE c.deleted_at IS NULL AND {where} ORDER BY s.made_at DESC"""
        with self._database.connect() as connection:
            rows = connection.execute(query, values).fetchall()
        return [Share(row["id"], row["chat_id"], row["title"], row["made_at"], bool(row["is_live"])) for row in rows]

    def messages(self, chat_id: str) -> list[tuple[str, str]]:
        """The same for the current branch of any chat; the caller has checked its owner."""
        branch = [row.message for row in ChatStore(self._database).branch(chat_id)]
        return [(row.role.value, row.content) for row in branch if row.role in SHOWN and row.content.strip()]
