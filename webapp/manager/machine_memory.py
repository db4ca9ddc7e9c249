"""How much memory there is, and whether a model fits: alone, or beside another for a moment."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from webapp.engine.backend import RAM, Footprint
from webapp.engine.registry import resolve_strategy
from webapp.errors import ModelDoesNotFit, Phrase
from webapp.manager.health import MemoryFacts
from webapp.manager.target import Target

BREATHING_BYTES = 256 << 20
"""Left free beside two models at once: the machine runs other things, too."""

CGROUP = Path("/sys/fs/cgroup")


def has_room_beside(target: Target) -> bool:
    """True when the model can be loaded while another stays loaded. Only main memory is measured, so on any other
    device the answer is no."""
    footprint = _footprint(target)
    return footprint.devices == (RAM,) and footprint.peak_bytes(RAM) + BREATHING_BYTES <= available_bytes()


def needed_bytes(target: Target) -> int:
    """The most main memory the engine process takes, while it loads or while it writes one answer (docs/memory.md)."""
    return _footprint(target).peak_bytes(RAM)


def _footprint(target: Target) -> Footprint:
    backend, options = resolve_strategy(target.choice.strategy)
    return backend.footprint(target.inspection, options)


def shortfall(target: Target, reclaimable_bytes: int) -> ModelDoesNotFit | None:
    """Why the model does not fit into main memory now; ``reclaimable_bytes`` are given back before it is loaded."""
    needed, free = needed_bytes(target), available_bytes() + reclaimable_bytes
    if needed <= free:
        return None
    sizes = {"needed": f"{needed / 1e9:.1f} GB", "free": f"{free / 1e9:.1f} GB"}
    return ModelDoesNotFit(name=target.name, reason=Phrase("it needs about {needed}, and {free} is free", **sizes))


Shortfall = Callable[[Target, int], ModelDoesNotFit | None]
_Key = tuple[str, tuple[int, int], tuple[str, ...]]


class FitCheck:
    """Refuses to load what is known not to fit, until a person says to load it anyway: then it is not asked again.

    A load that ended for lack of memory is remembered, so that not every later request tries it again. Of both the last
    ``LIMIT`` are kept. Not thread-safe.
    """

    LIMIT = 64

    def __init__(self, shortfall: Shortfall) -> None:
        self._shortfall = shortfall
        self._accepted: OrderedDict[_Key, bool] = OrderedDict()

    def refusal(self, target: Target, reclaimable_bytes: int, by_hand: bool) -> ModelDoesNotFit | None:
        """A failed load counts for requests; a person who loads ``by_hand`` may try again where memory is free now."""
        is_accepted = self._accepted.get(_key(target))
        if is_accepted:
            return None
        if is_accepted is None or by_hand:
            return self._shortfall(target, reclaimable_bytes)
        return ModelDoesNotFit(name=target.name, reason="memory ran out when it was loaded last")

    def accept(self, target: Target) -> None:
        self._note(target, True)

    def note_failure(self, target: Target) -> None:
        self._note(target, False)

    def note_success(self, target: Target) -> None:
        if self._accepted.get(_key(target)) is False:
            del self._accepted[_key(target)]

    def _note(self, target: Target, is_accepted: bool) -> None:
        self._accepted[_key(target)] = is_accepted
        self._accepted.move_to_end(_key(target))
        while len(self._accepted) > self.LIMIT:
            self._accepted.popitem(last=False)


def _key(target: Target) -> _Key:
    return target.path, target.stamp, tuple(target.choice.strategy.split())


def available_bytes() -> int:
    """What programs can still get, also where a container is allowed less than the machine has."""
    import psutil  # at first use: it takes a while to import

    free: int = psutil.virtual_memory().available
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return min(free, int(limit) - used) if limit.isdigit() else free


def oom_kills() -> int | None:
    """Processes the system has ended for lack of memory: of this process's control group where that is counted, else of
    the machine. None where neither is (not Linux)."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    places: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            places.append(CGROUP / path.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            places.append(CGROUP / "memory" / path.lstrip("/") / "memory.oom_control")
    for place in (*places, Path("/proc/vmstat")):
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in place.read_text(encoding="ascii").splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return None


def memory_facts(pid: int | None) -> MemoryFacts | None:
    """None once the process is gone. Without a pid it is this process that runs the engine."""
    import psutil

    machine = psutil.virtual_memory()
    held = resident_bytes(os.getpid() if pid is None else pid)
    return MemoryFacts(held, machine.total, available_bytes(), oom_kills()) if held else None


def resident_bytes(pid: int) -> int:
    """0 when there is no such process any more."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
