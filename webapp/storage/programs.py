"""What the APIs store for programs, by id: the answers of ``/v1/responses``, and states.

An answer is stored with the new part of its conversation; the rest is in the previous answers. An expired or deleted
answer is removed when no later answer needs it.

A state is stored as the tokens that made it and its initial state. The state itself is a snapshot that the engine finds
by these; a missing one is prefilled again. Rows never change: an answer, a fork and a step back create new ones.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

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
    pack_token_ids,
    release_snapshots,
    to_json,
    unpack_token_ids,
)

MAX_RESPONSE_BYTES = 512 << 20
MAX_TOKEN_BYTES = 256 << 20
"""Of the states' tokens, all together: 64 million of them."""
DAY_S = 86_400.0
_CHAIN = """WITH RECURSIVE chain (id, previous_id, depth) AS (
        SELECT id, previous_id, 0 FROM responses WHERE id = ?
        UNION ALL
        SELECT r.id, r.previous_id, depth + 1 FROM responses r JOIN chain ON r.id = chain.previous_id
    )"""
_LEAF = "NOT EXISTS (SELECT 1 FROM responses later WHERE later.previous_id = r.id)"


class ResponseStore:
    """Cheap to create, thread-safe; every method is one transaction. Sees only answers of ``person_id``, unless that is
    None. ``days``: how long an answer is kept. All together use at most ``most_bytes``; beyond that, answers of the
    person with the most are removed first.
    """

    def __init__(
        self, database: Database, days: float, person_id: str | None = None, most_bytes: int = MAX_RESPONSE_BYTES
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
        messages_json = to_json([message_to_dict(message) for message in messages])
        texts = {"body": to_json(body), "input": to_json(given), "messages": messages_json}
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


class StateHandle(Struct, frozen=True):
    """``state``: the initial state before its tokens, a name as in ``ModelManager.submit``; ``origin`` as in
    ``GenerationRequest``. ``session``: a program's name for the conversation, "" for none."""

    id: str
    token_ids: tuple[int, ...]
    state: str = ""
    origin: str = ""
    model: str = ""
    tokenizer: str = ""
    parent_id: str | None = None
    session: str = ""
    created_at: float = 0.0


class StateHandles:
    """Cheap to create, thread-safe; every method is one transaction. Sees only states of ``person_id``, unless that is
    None. States that were not used for ``days`` are removed; if all exceed ``most_bytes``, also the oldest of the
    person with the most."""

    def __init__(
        self, database: Database, days: float, person_id: str | None = None, most_bytes: int = MAX_TOKEN_BYTES
    ) -> None:
        self._database = database
        self._person_id = OWNER_ID if person_id is None else person_id
        self._mine = "1" if person_id is None else "person_id = ?"
        self._whose: tuple[str, ...] = () if person_id is None else (person_id,)
        self._kept_s = days * DAY_S
        self._most_bytes = most_bytes

    def add(self, handle: StateHandle, snapshots: tuple[str, ...] = ()) -> tuple[StateHandle, list[str]]:
        """Stores it with a new id; also returns the names of snapshots that are not used any more. Nothing is stored
        for a person who was removed meanwhile."""
        made = StateHandle(**{**asdict(handle), "id": f"st_{uuid.uuid4().hex}", "created_at": time.time()})
        tokens = pack_token_ids(made.token_ids)
        row = {**asdict(made), "token_ids": tokens, "used_at": made.created_at, "size_bytes": len(tokens) + 500}
        row["person_id"] = self._person_id
        with self._database.transaction() as connection:
            insert(connection, "state_handles", row)
            note_snapshots(connection, made.id, snapshots)
            unneeded = [] if is_known(connection, self._person_id) else self._remove(connection, made.id)
            return made, [*unneeded, *self._make_room(connection)]

    def get(self, handle_id: str, param: str | None = None) -> StateHandle:
        """Counts as a use. Raises ``state_id_not_found``."""
        with self._database.transaction() as connection:
            row = self._found(connection, handle_id)
            if row is None or row["used_at"] < time.time() - self._kept_s:
                raise RoostError("state_id_not_found", id=handle_id[:80], param=param)
            connection.execute("UPDATE state_handles SET used_at = ? WHERE id = ?", (time.time(), handle_id))
        return _from_row(row)

    def of_session(self, session: str) -> StateHandle | None:
        """The newest state of a conversation."""
        query = f"SELECT * FROM state_handles WHERE session = ? AND {self._mine} ORDER BY seq DESC LIMIT 1"
        with self._database.connect() as connection:
            row = connection.execute(query, (session, *self._whose)).fetchone()
        return None if row is None else _from_row(row)

    def sessions(self, prefix: str = "") -> list[tuple[str, float]]:
        """Names with this ``prefix``, each with the time of its newest state."""
        query = f"""SELECT session, max(created_at) AS at FROM state_handles
                    WHERE session <> '' AND substr(session, 1, ?) = ? AND {self._mine}
                    GROUP BY session ORDER BY at DESC"""
        with self._database.connect() as connection:
            rows = connection.execute(query, (len(prefix), prefix, *self._whose)).fetchall()
        return [(row["session"], row["at"]) for row in rows]

    def newest(self, limit: int, after: str = "") -> tuple[list[StateHandle], bool]:
        """Newest first, only those older than ``after``; also returns whether there are more."""
        query = f"""SELECT * FROM state_handles
                    WHERE seq < coalesce((SELECT seq FROM state_handles WHERE id = ?), 1 << 62) AND {self._mine}
                    ORDER BY seq DESC LIMIT ?"""
        with self._database.connect() as connection:
            rows = connection.execute(query, (after, *self._whose, limit + 1)).fetchall()
        return [_from_row(row) for row in rows[:limit]], len(rows) > limit

    def delete(self, handle_id: str) -> tuple[str, ...]:
        """Returns the names of snapshots that are not used any more. Raises ``state_id_not_found``."""
        with self._database.transaction() as connection:
            if self._found(connection, handle_id) is None:
                raise RoostError("state_id_not_found", id=handle_id[:80], param=None)
            return tuple(self._remove(connection, handle_id))

    def delete_session(self, session: str, is_prefix: bool = False) -> tuple[int, tuple[str, ...]]:
        """The number of removed states, and names as above; ``is_prefix``: also the conversations
        "session:…"."""
        query = f"""SELECT id FROM state_handles
                    WHERE (session = ? OR (? AND substr(session, 1, ?) = ?)) AND {self._mine}"""
        return self._delete(query, session, is_prefix, len(session) + 1, f"{session}:")

    def delete_all(self) -> tuple[int, tuple[str, ...]]:
        """All of the person's states, as above."""
        return self._delete(f"SELECT id FROM state_handles WHERE {self._mine}")

    def _delete(self, query: str, *values: Any) -> tuple[int, tuple[str, ...]]:
        with self._database.transaction() as connection:
            ids = [row["id"] for row in connection.execute(query, (*values, *self._whose)).fetchall()]
            return len(ids), tuple(name for one in ids for name in self._remove(connection, one))

    def _found(self, connection: Any, handle_id: str) -> Any:
        query = f"SELECT * FROM state_handles WHERE id = ? AND {self._mine}"
        return connection.execute(query, (handle_id, *self._whose)).fetchone()

    def _remove(self, connection: Any, handle_id: str) -> list[str]:
        connection.execute("DELETE FROM state_handles WHERE id = ?", (handle_id,))
        return release_snapshots(connection, handle_id)

    def _make_room(self, connection: Any) -> list[str]:
        query = "SELECT id FROM state_handles WHERE used_at < ?"
        gone = [row["id"] for row in connection.execute(query, (time.time() - self._kept_s,)).fetchall()]
        used = connection.execute("SELECT coalesce(sum(size_bytes), 0) AS used FROM state_handles").fetchone()["used"]
        if used > self._most_bytes:
            query = "SELECT id, size_bytes, person_id FROM state_handles ORDER BY used_at, seq"
            rows = connection.execute(query).fetchall()
            held, left = Counter[str](), defaultdict[str, deque[Any]](deque)
            for row in rows:
                held[row["person_id"]] += row["size_bytes"]
            for row in rows[:-1]:  # never the last used one
                left[row["person_id"]].append(row)
            while used > self._most_bytes:
                person_id = next((one for one, _ in held.most_common() if left[one]), None)
                if person_id is None:
                    break
                row = left[person_id].popleft()
                gone.append(row["id"])
                used -= row["size_bytes"]
                held[person_id] -= row["size_bytes"]
        return [name for one in gone for name in self._remove(connection, one)]


def _from_row(row: Any) -> StateHandle:
    names = ("id", "state", "origin", "model", "tokenizer", "parent_id", "session", "created_at")
    return StateHandle(token_ids=unpack_token_ids(row["token_ids"]), **{name: row[name] for name in names})
