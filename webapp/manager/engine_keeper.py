"""Which engine runs: what may be asked about it, from any thread. A worker thread does what takes time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from webapp.engine.outputs import FinishReason
from webapp.errors import CrashLoop, NoModelLoaded, QueueFull, RequestError, RoostError, ShuttingDown
from webapp.manager.engine_places import EnginePlaces, Order
from webapp.manager.handles import RequestHandle
from webapp.manager.machine_memory import FitCheck
from webapp.manager.model_status import ModelStatus
from webapp.manager.order_worker import OrderWorker
from webapp.manager.stall import StallLimits
from webapp.manager.target import Target
from webapp.manager.waiting_room import WaitingRoom
from webapp.settings import Settings

if TYPE_CHECKING:
    from webapp.manager.engine_client import EngineStarter
    from webapp.manager.engine_session import EngineSession


class EngineKeeper:
    """Holds at most one engine that serves, one that loads and one that drains."""

    def __init__(
        self,
        settings: Settings,
        start_engine: EngineStarter | None,
        has_room: Callable[[Target], bool],
        publish: Callable[[ModelStatus], None],
        stall_limits: StallLimits,
        fit: FitCheck,
    ) -> None:
        self._settings = settings
        self._places = EnginePlaces(publish, fit)
        self._worker = OrderWorker(self._places, settings, start_engine, has_room, stall_limits)

    @property
    def goal(self) -> Target | None:
        """What is chosen; None before anything was."""
        return self._places.goal

    @property
    def session(self) -> EngineSession | None:
        """The one that serves, if any."""
        return self._places.session

    @property
    def loaded_target(self) -> Target | None:
        """Of the load at hand, else of the engine that serves."""
        places = self._places
        with places.changed:
            return places.load_at_hand or (places.session.target if places.session else None)

    @property
    def error(self) -> RoostError | None:
        """What the last load or the engine ended with."""
        return self._places.error

    @property
    def is_idle(self) -> bool:
        """Nothing is loaded, and no load is coming."""
        with self._places.changed:
            return self._places.is_idle

    @property
    def is_closing(self) -> bool:
        return self._places.is_closing

    @property
    def pid(self) -> int | None:
        session = self._places.session or self._places.loading
        return session.pid if session else None

    def set_goal(self, target: Target) -> None:
        """Chooses what the next load will load; what is loaded or being loaded gets its state at once."""
        places = self._places
        with places.changed:
            for order in (places.next, places.running):
                if order and order.target and order.target.is_same_model(target):
                    order.target = target
            for session in (places.session, places.loading):
                if session and session.target.is_same_model(target):
                    session.set_state(target)
            places.goal = target
            places.tell()

    def order_load(self, target: Target, anyway: bool = False) -> None:
        """By hand: forgets crashes. Nothing new happens when the same is loaded or being loaded already. Raises
        ModelDoesNotFit unless ``anyway``."""
        places = self._places
        with places.changed:
            places.check_open()
            places.crashes = 0
            coming = places.load_at_hand
            if coming is None and places.is_serving and places.session is not None:
                coming = places.session.target
            if coming is not None and coming.is_same_engine(target):
                places.error = None
                self.set_goal(target)
                return
            if anyway:
                places.fit.accept(target)
            else:
                places.check_fit(target, by_hand=True)
            self._order(target)

    def order_refused(self) -> None:
        """Loads what was refused last because it does not fit; NoModelLoaded when nothing was."""
        places = self._places
        with places.changed:
            if places.refused is None:
                raise NoModelLoaded()
            self.order_load(places.refused, anyway=True)

    def order_unload(self) -> None:
        places = self._places
        with places.changed:
            places.check_open()
            places.replace_orders(Order(None) if places.session else None)
            places.error = None
            places.tell()

    def cancel_load(self) -> None:
        """What was loaded before, if it is still there, stays."""
        places = self._places
        with places.changed:
            if places.load_at_hand is not None:
                places.replace_orders(None)

    def ensure_loading(self, target: Target) -> None:
        """Orders a load unless there is a model or one is coming; CrashLoop when that has failed too often,
        ModelDoesNotFit."""
        places = self._places
        with places.changed:
            places.check_open()
            if places.is_serving or places.load_at_hand is not None:
                return
            if places.crashes >= self._settings.crash_tries:
                raise CrashLoop(tries=places.crashes, reason=places.last_crash)
            places.check_fit(target)
            self._order(target)

    def admit(self, handle: RequestHandle, target: Target) -> bool:
        """Sends the request to the engine, or holds it until there is one. False when ``target``, for which it was
        checked, is not the model it would run on (any more)."""
        places = self._places
        with places.changed:
            places.check_open()
            self._check_room(handle.request_id)
            self.ensure_loading(target)
            coming = places.load_at_hand or (places.session.target if places.session else None)
            if coming is None or not coming.is_same_model(target):
                return False
            if places.session is not None and places.is_serving:
                places.session.submit(handle)
            else:
                places.waiting.add(handle, target)
            places.tell()
            return True

    def abort(self, handle: RequestHandle) -> None:
        places = self._places
        with places.changed:
            if places.waiting.remove(handle):
                handle.finish(FinishReason.ABORT)
                places.tell()
                return
            sessions = places.answering_sessions
        for session in sessions:
            session.abort(handle.request_id)

    def wait_settled(self, timeout_s: float | None) -> bool:
        """Until no load is ordered or running; False after the time."""
        places = self._places
        with places.changed:
            return places.changed.wait_for(lambda: not (places.next or places.running) or places.is_closing, timeout_s)

    def close(self) -> None:
        """Everything ends; returns when the engine and the worker are gone. May be called again, and by many."""
        places = self._places
        with places.changed:
            places.is_closing = True
            places.replace_orders(None, ShuttingDown())
            places.waiting.fail(ShuttingDown())
        self._worker.join()

    def _order(self, target: Target) -> None:
        self._places.error = self._places.refused = None
        self._places.replace_orders(Order(target))
        self._worker.start()

    def _check_room(self, request_id: str) -> None:
        places = self._places
        asked: list[WaitingRoom | EngineSession] = [places.waiting, *places.answering_sessions]
        if any(place.has_request(request_id) for place in asked):
            raise RequestError(reason=f"a request {request_id} is running already")
        seats = places.session.seats if places.session else self._settings.max_sequences
        open_count = len(places.waiting) + (places.session.open_count if places.session else 0)
        if open_count >= seats + self._settings.max_queue:
            raise QueueFull(waiting=open_count - seats)
