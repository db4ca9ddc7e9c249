"""Conversations and their messages in the database, and text search in messages and titles: for pages, API and command
line.

Messages have a trigram index (SQLite's FTS5), which finds parts of words and works for Chinese. If a search word has
fewer than three characters, or this SQLite has no trigram index, LIKE is used. A query is a list of words that must all
occur; it is never parsed as search syntax.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from webapp.chat.messages import Message, ThinkMode, attached_files
from webapp.errors import ChatNotFound, StorageError
from webapp.storage import attachments, records
from webapp.storage.database import Database
from webapp.storage.records import (
    MESSAGE_NOT_FOUND,
    Chat,
    ChatSummary,
    ChatTools,
    SearchHit,
    StoredMessage,
    chat_columns,
    chat_from_row,
    chat_tools_to_json,
    insert,
    message_columns,
    row_of,
    storable,
    stored_message_from_row,
    to_json,
    update,
)

Summaries = list[ChatSummary]
Messages = list[StoredMessage]
Hits = list[SearchHit]
Names = list[str]
Votes = list[tuple[dict[str, Any], str, dict[str, Any]]]
MAX_PLACED = 1000
_LOOSE = "(c.is_pinned = 0 AND c.folder = '')"
VOTED_ANSWERS = """SELECT q.metadata AS asked, a.id, a.metadata FROM messages q CROSS JOIN chats c ON c.id = q.chat_id
                   CROSS JOIN messages a ON a.parent_id = q.id
                   WHERE q.metadata LIKE '%"votes"%' AND q.deleted_at IS NULL AND c.deleted_at IS NULL AND {}
                   ORDER BY a.seq"""
"""In the order of its tables, so that it reads the few questions with votes from the index ``messages_voted``."""


class ChatStore:
    """Cheap to create; holds no connection. Every method is one transaction and may be called from any thread.

    A deleted chat or message raises ChatNotFound or ``message_not_found`` like an unknown one. In a store for one
    person, so does another person's. Without ``person_id`` it is the server's own store, with everybody's chats.
    """

    def __init__(self, database: Database, person_id: str | None = None) -> None:
        self.database = database
        self.person_id = person_id
        self._where = "1" if person_id is None else "{}person_id = ?"  # to be filled with the table's name
        self._whose: tuple[str, ...] = () if person_id is None else (person_id,)

    def check(self, *ids: str) -> None:
        """Raises ChatNotFound if one of these ids belongs to another person's chat or message, also a deleted one.
        Unknown ids pass: later calls report them the same way for everybody."""
        if self.person_id is None:
            return
        marks = ", ".join("?" * len(ids))
        query = f"""SELECT 1 FROM chats WHERE id IN ({marks}) AND person_id <> ? UNION ALL
                    SELECT 1 FROM messages m JOIN chats c ON c.id = m.chat_id
                    WHERE m.id IN ({marks}) AND c.person_id <> ? LIMIT 1"""
        with self.database.connect() as connection:
            if connection.execute(query, (*ids, self.person_id) * 2).fetchone() is not None:
                raise ChatNotFound()

    # chats

    def create(self, title: str = "", **settings: Any) -> Chat:
        """A new chat with these values of :class:`Chat`."""
        return self.begin(Chat("", title, **settings))

    def begin(self, chat: Chat) -> Chat:
        """A new chat with the settings of ``chat`` and its own id."""
        now, title, prompt = time.time(), storable(chat.title), storable(chat.system_prompt)
        chat = replace(chat, id=uuid.uuid4().hex, title=title, system_prompt=prompt, created_at=now, updated_at=now)
        chat = self._as_mine(chat)
        with self.database.transaction() as connection:
            insert(connection, "chats", chat_columns(chat))
        return chat

    def get(self, chat_id: str) -> Chat:
        with self.database.connect() as connection:
            return chat_from_row(self._chat_row(connection, chat_id))

    def person_of(self, chat_id: str) -> str:
        """Its owner, even if it is deleted; "" if it does not exist any more."""
        with self.database.connect() as connection:
            found = connection.execute("SELECT person_id FROM chats WHERE id = ?", (chat_id,)).fetchone()
        return "" if found is None else str(found["person_id"])

    def ids(self) -> Names:
        """Ids of all chats that are not deleted."""
        query = f"SELECT id FROM chats WHERE deleted_at IS NULL AND {self._where.format('')}"
        with self.database.connect() as connection:
            return [str(row["id"]) for row in connection.execute(query, self._whose)]

    def counts(self) -> dict[str, int]:
        """The number of chats of each person."""
        query = "SELECT person_id, count(*) AS chats FROM chats WHERE deleted_at IS NULL GROUP BY person_id"
        with self.database.connect() as connection:
            return {row["person_id"]: row["chats"] for row in connection.execute(query)}

    def list(
        self,
        query: str = "",
        limit: int = 50,
        offset: int = 0,
        folder: str | None = None,
        is_archived: bool = False,
        is_pinned: bool | None = None,
        since: float | None = None,
        until: float | None = None,
        preset_id: str | None = None,
        model: str | None = None,
    ) -> Summaries:
        """Last used first. With a query: chats whose title or messages match; either archived ones or the others. None
        means no filter: ``folder``, last used from ``since`` on and before ``until`` (Unix seconds), with this preset,
        with an answer of this ``model``."""
        matching, values = matching_chats(query, self.database.has_search_index)
        by_model = "EXISTS (SELECT 1 FROM messages m WHERE m.chat_id = c.id AND m.model = ? AND m.deleted_at IS NULL)"
        conditions = (
            ("c.folder = ?", folder),
            ("c.is_pinned = ?", is_pinned),
            ("c.updated_at >= ?", since),
            ("c.updated_at < ?", until),
            ("c.preset_id = ?", preset_id),
            (by_model, model),
        )
        asked = [(condition, value) for condition, value in conditions if value is not None]
        where = [matching, "c.is_archived = ?", *(condition for condition, _ in asked)]
        return self._list(where, (*values, is_archived, *(value for _, value in asked)), limit, offset)

    def models(self) -> Names:
        """Names of the models that answered in these chats, in their order."""
        query = f"""SELECT DISTINCT m.model FROM messages m JOIN chats c ON c.id = m.chat_id
                    WHERE m.model <> '' AND m.deleted_at IS NULL AND c.deleted_at IS NULL
                          AND {self._where.format("c.")} ORDER BY m.model"""
        with self.database.connect() as connection:
            return [str(row["model"]) for row in connection.execute(query, self._whose)]

    def placed(self) -> Summaries:
        """Chats that are pinned or in a folder, and not archived; last used first."""
        return self._list([f"NOT {_LOOSE}", "c.is_archived = 0"], (), MAX_PLACED)

    def loose(self, limit: int) -> Summaries:
        """All other chats; last used first."""
        return self._list([_LOOSE, "c.is_archived = 0"], (), limit)

    def _list(self, where: Iterable[str], values: Sequence[Any], limit: int, offset: int = 0) -> Summaries:
        with self.database.connect() as connection:
            rows = connection.execute(
                f"""SELECT c.id, c.title, c.created_at, c.updated_at, c.is_pinned, c.is_archived, c.folder,
                           coalesce(substr(h.content, 1, 160), '') AS snippet, coalesce(h.status, 'complete') AS status
                    FROM chats c LEFT JOIN messages h ON h.id = c.head_id
                    WHERE c.deleted_at IS NULL AND {self._where.format("c.")} AND {" AND ".join(where)}
                    ORDER BY c.updated_at DESC LIMIT ? OFFSET ?""",
                (*self._whose, *values, limit, offset),
            ).fetchall()
        return [ChatSummary(**dict(row)) for row in rows]

    def folders(self) -> Names:
        """Sorted, ignoring case."""
        named = f"deleted_at IS NULL AND folder <> '' AND {self._where.format('')}"
        query = f"SELECT DISTINCT folder FROM chats WHERE {named} ORDER BY folder COLLATE NOCASE"
        with self.database.connect() as connection:
            return [str(row["folder"]) for row in connection.execute(query, self._whose)]

    def place(
        self,
        chat_ids: Iterable[str],
        is_pinned: bool | None = None,
        is_archived: bool | None = None,
        folder: str | None = None,
    ) -> None:
        """Changes their position in the list; None means no change. ``folder`` "" means no folder."""
        name = storable(" ".join(folder.split())) if folder is not None else None
        changes = {"is_pinned": is_pinned, "is_archived": is_archived, "folder": name}
        self._change_all(chat_ids, **{name: value for name, value in changes.items() if value is not None})

    def delete_all(self, chat_ids: Iterable[str]) -> tuple[float, Names]:
        """Like :meth:`delete`, all or none; also returns the time by which :meth:`restore_all` finds them."""
        now = time.time()
        with self.database.transaction() as connection:
            chats = list(chat_ids)
            self._change_all(chats, deleted_at=now)
            return now, [name for chat_id in chats for name in records.release_snapshots(connection, chat_id)]

    def restore_all(self, deleted_at: float) -> None:
        with self.database.transaction() as connection:
            mine = self._where.format("")
            query = f"UPDATE chats SET deleted_at = NULL WHERE deleted_at = ? AND {mine}"
            connection.execute(query, (deleted_at, *self._whose))

    def voted_answers(self) -> Votes:
        """(metadata of a question with votes, id and metadata of an answer) for each of its answers, also deleted
        ones."""
        query = VOTED_ANSWERS.format(self._where.format("c."))
        with self.database.connect() as connection:
            rows = connection.execute(query, self._whose).fetchall()
        found = [(json.loads(row["asked"]), row["id"], json.loads(row["metadata"])) for row in rows]
        return [row for row in found if "votes" in row[0]]

    def search(self, query: str, limit: int = 50) -> Hits:
        """Titles first, then messages, newest first; includes messages on branches that are not shown."""
        with self.database.connect() as connection:
            whose = self._where.format("c."), self._whose
            hits = search_titles(connection, query, limit, whose)
            return hits + search_messages(connection, query, limit, self.database.has_search_index, whose)

    def rename(self, chat_id: str, title: str) -> None:
        self._change(chat_id, title=storable(" ".join(title.split())))

    def set_system_prompt(self, chat_id: str, system_prompt: str) -> None:
        self._change(chat_id, system_prompt=storable(system_prompt))

    def set_options(
        self,
        chat_id: str,
        template: str | None = None,
        think_mode: ThinkMode | str | None = None,
        sampling: dict[str, Any] | None = None,
        preset_id: str | None = None,
    ) -> None:
        """None means no change. ``sampling`` replaces all overrides; ``think_mode`` "" returns to the preset's."""
        changes = {
            "template": template,
            "think_mode": think_mode.value if isinstance(think_mode, ThinkMode) else think_mode,
            "sampling": to_json(sampling) if sampling is not None else None,
            "preset_id": preset_id,
        }
        self._change(chat_id, **{name: value for name, value in changes.items() if value is not None})

    def set_state(self, chat_id: str, state: str | None) -> None:
        """The state file for new sequences of this chat; "" for none, None for the preset's."""
        self._change(chat_id, state=storable(state) if state is not None else None)

    def set_tools(self, chat_id: str, tools: ChatTools) -> None:
        self._change(chat_id, tools=chat_tools_to_json(tools))

    def delete(self, chat_id: str) -> Names:
        """Hides the chat until :meth:`restore` or :meth:`purge_deleted`; returns the names of unused snapshots."""
        with self.database.transaction() as connection:
            self._change(chat_id, deleted_at=time.time())
            return records.release_snapshots(connection, chat_id)

    def restore(self, chat_id: str) -> None:
        with self.database.transaction() as connection:
            self._chat_row(connection, chat_id, with_deleted=True)
            update(connection, "chats", chat_id, deleted_at=None)

    def purge_deleted(self, older_than: float) -> int:
        """Permanently removes all deleted before this time (Unix seconds); returns how many chats and messages."""
        gone = """SELECT m.seq FROM messages m JOIN chats c ON c.id = m.chat_id
                  WHERE c.deleted_at < ? OR m.deleted_at < ?"""
        with self.database.transaction() as connection:
            if self.database.has_search_index:
                connection.execute(f"DELETE FROM message_search WHERE rowid IN ({gone})", (older_than, older_than))
            messages = connection.execute(f"DELETE FROM messages WHERE seq IN ({gone})", (older_than, older_than))
            attachments.purge_unnamed(connection)
            chats = connection.execute("DELETE FROM chats WHERE deleted_at < ?", (older_than,))
            return messages.rowcount + chats.rowcount

    # messages

    def branch(self, chat_id: str) -> Messages:
        """The shown branch, root first. A streaming message contains its text so far."""
        with self.database.connect() as connection:
            head_id = self._chat_row(connection, chat_id)["head_id"]
            return records.path_to(connection, head_id) if head_id is not None else []

    def path_to(self, message_id: str) -> Messages:
        """The branch from the root to this message, shown or not."""
        with self.database.connect() as connection:
            self._message_row(connection, message_id)
            return records.path_to(connection, message_id)

    def message(self, message_id: str) -> StoredMessage:
        with self.database.connect() as connection:
            stored = stored_message_from_row(self._message_row(connection, message_id))
            return records.with_versions(connection, [records.with_journal(connection, stored)])[0]

    def add_chat(self, chat: Chat, messages: Sequence[StoredMessage], files: Sequence[Mapping[str, Any]] = ()) -> None:
        """Adds a complete chat with unused ids; parents come before their children."""
        with self.database.transaction() as connection:
            insert(connection, "chats", chat_columns(self._as_mine(chat)) | {"head_id": chat.head_id})
            for stored in messages:
                columns = message_columns(stored.message) | {
                    "id": stored.id,
                    "chat_id": chat.id,
                    "parent_id": stored.parent_id,
                    "status": stored.status,
                    "finish_reason": stored.finish_reason,
                    "stats": to_json(stored.stats),
                    "model": storable(stored.model),
                    "created_at": stored.created_at or chat.created_at,
                }
                self._index(connection, insert(connection, "messages", columns), columns["content"])
            for file in files:
                texts = {"name": storable(file["name"]), "text": storable(file["text"])}
                insert(connection, "attachments", {**file, **texts, "chat_id": chat.id, "is_pending": 0})

    def note_snapshots(self, chat_id: str, names: Iterable[str]) -> None:
        with self.database.transaction() as connection:
            records.note_snapshots(connection, chat_id, names)

    def versions(self, message_id: str) -> Messages:
        """This message and its other versions, in order of creation, with the text so far."""
        with self.database.connect() as connection:
            row = self._message_row(connection, message_id)
            rows = connection.execute(
                """SELECT * FROM messages WHERE chat_id = ? AND parent_id IS ? AND role = ? AND deleted_at IS NULL
                   ORDER BY seq""",
                (row["chat_id"], row["parent_id"], row["role"]),
            ).fetchall()
            found = [records.with_journal(connection, stored_message_from_row(row)) for row in rows]
            return records.with_versions(connection, found)

    def add_message(
        self, chat_id: str, parent_id: str | None, message: Message, status: str = "complete"
    ) -> StoredMessage:
        """Adds it below ``parent_id`` (None: a new root) and shows its branch; returned without other versions. Its
        files are not pending any more."""
        now, message_id = time.time(), uuid.uuid4().hex
        place = {"id": message_id, "chat_id": chat_id, "parent_id": parent_id, "status": status}
        columns = message_columns(message) | place | {"created_at": now}
        with self.database.transaction() as connection:
            self._change(chat_id, head_id=message_id, updated_at=now)
            if parent_id is not None and records.living_row(connection, parent_id)["chat_id"] != chat_id:
                raise StorageError("message_not_found")
            seq = insert(connection, "messages", columns)
            if files := attached_files(message):
                attachments.mark_sent(connection, chat_id, files)
            if status != "streaming":
                self._index(connection, seq, columns["content"])
        written = replace(message, content=columns["content"], reasoning=columns["reasoning"], name=columns["name"])
        return StoredMessage(message_id, chat_id, parent_id, written, status, created_at=now)

    def append_tokens(self, message_id: str, text: str, reasoning: str, token_ids: Iterable[int]) -> None:
        """One step of a streaming message; cheap, and durable when it returns."""
        with self.database.transaction() as connection:
            records.append_journal(connection, message_id, text, reasoning, token_ids)

    def reopen_message(self, message_id: str, message: Message) -> None:
        """Marks it as streaming again; steps are appended to ``message``."""
        with self.database.transaction() as connection:
            records.living_row(connection, message_id)
            records.clear_journal(connection, message_id)
            columns = message_columns(message) | {"status": "streaming", "error": None}
            update(connection, "messages", message_id, **columns)

    def finish_message(
        self,
        message_id: str,
        message: Message,
        status: str = "complete",
        finish_reason: str = "",
        stats: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        model: str = "",
        snapshots: Iterable[str] = (),
    ) -> Names:
        """Replaces the steps by the complete message. Works for a deleted one too, because undo restores all of it.

        ``snapshots``: names of those that the answer started from or created. If the chat was deleted meanwhile,
        returns those that are not used any more."""
        columns = message_columns(message) | {
            "status": status,
            "finish_reason": finish_reason,
            "stats": to_json(stats or {}),
            "error": to_json(error) if error is not None else None,
            "model": model,
        }
        with self.database.transaction() as connection:
            chat_id = self._finish(connection, message_id, columns)
            records.note_snapshots(connection, chat_id, snapshots)
            found = connection.execute("SELECT deleted_at FROM chats WHERE id = ?", (chat_id,)).fetchone()
            return [] if found["deleted_at"] is None else records.release_snapshots(connection, chat_id)

    def set_stats(self, message_id: str, **stats: Any) -> None:
        """Adds statistics to a stored answer."""
        with self.database.transaction() as connection:
            known = json.loads(records.living_row(connection, message_id)["stats"])
            update(connection, "messages", message_id, stats=to_json({**known, **stats}))

    def change_message(self, message_id: str, message: Message) -> None:
        """Replaces text, calls or metadata of a message that is not streaming; its position and status stay."""
        columns = message_columns(message)
        with self.database.transaction() as connection:
            row = self._message_row(connection, message_id)
            update(connection, "messages", message_id, **columns)
            self._index(connection, row["seq"], columns["content"])

    def recover(self) -> int:
        """Marks messages of a dead process as "interrupted", with all their text; returns their number.

        Call it when the process that generates answers starts, before it generates any.
        """
        with self.database.transaction() as connection:
            abandoned = records.abandoned(connection)
            for stored in abandoned:
                columns = message_columns(stored.message) | {"status": "interrupted", "finish_reason": "abort"}
                self._finish(connection, stored.id, columns)
            return len(abandoned)

    def select_version(self, message_id: str) -> None:
        """Shows the branch through this message, down to its newest leaf."""
        with self.database.transaction() as connection:
            chat_id = self._message_row(connection, message_id)["chat_id"]
            records.show(connection, chat_id, records.newest_leaf(connection, message_id))

    def delete_message(self, message_id: str) -> None:
        """Hides it and the messages below; :meth:`restore_message` restores the same ones."""
        with self.database.transaction() as connection:
            self._message_row(connection, message_id)
            records.delete_subtree(connection, message_id, time.time())

    def restore_message(self, message_id: str) -> None:
        with self.database.transaction() as connection:
            self._message_row(connection, message_id, with_deleted=True)
            records.restore_subtree(connection, message_id)

    def whole(self, chat_id: str) -> tuple[Chat, Messages, Sequence[Mapping[str, Any]]]:
        """The chat, its messages on all branches, parents before children, and its files with their texts."""
        with self.database.connect() as connection:
            chat = chat_from_row(self._chat_row(connection, chat_id))
            rows = connection.execute(
                "SELECT * FROM messages WHERE chat_id = ? AND deleted_at IS NULL ORDER BY seq", (chat_id,)
            ).fetchall()
            messages = [records.with_journal(connection, stored_message_from_row(row)) for row in rows]
            return chat, messages, attachments.documents(connection, chat_id)

    def _change(self, chat_id: str, **columns: Any) -> None:
        """Raises ChatNotFound, also for a deleted chat."""
        assignments = ", ".join(f"{name} = ?" for name in columns) or "id = id"
        statement = f"UPDATE chats SET {assignments} WHERE id = ? AND deleted_at IS NULL AND {self._where.format('')}"
        with self.database.transaction() as connection:
            if not connection.execute(statement, (*columns.values(), chat_id, *self._whose)).rowcount:
                raise ChatNotFound()

    def _as_mine(self, chat: Chat) -> Chat:
        return chat if self.person_id is None else replace(chat, person_id=self.person_id)

    def _chat_row(self, connection: sqlite3.Connection, chat_id: str, with_deleted: bool = False) -> sqlite3.Row:
        row = row_of(connection, "chats", chat_id, ChatNotFound, with_deleted)
        if self.person_id not in (None, row["person_id"]):
            raise ChatNotFound()
        return row

    def _message_row(self, connection: sqlite3.Connection, message_id: str, with_deleted: bool = False) -> sqlite3.Row:
        row = row_of(connection, "messages", message_id, MESSAGE_NOT_FOUND, with_deleted)
        if self.person_id is not None:
            try:
                self._chat_row(connection, row["chat_id"], with_deleted=True)
            except ChatNotFound as exc:
                raise MESSAGE_NOT_FOUND() from exc
        return row

    def _change_all(self, chat_ids: Iterable[str], **columns: Any) -> None:
        """Changes all, or none if one does not exist."""
        with self.database.transaction():
            for chat_id in chat_ids:
                self._change(chat_id, **columns)

    def _finish(self, connection: sqlite3.Connection, message_id: str, columns: dict[str, Any]) -> str:
        """Returns the id of its chat."""
        row = connection.execute("SELECT seq, chat_id FROM messages WHERE id = ?", (message_id,)).fetchone()
        if row is None:
            raise StorageError("message_not_found")
        update(connection, "messages", message_id, **columns)
        records.clear_journal(connection, message_id)
        self._index(connection, row["seq"], columns["content"])
        update(connection, "chats", row["chat_id"], updated_at=time.time())
        return str(row["chat_id"])

    def _index(self, connection: sqlite3.Connection, seq: int, content: str) -> None:
        if self.database.has_search_index:
            index_message(connection, seq, content)


