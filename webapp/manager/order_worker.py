"""Carries out orders, one at a time, on a thread of its own: load, swap, unload, and unload after idleness."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from webapp.engine.outputs import FinishReason
from webapp.errors import (
    CrashLoop,
    EngineStalled,
    LoadCancelled,
    ModelUnloaded,
    OutOfMemory,
    RoostError,
    ShuttingDown,
    as_roost_error,
)
from webapp.manager.engine_places import EnginePlaces, Order
from webapp.manager.handles import EngineSilent, LoadingEvent
from webapp.manager.stall import StallLimits
from webapp.manager.target import Target
from webapp.settings import Settings

if TYPE_CHECKING:
    from webapp.manager.engine_client import EngineStarter
    from webapp.manager.engine_session import EngineSession

CLOSE_GRACE_S = 2.0
logger = logging.getLogger(__name__)


class OrderWorker:
    """``has_room(target)`` decides whether a new model may be loaded before the old one ends.

    A swap with room: load the new one while the old one answers, put it in place, drain and end the old one. Without:
    drain and end the old one first.
    """

    def __init__(
        self,
        places: EnginePlaces,
        settings: Settings,
        start_engine: EngineStarter | None,
        has_room: Callable[[Target], bool],
        stall_limits: StallLimits,
    ) -> None:
        self._places = places
        self._stall_limits = stall_limits
        self._settings = settings
        self._start_engine = start_engine
        self._has_room = has_room
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """At the first order; nothing the second time. The caller holds the places' lock."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="roost-model-manager", daemon=True)
            self._thread.start()

    def join(self) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _work(self) -> None:
        while not self._places.is_closing:
            order = self._take_order()
            if order is None:
                continue
            try:
                self._carry_out(order)
            except Exception as exc:
                if not isinstance(exc, RoostError):
                    logger.exception("an order to the engine failed")
                self._report_failure(order, as_roost_error(exc))
        self._end_all()

    def _take_order(self) -> Order | None:
        """Makes the next order the running one. None after tidying up a dead engine, or at the end."""
        places = self._places
        with places.changed:
            places.running = None
            places.tell()
            while not (places.next or places.ended or places.is_closing):
                wait_s = self._idle_left_s()
                if wait_s is not None and wait_s <= 0:
                    places.next = Order(None)
                else:
                    places.changed.wait(wait_s)
            ended, places.ended = places.ended, []
            if not ended and not places.is_closing:
                places.running, places.next = places.next, None
                return places.running
        for session in ended:
            session.close(ModelUnloaded(), CLOSE_GRACE_S)
        return None

    def _idle_left_s(self) -> float | None:
        session = self._places.session
        limit = session.target.options.idle_unload_s if session is not None else None
        if not limit or session is None or session.is_busy:
            return None
        return session.idle_since + limit - time.monotonic()

    def _carry_out(self, order: Order) -> None:
        old = self._places.session
        if order.target is not None:
            if old is not None and not self._has_room(order.target):
                self._retire(old, order)
                old = None
            self._load(order, order.target)
        if old is not None:
            self._retire(old, order)

    def _load(self, order: Order, target: Target) -> None:
        # Brings msgspec and subprocess, which a start does without.
        from webapp.manager.engine_client import start_engine_process
        from webapp.manager.engine_session import EngineSession
        from webapp.manager.load_command import load_command

        command = load_command(target, self._settings)
        places = self._places
        with places.changed:
            if order.error is not None or order.target is None:
                raise order.error or ModelUnloaded()
            session = EngineSession(order.target, self._session_changed, self._stall_limits)
            session.start(self._start_engine or start_engine_process, command(order.target.start))
            places.error, places.loading = None, session
            places.tell()
        try:
            session.wait_loaded(self._settings.load_timeout_s or None)
            self._put_in_place(session, order)
        except RoostError as exc:
            if session.has_crashed:
                self._count_crash(session)
            session.kill()  # told to stop, it may still be deep in native code
            session.close(exc, CLOSE_GRACE_S)
            raise

    def _put_in_place(self, session: EngineSession, order: Order) -> None:
        places = self._places
        with places.changed:
            if order.error is not None:  # cancelled at the last moment
                raise order.error
            places.loading, places.running = None, None
            places.retiring, places.session = places.session, session
            places.last_good = session.target
            places.fit.note_success(session.target)
            if places.next is None:
                places.goal = session.target
            for handle, target in places.waiting.take(later=places.later_target):
                if target.is_same_model(session.target):
                    session.submit(handle)
                else:
                    handle.finish(FinishReason.ERROR, ModelUnloaded())
            self._session_changed(session)  # it may have died between its last word and here

    def _retire(self, old: EngineSession, order: Order) -> None:
        """Lets what runs finish for a while, then ends the engine. A load cancelled meanwhile leaves it be."""
        places = self._places
        old.drain(self._settings.swap_grace_s, lambda: places.is_closing or order.error is not None)
        with places.changed:
            if order.error is not None and places.session is old:
                raise order.error
            places.retiring = old
            if places.session is old:
                places.session = None
            places.tell()
        old.close(ModelUnloaded(), CLOSE_GRACE_S)
        with places.changed:
            places.retiring = None
            places.tell()

    def _report_failure(self, order: Order, error: RoostError) -> None:
        """A failed swap goes back to what was loaded before: it is still there, or the next request loads it again."""
        places = self._places
        level = logging.INFO if isinstance(error, (LoadCancelled, ShuttingDown)) else logging.WARNING
        logger.log(level, "an order for %s failed: %s", order.target.name if order.target else "no model", error)
        with places.changed:
            places.loading = places.running = None
            places.error = None if places.is_closing else self._with_count(error)
            if places.next is None:
                places.goal = places.session.target if places.session else places.last_good or order.target
            places.waiting.fail(error, later=places.later_target)
            if isinstance(error, OutOfMemory) and order.target is not None:
                places.fit.note_failure(order.target)
            if isinstance(error, EngineStalled) and order.target is not None:
                self._load_again(order.target)
            places.tell()

    def _end_all(self) -> None:
        places = self._places
        with places.changed:
            sessions = [*places.answering_sessions, *places.ended]
            places.session = places.retiring = places.next = places.running = None
            places.ended = []
        for session in sessions:
            session.close(ShuttingDown(), CLOSE_GRACE_S)
        with places.changed:
            places.waiting.fail(ShuttingDown())
            places.tell()

    def _session_changed(self, session: EngineSession) -> None:
        """Called from the engine's threads."""
        places = self._places
        with places.changed:
            if session is places.loading:
                progress = LoadingEvent(session.progress.done_bytes, session.progress.total_bytes)
                places.waiting.tell(EngineSilent(session.silent_s) if session.silent_s else progress)
            if session.has_answered:
                places.crashes = 0
            if session.error is not None and session is places.session:
                places.session = None
                places.ended.append(session)
                if session.has_crashed:
                    self._count_crash(session)
                places.error = self._with_count(session.error)
                if session.has_stalled:
                    self._load_again(session.target)
            places.tell()

    def _load_again(self, target: Target) -> None:
        """After an engine that hung. The caller holds the lock."""
        places = self._places
        is_free = places.running is None and places.next is None and not places.is_closing
        if is_free and places.crashes < self._settings.crash_tries:
            places.replace_orders(Order(target))

    def _with_count(self, error: RoostError) -> RoostError:
        """CrashLoop, when it was one too many: the next request will not load again."""
        places = self._places
        if places.crashes < self._settings.crash_tries:
            return error
        return CrashLoop(tries=places.crashes, reason=places.last_crash)

    def _count_crash(self, session: EngineSession) -> None:
        with self._places.changed:
            self._places.crashes += 1
            self._places.last_crash = str(session.error.params.get("reason", session.error) if session.error else "?")
        logger.error("the engine ended: %s\n%s", session.error, session.last_exit.last_words)
