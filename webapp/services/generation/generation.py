"""One answer of the engine as a stream of events.

Everything that lets the model write goes through :class:`Generation`: chat turns, the APIs (:mod:`.completions`), the
terminal's commands and the tool bench only render what it reads.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from webapp.chat.events import AnswerEvent, Failed, Finished, Usage, Waiting
from webapp.chat.prompts import RenderedPrompt
from webapp.engine.outputs import FinishReason, GenerationRequest, PrefillProgress, SequenceStats, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RoostError, error_from_dict
from webapp.manager.handles import EngineSilent, LoadingEvent, QueuePosition, RequestHandle, Service
from webapp.manager.manager import ModelManager
from webapp.services.generation.request import PreparedPrompt, PromptModel, prepare
from webapp.services.generation.text import AnswerText

ABORT_GRACE_S = 5.0
"""How long an engine may take to confirm the end of an answer before it counts as ended without that."""
POLL_S = 1.0
WAITING_INTERVAL_S = 0.2


class Generation:
    """Read in one thread; :meth:`stop` may come from any thread, at any time, more than once.

    An engine's sequence is never left to write for nobody: ``stop`` before, during or after ``start`` ends it. ``text``
    replaces the way the answer is read.
    """

    def __init__(
        self, manager: ModelManager, prompt: PreparedPrompt, client: str = "", text: AnswerText | None = None
    ) -> None:
        self.prompt = prompt
        self.text = text or AnswerText(prompt.rendered, prompt.model.tokenizer)
        self.end: Finished | Failed | None = None
        """The last event; None until it was read."""
        self._manager = manager
        self._client = client
        self._begun_tokens = 0
        self._lock = threading.Lock()
        self._handle: RequestHandle | None = None
        self._stopped_at: float | None = None
        self._waited = ("", 0.0)

    @property
    def service(self) -> Service:
        """The model, strategy and state the engine answers with; empty until it was asked."""
        return self._handle.service if self._handle is not None else Service()

    @property
    def finish_reason(self) -> str:
        """Empty while it is written; "error" where it failed."""
        return "error" if isinstance(self.end, Failed) else self.end.finish_reason if self.end else ""

    @property
    def is_stopping(self) -> bool:
        return self._stopped_at is not None

    def begin(self, token_ids: Sequence[int]) -> list[AnswerEvent]:
        """Reads the beginning of an answer that goes on: its events. It does not count as written."""
        events: list[AnswerEvent] = [*self.text.feed(token_ids)]
        self._begun_tokens = len(self.text.token_ids)
        return events

    def start(self, listener: Callable[[], None] | None = None) -> None:
        """Queues the request. Raises what ``ModelManager.submit`` does; asks for nothing after :meth:`stop`.
        ``listener`` is called whenever :meth:`read` may have something."""
        if self.is_stopping:
            return
        request = GenerationRequest(
            uuid.uuid4().hex,
            self.prompt.token_ids,
            self.prompt.params,
            self.prompt.encoded.boundaries,
            self._client,
            constraint=self.prompt.constraint,
        )
        handle = self._manager.submit(request, self.prompt.model.info, self.prompt.state)
        with self._lock:
            self._handle = handle
        if self.is_stopping:  # stop() came meanwhile and may not have seen the handle
            handle.abort()
        if listener is not None:
            handle.listen(listener)

    def stop(self) -> None:
        """Asks for the end and returns; the last event still comes, after :data:`ABORT_GRACE_S` at the latest."""
        with self._lock:
            self._stopped_at = self._stopped_at or time.monotonic()
            handle = self._handle
        if handle is not None and self.end is None:
            handle.abort()

    def events(self) -> Iterator[AnswerEvent]:
        """To the end, which is a Finished or a Failed; waits for each."""
        while self.end is None:
            yield from self.read(POLL_S) or ()

    def finish(self) -> Finished:
        """Reads to the end; raises what broke the answer."""
        for _ in self.events():
            pass
        if isinstance(self.end, Failed):
            raise error_from_dict(self.end.error)
        assert self.end is not None
        return self.end

    def read(self, timeout_s: float) -> list[AnswerEvent] | None:
        """What the next output of the engine comes to, which may be nothing to show. None when none came in time,
        after the end, and before :meth:`start`."""
        if self.end is not None:
            return None
        if self._stopped_at is not None:
            left = self._stopped_at + ABORT_GRACE_S - time.monotonic()
            if left <= 0 or self._handle is None:
                return self._ended(FinishReason.ABORT, None, None)
            timeout_s = min(timeout_s, left)
        event = self._handle.next_event(timeout_s) if self._handle is not None else None
        if isinstance(event, TokenOutput):
            return self._taken(event)
        return None if event is None else self._waiting(event)

    def _taken(self, output: TokenOutput) -> list[AnswerEvent]:
        events: list[AnswerEvent] = [*self.text.feed(output.token_ids, output.logprobs)]
        if output.finish_reason is not None or output.error is not None:
            return events + self._ended(output.finish_reason, output.stats, output.error)
        if self.text.is_stopped and not self.is_stopping:
            self.stop()
        return events + self._told(Waiting("calling")) if self.text.is_calling else events

    def _ended(
        self, reason: FinishReason | None, stats: SequenceStats | None, error: dict[str, Any] | None
    ) -> list[AnswerEvent]:
        found = {**asdict(stats), "tokens_per_s": stats.tokens_per_s} if stats is not None else {}
        if error is not None or reason is None or reason is FinishReason.ERROR:
            rest = self.text.finish(is_cut=True)
            self.end = Failed(error or RoostError(reason="the engine gave no reason").to_dict(), found)
            return [*rest, self.end]
        reason = FinishReason.STOP if self.text.is_stopped else reason
        rest = self.text.finish(is_cut=reason in (FinishReason.LENGTH, FinishReason.ABORT))
        if reason is FinishReason.STOP and self.text.tool_calls:
            reason = FinishReason.TOOL_CALLS
        self.end = Finished(reason.value, self._usage(stats), self.text.stopped_by or "", found)
        return [*rest, self.end]

    def _usage(self, stats: SequenceStats | None) -> Usage:
        is_counted = stats is not None and not self.text.is_stopped
        written = stats.decoded_tokens if stats and is_counted else len(self.text.token_ids) - self._begun_tokens
        return Usage(len(self.prompt.token_ids), written, stats.cached_tokens if stats else 0, self.text.thought)

    def _waiting(self, event: object) -> list[AnswerEvent]:
        if self.is_stopping:
            return []
        if isinstance(event, LoadingEvent):
            return self._told(Waiting("loading", event.done_bytes, event.total_bytes))
        if isinstance(event, QueuePosition):
            return self._told(Waiting("queued", event.ahead))
        if isinstance(event, PrefillProgress):
            return self._told(Waiting("reading", event.done, event.total))
        if isinstance(event, EngineSilent):
            return self._told(Waiting("silent", event.seconds))
        return []

    def _told(self, waiting: Waiting) -> list[AnswerEvent]:
        """Not more often than people can see."""
        (phase, since), now = self._waited, time.monotonic()
        if waiting.phase == phase and now - since < WAITING_INTERVAL_S:
            return []
        self._waited = (waiting.phase, now)
        return [waiting]


def generate(
    manager: ModelManager, rendered: RenderedPrompt, params: SamplingParams, constraint: dict[str, Any] | None = None
) -> Generation:
    """An answer from start to end, for who wants it whole. Raises what the engine raised."""
    generation = Generation(manager, prepare(PromptModel.chosen(manager), rendered, params, constraint))
    generation.start()
    generation.finish()
    return generation
