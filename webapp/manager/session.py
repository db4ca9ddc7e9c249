"""One engine from start to end: one model, its requests, and the reason for its end."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec

from webapp.engine.backend import LoadProgress
from webapp.engine.outputs import FinishReason, PrefillProgress, TokenOutput
from webapp.errors import ModelError, RoostError, error_from_dict
from webapp.i18n import Text
from webapp.manager import messages
from webapp.manager.client import EngineClient, EngineExit, EngineStarter, crash_error
from webapp.manager.handles import EngineSilent, QueuePosition, RequestHandle, Service, log_begin, log_end
from webapp.manager.memory import MemoryFacts, memory_facts, oom_kills
from webapp.manager.target import Start, StateInfo, Target, tokenizer_or_none
from webapp.settings import Settings
from webapp.tokenizer import Tokenizer
from webapp.weights.inspection import Inspection, used_token_bitmap

if TYPE_CHECKING:
    from webapp.manager.supervisor import StallLimits

CANCEL_PATIENCE_S = 2.0
MEASURE_EVERY_S = 1.0
KEPT_STATES_BYTES = 256 << 20
"""The state of a 7B model has 33 MB."""
PENALTY_EXEMPT_TEXT = "\n\t 0123456789,.:;?!\"'`~@#$%^&*()[]{}<>_+-=|/\\，。：；？！、“”‘’（）《》"
"""Characters that repeat in every text: their tokens in the prompt do not count for ``global_penalty``. From
RWKV-Runner's rwkv.py, which exempts line ends, spaces, digits and punctuation."""


