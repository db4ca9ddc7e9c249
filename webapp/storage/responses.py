"""Answers of ``/v1/responses`` in the database, each with the new part of its conversation; the rest is in the previous
answers. An expired or deleted answer is removed when no later answer needs it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from webapp.chat.messages import Message
from webapp.errors import RoostError
from webapp.storage.database import Database
from webapp.storage.records import (
    OWNER_ID,
    insert,
    is_known,
    message_from_dict,
    message_to_dict,
    note_snapshots,
    release_snapshots,
    to_json,
)

MOST_BYTES = 512 << 20
DAY_S = 86_400.0
_CHAIN = """WITH RECURSIVE chain (id, previous_id, depth) AS (
        SELECT id, previous_id, 0 FROM responses WHERE id = ?
        UNION ALL
        SELECT r.id, r.previous_id, depth + 1 FROM responses r JOIN chain ON r.id = chain.previous_id
    )"""
_LEAF = "NOT EXISTS (SELECT 1 FROM responses later WHERE later.previous_id = r.id)"


class ResponseStore:
    """Cheap to create, thread-safe; every method is one transaction. Sees only answers of ``person_id``, unless that is
    None. ``days``: how long an answer is kept. All together use at most :data:`MOST_BYTES`; beyond that, answers of the
    person with the most are removed first.
    """

    def __init__(
        self, database: Database, days: float, person_id: str | None = None, most_bytes: int = MOST_BYTES
    ) -> None:
        self._database = database
        self._person_id = person_id
        self._kept_s = days * DAY_S
        self._most_bytes = most_bytes

    def keep(
        self,
        body: Mapping[str, Any],
        given: Sequence[Mapping[str, Any]],
        messages: Sequence[Message],
        snapshots: Iterable[str] = (),
    ) -> list[str]:
        """``body``: the answer's JSON, ``given``: the items of its input, ``messages``: the new part of the
        conversation, with the answer last. Returns the names of snapshots that are not used any more, because their
        answers were removed. Nothing is stored for a person who was removed meanwhile."""
        told = to_json([message_to_dict(message) for message in messages])
        texts = {"body": to_json(body), "input": to_json(given), "messages": told}
        row = {
            "id": body["id"],
            "previous_id": body["previous_response_id"],
            "created_at": time.time(),
            "size_bytes": sum(map(len, texts.values())),
            "person_id": OWNER_ID if self._person_id is None else self._person_id,
            **texts,
        }
        with self._database.transaction() as connection:
            row["is_deleted"] = not is_known(connection, row["person_id"])
            seq = insert(connection, "responses", row)
            for item in body["output"]:
                insert(connection, "response_items", {"id": item["id"], "response_seq": seq, "body": to_json(item)})
            note_snapshots(connection, str(body["id"]), snapshots)
            return self._make_room(connection)

    def body(self, response_id: str) -> dict[str, Any]:
        """Raises ``answer_not_found`` for an unknown or removed answer, as the other methods do."""
        with self._database.connect() as connection:
            found: dict[str, Any] = json.loads(self._row(connection, response_id)["body"])
            return found

    def items(self, response_id: str) -> list[dict[str, Any]]:
        """The conversation before the answer, oldest first: the inputs, and the previous answers."""
        with self._database.connect() as connection:
            self._row(connection, response_id)
            rows = self._chain(connection, response_id)
        found: list[dict[str, Any]] = []
        for place, row in enumerate(rows):
            found += json.loads(row["input"])
            if place < len(rows) - 1:
                found += json.loads(row["body"])["output"]
        return found

    def messages(self, response_id: str, param: str | None = None) -> list[Message]:
        """The conversation that ends with the answer."""
        with self._database.connect() as connection:
            self._row(connection, response_id, param)
            rows = self._chain(connection, response_id)
        return [message_from_dict(values) for row in rows for values in json.loads(row["messages"])]

    def item(self, item_id: str, param: str) -> dict[str, Any]:
        """One item of an answer."""
        query = "SELECT i.body, r.id FROM response_items i JOIN responses r ON r.seq = i.response_seq WHERE i.id = ?"
        with self._database.connect() as connection:
            row = connection.execute(query, (item_id,)).fetchone()
            if row is None:
                raise RoostError("answer_not_found", id=item_id[:80], param=param)
            self._row(connection, row["id"], param, shown=item_id)
        found: dict[str, Any] = json.loads(row["body"])
        return found

    def delete(self, response_id: str) -> list[str]:
        """Later answers are not affected: they contain the earlier conversation. Returns names as :meth:`keep`."""
        with self._database.transaction() as connection:
            self._row(connection, response_id)
            connection.execute("UPDATE responses SET is_deleted = 1 WHERE id = ?", (response_id,))
            return self._make_room(connection)

    def delete_all(self) -> list[str]:
        """All of the person's answers. Returns names as :meth:`keep` does."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE responses SET is_deleted = 1 WHERE person_id = ?", (self._person_id,))
            return self._make_room(connection)

    def _row(self, connection: Any, response_id: str, param: str | None = None, shown: str = "") -> Any:
        row = connection.execute("SELECT * FROM responses WHERE id = ?", (response_id,)).fetchone()
        is_mine = row is not None and self._person_id in (None, row["person_id"])
        if not is_mine or row["is_deleted"] or row["created_at"] < time.time() - self._kept_s:
            raise RoostError("answer_not_found", id=(shown or response_id)[:80], param=param)
        return row

    def _chain(self, connection: Any, response_id: str) -> list[Any]:
        query = f"{_CHAIN} SELECT r.* FROM chain JOIN responses r ON r.id = chain.id ORDER BY depth DESC"
        rows: list[Any] = connection.execute(query, (response_id,)).fetchall()
        return rows

    def _make_room(self, connection: Any) -> list[str]:
        """Removes answers one by one, the last of a conversation first. Of valid answers: the oldest of the person who
        has the most and can spare one; the newest of all stays."""
        released: list[str] = []
        while True:
            query = f"SELECT r.id FROM responses r WHERE (is_deleted OR created_at < ?) AND {_LEAF}"
            gone = [row["id"] for row in connection.execute(query, (time.time() - self._kept_s,))]
            used = connection.execute("SELECT coalesce(sum(size_bytes), 0) AS used FROM responses").fetchone()["used"]
            if not gone and used > self._most_bytes:
                held = "SELECT person_id, sum(size_bytes) AS held FROM responses GROUP BY person_id"
                query = f"""SELECT r.id FROM responses r JOIN ({held}) USING (person_id)
                            WHERE {_LEAF} AND r.seq < (SELECT max(seq) FROM responses)
                            ORDER BY held DESC, r.seq LIMIT 1"""
                gone = [row["id"] for row in connection.execute(query)]
            if not gone:
                return released
            for one in gone:
                released += release_snapshots(connection, one)
                connection.execute("DELETE FROM responses WHERE id = ?", (one,))
