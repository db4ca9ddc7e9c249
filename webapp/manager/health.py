"""The health of an engine: how long it may be silent, why it ended, how much memory the machine has, and whether a
model fits, alone or temporarily with another."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.engine.backend import RAM, Footprint
from webapp.engine.registry import resolve_strategy
from webapp.errors import EngineCrashed, ModelError, OutOfMemory
from webapp.i18n import Text

if TYPE_CHECKING:
    from webapp.manager.target import Target


@dataclass(frozen=True)
class StallLimits:
    """Seconds. An engine without a sign of life is reported after ``notice_s`` and killed after ``silent_s``. An engine
    that is alive but stays in the same step or load report for ``step_s`` is killed too. 0 disables a limit.

    The defaults are far above what a healthy engine needs: docs/log.md (2026-11-29) has the longest measured gaps.
    """

    silent_s: float = 60.0
    step_s: float = 600.0
    notice_s: float = 5.0
    look_every_s: float = 1.0

    @classmethod
    def of(cls, silent_s: float) -> StallLimits:
        return cls(silent_s, 10 * silent_s)


NATIVE_FAULTS = {
    "SIGSEGV": Text("reason.manager.sigsegv"),
    "SIGBUS": Text("reason.manager.sigbus"),
    "SIGABRT": Text("reason.manager.sigabrt"),
    "SIGILL": Text("reason.manager.sigill"),
    "SIGFPE": Text("reason.manager.sigfpe"),
}
WINDOWS_FAULTS = {0xC0000005: "SIGSEGV", 0xC000001D: "SIGILL", 0xC0000409: "SIGABRT"}
"""NTSTATUS values that Windows returns as exit codes."""

OUT_OF_MEMORY = re.compile(
    r"MemoryError|OutOfMemoryError|out of memory|can't allocate memory|cannot allocate memory|not enough memory"
    r"|DefaultCPUAllocator|std::bad_alloc|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
ERROR_LINE = re.compile(r"^[\w.]+(Error|Exception|Interrupt|Exit|Warning)\b.*$")


LOW_SHARE = 0.05
"""If less than this share of the machine's memory was free shortly before the end, memory counts as exhausted."""


@dataclass(frozen=True)
class MemoryFacts:
    """Bytes, measured while the engine ran: its own memory, the machine's total and free memory.

    ``oom_kills``: how many processes the system had killed for lack of memory by then; None if it does not count them.
    """

    engine_bytes: int
    total_bytes: int
    available_bytes: int
    oom_kills: int | None = None

    @property
    def is_low(self) -> bool:
        return self.available_bytes < LOW_SHARE * self.total_bytes

    def sentence(self) -> Text:
        sizes = (self.engine_bytes, self.total_bytes, self.available_bytes)
        engine, total, free = (f"{value / 1e9:.1f} GB" for value in sizes)
        told = {"engine": engine, "total": total, "free": free}
        return Text("reason.manager.memory_when_last_seen", **told)


@dataclass(frozen=True)
class EngineExit:
    """``exit_code`` as in :mod:`subprocess`: a negative value is a signal. ``last_words``: the end of its stderr."""

    exit_code: int | None
    last_words: str = ""


def crash_error(found: EngineExit, memory: MemoryFacts | None = None, oom_kills: int | None = None) -> ModelError:
    """OutOfMemory if the last words say so, or if it was killed and ``oom_kills``, the system's current count of
    processes killed for lack of memory, is higher than in ``memory``. Otherwise EngineCrashed with the most precise
    known reason."""
    words = last_line(found.last_words)
    if is_out_of_memory(found.last_words):
        return OutOfMemory(reason=words)
    before = memory.oom_kills if memory else None
    if memory and signal_name(found.exit_code) == "SIGKILL" and None not in (before, oom_kills) and oom_kills != before:
        return OutOfMemory(reason=memory.sentence())
    return EngineCrashed(reason=reason_text(found.exit_code, words, memory))


def is_out_of_memory(text: str) -> bool:
    return OUT_OF_MEMORY.search(text) is not None


def reason_text(exit_code: int | None, words: str, memory: MemoryFacts | None) -> Text | str:
    name = signal_name(exit_code)
    if name == "SIGKILL":
        killed = Text("reason.manager.sigkill")
        if memory is not None and memory.is_low:
            killed = Text("reason.manager.killed_for_memory")
        return Text("reason.manager.and_more", what=killed, more=memory.sentence()) if memory else killed
    if name in NATIVE_FAULTS:
        fault = NATIVE_FAULTS[name]
        return Text("reason.manager.last_words", what=fault, words=words) if words else fault
    if name:
        return Text("reason.manager.ended_by_signal", signal=name)
    return words or Text("reason.manager.ended_with_code", code=str(exit_code))