class EngineSession:
    """Loading, then ready, then ended with an ``error``. Late messages of an ended engine are ignored.

    The lock ``changed`` guards all fields here, and fields of its owner. ``on_change`` is called with the lock held,
    also from the engine's threads.
    """

    def __init__(
        self,
        target: Target,
        changed: threading.Condition,
        on_change: Callable[[EngineSession], None],
        stall_limits: StallLimits,
    ) -> None:
        self.target = target
        self.config = target.config
        self.slots = 0
        self.progress = LoadProgress(0, target.inspection.size_bytes, 0, len(target.inspection.tensors))
        self.error: RoostError | None = None
        self.has_crashed = False
        self.has_stalled = False
        self.has_answered = False
        self.silent_s = 0
        self.last_exit = EngineExit(None)
        self.idle_since = time.monotonic()
        self._changed = changed
        self._on_change = on_change
        self._is_load_sent = self._is_ready = False
        self._abandoned: RoostError | None = None
        self._handles: dict[str, RequestHandle] = {}
        self._waiting = 0
        self._calls: dict[int, Future[messages.Reply]] = {}
        self._idle_calls: set[int] = set()
        self._call_ids = itertools.count(1)
        self._client: EngineClient | None = None
        self._kept_states = KeptStates(self._send)
        self._memory: MemoryFacts | None = None
        self._measured_at = 0.0
        self._limits = stall_limits
        self._stall = StallWatch(stall_limits)
        self._is_over = threading.Event()

    @property
    def pid(self) -> int | None:
        return self._client.pid if self._client else None

    @property
    def engine_bytes(self) -> int:
        return self._memory.engine_bytes if self._memory else 0

    @property
    def open_count(self) -> int:
        return len(self._handles)

    @property
    def call_count(self) -> int:
        return len(self._calls)

    @property
    def is_busy(self) -> bool:
        return bool(self._handles or self._calls)

    @property
    def waiting_count(self) -> int:
        """The number of open requests that have no slot in the engine yet."""
        return min(self._waiting, len(self._handles))

    def open_handles(self) -> list[RequestHandle]:
        return list(self._handles.values())

    def has_request(self, request_id: str) -> bool:
        return request_id in self._handles

    # for the supervisor

    def start(self, start_engine: EngineStarter) -> None:
        """Starts the process before the target is known: it imports for a while before it reads its first command."""
        self._client = start_engine(self._receive, self._report_exit)
        threading.Thread(target=self._watch, name="roost-engine-watch", daemon=True).start()

    def load(self, command: Callable[[Start], messages.LoadModel]) -> None:
        with self._changed:
            self._is_load_sent = True
            self._send(command(self.target.start))

    def wait_loaded(self, timeout_s: float | None) -> None:
        """Waits until the model is loaded; raises the error if that fails, and the caller then closes the session."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: self._is_ready or bool(self.error or self._abandoned), timeout_s)
            if self._abandoned and not self.error:
                self._send(messages.CancelLoad())
                self._changed.wait_for(lambda: self._is_ready or bool(self.error), CANCEL_PATIENCE_S)
            if error := self._abandoned or self.error:
                raise error
            if not in_time:
                raise ModelError(
                    "load_failed",
                    name=self.target.name,
                    reason=Text("reason.manager.took_too_long", seconds=f"{timeout_s:g}"),
                )

    def abandon(self, error: RoostError) -> None:
        """Cancels a load: ``wait_loaded`` raises ``error`` as soon as the engine has stopped, or after two seconds."""
        with self._changed:
            self._abandoned = self._abandoned or error
            self._changed.notify_all()

    def set_state(self, target: Target) -> None:
        """``target`` is the same model with another initial state."""
        self.target = target
        if not self._is_load_sent:  # the first command must be the load, which includes this state
            return
        state = messages.State.of(target.state) if target.state is not None else None
        self._send(messages.SetInitialState(state, target.state_info.digest))

    def close(self, error: RoostError, grace_s: float) -> None:
        """Ends the engine; open requests end with ``error``. Returns when the engine is gone."""
        self._end(error)
        if self._client is not None:
            self._client.close(grace_s)

    def kill(self) -> None:
        if self._client is not None:
            self._client.kill()

    # requests and calls

    def submit(self, handle: RequestHandle) -> None:
        with self._changed:
            if self.error is not None:
                handle.finish(FinishReason.ERROR, self.error)
                return
            self._handles[handle.request_id] = handle
            request = handle.request
            start, digest = handle.start or self.target.start, request.initial_state_digest
            if request.initial_state is not None:
                start = Start(StateInfo("", request.initial_state.digest()), request.initial_state)
            if start.info != self.target.start.info:
                digest = self._kept_states.give(start)
            handle.service = Service(self.target.name, self.target.strategy, start.info)
            log_begin(handle)  # before the engine can end the request
            self._send(messages.Submit.of(request, digest))

    def abort(self, request_id: str) -> None:
        """Does nothing if the request does not belong to this engine."""
        if request_id in self._handles:
            self._send(messages.Abort(request_id))

    def call(
        self, make_command: Callable[[int, str | None], Any], start: Start | None = None, is_work: bool = True
    ) -> Future[messages.Reply]:
        """Sends a command made from the call's id and the digest of ``start``; the result is its Reply.

        A call with ``is_work`` False does not keep an idle engine loaded.
        """
        future: Future[messages.Reply] = Future()
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

    def tell(self, command: messages.Command) -> None:
        """Sends a command that has no reply."""
        with self._changed:
            if self.error is None:
                self._send(command)

    def _send(self, command: messages.Command) -> None:
        if self._client is not None:
            self._client.send(command)

    # messages from the engine

    def _receive(self, message: messages.Message) -> None:
        self._measure()
        beat = message if isinstance(message, messages.Heartbeat) else None
        with self._changed:
            self._stall.hear(beat, is_loading=not self._is_ready)
        if isinstance(message, messages.Outputs):
            self._deliver(message)
        elif isinstance(message, messages.LoadFailed):
            self._end(error_from_dict(message.error))
        elif isinstance(message, messages.Reply):
            self._answer(message)
        elif isinstance(message, (messages.Loading, messages.Loaded)):
            with self._changed:
                if isinstance(message, messages.Loading):
                    self.progress = message.progress
                else:
                    self.config, self.slots, self._is_ready = message.config, message.slots, True
                    self.idle_since = time.monotonic()
                self._on_change(self)

    def _deliver(self, outputs: messages.Outputs) -> None:
        """Passes outputs to the handles, ended requests first: a client that sees an answer end finds its slot free."""
        before = (self.open_count, self.waiting_count)
        events: list[tuple[RequestHandle | None, QueuePosition | PrefillProgress | TokenOutput]] = []
        news: list[PrefillProgress | TokenOutput] = [*outputs.prefills, *outputs.tokens]
        with self._changed:
            if outputs.queue is not None:
                self._waiting = len(outputs.queue.waiting)
                events += [(self._handles.get(name), QueuePosition(n)) for name, n in outputs.queue.waiting.items()]
            for output in news:
                events.append((self._handles.get(output.request_id), output))
                if isinstance(output, TokenOutput) and output.finish_reason is not None:
                    self._handles.pop(output.request_id, None)
                    self.idle_since = time.monotonic()
                    self.has_answered = self.has_answered or output.finish_reason is not FinishReason.ERROR
        for handle, event in events:
            if handle is not None:
                if isinstance(event, TokenOutput) and event.finish_reason is not None:
                    log_end(event, handle.service)
                handle.put(event)
        if before != (self.open_count, self.waiting_count):
            with self._changed:
                self._on_change(self)

    def _answer(self, reply: messages.Reply) -> None:
        with self._changed:
            future = self._calls.pop(reply.call_id, None)
            if reply.call_id not in self._idle_calls:
                self.idle_since = time.monotonic()
            self._idle_calls.discard(reply.call_id)
            self._on_change(self)
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
            # We may have killed a load that was cancelled: that is not a crash.
            self.has_crashed = self.has_stalled or self._abandoned is None
            self._end(self._abandoned or crash_error(found, self._memory, oom_kills()))
        else:
            with self._changed:
                self._on_change(self)

    def _end(self, error: RoostError) -> None:
        """Reports the change before the answers end: a caller that retries after a failed answer must see that this
        engine does not serve any more."""
        with self._changed:
            self.error = self.error or error
            handles, self._handles = list(self._handles.values()), {}
            calls, self._calls = list(self._calls.values()), {}
            self._on_change(self)
        for handle in handles:
            handle.finish(FinishReason.ERROR, error)
        for future in calls:
            future.set_exception(error)

    # the watchdog

    def _watch(self) -> None:
        """Watches for signs of life until the engine's end; kills the engine if there was none for too long."""
        looked_at = time.monotonic()
        while not self._is_over.wait(self._limits.look_every_s):
            now = time.monotonic()
            with self._changed:
                self._stall.look(now - looked_at)
                looked_at = now
                error = self._stall.error() if self.error is None else None
                if self._stall.silent_s != self.silent_s and error is None:
                    self.silent_s = self._stall.silent_s
                    for handle in self._handles.values():
                        handle.put(EngineSilent(self.silent_s))
                    self._on_change(self)
                if error is not None:
                    self.has_crashed = self.has_stalled = True
                    self.silent_s = 0
                    self._abandoned = self._abandoned or error
            if error is not None:
                self.kill()
                self._end(error)

    def _measure(self) -> None:
        now = time.monotonic()
        if now - self._measured_at >= MEASURE_EVERY_S:
            self._measured_at = now
            self._memory = memory_facts(self.pid) or self._memory


