"""One request, as its caller sees it: its events in order, a way to stop it, and its two lines in the log."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from msgspec import Struct, field

from webapp.engine.outputs import FinishReason, GenerationRequest, PrefillProgress, SequenceStats, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RoostError
from webapp.manager.target import Start, StateInfo

logger = logging.getLogger("webapp.requests")
CONTENTS = ("stop_token_sequences", "logit_bias")
"""Parameters that contain text of the request; only their number is logged."""


class LoadingEvent(Struct, frozen=True):
    """The model this request waits for is being loaded."""

    done_bytes: int
    total_bytes: int


class QueuePosition(Struct, frozen=True):
    """``ahead`` requests come before this one."""

    ahead: int


class EngineSilent(Struct, frozen=True):
    """The engine has sent no sign of life for ``seconds``; 0 when it does again."""

    seconds: int


class Service(Struct, frozen=True):
    """What answers a request, recorded when it is sent to the engine. ``state``: its initial state."""

    model: str = ""
    strategy: str = ""
    state: StateInfo = field(default_factory=StateInfo)


PERSON = "person "
"""Prefix of the ``client`` of a request that counts for a person, before the id. Only persons have a quota."""


class Quota:
    """Limits for persons: none, unless the app has set another quota. Called from many threads."""

    def fitted(self, request: GenerationRequest) -> GenerationRequest:
        """``request`` within the limits of the person; raises the reason if it may not run."""
        return request

    def check(self, client: str, open_count: int) -> None:
        """Raises if a person with ``open_count`` waiting or running answers may not have more. Must not block."""

    def note(self, client: str, end: TokenOutput) -> None:
        """Called when an answer has ended. Must not block."""


MAX_EVENTS = 1000
HandleEvent = LoadingEvent | QueuePosition | EngineSilent | PrefillProgress | TokenOutput


class RequestHandle:
    """Events are queued for a slow reader, which delays no other: beyond :data:`MAX_EVENTS` unread events, the tokens
    among them are merged into one output.

    Newer progress replaces unread progress. Nothing follows the TokenOutput with a finish_reason; exactly one such
    output is put.

    ``start``: the initial state that the request asks for; None for the one in use when it is sent to the engine. From
    then on, ``service`` says what answers it.
    """

    def __init__(
        self, request: GenerationRequest, abort: Callable[[RequestHandle], None], start: Start | None = None
    ) -> None:
        self.request = request
        self.start = start
        self.service = Service()
        self.request_id = request.request_id
        self.created_at = time.monotonic()
        self._abort = abort
        self._events: deque[HandleEvent] = deque()
        self._changed = threading.Condition()
        self._is_ended = False
        self._ended = threading.Event()
        self._gave_tokens_at = -math.inf
        self._decoded = 0
        self._listener: Callable[[], None] | None = None
        self.on_end: Callable[[TokenOutput], None] | None = None
        """Called once, with the last event, in the thread that puts it."""

    @property
    def is_finished(self) -> bool:
        """True once the last event was put; it may still be unread."""
        return self._is_ended

    def abort(self) -> None:
        """Asks for the end. The last event still comes, with finish_reason ``abort`` unless it ended before."""
        self._abort(self)

    def listen(self, listener: Callable[[], None]) -> None:
        """``listener`` is called whenever there may be an event, for callers that wait for several requests at once."""
        self._listener = listener
        listener()

    def next_event(self, timeout_s: float, gather_s: float = 0.0) -> HandleEvent | None:
        """The next event; None after ``timeout_s`` or after the last event. With ``gather_s``, tokens are returned at
        most once per this time, all of them in one output: waking a reader for each token costs more than the token."""
        rest_s = self._gave_tokens_at + gather_s - time.monotonic()
        if rest_s > 0:
            self._ended.wait(min(rest_s, timeout_s))
        with self._changed:
            if timeout_s > 0:
                self._changed.wait_for(lambda: bool(self._events) or self._is_ended, timeout_s)
            if not self._events:
                return None
            event = self._events.popleft()
            if not gather_s or not isinstance(event, TokenOutput):
                return event
            outputs = [event]
            while self._events and isinstance(following := self._events[0], TokenOutput):
                outputs.append(following)
                self._events.popleft()
            self._gave_tokens_at = time.monotonic()
            return outputs[0] if len(outputs) == 1 else _as_one(outputs)

    def events(self, timeout_s: float | None = None) -> Iterator[HandleEvent]:
        """Every event until the last. Raises TimeoutError if none came for ``timeout_s``."""
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: bool(self._events) or self._is_ended, timeout_s):
                    raise TimeoutError(f"nothing came for {timeout_s} s")
                if not self._events:
                    return
                event = self._events.popleft()
            yield event

    def put(self, event: HandleEvent) -> None:
        """For the manager. Ignored after the last event."""
        with self._changed:
            if self._is_ended:
                return
            if isinstance(event, TokenOutput):
                self._decoded += len(event.token_ids)
                self._is_ended = event.finish_reason is not None
            elif self._events and type(self._events[-1]) is type(event):
                self._events.pop()
            self._events.append(event)
            if len(self._events) > MAX_EVENTS:
                self._events = deque(_joined(self._events))
            self._changed.notify_all()
        if self._is_ended:
            if self.on_end is not None and isinstance(event, TokenOutput):
                self.on_end(event)
            self._ended.set()
        if self._listener is not None:
            self._listener()

    def finish(self, reason: FinishReason, error: RoostError | None = None) -> None:
        """For the manager: ends a request that no engine will end."""
        stats = SequenceStats(
            prompt_tokens=len(self.request.prompt_token_ids),
            decoded_tokens=self._decoded,
            queued_s=0.0 if self._decoded else time.monotonic() - self.created_at,
        )
        self.put(
            TokenOutput(self.request_id, finish_reason=reason, stats=stats, error=error.to_dict() if error else None)
        )


def _joined(events: Iterable[HandleEvent]) -> Iterator[HandleEvent]:
    """The same events with all tokens in one output, at the end."""
    outputs = []
    for event in events:
        if isinstance(event, TokenOutput):
            outputs.append(event)
        else:
            yield event
    if outputs:
        yield _as_one(outputs)


def _as_one(outputs: list[TokenOutput]) -> TokenOutput:
    last = outputs[-1]
    token_ids = tuple(chain.from_iterable([output.token_ids for output in outputs]))
    logprobs = tuple(chain.from_iterable([output.logprobs for output in outputs]))
    return TokenOutput(last.request_id, token_ids, last.finish_reason, last.stats, last.error, logprobs)


def log_begin(handle: RequestHandle) -> None:
    """Logs the parameters of a request at INFO when it is sent to the engine, never its text. ``digest``: its initial
    state, "" for the model's own."""
    if logger.isEnabledFor(logging.INFO):
        service = handle.service
        state = {"state": service.state.name, "digest": service.state.digest}
        sampling = sampling_fields(handle.request.params)
        served = {"model": service.model, "strategy": service.strategy, **state, "sampling": sampling}
        _log("begins", handle.request_id, served)


def log_end(output: TokenOutput, service: Service) -> None:
    """``digest`` is the initial state that the engine reports: never "" here."""
    if logger.isEnabledFor(logging.INFO):
        stats = output.stats or SequenceStats()
        reason = output.finish_reason.value if output.finish_reason else ""
        found = {"state": service.state.name, "digest": stats.initial_state_digest, "seed": stats.seed}
        counts = {"prompt_tokens": stats.prompt_tokens, "decoded_tokens": stats.decoded_tokens}
        error = {"error": output.error["code"]} if output.error else {}
        if stats.start_digest:  # the log level is debug
            found |= {"start_state": stats.start_digest, "end_state": stats.end_digest}
        _log("ends", output.request_id, {"finish_reason": reason, **found, **counts, **error})


def sampling_fields(params: SamplingParams) -> dict[str, Any]:
    return {name: len(value) if name in CONTENTS else value for name, value in params.to_dict().items()}


def _log(event: str, request_id: str, fields: dict[str, Any]) -> None:
    logger.info("%s", json.dumps({"event": event, "request": request_id, **fields}, ensure_ascii=False))
