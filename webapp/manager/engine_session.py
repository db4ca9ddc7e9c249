"""One engine from start to end: one model, the requests it answers, and why it ended."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from webapp.engine.backend import LoadProgress
from webapp.engine.outputs import FinishReason, PrefillProgress, QueueReport, TokenOutput
from webapp.errors import ModelLoadFailed, Phrase, RoostError, error_from_dict
from webapp.manager.crash import EngineExit, MemoryFacts, crash_error
from webapp.manager.engine_client import EngineClient, EngineStarter
from webapp.manager.handles import EngineSilent, QueuePosition, RequestHandle, Service
from webapp.manager.kept_states import KeptStates
from webapp.manager.machine_memory import memory_facts, oom_kills
from webapp.manager.messages import (
    Abort,
    CancelLoad,
    Heartbeat,
    Loaded,
    LoadFailed,
    Loading,
    LoadModel,
    Message,
    Outputs,
    Reply,
    SetInitialState,
    State,
    Submit,
)
from webapp.manager.request_log import log_begin, log_end
from webapp.manager.stall import StallLimits, StallWatch
from webapp.manager.starts import Start, StateInfo
from webapp.manager.target import Target

CANCEL_PATIENCE_S = 2.0
MEASURE_EVERY_S = 1.0


class EngineSession:
    """Loading, then ready, then ended with an ``error``. Late messages of an ended engine reach nobody.

    ``on_change`` is called from the engine's threads, without any lock of the session held.
    """

    def __init__(
        self,
        target: Target,
        on_change: Callable[[EngineSession], None],
        stall_limits: StallLimits | None = None,
    ) -> None:
        self.target = target
        self.config = target.config
        self.seats = 0
        self.progress = LoadProgress(0, target.inspection.size_bytes, 0, len(target.inspection.tensors))
        self.error: RoostError | None = None
        self.has_crashed = False
        self.has_stalled = False
        self.silent_s = 0
        self.last_exit = EngineExit(None)
        self.has_answered = False
        self.idle_since = time.monotonic()
        self._on_change = on_change
        self._changed = threading.Condition()
        self._is_ready = False
        self._abandoned: RoostError | None = None
        self._handles: dict[str, RequestHandle] = {}
        self._waiting = 0
        self._calls: dict[int, Future[Reply]] = {}
        self._idle_calls: set[int] = set()
        self._call_ids = itertools.count(1)
        self._client: EngineClient | None = None
        self._kept_states = KeptStates(self._send)
        self._memory: MemoryFacts | None = None
        self._measured_at = 0.0
        self._limits = stall_limits or StallLimits()
        self._stall = StallWatch(self._limits)
        self._is_over = threading.Event()

    @property
    def pid(self) -> int | None:
        return self._client.pid if self._client else None

    @property
    def engine_bytes(self) -> int:
        return self._memory.engine_bytes if self._memory else 0

    @property
    def is_ready(self) -> bool:
        return self._is_ready and self.error is None

    @property
    def open_count(self) -> int:
        return len(self._handles)

    @property
    def is_busy(self) -> bool:
        return bool(self._handles or self._calls)

    @property
    def call_count(self) -> int:
        return len(self._calls)

    @property
    def waiting_count(self) -> int:
        """Of the open ones, those the engine has given no slot yet."""
        return min(self._waiting, len(self._handles))

    def start(self, start_engine: EngineStarter, command: LoadModel) -> None:
        self._client = start_engine(self._receive, self._report_exit)
        self._client.send(command)
        threading.Thread(target=self._watch, name="roost-engine-watch", daemon=True).start()

    def wait_loaded(self, timeout_s: float | None) -> None:
        """Until the model is there; raises why it is not. The caller closes the session then."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: self._is_ready or bool(self.error or self._abandoned), timeout_s)
            if self._abandoned and not self.error:
                self._send(CancelLoad())
                self._changed.wait_for(lambda: self._is_ready or bool(self.error), CANCEL_PATIENCE_S)
            if self._abandoned:
                raise self._abandoned
            if self.error:
                raise self.error
            if not in_time:
                raise ModelLoadFailed(
                    name=self.target.name, reason=Phrase("it took longer than {seconds} s", seconds=f"{timeout_s:g}")
                )

    def abandon(self, error: RoostError) -> None:
        """Ends a load: ``wait_loaded`` raises ``error`` as soon as the engine stopped, or after two seconds."""
        with self._changed:
            self._abandoned = self._abandoned or error
            self._changed.notify_all()

    def submit(self, handle: RequestHandle) -> None:
        with self._changed:
            error = self.error
            if error is None:
                self._handles[handle.request_id] = handle
                self._ask(handle)
        if error is not None:
            handle.finish(FinishReason.ERROR, error)

    def has_request(self, request_id: str) -> bool:
        return request_id in self._handles

    def abort(self, request_id: str) -> None:
        """Nothing when it is not one of this engine's."""
        if request_id in self._handles:
            self._send(Abort(request_id))

    def set_state(self, target: Target) -> None:
        """``target`` is the same model with another initial state."""
        self.target = target
        state = State.of(target.state) if target.state is not None else None
        self._send(SetInitialState(state, target.state_info.digest))

    def call(
        self, make_command: Callable[[int, str | None], Any], start: Start | None = None, is_work: bool = True
    ) -> Future[Reply]:
        """Sends a command, made of the call's id and the digest of ``start``. Its Reply is the future's result.

        One that is no work does not keep an idle engine loaded.
        """
        future: Future[Reply] = Future()
        with self._changed:
            if self.error is not None:
                raise self.error
            digest = None if start is None else self._kept_states.give(start)
            call_id = next(self._call_ids)
            self._calls[call_id] = future
            if not is_work:
                self._idle_calls.add(call_id)
            self._send(make_command(call_id, digest))
        return future

    def drain(self, grace_s: float, should_stop: Callable[[], bool]) -> None:
        """Until nothing is running, the time is over, or ``should_stop`` (asked after :meth:`wake`)."""
        with self._changed:
            self._changed.wait_for(lambda: not self.is_busy or bool(self.error) or should_stop(), grace_s)

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self, error: RoostError, grace_s: float) -> None:
        """Ends the engine; what is still open ends with ``error``. Returns when it is gone."""
        self._end(error)
        if self._client is not None:
            self._client.close(grace_s)

    def kill(self) -> None:
        if self._client is not None:
            self._client.kill()

    def _ask(self, handle: RequestHandle) -> None:
        target, request = self.target, handle.request
        start, digest = handle.start or target.start, request.initial_state_digest
        if request.initial_state is not None:
            start = Start(StateInfo("", request.initial_state.digest()), request.initial_state)
        if start.info != target.start.info:
            digest = self._kept_states.give(start)
        handle.service = Service(target.name, target.choice.strategy, start.info)
        log_begin(handle.request_id, request.params, handle.service)  # before the engine can have ended it
        self._send(Submit.of(request, digest))

    def _send(self, command: Any) -> None:
        if self._client is not None:
            self._client.send(command)

    def _receive(self, message: Message) -> None:
        self._measure()
        beat = message if isinstance(message, Heartbeat) else None
        with self._changed:
            self._stall.hear(beat, is_loading=not self._is_ready)
        if beat is not None:
            return
        before = (self.open_count, self.waiting_count)
        if isinstance(message, Outputs):
            for output in (message.queue, *message.prefills, *message.tokens):
                self._deliver(output)
            if before == (self.open_count, self.waiting_count):
                return
        elif isinstance(message, Loading):
            self.progress = message.progress
        elif isinstance(message, Loaded):
            self._become_ready(message)
        elif isinstance(message, LoadFailed):
            self._end(error_from_dict(message.error))
        elif isinstance(message, Reply):
            self._answer(message)
        self._on_change(self)

    def _watch(self) -> None:
        """Looks for signs of life until the engine's end; ends it when there was none for too long."""
        looked_at = time.monotonic()
        while not self._is_over.wait(self._limits.look_every_s):
            now = time.monotonic()
            with self._changed:
                self._stall.look(now - looked_at)
                before, self.silent_s = self.silent_s, self._stall.silent_s
                error = self._stall.error() if self.error is None else None
                handles = list(self._handles.values()) if self.silent_s != before else []
            looked_at = now
            for handle in handles:
                handle.put(EngineSilent(self.silent_s))
            if error is not None:
                self._give_up(error)
            elif self.silent_s != before:
                self._on_change(self)

    def _give_up(self, error: RoostError) -> None:
        with self._changed:
            self.has_crashed = self.has_stalled = True
            self.silent_s = 0
            self._abandoned = self._abandoned or error
        self.kill()
        self._end(error)

    def _become_ready(self, message: Loaded) -> None:
        with self._changed:
            self.config, self.seats, self._is_ready = message.config, message.seats, True
            self.idle_since = time.monotonic()
            self._changed.notify_all()

    def _deliver(self, output: QueueReport | PrefillProgress | TokenOutput | None) -> None:
        if output is None:
            return
        if isinstance(output, QueueReport):
            self._waiting = len(output.waiting)
            for request_id, ahead in output.waiting.items():
                if waiting := self._handles.get(request_id):
                    waiting.put(QueuePosition(ahead))
            return
        handle = self._handles.get(output.request_id)
        if handle is None:
            return
        if isinstance(output, TokenOutput) and output.finish_reason is not None:
            with self._changed:
                self._handles.pop(output.request_id, None)
                self.idle_since = time.monotonic()
                self.has_answered = self.has_answered or output.finish_reason is not FinishReason.ERROR
                self._changed.notify_all()
            log_end(output, handle.service)
        handle.put(output)

    def _answer(self, reply: Reply) -> None:
        with self._changed:
            future = self._calls.pop(reply.call_id, None)
            if reply.call_id not in self._idle_calls:
                self.idle_since = time.monotonic()
            self._idle_calls.discard(reply.call_id)
            self._changed.notify_all()
        if future is None:
            return
        if reply.error is not None:
            future.set_exception(error_from_dict(reply.error))
        else:
            future.set_result(reply)

    def _report_exit(self, found: EngineExit) -> None:
        self.last_exit = found
        self._is_over.set()
        if self.error is None:
            # A load we gave up may be killed by us: that is no crash.
            self.has_crashed = self.has_stalled or self._abandoned is None
            self._end(self._abandoned or crash_error(found, self._memory, oom_kills()))
        self._on_change(self)

    def _end(self, error: RoostError) -> None:
        """Whoever sends again because an answer failed must find that this engine serves no more: so the change is told
        before the answers end."""
        with self._changed:
            if self.error is None:
                self.error = error
            handles, self._handles = list(self._handles.values()), {}
            calls, self._calls = list(self._calls.values()), {}
            self._changed.notify_all()
        self._on_change(self)
        for handle in handles:
            handle.finish(FinishReason.ERROR, error)
        for future in calls:
            future.set_exception(error)

    def _measure(self) -> None:
        now = time.monotonic()
        if now - self._measured_at >= MEASURE_EVERY_S:
            self._measured_at = now
            self._memory = memory_facts(self.pid) or self._memory
