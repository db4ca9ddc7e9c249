"""Batches in the database: a list of inputs, each with one answer. A row is written when its answer is complete, so
that finished rows are never lost."""

from __future__ import annotations

import functools
import json
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from webapp.errors import RoostError
from webapp.storage.database import Database
from webapp.storage.records import OWNER_ID, check_person, insert, row_of, storable, to_json, update

NOT_FOUND = functools.partial(RoostError, "batch_not_found")
_AT_A_TIME = 500


class Batch(Struct, frozen=True):
    """``columns``: names of the input values; ``settings``: JSON with the parameters of the answers. ``done`` of
    ``total`` rows have an answer or an error; ``is_over``: no more will follow. ``person_id``: its owner."""

    id: str
    name: str
    columns: tuple[str, ...]
    settings: Mapping[str, Any]
    created_at: float
    total: int
    done: int = 0
    failed: int = 0
    is_over: bool = False
    person_id: str = OWNER_ID


class BatchRow(Struct, frozen=True):
    """``about``: finish reason, tokens, or ``error`` (``RoostError.to_dict()``); {} before there is an answer."""

    place: int
    values: tuple[str, ...]
    answer: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


Batches = list[Batch]  # inside the class `list` is the method
Rows = list[BatchRow]
_WITH_COUNTS = """SELECT b.*, (SELECT count(*) FROM batch_rows WHERE batch_id = b.id AND is_done) AS done,
    (SELECT count(*) FROM batch_rows WHERE batch_id = b.id AND is_done = 2) AS failed FROM batches b"""


class BatchStore:
    """Cheap to create, thread-safe; every method is one transaction. Raises ``batch_not_found``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, person_id: str = OWNER_ID) -> Batches:
        """A person's batches, newest first."""
        query = f"{_WITH_COUNTS} WHERE b.deleted_at IS NULL AND b.person_id = ? ORDER BY b.created_at DESC, b.id"
        with self._database.connect() as connection:
            return [_batch(row) for row in connection.execute(query, (person_id,))]

    def check(self, batch_id: str, person_id: str) -> None:
        """Checks that the batch, deleted or not, belongs to this person."""
        with self._database.connect() as connection:
            check_person(connection, "batches", batch_id, person_id, NOT_FOUND)

    def unfinished(self) -> Batches:
        """Unfinished batches of an earlier server; oldest first."""
        query = f"{_WITH_COUNTS} WHERE b.deleted_at IS NULL AND NOT b.is_over ORDER BY b.created_at, b.id"
        with self._database.connect() as connection:
            return [_batch(row) for row in connection.execute(query)]

    def get(self, batch_id: str) -> Batch:
        query = f"{_WITH_COUNTS} WHERE b.id = ? AND b.deleted_at IS NULL"
        with self._database.connect() as connection:
            row = connection.execute(query, (batch_id,)).fetchone()
        if row is None:
            raise NOT_FOUND()
        return _batch(row)

    def create(
        self,
        name: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        settings: Mapping[str, Any],
        person_id: str = OWNER_ID,
    ) -> Batch:
        batch_id, now = uuid.uuid4().hex, time.time()
        values = {"id": batch_id, "name": storable(name), "columns": to_json(list(columns)), "total": len(rows)}
        values |= {"settings": to_json(settings), "created_at": now, "person_id": person_id}
        with self._database.transaction() as connection:
            insert(connection, "batches", values)
            connection.executemany(
                "INSERT INTO batch_rows (batch_id, place, input) VALUES (?, ?, ?)",
                ((batch_id, place, to_json([storable(cell) for cell in row])) for place, row in enumerate(rows)),
            )
        return self.get(batch_id)

    def rows(self, batch_id: str, first: int = 0, count: int = _AT_A_TIME) -> Rows:
        """From row ``first`` on, including rows without an answer."""
        query = "SELECT * FROM batch_rows WHERE batch_id = ? AND place >= ? ORDER BY place LIMIT ?"
        with self._database.connect() as connection:
            return [_row(row) for row in connection.execute(query, (batch_id, first, count))]

    def all_rows(self, batch_id: str) -> Iterator[BatchRow]:
        first = 0
        while rows := self.rows(batch_id, first):
            yield from rows
            first = rows[-1].place + 1

    def waiting(self, batch_id: str) -> Iterator[BatchRow]:
        """The rows to be answered, one page at a time."""
        after = -1
        query = "SELECT * FROM batch_rows WHERE batch_id = ? AND NOT is_done AND place > ? ORDER BY place LIMIT ?"
        while True:
            with self._database.connect() as connection:
                rows = connection.execute(query, (batch_id, after, _AT_A_TIME)).fetchall()
            if not rows:
                return
            yield from map(_row, rows)
            after = rows[-1]["place"]

    def answer(self, batch_id: str, place: int, answer: str, about: Mapping[str, Any]) -> None:
        """``about`` with an ``error`` means that there is no answer."""
        is_done = 2 if "error" in about else 1
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE batch_rows SET answer = ?, about = ?, is_done = ? WHERE batch_id = ? AND place = ?",
                (storable(answer), to_json(about), is_done, batch_id, place),
            )

    def end(self, batch_id: str, is_over: bool = True) -> None:
        """Marks the batch as finished, or as continuing."""
        with self._database.transaction() as connection:
            update(connection, "batches", batch_id, is_over=int(is_over))

    def purge_deleted(self, older_than: float) -> None:
        """Permanently removes batches deleted before this time."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM batches WHERE deleted_at < ?", (older_than,))

    def delete(self, batch_id: str) -> Batch:
        """Hides it until :meth:`restore`."""
        batch = self.get(batch_id)
        with self._database.transaction() as connection:
            update(connection, "batches", batch_id, deleted_at=time.time(), is_over=1)
        return batch

    def restore(self, batch_id: str) -> Batch:
        with self._database.transaction() as connection:
            row_of(connection, "batches", batch_id, NOT_FOUND, with_deleted=True)
            update(connection, "batches", batch_id, deleted_at=None)
        return self.get(batch_id)


def _batch(row: sqlite3.Row) -> Batch:
    same = {name: row[name] for name in ("id", "name", "created_at", "total", "done", "failed", "person_id")}
    columns, settings = tuple(json.loads(row["columns"])), json.loads(row["settings"])
    return Batch(**same, columns=columns, settings=settings, is_over=bool(row["is_over"]))


def _row(row: sqlite3.Row) -> BatchRow:
    return BatchRow(row["place"], tuple(json.loads(row["input"])), row["answer"], json.loads(row["about"]))
