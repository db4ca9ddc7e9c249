"""People: the owner of the server, guests and accounts, and their invitation links.

A person's data (chats, sessions) contains the person's id. All people are also in memory, because every request needs
them; only one server at a time writes to a database (:class:`.database.Claim`).
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
import time
import uuid
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from webapp.errors import RoostError, StorageError
from webapp.storage.credentials import digest
from webapp.storage.database import Database
from webapp.storage.records import OWNER_ID, insert, storable, update

SHARED_ID = "shared"
"""Requests with the server's token but without a session: programs, which may share it."""
OWNER, GUEST, ACCOUNT = KINDS = ("owner", "guest", "account")
STORE_EVERY_S = 300.0
SECRET_BYTES = 24
NAME_CHARS = 60


class Person(Struct, frozen=True):
    """``kind``: "owner" (exactly one), "guest" or "account" (signs in with ``name`` and a password). ``is_admin``: an
    account with the owner's rights. ``invitation_id``: the link by which the person joined, "" for none. Times are Unix
    seconds; ``seen_at`` 0 means never."""

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
        """Has the owner's rights."""
        return self.is_owner or self.is_admin


NOBODY = Person("")
"""An unauthenticated visitor; has no data."""


class Invitation(Struct, frozen=True):
    """A link by which people join, as guests or to create an account. ``name``: the owner's name for it. ``person_id``:
    it admits that person again, on another device. None means no expiry (``expires_at``) or no limit (``most_uses``).
    """

    id: str
    secret_hash: str
    name: str = ""
    kind: str = GUEST
    is_admin: bool = False
    person_id: str = ""
    created_at: float = 0.0
    expires_at: float | None = None
    most_uses: int | None = None
    uses: int = 0
    revoked_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can be used now."""
        is_over = self.expires_at is not None and self.expires_at <= time.time()
        is_used_up = self.most_uses is not None and self.uses >= self.most_uses
        return self.revoked_at is None and not is_over and not is_used_up


Everybody = list[Person]
Invitations = list[Invitation]


class People:
    """Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._stored_at: dict[str, float] = {}
        with database.connect() as connection:
            rows = connection.execute("SELECT * FROM people ORDER BY created_at").fetchall()
            links = connection.execute("SELECT * FROM invitations ORDER BY created_at").fetchall()
        self._known = {row["id"]: Person(**{**dict(row), "is_admin": bool(row["is_admin"])}) for row in rows}
        self._links = {row["id"]: Invitation(**{**dict(row), "is_admin": bool(row["is_admin"])}) for row in links}

    @property
    def owner(self) -> Person:
        return self._known[OWNER_ID]

    @property
    def has_others(self) -> bool:
        """Whether anyone except the owner can get in without the server's token."""
        with self._lock:
            people, links = list(self._known.values()), list(self._links.values())
        is_invited = (person.kind == ACCOUNT or person.invitation_id for person in people if person.revoked_at is None)
        return any(is_invited) or any(link.is_open for link in links)

    @property
    def has_accounts(self) -> bool:
        """Whether anyone can sign in with a name and a password."""
        return any(person.kind == ACCOUNT for person in self.list())

    def account(self, name: str) -> Person | None:
        """By the typed name; None also for a revoked account."""
        wanted = tidy(name).casefold()
        rows = (person for person in self.list() if person.kind == ACCOUNT and person.revoked_at is None)
        return next((person for person in rows if person.name.casefold() == wanted), None)

    def find(self, person_id: str) -> Person | None:
        """None for a removed or revoked person."""
        found = self._known.get(person_id)
        return found if found is not None and found.revoked_at is None else None

    def list(self) -> list[Person]:
        """In the order in which they joined, including revoked ones."""
        with self._lock:
            return list(self._known.values())

    def add(self, **fields: Any) -> Person:
        """Adds a new person with a new id."""
        now = time.time()
        made = Person(uuid.uuid4().hex, **{"created_at": now, "seen_at": now, **fields})
        made = replace(made, name=tidy(made.name))
        with self._database.transaction() as connection:
            self._check_name(connection, made)
            insert(connection, "people", asdict(made))
        with self._lock:
            self._known[made.id] = made
        return made

    def change(self, person_id: str, **fields: Any) -> Person | None:
        """The changed person; None if there is none. Raises ``account_name_taken`` if another account has the name."""
        if "name" in fields:
            fields["name"] = tidy(fields["name"])
        with self._database.transaction() as connection:
            with self._lock:
                before = self._known.get(person_id)
            if before is None:
                return None
            after = replace(before, **fields)
            self._check_name(connection, after)
            update(connection, "people", person_id, **fields)
            with self._lock:
                self._known[person_id] = replace(self._known[person_id], **fields)
        return after

    def remove(self, person_id: str) -> None:
        """Removes the person. The person's data stays without an owner; owner and shared person stay."""
        if person_id in (OWNER_ID, SHARED_ID):
            return
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM people WHERE id = ?", (person_id,))
            connection.execute("DELETE FROM invitations WHERE person_id = ?", (person_id,))
        with self._lock:
            self._known.pop(person_id, None)
            self._links = {key: link for key, link in self._links.items() if link.person_id != person_id}

    # links

    def invite(self, kind: str = GUEST, **fields: Any) -> tuple[Invitation, str]:
        """A new link and its secret, which is not stored."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        made = Invitation(uuid.uuid4().hex, digest(secret), kind=kind, created_at=time.time(), **fields)
        made = replace(made, name=tidy(made.name))
        with self._database.transaction() as connection:
            insert(connection, "invitations", asdict(made))
        with self._lock:
            self._links[made.id] = made
        return made, secret

    def invitations(self) -> Invitations:
        """Newest first, including expired ones."""
        with self._lock:
            return list(self._links.values())[::-1]

    def invited(self, secret: str) -> Invitation:
        """The link with this secret. Raises ``invitation_over`` if it cannot be used or does not exist."""
        wanted = digest(secret)
        found = next((link for link in self.invitations() if link.secret_hash == wanted), None)
        if found is None or not found.is_open or (found.person_id and self.find(found.person_id) is None):
            raise RoostError("invitation_over")
        return found

    def join(self, link: Invitation, before: Person | None = None, **fields: Any) -> Person:
        """Counts one use of a link and returns the admitted person: the one that it names; ``before``, this browser's
        person, who becomes an account; or a new one. Atomic: if two use the last place, only one gets in."""
        with self._database.transaction() as connection:
            used = connection.execute(
                """UPDATE invitations SET uses = uses + 1 WHERE id = ? AND revoked_at IS NULL
                   AND (expires_at IS NULL OR expires_at > ?) AND (most_uses IS NULL OR uses < most_uses)""",
                (link.id, time.time()),
            )
            if not used.rowcount:
                raise RoostError("invitation_over")
            if link.person_id:
                person = self.find(link.person_id)
            elif before is not None and before.kind == GUEST and link.kind == ACCOUNT:
                given = {"kind": ACCOUNT, "is_admin": link.is_admin, "invitation_id": link.id, **fields}
                person = self.change(before.id, **given)
            else:
                person = self.add(kind=link.kind, is_admin=link.is_admin, invitation_id=link.id, **fields)
            if person is None:
                raise RoostError("invitation_over")
        with self._lock:
            if link.id in self._links:
                self._links[link.id] = replace(self._links[link.id], uses=self._links[link.id].uses + 1)
        return person

    def revoke_link(self, link_id: str) -> Everybody:
        """Disables the link; also revokes and returns the people who joined by it."""
        now = time.time()
        with self._database.transaction() as connection:
            update(connection, "invitations", link_id, revoked_at=now)
        with self._lock:
            if link_id in self._links:
                self._links[link_id] = replace(self._links[link_id], revoked_at=now)
        came = [person for person in self.list() if person.invitation_id == link_id and person.revoked_at is None]
        for person in came:
            self.change(person.id, revoked_at=now)
        return came

    def forget_link(self, link_id: str) -> None:
        """Removes an expired link from the list."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM invitations WHERE id = ?", (link_id,))
        with self._lock:
            self._links.pop(link_id, None)

    @staticmethod
    def _check_name(connection: sqlite3.Connection, person: Person) -> None:
        query = "SELECT 1 FROM people WHERE kind = 'account' AND name = ? COLLATE NOCASE AND id <> ?"
        taken = person.kind == ACCOUNT and connection.execute(query, (person.name, person.id)).fetchone()
        if taken:
            raise RoostError("account_name_taken", name=person.name)

    def saw(self, person: Person) -> None:
        """Records that the person was active now; stored every few minutes, if possible."""
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


def tidy(name: str) -> str:
    """A normalised name: one line, at most :data:`NAME_CHARS`."""
    return storable(" ".join(name.split()))[:NAME_CHARS]
