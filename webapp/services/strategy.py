"""How to run a model on this machine: its hardware, whether a model fits, checking a strategy while a person types it,
recommending one, and the tables for comparison.

A page asks for this at each visit, so nothing here may be slow: figures of the machine are cached for a moment, and so
are the backends' answers about this machine and a model (:func:`kept`). Sizes come from the shapes in the file's header
and from the backend (``Backend.footprint``); nothing is loaded and torch is not imported. docs/memory.md and tests
compare estimated with real peaks.
"""

from __future__ import annotations

import functools
import json
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from webapp.engine.backend import RAM, Footprint, ModelSizes, Suggestion
from webapp.engine.options import BY_STRATEGY, PlacedRun, is_automatic
from webapp.engine.registry import KindEntry, kinds, resolve_strategy, runnable, suggestions
from webapp.engine.state import ModelConfig
from webapp.errors import BackendUnavailable, RoostError
from webapp.i18n import Text
from webapp.manager.library import ModelLibrary
from webapp.manager.memory import BREATHING_BYTES, GPUS, Gpu, available_bytes
from webapp.weights.inspection import Inspection, require_model

KEPT_S = 2.0
ANSWERS_KEPT_S = 10.0
MAX_ANSWERS = 1000
FITS, TIGHT, DOES_NOT_FIT, CANNOT_RUN = "fits", "tight", "does_not_fit", "cannot_run"
MAX_ALTERNATIVES = 4
CACHE_BYTES = 256 * 2**20
Answered = TypeVar("Answered", bound=Callable[..., Any])


def kept(ask: Answered) -> Answered:
    """Caches ``ask``, which asks backends, for :data:`ANSWERS_KEPT_S` per arguments, because backends search for
    packages, drivers and compilers, and process every tensor of a model. For pages; a load asks backends directly.

    Texts and model sizes are compared by value, any other argument by identity.
    """

    @functools.wraps(ask)
    def answer(*about: Any) -> Any:
        key = (ask, *(one if one is None or isinstance(one, (str, ModelConfig)) else id(one) for one in about))
        found = _answers.get(key)
        if found is None or time.monotonic() - found[0] > ANSWERS_KEPT_S:
            if len(_answers) >= MAX_ANSWERS:
                forget_answers()
            found = _answers[key] = (time.monotonic(), ask(*about), about)
        return found[1]

    return answer  # type: ignore[return-value]


def forget_answers() -> None:
    """Clears the cache of :func:`kept`."""
    _answers.clear()


_answers: dict[Any, tuple[float, Any, Any]] = {}
"""Time, result, and the arguments: while they are stored, no other object can get the same ``id``."""


class Hardware(Struct, frozen=True):
    """Sizes in bytes. ``cores`` are physical cores, ``threads`` hardware threads. ``ram_available``: what programs can
    still get, within a container's limit."""

    cpu_name: str
    cores: int
    threads: int
    ram_total: int
    ram_available: int
    gpus: tuple[Gpu, ...]


class Probe:
    """Reads the machine at most every two seconds; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[float, Hardware] | None = None

    def read(self) -> Hardware:
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > KEPT_S:
                self._kept = time.monotonic(), self._measure()
            return self._kept[1]

    def _measure(self) -> Hardware:
        import psutil  # at first use: it takes a while to import

        return Hardware(
            cpu_name=cpu_name(),
            cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
            threads=psutil.cpu_count() or 1,
            ram_total=psutil.virtual_memory().total,
            ram_available=available_bytes(),
            gpus=GPUS.read(),
        )


_probe = Probe()


def probe() -> Hardware:
    """The current machine, at most two seconds old."""
    return _probe.read()


@functools.cache
def cpu_name() -> str:
    """The maker's name for it; on systems without that, the family."""
    if platform.system() == "Linux":
        return _linux_cpu_name() or platform.machine()
    if platform.system() == "Windows":
        return _windows_cpu_name() or platform.processor()
    return _mac_cpu_name() or platform.processor() or platform.machine()


def _linux_cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "hardware")))
    return " ".join(next(names, "").split())


