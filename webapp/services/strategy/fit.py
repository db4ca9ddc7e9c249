"""Whether a model will fit, before it is loaded: needed and free bytes on each device, and how many answers fit.

Sizes come from the shapes in the file's header and from the backend (``Backend.footprint``); nothing is loaded and
torch is not imported. docs/memory.md and tests compare estimated with real peaks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from webapp.engine.backend import RAM, Footprint, Suggestion
from webapp.engine.registry import runnable, suggestions
from webapp.errors import RoostError
from webapp.services.strategy.hardware import Hardware, kept
from webapp.weights.inspection import Inspection, require_model

FITS, TIGHT, DOES_NOT_FIT, CANNOT_RUN = "fits", "tight", "does_not_fit", "cannot_run"
MOST_ALTERNATIVES = 4
BREATHING_BYTES = 256 * 2**20
"""With less free memory than this on a device, a fit is called tight: the machine runs other programs too."""
CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class DeviceFit:
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


@dataclass(frozen=True)
class Fit:
    """``verdict``: fits, tight, does_not_fit or cannot_run; in the last case ``error`` says why, without devices.

    ``seats``: simultaneous answers that fit into free memory; ``seats_used``: those that settings and backend allow.
    None if free memory is unknown. ``state_bytes_per_seat``: sum over all devices. ``alternatives``: other strategies
    for this model.
    """

    strategy: str
    verdict: str
    devices: tuple[DeviceFit, ...] = ()
    state_bytes_per_seat: int = 0
    seats: int | None = None
    seats_used: int = 0
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


@dataclass(frozen=True)
class Demand:
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
    return replace(fit, alternatives=tuple(found[:MOST_ALTERNATIVES]))


def _one(inspection: Inspection, strategy: str, hardware: Hardware, demand: Demand) -> Fit:
    found = _footprint(inspection, strategy)
    if isinstance(found, RoostError):
        return Fit(strategy, CANNOT_RUN, error=found)
    footprint, most_slots = found
    devices = tuple(_device(name, footprint, hardware, demand) for name in footprint.devices)
    seats = _seats(devices, footprint, demand)
    limit = min(demand.max_sequences, most_slots or demand.max_sequences)
    used = limit if seats is None else min(seats, limit)
    return Fit(strategy, _verdict(devices), devices, sum(footprint.state.values()), seats, used)


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


def _seats(devices: tuple[DeviceFit, ...], footprint: Footprint, demand: Demand) -> int | None:
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
