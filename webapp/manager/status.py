"""What a page shows about the model, and a board on which a change of it can be waited for."""

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
    """One moment. ``revision`` grows by one with every change.

    ``model``, ``model_path``, ``strategy``, ``adapter`` (a file's name) and ``state`` say what is loaded or being
    loaded, else what is chosen.
    ``error`` (a RoostError's dict) is what the last load or the engine ended with; it may stand beside phase ``ready``
    when another model was to replace the one that stays. ``notice`` says why a state was dropped. ``engine_bytes`` is
    the resident memory of the engine process when this was written; it alone makes no new revision. ``silent_s``:
    for so many seconds the engine, or the one that loads, has given no sign of life; 0 while all is well.
    ``chosen_strategy`` is ``auto`` where ``strategy`` is what that came to; ``engine_note`` then says why it did not
    come to a faster one, or "" (see :mod:`.automatic`).
    ``step``, ``step_done``, ``step_total``: as of LoadProgress, while it loads.
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
    """One status from what the supervisor holds; ``held`` requests wait for a model."""
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
    """The fields of a status that say what is chosen."""
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
        self._listeners: list[Callable[[], object]] = []

    @property
    def status(self) -> ModelStatus:
        return self._status

    def publish(self, status: ModelStatus) -> None:
        """Its revision is set here."""
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
        """Called after every change, in the thread that made it; it must return at once."""
        self._listeners.append(listener)

    def wait_change(self, revision: int, timeout_s: float) -> ModelStatus:
        """The status once it is another than ``revision``, or after the time."""
        with self._changed:
            self._changed.wait_for(lambda: self._status.revision != revision, timeout_s)
            return self._status