def signal_name(exit_code: int | None) -> str:
    """A name such as ``SIGKILL``; "" if no signal ended it. Containers and shells report SIGKILL as 137."""
    if exit_code is None:
        return ""
    if exit_code == 137:
        return "SIGKILL"
    if exit_code & 0xFFFFFFFF in WINDOWS_FAULTS:
        return WINDOWS_FAULTS[exit_code & 0xFFFFFFFF]
    try:
        return signal.Signals(-exit_code).name if exit_code < 0 else ""
    except ValueError:
        return f"signal {-exit_code}"


def last_line(words: str) -> str:
    """The most informative line: the last ``SomeError: …`` of a traceback, else faulthandler's, else the last one."""
    lines = [line.rstrip() for line in words.splitlines() if line.strip()]
    for line in reversed(lines):
        if ERROR_LINE.match(line):
            return line
    fatal = [line for line in lines if line.startswith("Fatal Python error:")]
    return (fatal or lines or [""])[-1].strip()


BREATHING_BYTES = 256 << 20
"""Must stay free when two models are loaded at once: the machine runs other programs too."""

CGROUP = Path("/sys/fs/cgroup")


def has_room_beside(target: Target) -> bool:
    """Whether the model can be loaded while another stays loaded. Only main memory is measured, so the answer is False
    for any other device."""
    footprint = _footprint(target)
    return footprint.devices == (RAM,) and footprint.peak_bytes(RAM) + BREATHING_BYTES <= available_bytes()


def needed_bytes(target: Target) -> int:
    """The engine process's peak of main memory, while it loads or writes one answer (docs/memory.md)."""
    return _footprint(target).peak_bytes(RAM)


def _footprint(target: Target) -> Footprint:
    backend, options = resolve_strategy(target.strategy)
    return backend.footprint(target.inspection, options)


def shortfall(target: Target, reclaimable_bytes: int) -> ModelError | None:
    """Why the model does not fit into main memory now (``reclaimable_bytes`` of it are freed before the load), or can
    never fit into its GPU; None if it fits."""
    footprint = _footprint(target)
    needed, free = footprint.peak_bytes(RAM), available_bytes() + reclaimable_bytes
    key = "reason.manager.needs_more_memory"
    if needed <= free:
        card = footprint.too_large_for()
        if card is None:
            return None
        needed, free, key = footprint.peak_bytes(card), footprint.capacity[card], "reason.manager.card_is_too_small"
    sizes = {"needed": f"{needed / 1e9:.1f} GB", "free": f"{free / 1e9:.1f} GB"}
    return ModelError("model_does_not_fit", name=target.name, reason=Text(key, **sizes))


Shortfall = Callable[["Target", int], ModelError | None]
_Key = tuple[str, tuple[int, int], tuple[str, ...]]


class FitCheck:
    """Refuses to load a model that does not fit, until a person chooses to load it anyway; then it is allowed.

    It also remembers loads that failed for lack of memory, so that later requests do not repeat them. It keeps the last
    ``LIMIT`` of each. Not thread-safe.
    """

    LIMIT = 64

    def __init__(self, shortfall: Shortfall) -> None:
        self._shortfall = shortfall
        self._accepted: OrderedDict[_Key, bool] = OrderedDict()

    def refusal(self, target: Target, reclaimable_bytes: int, by_hand: bool) -> ModelError | None:
        """A failed load blocks requests only; a person may try again ``by_hand`` if there is enough free memory now."""
        is_accepted = self._accepted.get(_key(target))
        if is_accepted:
            return None
        if is_accepted is None or by_hand:
            return self._shortfall(target, reclaimable_bytes)
        return ModelError("model_does_not_fit", name=target.name, reason=Text("reason.manager.memory_ran_out_before"))

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
    return target.path, target.stamp, tuple(target.strategy.split())


def available_bytes() -> int:
    """The memory that programs can still get, within the limit of a container."""
    import psutil  # at first use: it takes a while to import

    free: int = psutil.virtual_memory().available
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return min(free, int(limit) - used) if limit.isdigit() else free


def oom_kills() -> int | None:
    """How many processes the system has killed for lack of memory: in this process's control group if that is counted,
    otherwise on the machine. None if neither is counted (not Linux)."""
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
    """None if the process is gone. Without a pid: this process, which runs the engine."""
    import psutil

    machine = psutil.virtual_memory()
    held = resident_bytes(os.getpid() if pid is None else pid)
    return MemoryFacts(held, machine.total, available_bytes(), oom_kills()) if held else None


def resident_bytes(pid: int) -> int:
    """0 if the process does not exist any more."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def peak_bytes(pid: int) -> int | None:
    """Peak memory of the process; None if the system does not record it. macOS and BSD record it only for this process
    itself."""
    import psutil

    with contextlib.suppress(OSError, StopIteration), open(f"/proc/{pid}/status", encoding="latin-1") as file:
        return int(next(line for line in file if line.startswith("VmHWM:")).split()[1]) * 1024
    with contextlib.suppress(psutil.Error, AttributeError):
        return int(psutil.Process(pid).memory_info().peak_wset)  # Windows
    if pid == os.getpid():
        with contextlib.suppress(ImportError):
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024
    return None
