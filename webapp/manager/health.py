"""How long an engine may be silent, and why it ended."""

from __future__ import annotations

import re
import signal

from msgspec import Struct

from webapp.errors import EngineCrashed, ModelError, OutOfMemory
from webapp.i18n import Text


class StallLimits(Struct, frozen=True):
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


class MemoryFacts(Struct, frozen=True):
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
        params = {"engine": engine, "total": total, "free": free}
        return Text("reason.manager.memory_when_last_seen", **params)


class EngineExit(Struct, frozen=True):
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
