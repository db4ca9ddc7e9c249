"""One answer of the engine as a stream of events.

All generation goes through :class:`Generation`: chat turns, the APIs (:mod:`.completions`), the terminal's commands and
the tool bench only render its events.
"""

from __future__ import annotations

import threading
import time
import uuid
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from msgspec.structs import asdict, replace

from webapp.chat.messages import (
    AnswerEvent,
    AnswerToken,
    CallDelta,
    ContentDelta,
    Failed,
    Finished,
    ReasoningDelta,
    TextEvent,
    ToolCall,
    Usage,
    Waiting,
)
from webapp.chat.prompts import RenderedPrompt
from webapp.chat.stream_router import Delta, StopFilter, StreamRouter
from webapp.chat.tool_parser import ToolCallParser
from webapp.engine.outputs import FinishReason, GenerationRequest, PrefillProgress, SequenceStats, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RoostError, error_from_dict
from webapp.i18n import Text
from webapp.manager.handles import EngineSilent, LoadingEvent, QueuePosition, RequestHandle, Service
from webapp.manager.manager import ModelManager
from webapp.services.generation.request import PreparedPrompt, PromptModel, prepare
from webapp.tokenizer import StreamDecoder, Tokenizer


class AnswerText:
    """One answer while it is generated: takes token ids, returns events, and at the end the ids to store. ``content``,
    ``reasoning``, ``tool_calls`` and ``tokens`` are the sum of the events so far.

    Stages: characters, then the template's stops and the thinking, then calls if tools are offered, then the request's
    own stops in the remaining content. Processed token by token, so that the events give the same text however the
    engine's outputs were split.

    ``stops`` are the request's own; ``stopped_by`` is the one that occurred. Calls are parsed if the prompt offers
    tools; their text is not content. ``streams_calls``: arguments are sent while they are generated, if a grammar
    constrains the answer. ``router`` replaces the prompt's own. ``params``: how long nothing ends the answer
    (``min_tokens``, ``ignore_eos``; the latter does not apply to ``stops``).
    """

    def __init__(
        self,
        rendered: RenderedPrompt,
        tokenizer: Tokenizer,
        stops: Iterable[str] = (),
        streams_calls: bool = False,
        router: StreamRouter | None = None,
        params: SamplingParams | None = None,
    ) -> None:
        self._params = params if params is not None and params.least_tokens else None
        self.token_ids: list[int] = []
        """Includes the ids of a stop, but none after it."""
        self.tokens: list[AnswerToken] = []
        self.thought = 0
        """Number of thinking tokens."""
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._router = router or rendered.router()
        self._separator = rendered.separator
        self._parser = _parser_of(rendered, streams_calls)
        self._stops = StopFilter(stops := tuple(stops))
        self._has_stops = bool(stops)
        self._raw: list[str] = []
        self._ends: list[int] = []  # per token: characters of raw text that are certain after it
        self._content: list[str] = []
        self._content_bytes = 0
        self._content_at: int | None = None  # its first byte in the raw output
        self._written_bytes = 0
        self._reasoning: list[str] = []
        self._calls: dict[str, tuple[str, list[str]]] = {}  # by id: name and pieces of the arguments
        self._pending: deque[tuple[AnswerToken, int, int]] = deque()  # with the position of their bytes

    @property
    def tokenizer_name(self) -> str:
        return self._tokenizer.name

    @property
    def content(self) -> str:
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(ToolCall(key, name, "".join(pieces)) for key, (name, pieces) in self._calls.items())

    @property
    def raw(self) -> str:
        """The complete output of the model, including stops and tags."""
        return self._tokenizer.decode(self.token_ids)

    @property
    def stopped_by(self) -> str | None:
        return self._stops.stopped_by

    @property
    def is_stopped(self) -> bool:
        """A stop string has occurred; further tokens are not part of the answer."""
        return self._stops.stopped_by is not None or self._router.stopped_by is not None

    @property
    def is_calling(self) -> bool:
        """A call, or a possible beginning of one, is being generated."""
        return self._parser is not None and self._parser.is_inside

    def feed(self, token_ids: Sequence[int], logprobs: Sequence[tuple[Any, ...]] = ()) -> list[TextEvent]:
        """``logprobs``: one entry for each token, or none at all."""
        is_watched = self._has_stops or self._parser is not None or self._params is not None
        if not logprobs and not is_watched and self._router.content_begin is not None:
            return self._feed_content(token_ids)
        events: list[TextEvent] = []
        for place, token_id in enumerate(token_ids):
            if self.is_stopped:
                break
            events += self._feed_one(token_id, logprobs[place] if logprobs else ())
        return joined(events)

    def finish(self, is_cut: bool) -> list[TextEvent]:
        """The remaining events. With ``is_cut``, half a character at the end is hidden and its ids are kept."""
        rest = "" if is_cut or self.is_stopped else self._decoder.flush()
        return joined(self._events(self._router.feed(rest) + self._router.finish(), is_end=True))

    def kept_token_ids(self) -> tuple[tuple[int, ...], bool]:
        """The ids without the format's stop, and whether they already end with the format's separator of messages.

        They are the sampled ids up to a token's end. Only if a stop begins inside a token, the rest is encoded again.
        """
        if self._router.stopped_by is None:
            return tuple(self.token_ids), "".join(self._raw).endswith(self._separator)
        end = self._router.released_chars
        if self._router.stopped_by.startswith(self._separator):
            behind = end + len(self._separator)
            count = self._tokens_until(behind)
            if self._end_of(count) == behind:
                return tuple(self.token_ids[:count]), True
        count = self._tokens_until(end)
        begun = "".join(self._raw)[self._end_of(count) : end]
        return (*self.token_ids[:count], *self._tokenizer.encode(begun)), False

    def _tokens_until(self, end: int) -> int:
        """The fewest tokens whose text has ``end`` characters, else the most whose text has fewer."""
        count = bisect_left(self._ends, end)
        is_exact = end > 0 and count < len(self._ends) and self._ends[count] == end
        return count + 1 if is_exact else count

    def _end_of(self, count: int) -> int:
        return self._ends[count - 1] if count else 0

    def _feed_content(self, token_ids: Sequence[int]) -> list[TextEvent]:
        """All tokens at once: if a stop of the format ends the content, the last token is known only afterwards."""
        if self.is_stopped:
            return []
        first = len(self._raw)
        for token_id in token_ids:
            self._take(token_id)
        events = self._events(self._router.feed("".join(self._raw[first:])), is_end=False)
        if self._router.stopped_by is not None:
            last = bisect_left(self._ends, self._router.released_chars + len(self._router.stopped_by))
            for kept in (self.token_ids, self._raw, self._ends):
                del kept[last + 1 :]
        return events

    def _take(self, token_id: int) -> str:
        """The token's text, as far as it is certain."""
        text = self._decoder.feed((token_id,))
        self._ends.append(self._end_of(len(self._ends)) + len(text))
        self.token_ids.append(token_id)
        self._raw.append(text)
        return text

    def _feed_one(self, token_id: int, logprobs: tuple[Any, ...]) -> list[TextEvent]:
        if self._params is not None:
            is_early = len(self.token_ids) < self._params.min_tokens
            self._stops.is_ignoring = is_early
            self._router.ignore_stops(is_early or self._params.ignore_eos)
        was_thinking = self._router.is_thinking
        begin, text = self._end_of(len(self._ends)), self._take(token_id)
        if logprobs:
            first, self._written_bytes = self._written_bytes, self._written_bytes + self._size_of(token_id)
            self._pending.append((AnswerToken(token_id, logprobs, begin), first, self._written_bytes))
        deltas = self._router.feed(text)
        if self._router.is_thinking or (was_thinking and not any(isinstance(d, ContentDelta) for d in deltas)):
            self.thought += 1
            self._pending.clear()
        return self._events(deltas, is_end=False)

    def _events(self, deltas: list[Delta], is_end: bool) -> list[TextEvent]:
        pieces: list[TextEvent] = []
        for delta in deltas:
            is_content = self._parser is not None and isinstance(delta, ContentDelta)
            pieces += self._parser.feed(delta.text) if self._parser and is_content else [delta]
        if is_end and self._parser is not None:
            pieces += self._parser.finish()
        events = [event for piece in pieces if (event := self._before_stop(piece)) is not None]
        if is_end and (held := self._stops.flush()):
            events.append(ContentDelta(held))
        for event in events:
            self._add(event)
        if self._pending and (tokens := self._released(is_end)):
            self.tokens += tokens
            events.append(ContentDelta("", tokens))
        return events

    def _before_stop(self, piece: TextEvent) -> TextEvent | None:
        """The part of a piece before the request's own stop, which also removes later calls."""
        if isinstance(piece, ContentDelta) and self._has_stops:
            text = self._stops.feed(piece.text)
            return ContentDelta(text) if text else None
        return None if isinstance(piece, CallDelta) and self.stopped_by is not None else piece

    def _released(self, is_end: bool) -> tuple[AnswerToken, ...]:
        """Tokens whose text is completely shown; at the end also a partly shown token.

        The content is one continuous piece of the raw text from its beginning: with a grammar, no call precedes any of
        it.
        """
        place = self._router.content_begin
        if place is None:
            return ()
        if self._content_at is None:
            self._content_at = len("".join(self._raw)[:place].encode())
        begin, shown = self._content_at, self._content_at + self._content_bytes
        released = []
        while self._pending and (is_end or self._pending[0][2] <= shown):
            token, first, end = self._pending.popleft()
            if first < shown and end > begin:
                cut = (max(0, begin - first), max(0, end - shown))
                released.append(replace(token, cut=cut) if any(cut) else token)
        return tuple(released)

    def _size_of(self, token_id: int) -> int:
        return len(self._tokenizer.token_bytes(token_id) or self._tokenizer.decode([token_id]).encode())

    def _add(self, event: TextEvent) -> None:
        if isinstance(event, ContentDelta):
            self._content.append(event.text)
            self._content_bytes += len(event.text.encode())
        elif isinstance(event, ReasoningDelta):
            self._reasoning.append(event.text)
        else:
            self._calls.setdefault(event.call_id, (event.name, []))[1].append(event.arguments)


