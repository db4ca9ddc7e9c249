"""People: the owner of the server, guests and accounts, and the links that invite them.

What a person has (chats, sessions) names the person's id. All people are in memory too, because every request asks;
only one server at a time writes a database (:class:`.database.Claim`).
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any

from webapp.errors import StorageError
from webapp.storage.database import Database
from webapp.storage.records import OWNER_ID, insert, storable, update

SHARED_ID = "shared"
"""Whoever shows the server's token without a session: programs, which may share it."""
OWNER, GUEST, ACCOUNT = KINDS = ("owner", "guest", "account")
STORE_EVERY_S = 300.0


@dataclass(frozen=True)
class Person:
    """``kind``: "owner" (one of them), "guest" or "account" (signs in with ``name`` and a password). ``is_admin``: an
    account that may do what the owner may. ``invitation_id`` is the link that let the person in, "" for none. Times are
    Unix seconds; ``seen_at`` 0 is never."""

    id: str
    name: str = ""
    kind: str = GUEST
    is_admin: bool = False
    password_hash: str = ""
    invitation_id: str = ""
    created_at: float = 0.0
    seen_at: float = 0.0
    revoked_at: float | None = None

    @property
    def is_owner(self) -> bool:
        return self.id == OWNER_ID

    @property
    def may_own(self) -> bool:
        """May do what the owner may."""
        return self.is_owner or self.is_admin


NOBODY = Person("")
"""Who has shown nothing; has nothing."""


class People:
    """Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._stored_at: dict[str, float] = {}
        with database.connect() as connection:
            rows = connection.execute("SELECT * FROM people ORDER BY created_at").fetchall()
        self._known = {row["id"]: Person(**{**dict(row), "is_admin": bool(row["is_admin"])}) for row in rows}

    @property
    def owner(self) -> Person:
        return self._known[OWNER_ID]

    @property
    def has_others(self) -> bool:
        """Somebody but the owner can come in, without the server's token."""
        return any(person.kind == ACCOUNT and person.revoked_at is None for person in self._known.values())

    def find(self, person_id: str) -> Person | None:
        """None for one that is gone or revoked."""
        found = self._known.get(person_id)
        return found if found is not None and found.revoked_at is None else None

    def list(self) -> list[Person]:
        """In the order they came; revoked ones too."""
        with self._lock:
            return list(self._known.values())

    def add(self, **fields: Any) -> Person:
        """A new one, with an id of its own."""
        now = time.time()
        made = Person(uuid.uuid4().hex, **{"created_at": now, "seen_at": now, **fields})
        made = replace(made, name=storable(made.name))
        with self._database.transaction() as connection:
            insert(connection, "people", made.__dict__)
        with self._lock:
            self._known[made.id] = made
        return made

    def change(self, person_id: str, **fields: Any) -> Person | None:
        """As the person is now; None where there is none."""
        with self._database.transaction() as connection:
            update(connection, "people", person_id, **fields)
        with self._lock:
            if person_id not in self._known:
                return None
            found = self._known[person_id] = replace(self._known[person_id], **fields)
            return found

    def saw(self, person: Person) -> None:
        """Remembers that the person was here just now; it is stored every few minutes, where it can be."""
        now = time.time()
        with self._lock:
            if person.id not in self._known:
                return
            self._known[person.id] = replace(self._known[person.id], seen_at=now)
            if now - self._stored_at.get(person.id, 0.0) < STORE_EVERY_S:
                return
            self._stored_at[person.id] = now
        with contextlib.suppress(StorageError), self._database.transaction() as connection:
            update(connection, "people", person.id, seen_at=now)
