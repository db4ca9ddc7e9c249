"""Which engine runs: one state machine for the engines that serve, load and drain, the next change, and the queue.

One lock, :attr:`Supervisor.changed`, guards everything here and in the sessions. Handles have their own lock, taken
last. A worker thread does the slow work (loading, draining, ending), one change after the other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from webapp.engine.outputs import FinishReason
from webapp.errors import ModelError, OutOfMemory, QueueFull, RequestError, RoostError, as_roost_error
from webapp.i18n import Text
from webapp.manager.handles import PERSON, EngineSilent, LoadingEvent, Quota, RequestHandle
from webapp.manager.memory import FitCheck
from webapp.manager.target import ModelStatus, Target, describe
from webapp.settings import Settings

if TYPE_CHECKING:
    from webapp.manager.client import EngineAhead, EngineStarter
    from webapp.manager.session import EngineSession

CLOSE_GRACE_S = 2.0
logger = logging.getLogger(__name__)


class Change(Struct):
    """``target`` None is an unload. A cancelled change contains its error and ends as soon as possible. A patient
    change waits until the old engine has finished all its answers; while it ``is_beside``, the old engine accepts new
    requests until the new one replaces it."""

    target: Target | None
    error: RoostError | None = None
    is_patient: bool = False
    is_beside: bool = False


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


class Supervisor:
    """Has at most one engine that serves (``session``), one that loads and one that drains.

    ``goal`` is the chosen target: that of the current load, else the loaded one, else the last loaded or the first to
    load. ``error``: the error of the last load or engine, or why ``_refused`` was not loaded. ``_crashes``: crashes in
    a row without an answer in between.

    ``has_room(target)`` decides whether a new model is loaded before the old one ends. A swap with room: load the new
    model while the old one answers, replace it, drain and end the old one. Without: drain and end it first.
    """

    def __init__(
        self,
        settings: Settings,
        start_engine: EngineStarter | None,
        has_room: Callable[[Target], bool],
        publish: Callable[[ModelStatus], None],
        stall_limits: StallLimits,
        fit: FitCheck,
    ) -> None:
        lock = threading.RLock()
        self.changed = threading.Condition(lock)
        self._work_added = threading.Condition(lock)  # separate: the end of an answer need not wake the worker
        self.goal: Target | None = None
        self.session: EngineSession | None = None
        self.error: RoostError | None = None
        self.is_closing = False
        self.quota = Quota()
        self._settings = settings
        self._start_engine = start_engine
        self._has_room = has_room
        self._publish = publish
        self._stall_limits = stall_limits
        self._fit = fit
        self._loading: EngineSession | None = None
        self._retiring: EngineSession | None = None
        self._ended: list[EngineSession] = []
        self._next: Change | None = None
        self._running: Change | None = None
        self._waiting: list[tuple[RequestHandle, Target]] = []
        self._last_good: Target | None = None
        self._refused: Target | None = None
        self._crashes = 0
        self._last_crash: Text | str = ""
        self._worker: threading.Thread | None = None
        self._ahead: EngineAhead | None = None

    # queries

    @property
    def loaded_target(self) -> Target | None:
        """The target of the current load, otherwise of the serving engine."""
        with self.changed:
            return self._load_at_hand or (self.session.target if self.session else None)

    @property
    def is_idle(self) -> bool:
        """Nothing is loaded or going to be loaded."""
        with self.changed:
            return self.session is None and self._load_at_hand is None

    @property
    def pid(self) -> int | None:
        session = self.session or self._loading
        return session.pid if session else None

    @property
    def _is_serving(self) -> bool:
        """New requests go directly to ``session``."""
        is_free = self._running is None or self._running.is_beside
        return self.session is not None and is_free and self._next is None

    @property
    def _load_at_hand(self) -> Target | None:
        """The target that is going to be loaded, ignoring cancelled loads."""
        change = self._next or self._running
        return change.target if change is not None and change.error is None else None

    @property
    def _answering(self) -> list[EngineSession]:
        return [session for session in (self.session, self._retiring) if session is not None]

    @property
    def _phase(self) -> str:
        """As in ModelStatus."""
        change = self._next or self._running
        if change is not None and not self._is_serving:
            return "loading" if change.target else "unloading"
        if self.session is not None:
            return "answering" if self.session.open_count else "ready"
        return "failed" if self.error and self.error.code != "load_cancelled" else "empty"

    def wait_settled(self, timeout_s: float | None) -> bool:
        """Waits until no load is waiting or running; False on timeout."""
        with self.changed:
            return self.changed.wait_for(lambda: not (self._next or self._running) or self.is_closing, timeout_s)

    # changes

    def request_load(self, target: Target, anyway: bool = False) -> None:
        """For a person's request: resets the crash count. Does nothing if the same target is loaded or loading. Raises
        ``model_does_not_fit`` unless ``anyway``."""
        with self.changed:
            self._check_open()
            self._crashes = 0
            coming = self._load_at_hand or (self.session.target if self.session and self._is_serving else None)
            if coming is not None and coming.is_same_engine(target):
                self.error = None
                self.set_goal(target)
                return
            if anyway:
                self._fit.accept(target)
            else:
                self._check_fit(target, by_hand=True)
            self._request(Change(target))

    def request_refused(self) -> None:
        """Loads the target that was last refused because it does not fit; raises ``no_model`` if there is none."""
        with self.changed:
            if self._refused is None:
                raise ModelError("no_model")
            self.request_load(self._refused, anyway=True)

    def request_renewal(self, target: Target) -> None:
        """Loads the same model with another strategy, unless another change is running. No answer is lost."""
        with self.changed:
            is_free = self._is_serving and self._running is None and not self.is_closing
            if is_free and self.session is not None and not self.session.target.is_same_engine(target):
                self._request(Change(target, is_patient=True))

    def request_unload(self) -> None:
        with self.changed:
            self._check_open()
            self._replace_changes(Change(None) if self.session else None)
            self.error = None
            self._notify()

    def cancel_load(self) -> None:
        """The previously loaded model stays if it is still there."""
        with self.changed:
            if self._load_at_hand is not None:
                self._replace_changes(None)

    def ensure_loading(self, target: Target) -> None:
        """Starts a load unless a model is loaded or loading. Raises ``crash_loop`` after too many failures, and
        ``model_does_not_fit``."""
        with self.changed:
            self._check_open()
            if self._is_serving or self._load_at_hand is not None:
                return
            if self._crashes >= self._settings.crash_tries:
                raise ModelError("crash_loop", tries=self._crashes, reason=self._last_crash)
            self._check_fit(target)
            self._request(Change(target))

    def prepare(self, target: Target) -> None:
        """Starts the engine process for a later load of ``target``, unless one serves, loads or is started already.
        Does nothing if engines have no own process. It has no model yet, and ends if none is loaded for a long time."""
        from webapp.manager.client import EngineAhead

        with self.changed:
            if self.is_idle and not self.is_closing and self._start_engine is None:
                self._ahead = self._ahead or EngineAhead()
                self._ahead.prepare(target.strategy)

    def set_goal(self, target: Target) -> None:
        """Chooses the target of the next load; an engine that is loaded or loading gets its state at once."""
        with self.changed:
            for change in (self._next, self._running):
                if change and change.target and change.target.is_same_model(target):
                    change.target = target
            for session in (self.session, self._loading):
                if session and session.target.is_same_model(target):
                    session.set_state(target)
            self.goal = target
            self._work_added.notify_all()  # it may be unloaded sooner when idle
            self._notify()

    def close(self) -> None:
        """Ends everything; returns when engine and worker are gone. May be called repeatedly, from any thread."""
        with self.changed:
            self.is_closing = True
            self._replace_changes(None, ModelError("shutting_down"))
            self._fail_waiting(ModelError("shutting_down"))
        if self._worker is not None and self._worker is not threading.current_thread():
            self._worker.join()
        if self._ahead is not None:
            self._ahead.close()

    def _check_open(self) -> None:
        if self.is_closing:
            raise ModelError("shutting_down")

    def _check_fit(self, target: Target, by_hand: bool = False) -> None:
        """Raises ``model_does_not_fit``, which pages show too."""
        reclaimable = self.session.engine_bytes if self.session else 0
        refusal = self._fit.refusal(target, reclaimable, by_hand)
        if refusal is not None:
            self.error, self._refused = refusal, target
            self._notify()
            raise refusal

    def _request(self, change: Change) -> None:
        self.error = self._refused = None
        self._replace_changes(change)
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="roost-model-manager", daemon=True)
            self._worker.start()

    def _replace_changes(self, change: Change | None, error: RoostError | None = None) -> None:
        """Replaces the current change with ``change``; cancels it if it is a load."""
        error = error or ModelError("load_cancelled")
        dropped, self._next = self._next, change
        if self._running is not None and self._running.target is not None:
            self._running.error = error
            if self._loading is not None:
                self._loading.abandon(error)
        elif dropped is not None and dropped.target is not None:
            self._fail_waiting(error)
            self.error = error
        if change is not None and change.target is not None:
            self.goal = change.target
        elif self._running is None and self.session is not None:
            self.goal = self.session.target
        self._work_added.notify_all()
        self._notify()

    # requests

    def quota_of(self, client: str) -> Quota:
        """No limits for a client that is not a person."""
        return self.quota if client.startswith(PERSON) else Quota()

    def admit(self, handle: RequestHandle, target: Target) -> bool:
        """Sends the request to the engine, or queues it until there is one. False if ``target``, for which it was
        checked, is not (any more) the model that would run it."""
        with self.changed:
            self._check_open()
            self._check_room(handle.request_id)
            of_client = [other for other in self._open_handles() if other.request.client == handle.request.client]
            self.quota_of(handle.request.client).check(handle.request.client, len(of_client))
            self.ensure_loading(target)
            coming = self._load_at_hand or (self.session.target if self.session else None)
            if coming is None or not coming.is_same_model(target):
                return False
            if self.session is not None and self._is_serving:
                self.session.submit(handle)
            else:
                self._waiting.append((handle, target))
            self._notify()
            return True

    def abort(self, handle: RequestHandle) -> None:
        with self.changed:
            rest = [pair for pair in self._waiting if pair[0] is not handle]
            if len(rest) < len(self._waiting):
                self._waiting = rest
                handle.finish(FinishReason.ABORT)
                self._notify()
            for session in self._answering:
                session.abort(handle.request_id)

    def _check_room(self, request_id: str) -> None:
        is_waiting = any(handle.request_id == request_id for handle, _ in self._waiting)
        if is_waiting or any(session.has_request(request_id) for session in self._answering):
            raise RequestError(reason=Text("reason.manager.request_running", id=request_id))
        slots = self.session.slots if self.session else self._settings.max_sequences
        open_count = len(self._waiting) + (self.session.open_count if self.session else 0)
        if open_count >= slots + self._settings.max_queue:
            raise QueueFull(waiting=open_count - slots)

    def _open_handles(self) -> Iterator[RequestHandle]:
        yield from (handle for handle, _ in self._waiting)
        for session in self._answering:
            yield from session.open_handles()

    def _take_waiting(self) -> list[tuple[RequestHandle, Target]]:
        """All waiting requests, except those for a model that the next change is going to load."""
        later = self._next.target if self._next else None
        stay = [later is not None and target.is_same_model(later) for _, target in self._waiting]
        taken = [pair for pair, stays in zip(self._waiting, stay, strict=True) if not stays]
        self._waiting = [pair for pair, stays in zip(self._waiting, stay, strict=True) if stays]
        return taken

    def _fail_waiting(self, error: RoostError) -> None:
        for handle, _ in self._take_waiting():
            handle.finish(FinishReason.ERROR, error)

    # the worker

    def _work(self) -> None:
        while not self.is_closing:
            change = self._take_change()
            if change is None:
                continue
            try:
                self._carry_out(change)
            except Exception as exc:
                if not isinstance(exc, RoostError):
                    logger.exception("a change of the engine failed")
                self._report_failure(change, as_roost_error(exc))
        self._end_all()

    def _take_change(self) -> Change | None:
        """Makes the next change the running one. None after cleaning up a dead engine, or at the end."""
        with self.changed:
            self._running = None
            self._notify()
            while not (self._next or self._ended or self.is_closing):
                wait_s = self._idle_left_s()
                if wait_s is not None and wait_s <= 0:
                    self._next = Change(None)
                else:
                    self._work_added.wait(wait_s)
            ended, self._ended = self._ended, []
            if not ended and not self.is_closing:
                self._running, self._next = self._next, None
                return self._running
        for session in ended:
            session.close(ModelError("model_unloaded"), CLOSE_GRACE_S)
        return None

    def _idle_left_s(self) -> float | None:
        """Seconds until an idle model must be unloaded or idleness must be checked again; None for never."""
        session = self.session
        limit = session.target.options.idle_unload_s if session is not None else None
        if not limit or session is None:
            return None
        return limit if session.is_busy else session.idle_since + limit - time.monotonic()

    def _carry_out(self, change: Change) -> None:
        old = self.session
        if change.target is not None:
            if old is not None and not self._has_room(change.target):
                self._retire(old, change)
                old = None
            with self.changed:
                change.is_beside = change.is_patient and old is not None
                self._notify()
            self._load(change, change.target)
        if old is not None:
            self._retire(old, change)

    def _load(self, change: Change, target: Target) -> None:
        # Imports msgspec and subprocess, which a start does not need.
        from webapp.manager.client import ProcessEngineClient
        from webapp.manager.session import EngineSession, load_command

        with self.changed:
            if change.error is not None or change.target is None:
                raise change.error or ModelError("model_unloaded")
            session = EngineSession(change.target, self.changed, self._session_changed, self._stall_limits)
            ahead = self._ahead.take if self._ahead is not None else ProcessEngineClient
            session.start(self._start_engine or ahead)
            self.error, self._loading = None, session
            self._notify()
        try:
            session.load(load_command(target, self._settings))
            session.wait_loaded(self._settings.load_timeout_s or None)
            self._put_in_place(session, change)
        except RoostError as exc:
            if session.has_crashed:
                self._count_crash(session)
            session.kill()  # a stop was requested, but it may still be in native code
            session.close(exc, CLOSE_GRACE_S)
            raise

    def _put_in_place(self, session: EngineSession, change: Change) -> None:
        with self.changed:
            if change.error is not None:  # cancelled at the last moment
                raise change.error
            self._loading, self._running = None, None
            self._retiring, self.session = self.session, session
            self._last_good = session.target
            self._fit.note_success(session.target)
            if self._next is None:
                self.goal = session.target
            for handle, target in self._take_waiting():
                if target.is_same_model(session.target):
                    session.submit(handle)
                else:
                    handle.finish(FinishReason.ERROR, ModelError("model_unloaded"))
            self._session_changed(session)  # it may have died after its last message

    def _retire(self, old: EngineSession, change: Change) -> None:
        """Gives running answers some time, then ends the engine. If the load is cancelled meanwhile, keeps it."""
        with self.changed:

            def is_over() -> bool:
                return bool(not old.is_busy or old.error or self.is_closing or change.error)

            if change.is_patient:
                self.changed.wait_for(lambda: is_over() or self._next is not None)
            self.changed.wait_for(is_over, self._settings.swap_grace_s)
            if change.error is not None and self.session is old:
                raise change.error
            self._retiring = old
            if self.session is old:
                self.session = None
            self._notify()
        old.close(ModelError("model_unloaded"), CLOSE_GRACE_S)
        with self.changed:
            self._retiring = None
            self._notify()

    def _report_failure(self, change: Change, error: RoostError) -> None:
        """After a failed swap the goal is the previous model: still loaded, or the next request loads it again."""
        level = logging.INFO if error.code in ("load_cancelled", "shutting_down") else logging.WARNING
        logger.log(level, "a change to %s failed: %s", change.target.name if change.target else "no model", error)
        with self.changed:
            self._loading = self._running = None
            self.error = None if self.is_closing else self._with_count(error)
            if self._next is None:
                self.goal = self.session.target if self.session else self._last_good or change.target
            self._fail_waiting(error)
            if change.target is not None and isinstance(error, OutOfMemory):
                self._fit.note_failure(change.target)
            if change.target is not None and error.code == "engine_stalled":
                self._load_again(change.target)
            self._notify()

    def _end_all(self) -> None:
        with self.changed:
            sessions = [*self._answering, *self._ended]
            self.session = self._retiring = self._next = self._running = None
            self._ended = []
        for session in sessions:
            session.close(ModelError("shutting_down"), CLOSE_GRACE_S)
        with self.changed:
            self._fail_waiting(ModelError("shutting_down"))
            self._notify()

    # events of engines

    def _session_changed(self, session: EngineSession) -> None:
        """Called with the lock held, from the engine's threads."""
        if session is self._loading:
            progress = LoadingEvent(session.progress.done_bytes, session.progress.total_bytes)
            for handle, _ in self._waiting:
                handle.put(EngineSilent(session.silent_s) if session.silent_s else progress)
        if session.has_answered:
            self._crashes = 0
        if session.error is not None and session is self.session:
            self.session = None
            self._ended.append(session)
            self._work_added.notify_all()
            if session.has_crashed:
                self._count_crash(session)
            self.error = self._with_count(session.error)
            if session.has_stalled:
                self._load_again(session.target)
        self._notify()

    def _load_again(self, target: Target) -> None:
        """Loads the model again after an engine hung."""
        is_free = self._running is None and self._next is None and not self.is_closing
        if is_free and self._crashes < self._settings.crash_tries:
            self._replace_changes(Change(target))

    def _with_count(self, error: RoostError) -> RoostError:
        """``crash_loop`` if there were too many crashes: the next request will not load again."""
        if self._crashes < self._settings.crash_tries:
            return error
        return ModelError("crash_loop", tries=self._crashes, reason=self._last_crash)

    def _count_crash(self, session: EngineSession) -> None:
        with self.changed:
            self._crashes += 1
            error = session.error
            self._last_crash = error.params.get("reason", str(error)) if error else "?"
        logger.error("the engine ended: %s\n%s", session.error, session.last_exit.last_words)

    def _notify(self) -> None:
        """Publishes the status and wakes every thread that waits for a change."""
        held, goal, loading = len(self._waiting), self.goal, self._loading
        if self.session is not None and self._is_serving and self._running is not None:
            goal, loading = self.session.target, None  # a parallel load is reported once it serves
        self._publish(describe(self._phase, goal, self.session, loading, held, self.error))
        self.changed.notify_all()
