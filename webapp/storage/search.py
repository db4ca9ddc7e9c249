"""Finding text in messages and titles.

Messages have a trigram index (SQLite's FTS5), which finds parts of words and works for Chinese. Where a search word has
fewer than three characters, or this SQLite has no trigram index, plain LIKE does the work. A query is words, all of
which must occur; it is never read as search syntax.
"""

from __future__ import annotations

import re
import sqlite3

from webapp.storage.records import SearchHit, storable

EXCERPT_CHARS = 160
_BEFORE_CHARS = 40

_COLUMNS = """SELECT m.id AS message_id, m.content, m.role, m.created_at, c.id AS chat_id, c.title
    FROM messages m JOIN chats c ON c.id = m.chat_id"""
_ALIVE = "m.deleted_at IS NULL AND c.deleted_at IS NULL"


def prepare_index(connection: sqlite3.Connection) -> bool:
    """Makes the index where this SQLite can and adds messages it lacks; False where it cannot."""
    try:
        connection.execute("CREATE VIRTUAL TABLE IF NOT EXISTS message_search USING fts5(content, tokenize='trigram')")
        connection.execute(
            """INSERT INTO message_search (rowid, content) SELECT seq, content FROM messages
               WHERE status != 'streaming' AND seq NOT IN (SELECT rowid FROM message_search)"""
        )
    except sqlite3.OperationalError as exc:
        if "no such module" in str(exc) or "tokenizer" in str(exc):
            return False
        raise
    return True


def index_message(connection: sqlite3.Connection, seq: int, content: str) -> None:
    connection.execute("DELETE FROM message_search WHERE rowid = ?", (seq,))
    connection.execute("INSERT INTO message_search (rowid, content) VALUES (?, ?)", (seq, content))


def words_of(query: str) -> list[str]:
    return storable(query).replace("\0", " ").split()[:16]


def search_messages(connection: sqlite3.Connection, query: str, limit: int, has_index: bool) -> list[SearchHit]:
    """Newest first. Messages in deleted branches and deleted chats are not found."""
    words = words_of(query)
    if not words:
        return []
    if has_index and all(len(word) >= 3 for word in words):
        condition, values = _match_condition(words)
    else:
        condition, values = _like_condition("m.content", words)
    sql = f"{_COLUMNS} WHERE {_ALIVE} AND {condition} ORDER BY m.seq DESC LIMIT ?"
    rows = connection.execute(sql, (*values, limit)).fetchall()
    return [_message_hit(row, words) for row in rows]


def search_titles(connection: sqlite3.Connection, query: str, limit: int) -> list[SearchHit]:
    words = words_of(query)
    if not words:
        return []
    condition, values = _like_condition("title", words)
    sql = f"SELECT * FROM chats WHERE deleted_at IS NULL AND {condition} ORDER BY updated_at DESC LIMIT ?"
    hits = []
    for row in connection.execute(sql, (*values, limit)):
        excerpt, positions = excerpt_of(row["title"], words)
        hits.append(SearchHit(row["id"], row["title"], "", excerpt, positions, "", row["created_at"]))
    return hits


def matching_chats(query: str, has_index: bool) -> tuple[str, list[str]]:
    """A condition over ``chats c`` and its values: title or any message has all the words; true for no words."""
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
    """About :data:`EXCERPT_CHARS` characters around the first match, and where the matches lie in them."""
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
