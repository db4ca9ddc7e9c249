"""Tokens for programs, stored by their hash: each has a name, scopes and a person.

All tokens are also in memory, because every request needs them. `roost tokens` may write while a server runs, so the
server reads them again once a second.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace

from webapp.errors import RoostError, StorageError
from webapp.i18n import Text
from webapp.storage.database import Database
from webapp.storage.records import OWNER_ID, insert, storable
from webapp.storage.sessions import digest

PREFIX = "roost-api-"
SCOPES = ("chat", "models")
"""chat: use the model and read lists; models: load, download, remove and choose models."""
MOST_TOKENS = 200
NAME_CHARS = 80
TOUCH_EVERY_S = 300.0
READ_EVERY_S = 1.0


@dataclass(frozen=True)
class ApiToken:
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
        :data:`MOST_TOKENS`."""
        name = storable(" ".join(name.split()))[:NAME_CHARS]
        wanted = tuple(scope for scope in SCOPES if scope in scopes)
        problem = "needs_a_name" if not name else "needs_a_scope" if not wanted else ""
        secret = PREFIX + secrets.token_urlsafe(32)
        made = ApiToken(uuid.uuid4().hex, digest(secret), name, wanted, person_id, time.time())
        with self._database.transaction() as connection:
            count = connection.execute("SELECT count(*) FROM api_tokens").fetchone()[0]
            if problem or count >= MOST_TOKENS:
                raise RoostError("token_invalid", reason=Text(f"reason.storage.{problem or 'too_many_tokens'}"))
            insert(connection, "api_tokens", {**asdict(made), "scopes": " ".join(wanted)})
        with self._lock:
            self._tokens[made.digest] = made
        return secret

    def find(self, secret: str) -> ApiToken | None:
        """Changes nothing."""
        if not secret.startswith(PREFIX):
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