def new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def joined(events: list[TextEvent]) -> list[TextEvent]:
    """Merges adjacent text of the same kind."""
    if len(events) < 2:
        return events
    found: list[TextEvent] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, ContentDelta) and isinstance(last, ContentDelta):
            found[-1] = ContentDelta(last.text + event.text, last.tokens + event.tokens)
        elif isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta):
            found[-1] = ReasoningDelta(last.text + event.text)
        else:
            found.append(event)
    return found


def _parser_of(rendered: RenderedPrompt, streams_calls: bool) -> ToolCallParser | None:
    tools = rendered.tools
    if tools is None:
        return None
    return ToolCallParser(tools.syntax, tools.names, new_call_id, is_held=streams_calls and tools.is_held)


# the answer of the engine

ABORT_GRACE_S = 5.0
"""How long to wait for the engine's confirmation of a stop before the answer counts as ended."""
POLL_S = 1.0
WAITING_INTERVAL_S = 0.2


class Generation:
    """One thread reads it; :meth:`stop` may be called from any thread, at any time, repeatedly.

    The engine never keeps generating without a reader: ``stop`` before, during or after ``start`` ends it. ``text``
    replaces the reader of the answer; ``is_kept`` and ``origin`` as in ``GenerationRequest``, ``gather_s`` as in
    :meth:`RequestHandle.next_event`.
    """

    def __init__(
        self,
        manager: ModelManager,
        prompt: PreparedPrompt,
        client: str = "",
        text: AnswerText | None = None,
        is_kept: bool = False,
        gather_s: float = 0.0,
        origin: str = "",
    ) -> None:
        self.prompt = prompt
        self.text = text or AnswerText(prompt.rendered, prompt.model.tokenizer)
        self.end: Finished | Failed | None = None
        """The last event; None until it is read."""
        self._manager = manager
        self._client = client
        self._is_kept = is_kept
        self._origin = origin
        self._begun_tokens = self._begun = 0
        self._gather_s = gather_s
        self._lock = threading.Lock()
        self._handle: RequestHandle | None = None
        self._stopped_at: float | None = None
        self._waited = ("", 0.0)

    @property
    def service(self) -> Service:
        """The model, strategy and state that answer; empty until the request is sent to the engine."""
        return self._handle.service if self._handle is not None else Service()

    @property
    def finish_reason(self) -> str:
        """Empty during generation; "error" after a failure."""
        return "error" if isinstance(self.end, Failed) else self.end.finish_reason if self.end else ""

    @property
    def is_written(self) -> bool:
        """The engine has sent its last output, which may still be unread."""
        return self._handle is not None and self._handle.is_finished

    @property
    def is_stopping(self) -> bool:
        return self._stopped_at is not None

    def begin(self, token_ids: Sequence[int]) -> list[AnswerEvent]:
        """Processes the beginning of an answer that continues; returns its events. It does not count as generated."""
        events: list[AnswerEvent] = [*self.text.feed(token_ids)]
        self._begun_tokens = len(self.text.token_ids)
        self._begun = len(token_ids)
        return events

    def start(self, listener: Callable[[], None] | None = None) -> None:
        """Queues the request. Raises errors of ``ModelManager.submit``; does nothing after :meth:`stop`. ``listener``
        is called whenever :meth:`read` may have something."""
        if self.is_stopping:
            return
        request = GenerationRequest(
            uuid.uuid4().hex,
            self.prompt.token_ids,
            self.prompt.params,
            self.prompt.encoded.boundaries,
            self._client,
            constraint=self.prompt.constraint,
            begun=self._begun,
            is_kept=self._is_kept,
            origin=self._origin,
        )
        handle = self._manager.submit(request, self.prompt.model.info, self.prompt.state)
        with self._lock:
            self._handle = handle
        if self.is_stopping:  # stop() was called meanwhile and may not have seen the handle
            handle.abort()
        if listener is not None:
            handle.listen(listener)

    def stop(self) -> None:
        """Requests the end and returns; the last event follows within :data:`ABORT_GRACE_S`."""
        with self._lock:
            self._stopped_at = self._stopped_at or time.monotonic()
            handle = self._handle
        if handle is not None and self.end is None:
            handle.abort()

    def events(self) -> Iterator[AnswerEvent]:
        """All events until a Finished or a Failed; waits for each."""
        while self.end is None:
            yield from self.read(POLL_S) or ()

    def finish(self) -> Finished:
        """Reads until the end; raises the answer's error."""
        for _ in self.events():
            pass
        if isinstance(self.end, Failed):
            raise error_from_dict(self.end.error)
        assert self.end is not None
        return self.end

    def read(self, timeout_s: float) -> list[AnswerEvent] | None:
        """The events of the engine's next output, which may be empty. None on timeout, after the end, and before
        :meth:`start`."""
        if self.end is not None:
            return None
        if self._stopped_at is not None:
            left = self._stopped_at + ABORT_GRACE_S - time.monotonic()
            if left <= 0 or self._handle is None:
                return self._ended(FinishReason.ABORT, None, None)
            timeout_s = min(timeout_s, left)
        event = self._handle.next_event(timeout_s, self._gather_s) if self._handle is not None else None
        if isinstance(event, TokenOutput):
            return self._taken(event)
        return None if event is None else self._waiting(event)

    def _taken(self, output: TokenOutput) -> list[AnswerEvent]:
        events: list[AnswerEvent] = [*self.text.feed(output.token_ids, output.logprobs)]
        if output.finish_reason is not None or output.error is not None:
            return events + self._ended(output.finish_reason, output.stats, output.error)
        if self.text.is_stopped and not self.is_stopping:
            self.stop()
        return events + self._limited(Waiting("calling")) if self.text.is_calling else events

    def _ended(
        self, reason: FinishReason | None, stats: SequenceStats | None, error: dict[str, Any] | None
    ) -> list[AnswerEvent]:
        figures = asdict(stats) if stats is not None else {}  # without the digests that only a check of states has
        found = {name: value for name, value in figures.items() if value != ""}
        if stats is not None:
            found |= {"tokens_per_s": tokens_per_s(stats)}
            for name in ("prompt_tokens", "cached_tokens"):
                found[name] += self.prompt.prefix_tokens
        if error is not None or reason is None or reason is FinishReason.ERROR:
            rest = self.text.finish(is_cut=True)
            self.end = Failed(
                error or RoostError(reason=Text("reason.services.engine_gave_no_reason")).to_dict(), found
            )
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
        cached = self.prompt.prefix_tokens + stats.cached_tokens if stats else 0
        return Usage(self.prompt.prompt_tokens, written, cached, self.text.thought)

    def _waiting(self, event: object) -> list[AnswerEvent]:
        if self.is_stopping:
            return []
        if isinstance(event, LoadingEvent):
            return self._limited(Waiting("loading", event.done_bytes, event.total_bytes))
        if isinstance(event, QueuePosition):
            return self._limited(Waiting("queued", event.ahead))
        if isinstance(event, PrefillProgress):
            return self._limited(Waiting("reading", event.done, event.total))
        if isinstance(event, EngineSilent):
            return self._limited(Waiting("silent", event.seconds))
        return []

    def _limited(self, waiting: Waiting) -> list[AnswerEvent]:
        """Limits the events to a rate that people can see."""
        (phase, since), now = self._waited, time.monotonic()
        if waiting.phase == phase and now - since < WAITING_INTERVAL_S:
            return []
        self._waited = (waiting.phase, now)
        return [waiting]


def generate(
    manager: ModelManager, rendered: RenderedPrompt, params: SamplingParams, constraint: dict[str, Any] | None = None
) -> Generation:
    """A complete answer, for callers that do not stream. Raises the engine's error."""
    generation = Generation(manager, prepare(PromptModel.chosen(manager), rendered, params, constraint))
    generation.start()
    generation.finish()
    return generation


def tokens_per_s(stats: SequenceStats) -> float:
    """After the first token; 0 for an answer with one token."""
    return (stats.decoded_tokens - 1) / stats.decode_s if stats.decode_s > 0 and stats.decoded_tokens > 1 else 0.0
