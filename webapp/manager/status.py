"""The model's status for pages, and a board on which callers can wait for a change."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from webapp.engine.registry import AUTOMATIC
from webapp.errors import RoostError
from webapp.manager.target import Target

if TYPE_CHECKING:
    from webapp.manager.session import EngineSession

PHASES = ("empty", "loading", "ready", "answering", "failed", "unloading")


@dataclass(frozen=True)
class ModelStatus:
    """The status at one moment. ``revision`` increases by one with every change.

    ``model``, ``model_path``, ``strategy``, ``adapter`` (a file name) and ``state`` describe what is loaded or loading,
    otherwise what is chosen. ``error`` (a RoostError's dict) is the error of the last load or of the engine. It may
    occur with phase ``ready`` if a model could not replace the loaded one. ``notice`` says why a state was dropped.
    ``engine_bytes``: resident memory of the engine process at that time; its change alone makes no new revision.
    ``silent_s``: seconds since the last sign of life of the engine or of a loading one; 0 while that is normal.
    ``chosen_strategy`` is ``auto`` if ``auto`` chose ``strategy``; ``engine_note`` then says why it is not a faster
    one, or "" (see :mod:`.automatic`). ``step``, ``step_done``, ``step_total``: as in LoadProgress, during a load.
    """

    revision: int = 0
    phase: str = "empty"
    model: str = ""
    model_path: str = ""
    strategy: str = ""
    chosen_strategy: str = ""
    adapter: str = ""
    state: str = ""
    state_digest: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    done_tensors: int = 0
    total_tensors: int = 0
    step: str = ""
    step_done: int = 0
    step_total: int = 0
    error: dict[str, Any] | None = None
    notice: dict[str, Any] | None = None
    running: int = 0
    waiting: int = 0
    seats: int = 0
    silent_s: int = 0
    engine_note: str = ""
    engine_bytes: int = field(default=0, compare=False)


def describe(
    phase: str,
    goal: Target | None,
    session: EngineSession | None,
    loading: EngineSession | None,
    held: int,
    error: RoostError | None,
) -> ModelStatus:
    """The status for the supervisor's values; ``held`` requests wait for a model."""
    names = described_target(goal) if goal else {}
    progress: dict[str, Any] = vars(loading.progress) if loading else {}
    counts: dict[str, Any] = {}
    if session is not None:
        waiting = session.waiting_count
        counts = {"running": session.open_count - waiting, "seats": session.seats}
        held += waiting
    engines = [each for each in (session, loading) if each is not None]
    if engines:
        counts["engine_bytes"] = engines[0].engine_bytes
    silent_s = max((each.silent_s for each in engines), default=0)
    return ModelStatus(
        phase=phase,
        error=error.to_dict() if error else None,
        waiting=held,
        silent_s=silent_s,
        **names,
        **progress,
        **counts,
    )


def described_target(target: Target) -> dict[str, Any]:
    """The status fields that describe the choice."""
    return {
        "model": target.name,
        "model_path": target.path,
        "strategy": target.strategy,
        "chosen_strategy": AUTOMATIC if target.automatic else target.choice.strategy,
        "adapter": target.adapter,
        "state": target.state_info.name,
        "state_digest": target.state_info.digest,
        "notice": target.notice,
    }


class StatusBoard:
    """The newest status, for any number of readers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._status = ModelStatus()
        self._note = ""
        self._listeners: tuple[Callable[[], object], ...] = ()

    @property
    def status(self) -> ModelStatus:
        return self._status

    def publish(self, status: ModelStatus) -> None:
        """Sets the status's revision."""
        with self._changed:
            now = replace(status, revision=self._status.revision, engine_note=self._note)
            is_new = now != self._status
            self._status = replace(now, revision=now.revision + is_new)
            self._changed.notify_all()
        for listener in self._listeners if is_new else ():
            listener()

    def set_note(self, engine_note: str) -> None:
        self._note = engine_note
        self.publish(self._status)

    def listen(self, listener: Callable[[], object]) -> None:
        """Calls ``listener`` after every change, in the thread that made it; it must return at once."""
        with self._changed:
            self._listeners = (*self._listeners, listener)

    def forget(self, listener: Callable[[], object]) -> None:
        with self._changed:
            self._listeners = tuple(each for each in self._listeners if each != listener)

    def wait_change(self, revision: int, timeout_s: float) -> ModelStatus:
        """The status once its revision differs from ``revision``, or the current one after the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._status.revision != revision, timeout_s)
            return self._status
