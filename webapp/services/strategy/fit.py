"""Whether a model will fit, before it is loaded: bytes needed and free on each device, and room for how many answers.

Bytes come from the shapes in the file's header and from the backend (``Backend.footprint``); nothing is loaded and no
torch imported. Estimated and real peaks are compared in docs/memory.md and by tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from webapp.engine.backend import RAM, Footprint, Suggestion
from webapp.engine.registry import runnable, suggestions
from webapp.errors import RoostError
from webapp.services.strategy.hardware import Hardware, kept
from webapp.weights.inspection import Inspection, require_model

FITS, TIGHT, DOES_NOT_FIT, CANNOT_RUN = "fits", "tight", "does_not_fit", "cannot_run"
MOST_ALTERNATIVES = 4
BREATHING_BYTES = 256 * 2**20
"""Left free on a device before a fit is called tight: the machine runs other things, too."""
CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class DeviceFit:
    """One device, ``ram`` or ``cuda:0``. ``needed_bytes``: with one answer being written. ``peak_bytes``: the most
    there will be, also during the load. ``free_bytes``, ``total_bytes`` are None for a device that cannot be asked; of
    one that tells only how large it is, and is too small, all counts as free."""

    device: str
    weights_bytes: int
    workspace_bytes: int
    state_bytes: int
    needed_bytes: int
    peak_bytes: int
    free_bytes: int | None
    total_bytes: int | None

    @property
    def left_bytes(self) -> int | None:
        """Negative by how much it is too large."""
        return None if self.free_bytes is None else self.free_bytes - self.peak_bytes


@dataclass(frozen=True)
class Alternative:
    """Another strategy this model could be run with; ``verdict`` is of the fullest device."""

    strategy: str
    device: str
    needed_bytes: int
    verdict: str


@dataclass(frozen=True)
class Fit:
    """``verdict``: fits, tight, does_not_fit or cannot_run; then ``error`` says why, and there are no devices.

    ``seats``: answers that could be written at once by what is free; ``seats_used``: of these, what the settings and
    the backend allow. None where free memory is not known. ``state_bytes_per_seat`` over all devices. ``text_key`` is
    the sentence for it in the catalogues, over ``params`` (sizes in bytes).
    """

    strategy: str
    verdict: str
    devices: tuple[DeviceFit, ...] = ()
    state_bytes_per_seat: int = 0
    state_cache_bytes: int = 0
    seats: int | None = None
    seats_used: int = 0
    alternatives: tuple[Alternative, ...] = ()
    error: RoostError | None = None
    text_key: str = ""
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def tightest(self) -> DeviceFit | None:
        """The device with the least left; the first one where nothing can be told."""
        known = [device for device in self.devices if device.left_bytes is not None]
        return min(known, key=lambda device: device.left_bytes or 0) if known else next(iter(self.devices), None)

    @property
    def needed_bytes(self) -> int:
        return self.tightest.peak_bytes if self.tightest else 0

    @property
    def free_bytes(self) -> int | None:
        return self.tightest.free_bytes if self.tightest else None


@dataclass(frozen=True)
class Demand:
    """What the engine is to hold besides the model. ``reclaimable_bytes``: main memory that the engine running now
    would give back first."""

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
    """Never raises for a file or a strategy that cannot run: that is a verdict, with its error.

    The alternatives are what the backends suggest: at most four that this machine can run, those that fit first.
    """
    demand = Demand(max_sequences, state_cache_bytes, reclaimable_bytes)
    fit = _one(inspection, strategy, hardware, demand)
    if not with_alternatives or fit.verdict == FITS:
        return fit
    found = [_one(inspection, other.strategy, hardware, demand) for other in suggested(inspection)]
    found = [other for other in found if other.tightest and other.strategy.split() != strategy.split()]
    found.sort(key=lambda other: (FITS, TIGHT, DOES_NOT_FIT).index(other.verdict))
    return replace(fit, alternatives=tuple(_alternative(other) for other in found[:MOST_ALTERNATIVES]))


def _alternative(fit: Fit) -> Alternative:
    assert fit.tightest is not None
    return Alternative(fit.strategy, fit.tightest.device, fit.needed_bytes, fit.verdict)


def _one(inspection: Inspection, strategy: str, hardware: Hardware, demand: Demand) -> Fit:
    found = _footprint(inspection, strategy)
    if isinstance(found, RoostError):
        return Fit(strategy, CANNOT_RUN, error=found, text_key="strategy.fit.cannot_run")
    footprint, most_slots = found
    devices = tuple(_device(name, footprint, hardware, demand) for name in footprint.devices)
    seats = _seats(devices, footprint, demand)
    limit = min(demand.max_sequences, most_slots or demand.max_sequences)
    fit = Fit(
        strategy,
        _verdict(devices),
        devices,
        sum(footprint.state.values()),
        demand.state_cache_bytes,
        seats,
        limit if seats is None else min(seats, limit),
    )
    return _with_words(fit)


@kept
def suggested(inspection: Inspection) -> list[Suggestion]:
    """What the backends of this machine suggest, the best first."""
    return suggestions(inspection)


@kept
def _footprint(inspection: Inspection, strategy: str) -> tuple[Footprint, int] | RoostError:
    """And how many sequences the backend runs at once, 0 where it does not say before a load."""
    try:
        require_model(inspection)
        backend, options = runnable(inspection, strategy)
    except RoostError as exc:
        return exc.with_traceback(None)
    return backend.footprint(inspection, options), getattr(backend, "max_slots", 0)


def _device(name: str, footprint: Footprint, hardware: Hardware, demand: Demand) -> DeviceFit:
    weights, state = footprint.weights.get(name, 0), footprint.state.get(name, 0)
    workspace = footprint.base.get(name, 0) + footprint.run_extra.get(name, 0)
    free, total = _memory(name, hardware)
    if total is None:
        total = footprint.capacity.get(name)
        free = total if name == footprint.too_large_for() else None
    if name == RAM and free is not None:
        free += demand.reclaimable_bytes
    needed, peak = footprint.running_bytes(name), footprint.peak_bytes(name)
    return DeviceFit(name, weights, workspace, state, needed, peak, free, total)


def _memory(device: str, hardware: Hardware) -> tuple[int | None, int | None]:
    if device == RAM:
        return hardware.ram_available, hardware.ram_total
    for gpu in hardware.gpus:
        if device == f"cuda:{gpu.index}":
            return gpu.vram_free, gpu.vram_total
    return None, None


def _seats(devices: tuple[DeviceFit, ...], footprint: Footprint, demand: Demand) -> int | None:
    """By the device that runs out first, beside a full state cache (which is in main memory); one at least where the
    model itself fits. Each further answer costs its state, once more while a step makes the next one out of it."""
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


def _with_words(fit: Fit) -> Fit:
    device = fit.tightest
    assert device is not None, "every footprint has main memory"
    key = fit.verdict if device.free_bytes is not None else "unknown"
    params = {
        "needed": fit.needed_bytes,
        "free": device.free_bytes or 0,
        "missing": max(0, -(device.left_bytes or 0)),
        "seats": fit.seats or 0,
        "device": device.device,
    }
    return replace(fit, text_key=f"strategy.fit.{key}", params=params)
