"""Measurements of this machine from a page: the speed bench as a job, and its history; and the speed of a model here,
measured or estimated.

A single answer reads every weight once per token. So if memory is the bottleneck (for any model larger than the CPU
caches), the speed is the memory bandwidth in bytes per second, divided by the bytes per token.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from webapp.engine.options import AUTOMATIC, is_automatic
from webapp.engine.registry import resolve_strategy
from webapp.errors import ModelError, RoostError
from webapp.manager.manager import ModelManager
from webapp.services.jobs import Job, Jobs, Running
from webapp.services.strategy import bytes_a_token, probe
from webapp.settings import Settings
from webapp.storage.bench import Measurement, MeasurementStore
from webapp.storage.database import Database
from webapp.weights.inspection import Inspection

if TYPE_CHECKING:
    from webapp.manager.client import EngineStarter
    from webapp.services.bench.speed import Contestant, Rounds

KIND = "measurement"
PLANS = ("quick", "thorough")
MIN_BYTES = 64 << 20
"""Bytes per token. Below this, arithmetic and caches matter more, and there is no estimate."""


class MeasuredSpeed(Struct, frozen=True):
    """Speed of a single answer. ``model``: a file name, ``size_bytes``: its size."""

    model: str
    size_bytes: int
    strategy: str
    tokens_per_s: float
    bytes_a_token: int | None = None


class MeasuredMachine(Struct, frozen=True):
    """Measurements on this machine: ``speeds``, newest first, and the memory's read bandwidth (None: not measured)."""

    speeds: tuple[MeasuredSpeed, ...] = ()
    bytes_per_s: float | None = None


class Speed(Struct, frozen=True):
    """Speed of a single answer; ``is_measured``: with this model and strategy, otherwise an estimate."""

    tokens_per_s: float
    is_measured: bool


def speed_here(inspection: Inspection, strategy: str, here: MeasuredMachine) -> Speed | None:
    """None if unknown: no measurement yet, a model so small that memory is not the bottleneck, or a GPU."""
    for one in here.speeds:
        is_this = one.model == os.path.basename(inspection.path) and one.size_bytes == inspection.size_bytes
        if is_this and _is_same(one.strategy, strategy):
            return Speed(one.tokens_per_s, is_measured=True)
    try:
        read = bytes_a_token(inspection, strategy)
        rate = _bytes_per_s(strategy, read or 0, here)
    except RoostError:
        return None
    if rate is None or read is None or read < MIN_BYTES:
        return None
    return Speed(rate / read, is_measured=False)


def _bytes_per_s(strategy: str, read: int, here: MeasuredMachine) -> float | None:
    """Read bandwidth for weights: measured with this strategy, otherwise with its backend if all its formats read
    equally fast, on the model with the nearest bytes per token; otherwise the backend's usual share of bandwidth."""
    backend, _ = resolve_strategy(strategy)
    share = backend.bandwidth_share
    known = [one for one in here.speeds if (one.bytes_a_token or 0) >= MIN_BYTES]
    for found in (
        [one for one in known if _is_same(one.strategy, strategy)],
        [one for one in known if share is not None and _backend_of(one.strategy) is backend],
    ):
        if found:
            nearest = min(found, key=lambda one: abs((one.bytes_a_token or 0) - read))
            return nearest.tokens_per_s * (nearest.bytes_a_token or 0)
    return share * here.bytes_per_s if share is not None and here.bytes_per_s else None


def _is_same(one: str, other: str) -> bool:
    if one.split() == other.split():
        return True
    try:
        return resolve_strategy(one) == resolve_strategy(other)
    except RoostError:
        return False


def _backend_of(strategy: str) -> type | None:
    try:
        return resolve_strategy(strategy)[0]
    except RoostError:
        return None


def speeds_of(documents: Sequence[dict[str, object]]) -> MeasuredMachine:
    """From documents of ``roost bench``, newest first."""
    speeds = []
    rates = [share["gb_per_s"] for one in documents if isinstance(share := one.get("bandwidth"), dict)]
    for one in documents:
        model, runs = one["model"], one["runs"]
        assert isinstance(model, dict) and isinstance(runs, list)
        alone = [row["decode_tokens_per_s"] for row in runs if row["sequences"] == 1]
        if alone and alone[0] > 0:
            speeds.append(
                MeasuredSpeed(
                    model["name"], model["file_bytes"], model["strategy"], alone[0], model.get("bytes_a_token")
                )
            )
    return MeasuredMachine(tuple(speeds), rates[0] * 1e9 if rates else None)


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
        # Imports psutil, which a start does not need.
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
            if running.stop_status:
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
