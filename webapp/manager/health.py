"""When an engine counts as hung, and why one ended: in the sentence a person reads."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from webapp.errors import EngineCrashed, EngineStalled, ModelError, OutOfMemory, Phrase

if TYPE_CHECKING:
    from webapp.manager.messages import Heartbeat

WORKING_CPU_S = 0.01
"""Processor time between two beats, a second apart, by which a step that does not end counts as work. The beat itself
takes 0.1 ms."""


@dataclass(frozen=True)
class StallLimits:
    """Seconds. An engine without a sign of life is reported after ``notice_s`` and ended after ``silent_s``; one that
    is alive, but inside the same step or load report for ``step_s``, is ended too. 0 never ends it.

    The defaults are far from what a healthy engine needs: docs/log.md (2026-11-29) has the longest gaps measured.
    """

    silent_s: float = 60.0
    step_s: float = 600.0
    notice_s: float = 5.0
    look_every_s: float = 1.0

    @classmethod
    def of(cls, silent_s: float) -> StallLimits:
        return cls(silent_s, 10 * silent_s)


class StallWatch:
    """Counts seconds since the last sign of life. Not thread-safe.

    A sign of life is any message, and a heartbeat if the loop advanced or is idle, if the process used its processor,
    or if a model is being loaded (a load may wait for a disk or a compiler). A heartbeat alone is none: its thread also
    runs beside a deadlock.

    Only the watcher's own looks count, each for at most two intervals. So a suspended laptop, a paused machine or a web
    process that got no processor does not make an engine look hung, whether or not the system's clock went on.
    """

    def __init__(self, limits: StallLimits) -> None:
        self._limits = limits
        self._silent_s = 0.0
        self._step_s = 0.0
        self._beat: Heartbeat | None = None

    def hear(self, beat: Heartbeat | None, is_loading: bool) -> None:
        """None is any other message."""
        before, self._beat = self._beat, beat or self._beat
        if beat is None or before is None or beat.is_idle or beat.progress != before.progress:
            self._silent_s = self._step_s = 0.0
        elif is_loading or beat.cpu_s - before.cpu_s >= WORKING_CPU_S:
            self._silent_s = 0.0

    def look(self, elapsed_s: float) -> None:
        """``elapsed_s`` since the last look."""
        counted_s = min(elapsed_s, 2 * self._limits.look_every_s)
        self._silent_s += counted_s
        self._step_s += counted_s

    @property
    def silent_s(self) -> int:
        """Whole seconds; 0 while that is too short to be mentioned."""
        return int(self._silent_s) if self._silent_s >= self._limits.notice_s else 0

    def error(self) -> EngineStalled | None:
        """Why the engine has to be ended; None while it does not."""
        limits = self._limits
        if limits.silent_s and self._silent_s >= limits.silent_s:
            return EngineStalled(reason=Phrase("it did not answer for {seconds} s", seconds=f"{self._silent_s:.0f}"))
        if limits.step_s and self._step_s >= limits.step_s:
            return EngineStalled(
                reason=Phrase("one step of it took more than {seconds} s", seconds=f"{limits.step_s:g}")
            )
        return None


NATIVE_FAULTS = {
    "SIGSEGV": "a memory fault in native code (SIGSEGV)",
    "SIGBUS": "a memory fault in native code (SIGBUS); a model file that was cut or changed while loaded does this",
    "SIGABRT": "native code gave up (SIGABRT)",
    "SIGILL": "native code used an instruction this processor does not have (SIGILL)",
    "SIGFPE": "an arithmetic fault in native code (SIGFPE)",
}
WINDOWS_FAULTS = {0xC0000005: "SIGSEGV", 0xC000001D: "SIGILL", 0xC0000409: "SIGABRT"}
"""NTSTATUS values that Windows gives as exit codes."""

OUT_OF_MEMORY = re.compile(
    r"MemoryError|OutOfMemoryError|out of memory|can't allocate memory|cannot allocate memory|not enough memory"
    r"|DefaultCPUAllocator|std::bad_alloc|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
ERROR_LINE = re.compile(r"^[\w.]+(Error|Exception|Interrupt|Exit|Warning)\b.*$")


LOW_SHARE = 0.05
"""Below this share of the machine's memory, what was free shortly before the end counts as next to nothing."""


@dataclass(frozen=True)
class MemoryFacts:
    """Bytes, measured while the engine lived: what it held, what the machine has and had left.

    ``oom_kills``: how many processes the system had ended for lack of memory by then; None where it does not count.
    """

    engine_bytes: int
    total_bytes: int
    available_bytes: int
    oom_kills: int | None = None

    @property
    def is_low(self) -> bool:
        return self.available_bytes < LOW_SHARE * self.total_bytes

    def sentence(self) -> Phrase:
        sizes = (self.engine_bytes, self.total_bytes, self.available_bytes)
        engine, total, free = (f"{value / 1e9:.1f} GB" for value in sizes)
        told = {"engine": engine, "total": total, "free": free}
        return Phrase("it held {engine} of {total} when last seen, with {free} free", **told)


@dataclass(frozen=True)
class EngineExit:
    """``exit_code`` as of :mod:`subprocess`: negative is a signal's number. ``last_words``: the end of its stderr."""

    exit_code: int | None
    last_words: str = ""


def crash_error(found: EngineExit, memory: MemoryFacts | None = None, oom_kills: int | None = None) -> ModelError:
    """OutOfMemory when its last words say so, or when it was killed and the system's count of processes it ended for
    lack of memory is now ``oom_kills``, higher than in ``memory``; else EngineCrashed with the best reason there is."""
    words = last_line(found.last_words)
    if is_out_of_memory(found.last_words):
        return OutOfMemory(reason=words)
    before = memory.oom_kills if memory else None
    if memory and signal_name(found.exit_code) == "SIGKILL" and None not in (before, oom_kills) and oom_kills != before:
        return OutOfMemory(reason=memory.sentence())
    return EngineCrashed(reason=reason_text(found.exit_code, words, memory))


def is_out_of_memory(text: str) -> bool:
    return OUT_OF_MEMORY.search(text) is not None


def reason_text(exit_code: int | None, words: str, memory: MemoryFacts | None) -> str:
    name = signal_name(exit_code)
    if name == "SIGKILL":
        killed = "it was killed (SIGKILL)"
        if memory is not None and memory.is_low:
            killed = "it was killed by the system, most likely because memory ran out"
        return Phrase("{what}; {more}", what=killed, more=memory.sentence()) if memory else killed
    if name in NATIVE_FAULTS:
        fault = NATIVE_FAULTS[name]
        return Phrase("{what}; its last words: {words}", what=fault, words=words) if words else fault
    if name:
        return Phrase("it was ended by {signal}", signal=name)
    return words or Phrase("it ended with exit code {code} and said nothing", code=str(exit_code))


def signal_name(exit_code: int | None) -> str:
    """``SIGKILL`` and the like; "" when no signal ended it. 137 is what a killed container or a shell reports."""
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
    """The line that says most: the last ``SomeError: …`` of a traceback, else faulthandler's, else the last one."""
    lines = [line.rstrip() for line in words.splitlines() if line.strip()]
    for line in reversed(lines):
        if ERROR_LINE.match(line):
            return line
    fatal = [line for line in lines if line.startswith("Fatal Python error:")]
    return (fatal or lines or [""])[-1].strip()
