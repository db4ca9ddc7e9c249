"""One request, seen by who asked: its events in order, a way to stop it, and its two lines in the log."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from webapp.engine.outputs import FinishReason, GenerationRequest, PrefillProgress, SequenceStats, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RoostError
from webapp.manager.target import Start, StateInfo

logger = logging.getLogger("webapp.requests")
CONTENTS = ("stop_token_sequences", "logit_bias")
"""Parameters that hold words of the request; their number is logged."""


@dataclass(frozen=True)
class LoadingEvent:
    """The model this request waits for is being loaded."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class QueuePosition:
    """``ahead`` requests are before this one."""

    ahead: int


@dataclass(frozen=True)
class EngineSilent:
    """The engine has given no sign of life for ``seconds``; 0 when it does again."""

    seconds: int


@dataclass(frozen=True)
class Service:
    """What a request is answered with, as it was when the engine was asked. ``state``: what it begins from."""

    model: str = ""
    strategy: str = ""
    state: StateInfo = field(default_factory=StateInfo)


class Quota:
    """What clients may use: everything, unless the app has put another in its place. Called from many threads."""

    def fitted(self, request: GenerationRequest) -> GenerationRequest:
        """``request`` as it may be run; raises why it may not."""
        return request

    def check(self, client: str, open_count: int) -> None:
        """Raises when a client that has ``open_count`` answers waiting or written may have no more. Must not wait."""

    def note(self, client: str, end: TokenOutput) -> None:
        """An answer has ended. Must not wait."""


MOST_EVENTS = 1000
HandleEvent = LoadingEvent | QueuePosition | EngineSilent | PrefillProgress | TokenOutput


class RequestHandle:
    """Events wait here for a slow reader, who holds nobody up: beyond :data:`MOST_EVENTS` unread ones, the tokens among
    them are joined to one output.

    Progress that nobody has read yet is replaced by newer progress. After the TokenOutput with a finish_reason nothing
    more comes; exactly one such output is ever put.

    ``start`` is where the request asked to begin, None for what is chosen when the engine is asked. ``service`` says
    what it got, from then on.
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
        """The last event has been put; it may still wait to be read."""
        return self._is_ended

    def abort(self) -> None:
        """Asks for an end; the last event still comes, with finish_reason ``abort`` unless another was faster."""
        self._abort(self)

    def listen(self, listener: Callable[[], None]) -> None:
        """Has ``listener`` called whenever there may be an event: for one who waits for several requests at once."""
        self._listener = listener
        listener()

    def next_event(self, timeout_s: float, gather_s: float = 0.0) -> HandleEvent | None:
        """The next one, None when none came in time or after the last. With ``gather_s``, tokens come no more often
        than that, as one output with all that were written meanwhile: a reader that is woken for each token costs more
        than the token."""
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
        """Every event until the last; TimeoutError when nothing came for ``timeout_s``."""
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: bool(self._events) or self._is_ended, timeout_s):
                    raise TimeoutError(f"nothing came for {timeout_s} s")
                if not self._events:
                    return
                event = self._events.popleft()
            yield event

    def put(self, event: HandleEvent) -> None:
        """For the manager. Ignored after the end."""
        with self._changed:
            if self._is_ended:
                return
            if isinstance(event, TokenOutput):
                self._decoded += len(event.token_ids)
                self._is_ended = event.finish_reason is not None
            elif self._events and type(self._events[-1]) is type(event):
                self._events.pop()
            self._events.append(event)
            if len(self._events) > MOST_EVENTS:
                self._events = deque(_joined(self._events))
            self._changed.notify_all()
        if self._is_ended:
            if self.on_end is not None and isinstance(event, TokenOutput):
                self.on_end(event)
            self._ended.set()
        if self._listener is not None:
            self._listener()

    def finish(self, reason: FinishReason, error: RoostError | None = None) -> None:
        """For the manager: the end of a request that no engine will end."""
        stats = SequenceStats(
            prompt_tokens=len(self.request.prompt_token_ids),
            decoded_tokens=self._decoded,
            queued_s=0.0 if self._decoded else time.monotonic() - self.created_at,
        )
        self.put(
            TokenOutput(self.request_id, finish_reason=reason, stats=stats, error=error.to_dict() if error else None)
        )


def _joined(events: Iterable[HandleEvent]) -> Iterator[HandleEvent]:
    """The same with all tokens in one output, at the end."""
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
    """What the request is run with, at INFO, when the engine is asked; never what it says. ``digest`` is of the state
    it is to begin with, "" for the model's own."""
    if logger.isEnabledFor(logging.INFO):
        service = handle.service
        state = {"state": service.state.name, "digest": service.state.digest}
        sampling = sampling_fields(handle.request.params)
        served = {"model": service.model, "strategy": service.strategy, **state, "sampling": sampling}
        _log("begins", handle.request_id, served)


def log_end(output: TokenOutput, service: Service) -> None:
    """``digest`` is what the engine says the sequence began with: never "" here."""
    if logger.isEnabledFor(logging.INFO):
        stats = output.stats or SequenceStats()
        reason = output.finish_reason.value if output.finish_reason else ""
        found = {"state": service.state.name, "digest": stats.initial_state_digest, "seed": stats.seed}
        counts = {"prompt_tokens": stats.prompt_tokens, "decoded_tokens": stats.decoded_tokens}
        error = {"error": output.error["code"]} if output.error else {}
        if stats.start_digest:  # the log is at debug
            found |= {"start_state": stats.start_digest, "end_state": stats.end_digest}
        _log("ends", output.request_id, {"finish_reason": reason, **found, **counts, **error})


def sampling_fields(params: SamplingParams) -> dict[str, Any]:
    return {name: len(value) if name in CONTENTS else value for name, value in params.to_dict().items()}


def _log(event: str, request_id: str, fields: dict[str, Any]) -> None:
    logger.info("%s", json.dumps({"event": event, "request": request_id, **fields}, ensure_ascii=False))