def _windows_cpu_name() -> str:
    import winreg

    try:
        key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:  # type: ignore[attr-defined,unused-ignore]
            return " ".join(str(winreg.QueryValueEx(opened, "ProcessorNameString")[0]).split())  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return ""


def _mac_cpu_name() -> str:
    import subprocess

    try:
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


class DeviceFit(Struct, frozen=True):
    """One device, ``ram`` or ``cuda:0``. ``peak_bytes``: the peak during the load or while an answer is generated.
    ``free_bytes``: None if unknown; if only the device's total size is known and that is too small, all of it counts as
    free."""

    device: str
    peak_bytes: int
    free_bytes: int | None

    @property
    def left_bytes(self) -> int | None:
        """Negative if it is too large."""
        return None if self.free_bytes is None else self.free_bytes - self.peak_bytes


class Fit(Struct, frozen=True):
    """``verdict``: fits, tight, does_not_fit or cannot_run; in the last case ``error`` says why, without devices.

    ``answers``: simultaneous answers that fit into free memory; ``usable_answers``: those that settings and backend
    allow. None if free memory is unknown. ``state_bytes_per_answer``: sum over all devices. ``alternatives``: other
    strategies for this model.
    """

    strategy: str
    verdict: str
    devices: tuple[DeviceFit, ...] = ()
    state_bytes_per_answer: int = 0
    answers: int | None = None
    usable_answers: int = 0
    alternatives: tuple[Fit, ...] = ()
    error: RoostError | None = None

    @property
    def tightest(self) -> DeviceFit | None:
        """The device with the least free memory left; the first one if unknown."""
        known = [device for device in self.devices if device.left_bytes is not None]
        return min(known, key=lambda device: device.left_bytes or 0) if known else next(iter(self.devices), None)

    @property
    def needed_bytes(self) -> int:
        return self.tightest.peak_bytes if self.tightest else 0

    @property
    def free_bytes(self) -> int | None:
        return self.tightest.free_bytes if self.tightest else None


class Demand(Struct, frozen=True):
    """What the engine needs besides the model. ``reclaimable_bytes``: main memory that the running engine would free
    before the load."""

    max_sequences: int = 32
    state_cache_bytes: int = CACHE_BYTES
    reclaimable_bytes: int = 0


def estimate(
    inspection: Inspection,
    strategy: str,
    hardware: Hardware,
    *,
    max_sequences: int = 32,
    state_cache_bytes: int = CACHE_BYTES,
    reclaimable_bytes: int = 0,
    with_alternatives: bool = True,
) -> Fit:
    """Never raises for a file or strategy that cannot run: the verdict says so, with its error.

    The alternatives are the backends' suggestions: at most four that this machine can run, those that fit first.
    """
    demand = Demand(max_sequences, state_cache_bytes, reclaimable_bytes)
    fit = _one(inspection, strategy, hardware, demand)
    if not with_alternatives or fit.verdict == FITS:
        return fit
    found = [_one(inspection, other.strategy, hardware, demand) for other in suggested(inspection)]
    found = [other for other in found if other.tightest and other.strategy.split() != strategy.split()]
    found.sort(key=lambda other: (FITS, TIGHT, DOES_NOT_FIT).index(other.verdict))
    return replace(fit, alternatives=tuple(found[:MAX_ALTERNATIVES]))


def _one(inspection: Inspection, strategy: str, hardware: Hardware, demand: Demand) -> Fit:
    found = _footprint(inspection, strategy)
    if isinstance(found, RoostError):
        return Fit(strategy, CANNOT_RUN, error=found)
    footprint, most_slots = found
    devices = tuple(_device(name, footprint, hardware, demand) for name in footprint.devices)
    answers = _answers_that_fit(devices, footprint, demand)
    limit = min(demand.max_sequences, most_slots or demand.max_sequences)
    used = limit if answers is None else min(answers, limit)
    return Fit(strategy, _verdict(devices), devices, sum(footprint.state.values()), answers, used)


@kept
def suggested(inspection: Inspection) -> list[Suggestion]:
    """Suggestions of this machine's backends, best first."""
    return suggestions(inspection)