class KeptStates:
    """The states that one engine received by name, so that each crosses the pipe once and not with every request.

    Beyond ``limit_bytes`` the least recently used are removed from the engine. Commands arrive in order, so a request
    that named such a state has already started. Not thread-safe.
    """

    def __init__(
        self, send: Callable[[messages.KeepState | messages.ForgetState], None], limit_bytes: int = KEPT_STATES_BYTES
    ) -> None:
        self._send = send
        self._limit_bytes = limit_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def give(self, start: Start) -> str:
        """The digest by which the engine knows this state; "" for the model's own initial state."""
        if start.state is None:
            return ""
        digest = start.info.digest
        if digest not in self._sizes:
            self._send(messages.KeepState(digest, messages.State.of(start.state)))
            self._sizes[digest] = start.state.nbytes
        self._sizes.move_to_end(digest)
        while len(self._sizes) > 1 and sum(self._sizes.values()) > self._limit_bytes:
            self._send(messages.ForgetState(self._sizes.popitem(last=False)[0]))
        return digest


def load_command(target: Target, settings: Settings) -> Callable[[Start], messages.LoadModel]:
    """The command that loads a target with the settings' values. Takes a moment (it reads the vocabulary); the state is
    filled in last, because it may change until then."""
    tokenizer = tokenizer_or_none(target)
    command = messages.LoadModel(
        path_bytes=os.fsencode(target.path),
        config=target.config,
        strategy=target.strategy,
        max_sequences=settings.max_sequences,
        prefill_chunk=target.options.prefill_chunk or settings.prefill_chunk,
        state_cache_bytes=settings.state_cache_bytes,
        threads=target.options.threads,
        custom_cuda=target.options.custom_cuda,
        tokenizer_bytes=os.fsencode(target.options.tokenizer),
        adapter_bytes=os.fsencode(target.options.adapter_file),
        adapter_alpha=target.options.adapter_alpha,
        adapter_start_bytes=os.fsencode(target.options.adapter_start),
        banned_token_ids=banned_token_ids(tokenizer, target.inspection, target.config.vocab_size),
        penalty_exempt_token_ids=penalty_exempt_token_ids(tokenizer) if tokenizer else (),
        snapshot_folder_bytes=os.fsencode(settings.snapshot_dir),
        snapshot_limit_bytes=settings.snapshot_limit_bytes,
        checks_states=settings.log_level == "debug",
    )

    def starting_from(start: Start) -> messages.LoadModel:
        state = messages.State.of(start.state) if start.state is not None else None
        return msgspec.structs.replace(command, initial_state=state, initial_state_digest=start.info.digest)

    return starting_from