EXCERPT_CHARS = 160
_BEFORE_CHARS = 40

_COLUMNS = """SELECT m.id AS message_id, m.content, m.role, m.created_at, c.id AS chat_id, c.title
    FROM messages m JOIN chats c ON c.id = m.chat_id"""
_ALIVE = "m.deleted_at IS NULL AND c.deleted_at IS NULL"


def index_message(connection: sqlite3.Connection, seq: int, content: str) -> None:
    connection.execute("INSERT OR REPLACE INTO message_search (rowid, content) VALUES (?, ?)", (seq, content))


def words_of(query: str) -> list[str]:
    return storable(query).replace("\0", " ").split()[:16]


Whose = tuple[str, tuple[str, ...]]
"""A condition on ``chats c`` and its values."""


def search_messages(
    connection: sqlite3.Connection, query: str, limit: int, has_index: bool, whose: Whose = ("1", ())
) -> list[SearchHit]:
    """Newest first. Messages in deleted branches and chats are not found."""
    words = words_of(query)
    if not words:
        return []
    if has_index and all(len(word) >= 3 for word in words):
        condition, values = _match_condition(words)
    else:
        condition, values = _like_condition("m.content", words)
    sql = f"{_COLUMNS} WHERE {_ALIVE} AND {whose[0]} AND {condition} ORDER BY m.seq DESC LIMIT ?"
    rows = connection.execute(sql, (*whose[1], *values, limit)).fetchall()
    return [_message_hit(row, words) for row in rows]


