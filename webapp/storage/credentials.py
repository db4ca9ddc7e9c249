"""What admits a client, stored by its hash: the session of a browser, by its cookie, and the token of a program, with a
name, scopes and a person.

All of them are also in memory, because every request needs them. Only one server at a time writes sessions to a
database (:class:`.database.Claim`); `roost tokens` may write while a server runs, so the server reads tokens again once
a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct
from msgspec.structs import asdict, replace

from webapp.errors import RoostError, StorageError
from webapp.i18n import Text
from webapp.storage.database import Database
from webapp.storage.records import OWNER_ID, insert, storable

UNUSED_S = 90 * 86_400.0
"""A session not used for this long is forgotten."""
MAX_SESSIONS = 1000
TOUCH_EVERY_S = 300.0
ID_BYTES = 32
AGENT_CHARS = 300


class Session(Struct, frozen=True):
    """``key`` identifies it, but cannot be used to log in. ``role``: the kind of its person (:mod:`.people`) at its
    start; ``token_hash``: hash of the token that admitted a guest, "" for none. Times are Unix seconds."""

    key: str
    role: str
    agent: str
    token_hash: str
    created_at: float
    used_at: float
    person_id: str = OWNER_ID


Devices = list[Session]


class Sessions:
    """Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._watchers: dict[str, list[Callable[[], object]]] = {}
        with database.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE used_at < ?", (time.time() - UNUSED_S,))
            rows = connection.execute("SELECT * FROM sessions ORDER BY used_at").fetchall()
        self._known = {row["key"]: Session(**dict(row)) for row in rows}

    def begin(self, role: str, agent: str = "", token: str = "", person_id: str = OWNER_ID) -> str:
        """The cookie's id, which is not stored. Beyond :data:`MAX_SESSIONS`, the least recently used one
        ends."""
        session_id = secrets.token_urlsafe(ID_BYTES)
        now = time.time()
        made = Session(
            digest(session_id), role, agent[:AGENT_CHARS], digest(token) if token else "", now, now, person_id
        )
        with self._database.transaction() as connection:
            insert(connection, "sessions", asdict(made))
        with self._lock:
            self._known[made.key] = made
            others = [row for row in self._known.values() if row.key != made.key and row.role == role]
        if len(others) >= MAX_SESSIONS:
            self.end(min(others, key=lambda row: row.used_at).key)
        return session_id

    def find(self, session_id: str) -> Session | None:
        """The session for a cookie's value. Changes nothing."""
        session = self._known.get(digest(session_id)) if session_id else None
        return session if session and time.time() - session.used_at < UNUSED_S else None

    def list(self) -> list[Session]:
        """Last used first."""
        with self._lock:
            return sorted(self._known.values(), key=lambda row: -row.used_at)

    def touch(self, session: Session) -> None:
        """Stores the time of use, every few minutes; if the database is not writable, the request continues."""
        now = time.time()
        if now - session.used_at < TOUCH_EVERY_S:
            return
        with self._lock:
            if session.key not in self._known:
                return
            self._known[session.key] = replace(session, used_at=now)
        with contextlib.suppress(StorageError), self._database.transaction() as connection:
            connection.execute("UPDATE sessions SET used_at = ? WHERE key = ?", (now, session.key))

    def of(self, person_id: str) -> Devices:
        """A person's sessions, last used first."""
        return [session for session in self.list() if session.person_id == person_id]

    def end_all(self, person_id: str, but: str = "") -> None:
        """Ends all of a person's sessions, except the one with the key ``but``."""
        for session in self.of(person_id):
            if session.key != but:
                self.end(session.key)

    def look_again(self, person_id: str) -> None:
        """Makes the watchers of the person's sessions end and reconnect, because their rights have changed."""
        keys = {session.key for session in self.of(person_id)}
        with self._lock:
            watchers = [notify for key in keys for notify in self._watchers.pop(key, [])]
        for notify in watchers:
            notify()

    def end(self, key: str) -> None:
        """Ends the session and calls its watchers. Does nothing for an unknown key."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE key = ?", (key,))
        with self._lock:
            self._known.pop(key, None)
            watchers = self._watchers.pop(key, [])
        for notify in watchers:
            notify()

    @contextmanager
    def watched(self, key: str, notify: Callable[[], object]) -> Iterator[None]:
        """Inside the block, ``notify`` is called in another thread when the session ends; at once if it has ended
        already. "" watches nothing."""
        with self._lock:
            is_over = bool(key) and key not in self._known
            if key:
                self._watchers.setdefault(key, []).append(notify)
        if is_over:
            notify()
        try:
            yield
        finally:
            with self._lock, contextlib.suppress(KeyError, ValueError):
                self._watchers[key].remove(notify)
                if not self._watchers[key]:
                    del self._watchers[key]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


TOKEN_PREFIX = "roost-api-"
SCOPES = ("chat", "models")
"""chat: use the model and read lists; models: load, download, remove and choose models."""
MAX_TOKENS = 200
NAME_CHARS = 80
READ_EVERY_S = 1.0


class ApiToken(Struct, frozen=True):
    """``person_id``: the person whose limits and data apply. ``used_at`` 0 means never; times are Unix seconds."""

    id: str
    digest: str
    name: str
    scopes: tuple[str, ...]
    person_id: str
    created_at: float
    used_at: float = 0.0


class ApiTokens:
    """Thread-safe. The lock is not held during database writes, because every request needs it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._tokens = self._read()

    def _read(self) -> dict[str, ApiToken]:
        with self._database.newest() as connection:
            rows = connection.execute("SELECT * FROM api_tokens ORDER BY created_at").fetchall()
        self._read_at = time.monotonic()
        made = (ApiToken(**{**dict(row), "scopes": tuple(row["scopes"].split())}) for row in rows)
        return {token.digest: token for token in made}

    def _known(self) -> dict[str, ApiToken]:
        """Called with the lock held. If reading fails, the previous tokens stay."""
        if time.monotonic() - self._read_at > READ_EVERY_S:
            with contextlib.suppress(StorageError):
                self._tokens = self._read()
        return self._tokens

    def make(self, name: str, scopes: tuple[str, ...], person_id: str = OWNER_ID) -> str:
        """The token itself, which is not stored. Raises ``token_invalid`` without a name or a scope, or beyond
        :data:`MAX_TOKENS`."""
        name = storable(" ".join(name.split()))[:NAME_CHARS]
        wanted = tuple(scope for scope in SCOPES if scope in scopes)
        problem = "needs_a_name" if not name else "needs_a_scope" if not wanted else ""
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        made = ApiToken(uuid.uuid4().hex, digest(secret), name, wanted, person_id, time.time())
        with self._database.transaction() as connection:
            count = connection.execute("SELECT count(*) FROM api_tokens").fetchone()[0]
            if problem or count >= MAX_TOKENS:
                raise RoostError("token_invalid", reason=Text(f"reason.storage.{problem or 'too_many_tokens'}"))
            insert(connection, "api_tokens", {**asdict(made), "scopes": " ".join(wanted)})
        with self._lock:
            self._tokens[made.digest] = made
        return secret

    def find(self, secret: str) -> ApiToken | None:
        """Changes nothing."""
        if not secret.startswith(TOKEN_PREFIX):
            return None
        with self._lock:
            return self._known().get(digest(secret))

    def is_valid(self, token: ApiToken) -> bool:
        """False after it was revoked."""
        with self._lock:
            return token.digest in self._known()

    def list(self) -> list[ApiToken]:
        """Newest first."""
        with self._lock:
            return sorted(self._known().values(), key=lambda token: -token.created_at)

    def touch(self, token: ApiToken) -> None:
        """Stores the time of use, every few minutes, if possible."""
        now = time.time()
        if now - token.used_at < TOUCH_EVERY_S:
            return
        with self._lock:
            if token.digest not in self._tokens:
                return
            self._tokens[token.digest] = replace(token, used_at=now)
        with contextlib.suppress(StorageError), self._database.transaction() as connection:
            connection.execute("UPDATE api_tokens SET used_at = ? WHERE id = ?", (now, token.id))

    def revoke(self, token_id: str) -> None:
        """Refuses its next request and ends running answers. Does nothing for an unknown id."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM api_tokens WHERE id = ?", (token_id,))
        with self._lock:
            self._tokens = {key: token for key, token in self._tokens.items() if token.id != token_id}
