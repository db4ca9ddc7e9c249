"""When an engine counts as hung: how long it gave no sign of life, or has been inside one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from webapp.errors import EngineStalled, Phrase

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