def search_titles(connection: sqlite3.Connection, query: str, limit: int, whose: Whose = ("1", ())) -> list[SearchHit]:
    words = words_of(query)
    if not words:
        return []
    condition, values = _like_condition("title", words)
    where = f"deleted_at IS NULL AND {whose[0]} AND {condition}"
    sql = f"SELECT * FROM chats c WHERE {where} ORDER BY updated_at DESC LIMIT ?"
    hits = []
    for row in connection.execute(sql, (*whose[1], *values, limit)):
        excerpt, positions = excerpt_of(row["title"], words)
        hits.append(SearchHit(row["id"], row["title"], "", excerpt, positions, "", row["created_at"]))
    return hits


def matching_chats(query: str, has_index: bool) -> tuple[str, list[str]]:
    """A condition on ``chats c`` and its values: title or any message has all the words; true without words."""
    words = words_of(query)
    if not words:
        return "1", []
    title_condition, title_values = _like_condition("c.title", words)
    if has_index and all(len(word) >= 3 for word in words):
        condition, values = _match_condition(words)
    else:
        condition, values = _like_condition("m.content", words)
    inner = f"SELECT m.chat_id FROM messages m WHERE m.deleted_at IS NULL AND {condition}"
    return f"({title_condition} OR c.id IN ({inner}))", title_values + values


