"""The benches in the database: the cases of the tool bench, its last few runs with every answer, and the results of the
speed bench.
"""

from __future__ import annotations

import functools
import json
import sqlite3
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from webapp.errors import BenchRefused, RoostError
from webapp.i18n import Text
from webapp.storage.database import Database
from webapp.storage.records import count_of, hide, insert, row_of, to_json, update
from webapp.tools.bench import MAX_CASES, BenchCase, case_from_dict, case_to_dict

NOT_FOUND = functools.partial(RoostError, "bench_not_found")
KEPT_RUNS = 20
KEPT_MEASUREMENTS = 200
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"


class StoredCase(Struct, frozen=True):
    id: str
    case: BenchCase


class StoredRun(Struct, frozen=True):
    """``setup``: the conditions (:meth:`webapp.services.bench.tool_bench.BenchRunner.setup`), ``error`` as in
    :meth:`RoostError.to_dict`. Times are Unix seconds."""

    id: str
    status: str
    started_at: float
    finished_at: float | None
    setup: Mapping[str, Any]
    error: Mapping[str, Any] | None = None
    answers: int = 0

    @property
    def is_over(self) -> bool:
        return self.status != RUNNING


class BenchStore:
    """Cheap to create, thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # cases

    def cases(self) -> list[StoredCase]:
        """A person's own first, each group in order of creation."""
        query = "SELECT * FROM bench_cases WHERE deleted_at IS NULL ORDER BY is_generated, seq"
        with self._database.connect() as connection:
            return [_case(row) for row in connection.execute(query)]

    def case(self, case_id: str) -> StoredCase:
        with self._database.connect() as connection:
            return _case(row_of(connection, "bench_cases", case_id, NOT_FOUND))

    def add_cases(self, cases: Sequence[BenchCase], replaces_generated: bool = False) -> list[StoredCase]:
        """Adds all or none; ``replaces_generated`` first removes the generated ones. Raises BenchRefused if there would
        be too many."""
        with self._database.transaction() as connection:
            if replaces_generated:
                connection.execute("DELETE FROM bench_cases WHERE is_generated = 1")
            if count_of(connection, "bench_cases") + len(cases) > MAX_CASES:
                raise BenchRefused(reason=Text("tool_bench.problem.many", limit=MAX_CASES))
            connection.execute("DELETE FROM bench_cases WHERE deleted_at IS NOT NULL")
            return [_insert(connection, case) for case in cases]

    def change_case(self, case_id: str, case: BenchCase) -> None:
        """A case that a person has changed does not count as generated any more."""
        with self._database.transaction() as connection:
            row_of(connection, "bench_cases", case_id, NOT_FOUND)
            update(connection, "bench_cases", case_id, **_columns(case))

    def delete_case(self, case_id: str) -> None:
        """Hides it until :meth:`restore_case`, or until cases are added."""
        with self._database.transaction() as connection:
            hide(connection, "bench_cases", case_id, NOT_FOUND)

    def restore_case(self, case_id: str) -> None:
        with self._database.transaction() as connection:
            if not update(connection, "bench_cases", case_id, deleted_at=None):
                raise NOT_FOUND()

    def delete_cases(self) -> float:
        """Hides all; returns the time for :meth:`restore_cases`."""
        moment = time.time()
        with self._database.transaction() as connection:
            connection.execute("UPDATE bench_cases SET deleted_at = ? WHERE deleted_at IS NULL", (moment,))
        return moment

    def restore_cases(self, moment: float) -> None:
        with self._database.transaction() as connection:
            connection.execute("UPDATE bench_cases SET deleted_at = NULL WHERE deleted_at = ?", (moment,))

    # runs

    def begin_run(self, setup: Mapping[str, Any]) -> StoredRun:
        """Deletes the oldest if there are more than :data:`KEPT_RUNS`."""
        run = StoredRun(uuid.uuid4().hex, RUNNING, time.time(), None, setup)
        with self._database.transaction() as connection:
            row = {"id": run.id, "started_at": run.started_at, "setup": to_json(dict(setup))}
            insert(connection, "bench_runs", row)
            connection.execute(
                "DELETE FROM bench_runs WHERE id NOT IN (SELECT id FROM bench_runs ORDER BY started_at DESC LIMIT ?)",
                (KEPT_RUNS,),
            )
        return run

    def change_setup(self, run_id: str, setup: Mapping[str, Any]) -> None:
        with self._database.transaction() as connection:
            update(connection, "bench_runs", run_id, setup=to_json(dict(setup)))

    def add_answer(self, run_id: str, answer: Mapping[str, Any]) -> None:
        """Does nothing if the run was deleted meanwhile."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO bench_answers (run_id, body) SELECT id, ? FROM bench_runs WHERE id = ?",
                (to_json(dict(answer)), run_id),
            )

    def end_run(self, run_id: str, status: str, error: Mapping[str, Any] | None = None) -> None:
        with self._database.transaction() as connection:
            error_json = to_json(dict(error)) if error else None
            update(connection, "bench_runs", run_id, status=status, finished_at=time.time(), error=error_json)

    def has_running(self) -> bool:
        with self._database.connect() as connection:
            return connection.execute("SELECT 1 FROM bench_runs WHERE status = ?", (RUNNING,)).fetchone() is not None

    def end_abandoned(self, error: Mapping[str, Any]) -> None:
        """Ends the runs that an earlier process left unfinished."""
        with self._database.transaction() as connection:
            values = (FAILED, to_json(dict(error)), RUNNING)
            connection.execute("UPDATE bench_runs SET status = ?, error = ? WHERE status = ?", values)

    def runs(self) -> list[StoredRun]:
        """Newest first."""
        with self._database.connect() as connection:
            return [_run(row) for row in connection.execute(f"{RUNS} ORDER BY started_at DESC")]

    def run(self, run_id: str) -> StoredRun:
        with self._database.connect() as connection:
            row = connection.execute(f"{RUNS} WHERE id = ?", (run_id,)).fetchone()
        if row is None:
            raise NOT_FOUND()
        return _run(row)

    def answers(self, run_id: str) -> list[dict[str, Any]]:
        """In the order in which they finished."""
        with self._database.connect() as connection:
            rows = connection.execute("SELECT body FROM bench_answers WHERE run_id = ? ORDER BY seq", (run_id,))
            return [json.loads(row["body"]) for row in rows]

    def delete_run(self, run_id: str) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM bench_runs WHERE id = ?", (run_id,))


RUNS = "SELECT *, (SELECT count(*) FROM bench_answers WHERE run_id = bench_runs.id) AS answers FROM bench_runs"


def _insert(connection: sqlite3.Connection, case: BenchCase) -> StoredCase:
    made = StoredCase(uuid.uuid4().hex, case)
    insert(connection, "bench_cases", {"id": made.id, **_columns(case)})
    return made


def _columns(case: BenchCase) -> dict[str, Any]:
    return {"body": to_json(case_to_dict(case)), "is_generated": case.is_generated}


def _case(row: sqlite3.Row) -> StoredCase:
    return StoredCase(row["id"], case_from_dict(json.loads(row["body"])))


def _run(row: sqlite3.Row) -> StoredRun:
    error = json.loads(row["error"]) if row["error"] else None
    return StoredRun(**{**dict(row), "setup": json.loads(row["setup"]), "error": error})


class Measurement(Struct, frozen=True):
    """``document``: the output of ``roost bench``; ``measured_at``: Unix seconds."""

    id: str
    machine: str
    measured_at: float
    document: dict[str, Any]


class MeasurementStore:
    """Cheap to create, thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, machine: str, document: Mapping[str, Any]) -> Measurement:
        """Deletes the oldest if there are more than :data:`KEPT_MEASUREMENTS`."""
        made = Measurement(uuid.uuid4().hex, machine, time.time(), dict(document))
        row = {"id": made.id, "machine": machine, "measured_at": made.measured_at, "body": to_json(made.document)}
        with self._database.transaction() as connection:
            insert(connection, "measurements", row)
            newest = "SELECT id FROM measurements ORDER BY measured_at DESC, rowid DESC LIMIT ?"
            connection.execute(f"DELETE FROM measurements WHERE id NOT IN ({newest})", (KEPT_MEASUREMENTS,))
        return made

    def of_machine(self, machine: str) -> list[Measurement]:
        """Newest first."""
        query = "SELECT * FROM measurements WHERE machine = ? ORDER BY measured_at DESC, rowid DESC"
        with self._database.newest() as connection:  # speeds are computed from them and cached
            rows = connection.execute(query, (machine,)).fetchall()
        return [Measurement(row["id"], row["machine"], row["measured_at"], json.loads(row["body"])) for row in rows]

    def delete(self, measurement_id: str) -> None:
        """Raises ``measurement_not_found`` for an unknown or deleted one."""
        with self._database.transaction() as connection:
            found = connection.execute("DELETE FROM measurements WHERE id = ?", (measurement_id,))
            if found.rowcount == 0:
                raise RoostError("measurement_not_found")
