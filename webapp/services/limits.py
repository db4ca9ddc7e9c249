"""Limits for one person: simultaneous answers, tokens per day, length of an answer; and today's usage.

There are no such limits for the owner, or for programs with the server's own token. Prefilled and sampled tokens count;
tokens from a snapshot are free.
"""

from __future__ import annotations

import threading
from collections import Counter
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import asdict, astuple, replace

from webapp.engine.outputs import GenerationRequest, TokenOutput
from webapp.errors import RoostError, StorageError
from webapp.manager.handles import PERSON, Quota
from webapp.settings import Settings
from webapp.storage.database import Database
from webapp.storage.people import GUEST, People, Person

KEPT_DAYS = 31


class Limits(Struct, frozen=True):
    """None means the default (from the settings for guests, no limit for accounts), 0 means no limit."""

    answers: int | None = None
    day_tokens: int | None = None
    answer_tokens: int | None = None


class PersonQuota(Quota):
    """Thread-safe. Usage is stored at the person's next request, and by :meth:`store`."""

    def __init__(self, database: Database, people: People, settings: Settings) -> None:
        self._database, self._people = database, people
        self._for_guests = Limits(settings.guest_answers, settings.guest_day_tokens, settings.guest_answer_tokens)
        self._lock = threading.Lock()
        self._unstored: Counter[tuple[str, str]] = Counter()
        oldest = (datetime.now() - timedelta(days=KEPT_DAYS)).strftime("%Y-%m-%d")
        with database.transaction() as connection:
            connection.execute("DELETE FROM person_use WHERE day < ?", (oldest,))
            limits = connection.execute("SELECT * FROM person_limits").fetchall()
            used = connection.execute("SELECT * FROM person_use").fetchall()
        self._own = {row["person_id"]: Limits(*(row[name] for name in Limits.__struct_fields__)) for row in limits}
        self._used = Counter({(row["person_id"], row["day"]): row["tokens"] for row in used})

    def own(self, person_id: str) -> Limits:
        """The limits that were set for this person."""
        return self._own.get(person_id, Limits())

    def set(self, person_id: str, limits: Limits) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO person_limits VALUES (?, ?, ?, ?)", (person_id, *astuple(limits))
            )
        self._own[person_id] = limits

    def of(self, person_id: str) -> Limits:
        """The effective limits: no field is None."""
        person = self._people.find(person_id)
        if person is None or person.may_own:
            return Limits(0, 0, 0)
        default, own = asdict(self.default_of(person)), asdict(self.own(person_id))
        return Limits(**{name: default[name] if own[name] is None else own[name] for name in own})

    def default_of(self, person: Person) -> Limits:
        return self._for_guests if person.kind == GUEST else Limits(0, 0, 0)

    def used_today(self, person_id: str) -> int:
        return self._used[person_id, _today()]

    def fitted(self, request: GenerationRequest) -> GenerationRequest:
        """Shortens the answer to the person's limit if needed. Raises ``person_tokens_used``."""
        person_id = person_of(request.client)
        self.store()
        limits = self.of(person_id)
        if limits.day_tokens and self.used_today(person_id) >= limits.day_tokens:
            raise RoostError("person_tokens_used", limit=limits.day_tokens, retry_after_s=_seconds_left_today())
        if limits.answer_tokens and request.params.max_tokens > limits.answer_tokens:
            return replace(request, params=replace(request.params, max_tokens=limits.answer_tokens))
        return request

    def check(self, client: str, open_count: int) -> None:
        most = self.of(person_of(client)).answers
        if most and open_count >= most:
            raise RoostError("person_busy", limit=most)

    def note(self, client: str, end: TokenOutput) -> None:
        if end.stats is None:
            return
        with self._lock:
            key, tokens = (person_of(client), _today()), end.stats.prefilled_tokens + end.stats.decoded_tokens
            self._used[key] += tokens
            self._unstored[key] += tokens

    def store(self) -> None:
        """Usage that cannot be stored now is stored later."""
        with self._lock:
            changed, self._unstored = self._unstored, Counter()
        if not changed:
            return
        try:
            with self._database.transaction() as connection:
                connection.executemany(
                    "INSERT INTO person_use VALUES (?, ?, ?) "
                    "ON CONFLICT (person_id, day) DO UPDATE SET tokens = tokens + excluded.tokens",
                    [(*key, tokens) for key, tokens in changed.items()],
                )
        except StorageError:
            with self._lock:
                self._unstored += changed


def person_of(client: str) -> str:
    """``client`` must be a person's: the manager applies the quota to no others."""
    return client.removeprefix(PERSON)


def _today() -> str:
    return datetime.now().strftime("%Y-%m-%d")


def _seconds_left_today() -> int:
    now = datetime.now()
    return int((now.replace(hour=0, minute=0, second=0) + timedelta(days=1) - now).total_seconds()) + 1
