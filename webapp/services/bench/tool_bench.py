"""The tool bench of the server: one run at a time, a job whose answers are stored as they come."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from webapp.errors import BenchInterrupted, BenchRefused, as_roost_error
from webapp.manager.manager import ModelManager
from webapp.services.bench.order import BenchOrder
from webapp.services.bench.report import reports
from webapp.services.bench.runner import AT_ONCE, BenchRunner
from webapp.services.jobs import Jobs, Running
from webapp.storage.database import Database
from webapp.storage.tool_bench import DONE, FAILED, STOPPED, BenchStore, StoredRun

KIND = "tool_bench"
log = logging.getLogger(__name__)


class ToolBench:
    """``app.extensions["tool_bench"]``; every method from any thread."""

    def __init__(self, manager: ModelManager, database: Database, jobs: Jobs, at_once: int = AT_ONCE) -> None:
        self.store = BenchStore(database)
        self.jobs = jobs
        self._manager = manager
        self._at_once = at_once
        self.store.end_abandoned(BenchInterrupted().to_dict())

    @property
    def running(self) -> str:
        """Id of the run that goes on, "" for none."""
        return next((job.details["run_id"] for job in self.jobs.jobs(KIND) if not job.is_over), "")

    def start(self, order: BenchOrder, facts: Mapping[str, Any] | None = None) -> StoredRun:
        """Begins at once; loads the model if need be. BenchRefused, ShuttingDown, and what :class:`BenchRunner` raises.
        ``facts`` are kept with the run's setup."""
        if self.running:
            raise BenchRefused(reason="another run goes on", reason_key="tool_bench.problem.running")
        runner = BenchRunner(self._manager, order, self._at_once)
        setup = {**runner.setup(), **(facts or {})}
        self.jobs.check_open()
        run = self.store.begin_run(setup)

        def work(running: Running) -> None:
            self._work(run, runner, running)

        self.jobs.start(KIND, setup["model"], work, {"run_id": run.id}, unit="steps", total=setup["asked"])
        return run

    def stop(self, run_id: str) -> None:
        """Of the run that goes on; what it has is kept. Nothing happens for any other."""
        for job in self.jobs.jobs(KIND):
            if job.details["run_id"] == run_id:
                self.jobs.cancel(job.id)

    def wait(self, timeout_s: float) -> bool:
        """Whether no run goes on any more."""
        return all(self.jobs.wait(job.id, timeout_s).is_over for job in self.jobs.jobs(KIND) if not job.is_over)

    def _final_setup(self, run: StoredRun, runner: BenchRunner) -> dict[str, Any]:
        """With what the first answer told of the model, and the figures that lists of runs show."""
        setup = {**run.setup, **runner.setup()}
        found = reports(setup, self.store.answers(run.id))
        return {**setup, "figures": {row.mode: {"cases": row.cases, **row.shares} for row in found}}

    def _work(self, run: StoredRun, runner: BenchRunner, running: Running) -> None:
        status, error, count = DONE, None, 0

        def keep(answer: Mapping[str, Any]) -> None:
            nonlocal count
            self.store.add_answer(run.id, answer)
            count += 1
            running.report(count)

        running.on_stop(runner.stop)
        try:
            runner.run(keep)
            if runner.is_stopped:
                status = STOPPED
        except Exception as exc:  # told on the page
            error = as_roost_error(exc)
            if error is not exc:
                log.error("the tool bench broke", exc_info=exc)
            status = FAILED
        if self.jobs.is_closed and status == STOPPED:
            status, error = FAILED, BenchInterrupted()
        try:
            self.store.change_setup(run.id, self._final_setup(run, runner))
            self.store.end_run(run.id, status, error.to_dict() if error else None)
        except Exception:  # the disk is full, say: the next start finds it abandoned
            log.exception("the end of a run of the tool bench could not be stored")
        if error is not None:
            raise error
