"""The tool bench in the database: its cases, and the last few runs with every answer."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.errors import BenchNotFound, BenchRefused
from webapp.storage.database import Database
from webapp.storage.records import to_json
from webapp.tools.bench import MAX_CASES, BenchCase, case_from_dict, case_to_dict

KEPT_RUNS = 20
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"


@dataclass(frozen=True)
class StoredCase:
    id: str
    case: BenchCase


@dataclass(frozen=True)
class StoredRun:
    """``setup`` says what was asked (:meth:`webapp.services.bench.runner.BenchRunner.setup`), ``error`` as of
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
    """Cheap to make, safe from any thread; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # cases

    def cases(self) -> list[StoredCase]:
        """A person's own first, each in the order they came."""
        query = "SELECT * FROM bench_cases WHERE deleted_at IS NULL ORDER BY is_generated, seq"
        with self._database.connect() as connection:
            return [_case(row) for row in connection.execute(query)]

    def case(self, case_id: str) -> StoredCase:
        with self._database.connect() as connection:
            return _case(_living(connection, case_id))

    def add_cases(self, cases: Sequence[BenchCase], replaces_generated: bool = False) -> list[StoredCase]:
        """All or none; ``replaces_generated`` takes away those the bench made up before. BenchRefused when they would
        be too many."""
        with self._database.transaction() as connection:
            if replaces_generated:
                connection.execute("DELETE FROM bench_cases WHERE is_generated = 1")
            count = connection.execute("SELECT count(*) FROM bench_cases WHERE deleted_at IS NULL").fetchone()[0]
            if count + len(cases) > MAX_CASES:
                words = {"reason": f"there is room for {MAX_CASES} cases", "reason_key": "tool_bench.problem.many"}
                raise BenchRefused(**words, limit=MAX_CASES)
            connection.execute("DELETE FROM bench_cases WHERE deleted_at IS NOT NULL")
            return [_insert(connection, case) for case in cases]

    def change_case(self, case_id: str, case: BenchCase) -> None:
        """A case a person has changed is theirs."""
        with self._database.transaction() as connection:
            _living(connection, case_id)
            values = (to_json(case_to_dict(case)), case.is_generated, case_id)
            connection.execute("UPDATE bench_cases SET body = ?, is_generated = ? WHERE id = ?", values)

    def delete_case(self, case_id: str) -> None:
        """Hides it until :meth:`restore_case`, or until cases are added."""
        with self._database.transaction() as connection:
            _living(connection, case_id)
            connection.execute("UPDATE bench_cases SET deleted_at = ? WHERE id = ?", (time.time(), case_id))

    def restore_case(self, case_id: str) -> None:
        with self._database.transaction() as connection:
            done = connection.execute("UPDATE bench_cases SET deleted_at = NULL WHERE id = ?", (case_id,))
            if not done.rowcount:
                raise BenchNotFound()

    def delete_cases(self) -> float:
        """Hides all; the moment to give :meth:`restore_cases`."""
        moment = time.time()
        with self._database.transaction() as connection:
            connection.execute("UPDATE bench_cases SET deleted_at = ? WHERE deleted_at IS NULL", (moment,))
        return moment

    def restore_cases(self, moment: float) -> None:
        with self._database.transaction() as connection:
            connection.execute("UPDATE bench_cases SET deleted_at = NULL WHERE deleted_at = ?", (moment,))

    # runs

    def begin_run(self, setup: Mapping[str, Any]) -> StoredRun:
        """The oldest beyond :data:`KEPT_RUNS` go."""
        run = StoredRun(uuid.uuid4().hex, RUNNING, time.time(), None, setup)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO bench_runs (id, started_at, setup) VALUES (?, ?, ?)",
                (run.id, run.started_at, to_json(dict(setup))),
            )
            connection.execute(
                "DELETE FROM bench_runs WHERE id NOT IN (SELECT id FROM bench_runs ORDER BY started_at DESC LIMIT ?)",
                (KEPT_RUNS,),
            )
        return run

    def change_setup(self, run_id: str, setup: Mapping[str, Any]) -> None:
        with self._database.transaction() as connection:
            connection.execute("UPDATE bench_runs SET setup = ? WHERE id = ?", (to_json(dict(setup)), run_id))

    def add_answer(self, run_id: str, answer: Mapping[str, Any]) -> None:
        """Nothing happens when the run was deleted meanwhile."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO bench_answers (run_id, body) SELECT id, ? FROM bench_runs WHERE id = ?",
                (to_json(dict(answer)), run_id),
            )

    def end_run(self, run_id: str, status: str, error: Mapping[str, Any] | None = None) -> None:
        with self._database.transaction() as connection:
            values = (status, time.time(), to_json(dict(error)) if error else None, run_id)
            connection.execute("UPDATE bench_runs SET status = ?, finished_at = ?, error = ? WHERE id = ?", values)

    def end_abandoned(self, error: Mapping[str, Any]) -> None:
        """Runs that a process before this one left running."""
        with self._database.transaction() as connection:
            values = (FAILED, to_json(dict(error)), RUNNING)
            connection.execute("UPDATE bench_runs SET status = ?, error = ? WHERE status = ?", values)

    def runs(self) -> list[StoredRun]:
        """The newest first."""
        with self._database.connect() as connection:
            return [_run(row) for row in connection.execute(f"{RUNS} ORDER BY started_at DESC")]

    def run(self, run_id: str) -> StoredRun:
        with self._database.connect() as connection:
            row = connection.execute(f"{RUNS} WHERE id = ?", (run_id,)).fetchone()
        if row is None:
            raise BenchNotFound()
        return _run(row)

    def answers(self, run_id: str) -> list[dict[str, Any]]:
        """In the order they were finished."""
        with self._database.connect() as connection:
            rows = connection.execute("SELECT body FROM bench_answers WHERE run_id = ? ORDER BY seq", (run_id,))
            return [json.loads(row["body"]) for row in rows]

    def delete_run(self, run_id: str) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM bench_runs WHERE id = ?", (run_id,))


RUNS = "SELECT *, (SELECT count(*) FROM bench_answers WHERE run_id = bench_runs.id) AS answers FROM bench_runs"


def _insert(connection: sqlite3.Connection, case: BenchCase) -> StoredCase:
    made = StoredCase(uuid.uuid4().hex, case)
    connection.execute(
        "INSERT INTO bench_cases (id, body, is_generated) VALUES (?, ?, ?)",
        (made.id, to_json(case_to_dict(case)), case.is_generated),
    )
    return made


def _living(connection: sqlite3.Connection, case_id: str) -> sqlite3.Row:
    found: sqlite3.Row | None = connection.execute(
        "SELECT * FROM bench_cases WHERE id = ? AND deleted_at IS NULL", (case_id,)
    ).fetchone()
    if found is None:
        raise BenchNotFound()
    return found


def _case(row: sqlite3.Row) -> StoredCase:
    return StoredCase(row["id"], case_from_dict(json.loads(row["body"])))


def _run(row: sqlite3.Row) -> StoredRun:
    return StoredRun(
        id=row["id"],
        status=row["status"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        setup=json.loads(row["setup"]),
        error=json.loads(row["error"]) if row["error"] else None,
        answers=row["answers"],
    )
