"""Measurements of this machine from a page: the speed bench as a job, its history, and estimated speeds of models."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from webapp.engine.registry import AUTOMATIC, is_automatic, resolve_strategy
from webapp.errors import ModelError
from webapp.manager.manager import ModelManager
from webapp.services.jobs import Job, Jobs, Running
from webapp.services.strategy.hardware import probe
from webapp.services.strategy.speed import MeasuredMachine, Speed, speed_here, speeds_of
from webapp.settings import Settings
from webapp.storage.database import Database
from webapp.storage.measurements import Measurement, MeasurementStore
from webapp.weights.inspection import Inspection

if TYPE_CHECKING:
    from webapp.manager.client import EngineStarter
    from webapp.services.bench.speed import Contestant, Rounds

KIND = "measurement"
PLANS = ("quick", "thorough")


class Measurements:
    """``app.extensions["measurements"]``. Each measurement starts its own engine, next to the serving one.
    ``start_engine`` as in ModelManager. Safe to use from any thread."""

    def __init__(
        self,
        manager: ModelManager,
        database: Database,
        jobs: Jobs,
        settings: Settings,
        start_engine: EngineStarter | None = None,
    ) -> None:
        self._manager, self._jobs, self._settings = manager, jobs, settings
        self._start_engine = start_engine
        self._store = MeasurementStore(database)
        self._lock = threading.Lock()
        self._known: MeasuredMachine | None = None
        self._speeds: dict[tuple[str, int, str], Speed | None] = {}  # a footprint takes a millisecond, a page shows 40

    def start(self, model: str, strategy: str = AUTOMATIC, plan: str = "quick") -> Job:
        """``model``: a name in the library; ``plan``: one of PLANS. Raises ModelNotFound, StrategyError."""
        strategy = strategy.strip() or AUTOMATIC
        self._manager.library.find(model)
        if not is_automatic(strategy):
            resolve_strategy(strategy)
        details = {"model": model, "strategy": strategy, "plan": plan}
        work = lambda running: self._measure(model, strategy, plan == "quick", running)  # noqa: E731
        return self._jobs.start(KIND, model, work, details, unit="steps")

    def _measure(self, model: str, strategy: str, is_quick: bool, running: Running) -> dict[str, Any]:
        # Imports psutil and msgspec, which a start does not need.
        from webapp.services.bench.speed import Plan, RoostContestant, bench_document, measurement_count

        plan = Plan(sequences=(1, 8), prefills=(512,)) if is_quick else Plan()
        total = measurement_count(plan)
        settings = replace(self._settings, model=model, strategy=strategy, state="")
        library = self._manager.library
        ours = RoostContestant("roost", settings, max(plan.sequences), library, self._start_engine)
        running.on_stop(ours.close)
        done = 0

        def report(what: str, contestant: Contestant, rounds: Rounds) -> None:
            nonlocal done
            if running.wish:
                raise ModelError("load_cancelled")
            done += what == "measured"
            running.report(done, total, phase="measuring")

        running.report(0, total, phase="loading")
        document = bench_document(ours, (), plan, report)
        made = self._store.add(machine_key(), document)
        self._forget()
        return {"measurement": made.id, "strategy": document["model"]["strategy"]}

    def history(self) -> list[Measurement]:
        """The measurements on this machine, newest first."""
        return self._store.of_machine(machine_key())

    def delete(self, measurement_id: str) -> None:
        """Raises ``measurement_not_found``."""
        self._store.delete(measurement_id)
        self._forget()

    def speed(self, inspection: Inspection, strategy: str) -> Speed | None:
        """The speed of one answer of that model on this machine; None if it cannot be estimated."""
        key = (inspection.path, inspection.size_bytes, strategy)
        with self._lock:
            if self._known is None:
                self._known = speeds_of([one.document for one in self.history()])
                self._speeds.clear()
            if not strategy or not (self._known.speeds or self._known.bytes_per_s):
                return None
            if key not in self._speeds:
                self._speeds[key] = speed_here(inspection, strategy, self._known)
            return self._speeds[key]

    def _forget(self) -> None:
        with self._lock:
            self._known = None


def machine_key() -> str:
    """Stays the same as long as CPU and GPUs do."""
    found = probe()
    return ", ".join([f"{found.cpu_name} x {found.threads}", *(gpu.name for gpu in found.gpus)])
