"""The tool bench of the server: one run at a time in a thread of its own, its answers stored as they come."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from webapp.errors import BenchInterrupted, BenchRefused, ShuttingDown, as_roost_error
from webapp.manager.manager import ModelManager
from webapp.services.bench.order import BenchOrder
from webapp.services.bench.report import reports
from webapp.services.bench.runner import AT_ONCE, BenchRunner
from webapp.storage.database import Database
from webapp.storage.tool_bench import DONE, FAILED, STOPPED, BenchStore, StoredRun

CLOSE_S = 10.0

log = logging.getLogger(__name__)


class ToolBench:
    """``app.extensions["tool_bench"]``. Starts no thread before the first run; every method from any thread."""

    def __init__(self, manager: ModelManager, database: Database, at_once: int = AT_ONCE) -> None:
        self.store = BenchStore(database)
        self._manager = manager
        self._at_once = at_once
        self._lock = threading.Lock()
        self._runner: BenchRunner | None = None
        self._run_id = ""
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self.store.end_abandoned(BenchInterrupted().to_dict())

    @property
    def running(self) -> str:
        """Id of the run that goes on, "" for none."""
        return self._run_id

    def start(self, order: BenchOrder, facts: Mapping[str, Any] | None = None) -> StoredRun:
        """Begins at once; loads the model if need be. BenchRefused, and what :class:`BenchRunner` raises. ``facts`` are
        kept with the run's setup."""
        with self._lock:
            if self._is_closed:
                raise ShuttingDown()
            if self._run_id:
                raise BenchRefused(reason="another run goes on", reason_key="tool_bench.problem.running")
            runner = BenchRunner(self._manager, order, self._at_once)
            run = self.store.begin_run({**runner.setup(), **(facts or {})})
            self._runner, self._run_id = runner, run.id
            self._thread = threading.Thread(target=self._work, args=(run, runner), name="roost-tool-bench", daemon=True)
            self._thread.start()
        return run

    def stop(self, run_id: str) -> None:
        """Of the run that goes on; what it has is kept. Nothing happens for any other."""
        with self._lock:
            runner = self._runner if run_id == self._run_id else None
        if runner is not None:
            runner.stop()

    def wait(self, timeout_s: float) -> bool:
        """Whether no run goes on any more."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def close(self) -> None:
        """Ends what runs; may be called twice."""
        with self._lock:
            self._is_closed = True
            runner = self._runner
        if runner is not None:
            runner.stop()
        self.wait(CLOSE_S)

    def _final_setup(self, run: StoredRun, runner: BenchRunner) -> dict[str, Any]:
        """With what the first answer told of the model, and the figures that lists of runs show."""
        setup = {**run.setup, **runner.setup()}
        found = reports(setup, self.store.answers(run.id))
        return {**setup, "figures": {row.mode: {"cases": row.cases, **row.shares} for row in found}}

    def _work(self, run: StoredRun, runner: BenchRunner) -> None:
        status, error = DONE, None
        try:
            runner.run(lambda answer: self.store.add_answer(run.id, answer))
            if runner.is_stopped:
                status = STOPPED
        except Exception as exc:  # told on the page
            error = as_roost_error(exc)
            if error is not exc:
                log.error("the tool bench broke", exc_info=exc)
            status = FAILED
        if self._is_closed and status == STOPPED:
            status, error = FAILED, BenchInterrupted()
        try:
            self.store.change_setup(run.id, self._final_setup(run, runner))
            self.store.end_run(run.id, status, error.to_dict() if error else None)
        except Exception:  # the disk is full, say: the next start finds it abandoned
            log.exception("the end of a run of the tool bench could not be stored")
        finally:
            with self._lock:
                self._runner, self._run_id = None, ""