def excerpt_of(text: str, words: list[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """About :data:`EXCERPT_CHARS` characters around the first match, and the positions of the matches in them."""
    pattern = re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)), re.IGNORECASE)
    first = pattern.search(text)
    start = max(0, (first.start() if first else 0) - _BEFORE_CHARS)
    end = max(start + EXCERPT_CHARS, first.end() if first else 0)
    head, tail = "…" if start else "", "…" if end < len(text) else ""
    excerpt = head + re.sub(r"\s", " ", text[start:end]) + tail
    return excerpt, tuple(match.span() for match in pattern.finditer(excerpt))


def _message_hit(row: sqlite3.Row, words: list[str]) -> SearchHit:
    excerpt, positions = excerpt_of(row["content"], words)
    return SearchHit(
        row["chat_id"], row["title"], row["message_id"], excerpt, positions, row["role"], row["created_at"]
    )


def _match_condition(words: list[str]) -> tuple[str, list[str]]:
    quoted = " AND ".join('"' + word.replace('"', '""') + '"' for word in words)
    return "m.seq IN (SELECT rowid FROM message_search WHERE message_search MATCH ?)", [quoted]


def _like_condition(column: str, words: list[str]) -> tuple[str, list[str]]:
    escaped = [re.sub(r"([\\%_])", r"\\\1", word) for word in words]
    condition = " AND ".join(f"{column} LIKE ? ESCAPE '\\'" for _ in words)
    return f"({condition})", [f"%{word}%" for word in escaped]
