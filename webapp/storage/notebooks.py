"""Notebooks in the database: texts that a model continues, each with drafts for undo and redo."""

from __future__ import annotations

import functools
import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from webapp.errors import RoostError
from webapp.storage.database import Database
from webapp.storage.records import (
    OWNER_ID,
    check_person,
    hide,
    insert,
    later_than,
    note_snapshots,
    release_snapshots,
    row_of,
    storable,
    to_json,
    update,
)

NOT_FOUND = functools.partial(RoostError, "notebook_not_found")
MAX_STEPS = 30
"""Number of undo steps."""
MAX_CHARS = 4_000_000
"""Limit for all undo and redo drafts together; the oldest are removed first."""


class Draft(Struct, frozen=True):
    """A text, and the tokens of its beginning as the model processed and sampled them. ``chances``: the probability of
    each token (0 to 1), None if a person typed it. ``tokenizer``: name of the vocabulary."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    chances: tuple[float | None, ...] = ()
    tokenizer: str = ""


class Notebook(Struct, frozen=True):
    """``settings``: JSON with the parameters of continuations. ``updated_at`` (Unix seconds) must equal the page's
    value when it is saved."""

    id: str
    name: str
    draft: Draft = field(default_factory=Draft)
    settings: Mapping[str, Any] = field(default_factory=dict)
    created_at: float = 0.0
    updated_at: float = 0.0
    can_undo: bool = False
    can_redo: bool = False


Snapshots = list[str]  # inside the class `list` is the method


class NotebookStore:
    """Cheap to create, thread-safe; every method is one transaction. Raises ``notebook_not_found``, and
    ``notebook_changed`` if ``seen`` (None: no check) is not the time of the last change."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, person_id: str = OWNER_ID) -> list[tuple[str, str, float]]:
        """(id, name, time of change) of a person's notebooks, last changed first."""
        query = """SELECT id, name, updated_at FROM notebooks WHERE deleted_at IS NULL AND person_id = ?
                   ORDER BY updated_at DESC, id"""
        with self._database.connect() as connection:
            return [(row["id"], row["name"], row["updated_at"]) for row in connection.execute(query, (person_id,))]

    def check(self, notebook_id: str, person_id: str) -> None:
        """Checks that the notebook, deleted or not, belongs to this person."""
        with self._database.connect() as connection:
            check_person(connection, "notebooks", notebook_id, person_id, NOT_FOUND)

    def get(self, notebook_id: str) -> Notebook:
        with self._database.connect() as connection:
            return _notebook(row_of(connection, "notebooks", notebook_id, NOT_FOUND))

    def create(self, name: str, person_id: str = OWNER_ID) -> Notebook:
        now = time.time()
        notebook_id = uuid.uuid4().hex
        values: dict[str, Any] = {"id": notebook_id, "name": storable(name), "person_id": person_id}
        values |= {"created_at": now, "updated_at": now}
        with self._database.transaction() as connection:
            insert(connection, "notebooks", values)
            return _notebook(row_of(connection, "notebooks", notebook_id, NOT_FOUND))

    def write(
        self,
        notebook_id: str,
        draft: Draft,
        seen: float | None = None,
        is_step: bool = False,
        name: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Notebook:
        """``is_step``: undo returns to this draft. ``name`` and ``settings`` None mean no change."""
        with self._changing(notebook_id, seen) as (connection, row):
            values: dict[str, Any] = {"now": _written(draft)}
            if name is not None:
                values["name"] = storable(name)
            if settings is not None:
                values["settings"] = to_json(settings)
            if is_step:
                values |= {"past": _kept(_steps(row["past"], values["now"])), "future": "[]"}
            return _changed(connection, row, values)

    def step(self, notebook_id: str, draft: Draft, is_back: bool, seen: float | None = None) -> Notebook:
        """Undo or redo; ``draft`` is the current one. Does nothing if there is no further step."""
        taken, given = ("past", "future") if is_back else ("future", "past")
        with self._changing(notebook_id, seen) as (connection, row):
            steps = json.loads(row[taken])
            if not steps:
                return _changed(connection, row, {"now": _written(draft)})
            values = {"now": json.dumps(steps[-1]), taken: json.dumps(steps[:-1])}
            return _changed(connection, row, {**values, given: _kept(_steps(row[given], _written(draft)))})

    def delete(self, notebook_id: str) -> Snapshots:
        """Hides it until :meth:`restore`; returns the names of snapshots that are not used any more."""
        with self._database.transaction() as connection:
            hide(connection, "notebooks", notebook_id, NOT_FOUND)
            return release_snapshots(connection, notebook_id)

    def delete_all(self, person_id: str) -> Snapshots:
        """Permanently deletes a person's notebooks; returns names as above."""
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT id FROM notebooks WHERE person_id = ?", (person_id,)).fetchall()
            connection.execute("DELETE FROM notebooks WHERE person_id = ?", (person_id,))
            return [name for row in rows for name in release_snapshots(connection, row["id"])]

    def restore(self, notebook_id: str) -> Notebook:
        with self._database.transaction() as connection:
            row_of(connection, "notebooks", notebook_id, NOT_FOUND, with_deleted=True)
            update(connection, "notebooks", notebook_id, deleted_at=None)
            return _notebook(row_of(connection, "notebooks", notebook_id, NOT_FOUND))

    def note_snapshots(self, notebook_id: str, names: Iterable[str]) -> Snapshots:
        """Records that the notebook uses these snapshots. If it was deleted: names as from :meth:`delete`."""
        query = "SELECT 1 FROM notebooks WHERE id = ? AND deleted_at IS NULL"
        with self._database.transaction() as connection:
            note_snapshots(connection, notebook_id, names)
            is_there = connection.execute(query, (notebook_id,)).fetchone()
            return [] if is_there else release_snapshots(connection, notebook_id)

    @contextmanager
    def _changing(self, notebook_id: str, seen: float | None) -> Iterator[tuple[sqlite3.Connection, sqlite3.Row]]:
        with self._database.transaction() as connection:
            row = row_of(connection, "notebooks", notebook_id, NOT_FOUND)
            if seen is not None and row["updated_at"] != seen:
                raise RoostError("notebook_changed", name=row["name"])
            yield connection, row


def _written(draft: Draft) -> str:
    return to_json(asdict(replace(draft, text=storable(draft.text))))


def _steps(steps: str, last: str) -> list[dict[str, Any]]:
    return [*json.loads(steps), json.loads(last)]


def _kept(steps: list[dict[str, Any]]) -> str:
    steps = steps[-MAX_STEPS:]
    while len(steps) > 1 and sum(len(step.get("text", "")) for step in steps) > MAX_CHARS:
        steps = steps[1:]
    return to_json(steps)


def _changed(connection: sqlite3.Connection, row: sqlite3.Row, values: Mapping[str, Any]) -> Notebook:
    update(connection, "notebooks", row["id"], **values, updated_at=later_than(row["updated_at"]))
    return _notebook(row_of(connection, "notebooks", row["id"], NOT_FOUND))


def _notebook(row: sqlite3.Row) -> Notebook:
    now = json.loads(row["now"])
    ids, chances = (tuple(now.get(name, ())) for name in ("token_ids", "chances"))
    same = {name: row[name] for name in ("id", "name", "created_at", "updated_at")}
    return Notebook(
        **same,
        draft=Draft(now.get("text", ""), ids, chances, now.get("tokenizer", "")),
        settings=json.loads(row["settings"]),
        can_undo=row["past"] != "[]",
        can_redo=row["future"] != "[]",
    )