@kept
def _footprint(inspection: Inspection, strategy: str) -> tuple[Footprint, int] | RoostError:
    """Also returns how many sequences the backend runs at once, 0 if unknown before a load."""
    try:
        require_model(inspection)
        backend, options = runnable(inspection, strategy)
    except RoostError as exc:
        return exc.with_traceback(None)
    return backend.footprint(inspection, options), getattr(backend, "max_slots", 0)


def _device(name: str, footprint: Footprint, hardware: Hardware, demand: Demand) -> DeviceFit:
    free = {f"cuda:{gpu.index}": gpu.vram_free for gpu in hardware.gpus}
    free[RAM] = hardware.ram_available + demand.reclaimable_bytes
    if name not in free and name == footprint.too_large_for():
        free[name] = footprint.capacity[name]
    return DeviceFit(name, footprint.peak_bytes(name), free.get(name))


def _answers_that_fit(devices: tuple[DeviceFit, ...], footprint: Footprint, demand: Demand) -> int | None:
    """Determined by the device that runs out first, with a full state cache (in main memory); at least one if the model
    itself fits. Each further answer needs its state, and again the same while a step computes the next one."""
    found = []
    for device in devices:
        state = footprint.state.get(device.device, 0)
        if device.free_bytes is None:
            return None
        if state:
            cache = demand.state_cache_bytes if device.device == RAM else 0
            rest = device.free_bytes - device.peak_bytes - cache
            found.append(max(int(device.peak_bytes <= device.free_bytes), 1 + rest // state))
        elif device.peak_bytes > device.free_bytes:
            return 0
    return max(0, min(found, default=0))


def _verdict(devices: tuple[DeviceFit, ...]) -> str:
    left = [device.left_bytes for device in devices if device.left_bytes is not None]
    if any(size < 0 for size in left):
        return DOES_NOT_FIT
    if any(size < BREATHING_BYTES for size in left) or len(left) < len(devices):
        return TIGHT
    return FITS


def bytes_a_token(inspection: Inspection, strategy: str) -> int | None:
    """Bytes of weights and states read per generated token. None if unknown: on a GPU, and if much of the head is
    skipped because most tokens are never sampled."""
    from webapp.manager.session import banned_token_ids  # imports what a start does not need

    config = inspection.config
    if config is None:
        return None
    backend, options = resolve_strategy(strategy)
    without = tuple(tensor for tensor in inspection.tensors if tensor.name != "emb.weight")
    need = backend.footprint(ModelSizes(config, without, inspection.converted_strategy), options)
    unused = banned_token_ids(None, inspection, config.vocab_size)
    if not set(need.weights) <= {RAM} or 2 * len(unused) >= config.vocab_size:
        return None
    return sum(need.weights.values()) + 2 * sum(need.state.values())


class StrategyCheck(Struct, frozen=True):
    """``is_valid``: the model can run this way here. ``error`` says why not; ``is_elsewhere``: another machine could.

    ``strategy`` is the canonical form (unchanged if it cannot be parsed). ``runs`` is empty without a model, if the
    model cannot be placed, and for a backend that treats all layers alike. ``remarks``: from ``Backend.remarks``.
    """

    is_valid: bool
    strategy: str
    error: RoostError | None = None
    is_elsewhere: bool = False
    runs: tuple[PlacedRun, ...] = ()
    remarks: tuple[Text, ...] = ()


@kept
def kinds_here() -> list[KindEntry]:
    """The kinds of the strategy builder, in the order of the pages, and whether each works here."""
    return kinds()


@kept
def validate(strategy: str, config: ModelConfig | None = None) -> StrategyCheck:
    """Loads nothing, never raises. Without ``config``, only the syntax is checked, not layers or versions."""
    text = strategy.strip()
    if text and is_automatic(text):
        return StrategyCheck(True, text)
    runs: tuple[PlacedRun, ...] = ()
    try:
        backend, options = resolve_strategy(strategy)
        text = str(options.get(BY_STRATEGY, text))
        if config is not None:
            runs = tuple(backend.placement(options, config))
            runnable(ModelSizes(config), strategy)
    except BackendUnavailable as exc:
        return StrategyCheck(False, text, exc.with_traceback(None), is_elsewhere=True, runs=runs)
    except RoostError as exc:
        return StrategyCheck(False, text, exc.with_traceback(None))
    return StrategyCheck(True, text, runs=runs, remarks=tuple(backend.remarks(options)))


class Recommendation(Struct, frozen=True):
    """``strategy`` is empty if nothing here can run the file. ``reason``: a catalogue key with ``params``, or a text.
    ``fit`` belongs to the strategy."""

    strategy: str
    reason: str
    params: dict[str, Any] = field(default_factory=dict)
    fit: Fit | None = None


def recommend(hardware: Hardware, inspection: Inspection, reclaimable_bytes: int = 0) -> Recommendation:
    """The first suggestion of the backends that fits with a reserve; otherwise one that just fits; otherwise the
    smallest, with a reason that says so."""
    tried = []
    for one in suggested(inspection):
        fit = estimate(inspection, one.strategy, hardware, reclaimable_bytes=reclaimable_bytes, with_alternatives=False)
        if fit.verdict == FITS:
            return _recommended(fit, one.reason)
        if fit.verdict != CANNOT_RUN:
            tried.append(fit)
    for fit in tried:
        if fit.verdict == TIGHT:
            return _recommended(fit, "strategy.recommend.tight")
    if tried:
        return _recommended(min(tried, key=lambda fit: fit.needed_bytes), "strategy.recommend.nothing_fits")
    return Recommendation("", "strategy.recommend.cannot_run")


def _recommended(fit: Fit, reason: str) -> Recommendation:
    params = {"strategy": fit.strategy, "needed": fit.needed_bytes, "free": fit.free_bytes or 0}
    return Recommendation(fit.strategy, reason, params, fit)


def recommended_strategy(library: ModelLibrary, model: str) -> str | None:
    """The recommended strategy for the model on this machine; None if unknown."""
    try:
        return recommend(probe(), library.inspect(library.find(model))).strategy
    except RoostError:
        return None


def strategy_on_load(library: ModelLibrary, model: str, in_use: str) -> str | None:
    """For a load that names only a model, as an argument for ``ModelManager.load``. None keeps the strategy in use,
    also for ``auto`` and for a missing model, which the manager reports. ``in_use`` is
    ``ModelStatus.chosen_strategy``."""
    if is_automatic(in_use):
        return None
    try:
        found = library.inspect(library.find(model))
    except RoostError:
        return None
    strategy = strategy_for(found, in_use, probe())
    return None if strategy == in_use else strategy


def strategy_for(found: Inspection, in_use: str, hardware: Hardware) -> str:
    """A strategy that differs from the one in use if the file was converted for another strategy, or if the model's
    version does not support it (int8 and RWKV-7). An unusable strategy is not replaced but reported."""
    if is_automatic(in_use):
        return recommend(hardware, found).strategy or in_use
    if not validate(in_use).is_valid:
        return in_use
    if estimate(found, in_use, hardware, with_alternatives=False).verdict != CANNOT_RUN:
        return in_use
    return recommend(hardware, found).strategy or in_use


@functools.lru_cache(maxsize=1)
def comparison() -> dict[str, Any]:
    """The tables of RWKV-Runner's manual, and Roost's own measurements: ``sizes``, ``memory``, ``kinds``, ``measured``.
    Cached.

    ``strategy_comparison.json`` is the manual. ``sizes`` are the columns of ``memory`` (measured on an i7-10870H with
    an RTX 3080 Laptop, 16 GB, and 32 GB RAM). A row has ``kind``, ``precision``, ``place`` (ram or vram) and ``cells``.
    A cell has ``gb`` (missing: not recommended), and ``layers``, ``all_layers`` and ``all_gb`` if not all layers are
    quantised. ``kinds``: file format, kinds of model and stars for speed, out of five.

    ``strategy_measured.json`` is a list with figures from commands only: ``{"kind", "precision", "size", "parameters",
    "architecture", "peak_gb", "tokens_per_s" or null, "machine", "date", "command"}``; ``size`` is the matching column
    of the manual.
    """
    manual, measured = (
        json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
        for name in ("strategy_comparison.json", "strategy_measured.json")
    )
    return {**manual, "measured": measured}
