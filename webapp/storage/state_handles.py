"""States by id, for programs: the tokens that made each state, and its initial state. The state itself is a snapshot
that the engine finds by these; a missing one is prefilled again. Rows never change: an answer, a fork and a step back
create new ones."""

from __future__ import annotations

import time
import uuid
from collections import Counter, defaultdict, deque
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from webapp.errors import RoostError
from webapp.storage.database import Database
from webapp.storage.records import (
    OWNER_ID,
    insert,
    is_known,
    note_snapshots,
    pack_token_ids,
    release_snapshots,
    unpack_token_ids,
)

MOST_BYTES = 256 << 20
"""For all tokens together: 64 million of them."""


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
    None. States that were not used for ``days`` are removed; if all exceed :data:`MOST_BYTES`, also the oldest of the
    person with the most."""

    def __init__(
        self, database: Database, days: float, person_id: str | None = None, most_bytes: int = MOST_BYTES
    ) -> None:
        self._database = database
        self._person_id = OWNER_ID if person_id is None else person_id
        self._mine = "1" if person_id is None else "person_id = ?"
        self._whose: tuple[str, ...] = () if person_id is None else (person_id,)
        self._kept_s = days * 86_400
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
