"""What stands where: which engine serves, loads or drains, what is ordered next, and who waits. One lock for all of it.

Locks are taken in one direction: places, then session, then handle. Engines call back without holding any.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from webapp.errors import LoadCancelled, RoostError, ShuttingDown
from webapp.manager.machine_memory import FitCheck
from webapp.manager.model_status import ModelStatus, describe
from webapp.manager.target import Target
from webapp.manager.waiting_room import WaitingRoom

if TYPE_CHECKING:
    from webapp.manager.engine_session import EngineSession


@dataclass
class Order:
    """``target`` None is an unload. A cancelled one carries the error it ends with, as soon as it can."""

    target: Target | None
    error: RoostError | None = None


class EnginePlaces:
    """Whoever reads more than one field, or writes any, holds ``changed``; ``tell`` after a change.

    ``goal`` is what is chosen: the target of the load at hand, else what is loaded, else what was loaded last or is to
    be loaded first. ``error`` is what the last load or engine ended with, or why ``refused`` was not loaded.
    ``crashes`` in a row have no answer between.
    """

    def __init__(self, publish: Callable[[ModelStatus], None], fit: FitCheck) -> None:
        self.fit = fit
        self.refused: Target | None = None
        self.changed = threading.Condition(threading.RLock())
        self.session: EngineSession | None = None
        self.loading: EngineSession | None = None
        self.retiring: EngineSession | None = None
        self.ended: list[EngineSession] = []
        self.next: Order | None = None
        self.running: Order | None = None
        self.waiting = WaitingRoom()
        self.goal: Target | None = None
        self.last_good: Target | None = None
        self.error: RoostError | None = None
        self.crashes = 0
        self.last_crash = ""
        self.is_closing = False
        self._publish = publish

    @property
    def is_serving(self) -> bool:
        """New requests go straight to ``session``."""
        return self.session is not None and self.running is None and self.next is None

    @property
    def is_idle(self) -> bool:
        """Nothing is loaded, and no load is coming."""
        return self.session is None and self.load_at_hand is None

    @property
    def load_at_hand(self) -> Target | None:
        """What is going to be loaded, cancelled loads aside."""
        for order in (self.next, self.running):
            if order is not None:
                return order.target if order.error is None else None
        return None

    @property
    def later_target(self) -> Target | None:
        """What the order after the running one loads: requests for it go on waiting."""
        return self.next.target if self.next else None

    @property
    def answering_sessions(self) -> list[EngineSession]:
        return [session for session in (self.session, self.retiring) if session is not None]

    @property
    def phase(self) -> str:
        """As of ModelStatus."""
        order = self.next or self.running
        if order is not None:
            return "loading" if order.target else "unloading"
        if self.session is not None:
            return "answering" if self.session.open_count else "ready"
        return "failed" if self.error and not isinstance(self.error, LoadCancelled) else "empty"

    def check_open(self) -> None:
        if self.is_closing:
            raise ShuttingDown()

    def check_fit(self, target: Target, by_hand: bool = False) -> None:
        """Raises ModelDoesNotFit, which the pages show too."""
        reclaimable = self.session.engine_bytes if self.session else 0
        refusal = self.fit.refusal(target, reclaimable, by_hand)
        if refusal is not None:
            self.error, self.refused = refusal, target
            self.tell()
            raise refusal

    def replace_orders(self, order: Order | None, error: RoostError | None = None) -> None:
        """``order`` instead of the one at hand, which is cancelled if it is a load."""
        error = error or LoadCancelled()
        dropped, self.next = self.next, order
        if self.running is not None and self.running.target is not None:
            self.running.error = error
            if self.loading is not None:
                self.loading.abandon(error)
        elif dropped is not None and dropped.target is not None:
            self.waiting.fail(error, later=self.later_target)
            self.error = error
        if order is not None and order.target is not None:
            self.goal = order.target
        elif self.running is None and self.session is not None:
            self.goal = self.session.target
        for session in self.answering_sessions:
            session.wake()
        self.tell()

    def tell(self) -> None:
        """Publishes the status and wakes whoever waits for a change."""
        self._publish(describe(self.phase, self.goal, self.session, self.loading, len(self.waiting), self.error))
        self.changed.notify_all()