def penalty_exempt_token_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokens that are a single character of :data:`PENALTY_EXEMPT_TEXT`; characters with several tokens are skipped."""
    encoded = (tokenizer.encode(character) for character in PENALTY_EXEMPT_TEXT)
    return tuple(sorted({ids[0] for ids in encoded if len(ids) == 1}))


def banned_token_ids(tokenizer: Tokenizer | None, inspection: Inspection, vocab_size: int) -> tuple[int, ...]:
    """Ids that are not tokens, and tokens that the model was not trained on, whose logits are arbitrary. Token 0 ends a
    text and is never banned."""
    banned = {token_id for token_id in (tokenizer.unassigned_ids() if tokenizer else ()) if token_id < vocab_size}
    bitmap = used_token_bitmap(inspection)
    if bitmap is not None:
        banned |= {id for id in range(vocab_size) if id // 8 < len(bitmap) and not bitmap[id // 8] >> (id % 8) & 1}
    return tuple(sorted(banned - {0}))


WORKING_CPU_S = 0.01
"""CPU time between two heartbeats, one second apart, above which a long step counts as working. The heartbeat itself
needs 0.1 ms."""


class StallWatch:
    """Counts seconds since the last sign of life. Not thread-safe.

    A sign of life is any message, or a heartbeat if the loop advanced or is idle, if the process used CPU time, or if a
    model is loading (a load may wait for a disk or a compiler). A heartbeat alone is not enough: its thread also runs
    during a deadlock.

    Only the watcher's own checks count time, each at most two intervals. So a suspended laptop, a paused machine or a
    web process without CPU time does not make an engine look hung, whether or not the system's clock continued.
    """

    def __init__(self, limits: StallLimits) -> None:
        self._limits = limits
        self._silent_s = 0.0
        self._step_s = 0.0
        self._beat: messages.Heartbeat | None = None

    def hear(self, beat: messages.Heartbeat | None, is_loading: bool) -> None:
        """``beat`` None: any other message."""
        before, self._beat = self._beat, beat or self._beat
        if beat is None or before is None or beat.is_idle or beat.progress != before.progress:
            self._silent_s = self._step_s = 0.0
        elif is_loading or beat.cpu_s - before.cpu_s >= WORKING_CPU_S:
            self._silent_s = 0.0

    def look(self, elapsed_s: float) -> None:
        """Called regularly, with the seconds since the last call."""
        counted_s = min(elapsed_s, 2 * self._limits.look_every_s)
        self._silent_s += counted_s
        self._step_s += counted_s

    @property
    def silent_s(self) -> int:
        """Whole seconds; 0 while the time is too short to report."""
        return int(self._silent_s) if self._silent_s >= self._limits.notice_s else 0

    def error(self) -> ModelError | None:
        """Why the engine must be killed; None if it need not."""
        limits = self._limits
        if limits.silent_s and self._silent_s >= limits.silent_s:
            return ModelError(
                "engine_stalled", reason=Text("reason.manager.did_not_answer", seconds=f"{self._silent_s:.0f}")
            )
        if limits.step_s and self._step_s >= limits.step_s:
            return ModelError(
                "engine_stalled",
                reason=Text("reason.manager.step_took_too_long", seconds=f"{limits.step_s:g}"),
            )
        return None
