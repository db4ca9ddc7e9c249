"""From an order to its events, for as long as the client is there, and the events as a stream or as one document.

A stream is server-sent events (OpenAI, Anthropic) or lines of JSON (Ollama). The status line goes out with the first
piece, so that what breaks before it is an ordinary error answer; a wait longer than :data:`HEADERS_AFTER_S` sends it
earlier and keeps the connection alive with comments. What breaks after that is an error inside the stream.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
from flask import Response, current_app, g, request

from webapp.chat.events import AnswerEvent, AnswerToken, Finished, Usage, Waiting
from webapp.chat.messages import ToolCall
from webapp.errors import ParameterInvalid, RoostError, as_roost_error, sentences
from webapp.i18n import translate_error
from webapp.services.generation.completions import Completion, Completions
from webapp.services.generation.request import CompletionOrder
from webapp.settings import Settings
from webapp.web.api.calls import Record
from webapp.web.api.error_bodies import error_body
from webapp.web.fragments import current_locale

POLL_S = 0.05
"""How soon a client that left while nothing is written is noticed."""
DISCONNECTED = "waitress.client_disconnected"


class ClientGone(Exception):
    """Nobody reads the answer any more."""


def the_settings() -> Settings:
    settings: Settings = current_app.extensions["settings"]
    return settings


def the_completions() -> Completions:
    completions: Completions = current_app.extensions["completions"]
    return completions


def the_record() -> Record:
    record: Record = g.api_record
    return record


def client_name() -> str:
    """Who asks, for fairness: programs at one address share, and do not share with its pages."""
    return f"api {request.remote_addr or ''}"


def begin(order: CompletionOrder) -> Answering:
    """Queues the order; raises what is wrong with it."""
    asked, most = len(order.prompts) * order.choices, the_settings().api_max_choices
    if asked > most:
        raise ParameterInvalid(param="n", reason=f"{asked} answers are asked for at once; the limit is {most}")
    is_gone = request.environ.get(DISCONNECTED, lambda: False)
    return Answering(the_completions().start(order), is_gone, the_record())


class Answering:
    """The events of a completion, each noted in the call's record. ClientGone ends them, and the completion."""

    def __init__(self, completion: Completion, is_gone: Callable[[], bool], record: Record) -> None:
        self.completion = completion
        self.record = record
        self._is_gone = is_gone
        record.prompt_tokens = completion.prompt_tokens

    def events(self) -> Iterator[tuple[int, AnswerEvent] | None]:
        """(number of the answer, event); None now and then while nothing happens."""
        try:
            for event in self.completion.events(POLL_S):
                if self._is_gone():
                    self.record.is_gone = True
                    raise ClientGone
                if event is not None:
                    self._note(event[1])
                yield event
        finally:
            self.close()

    def close(self) -> None:
        self.completion.close()

    def _note(self, event: AnswerEvent) -> None:
        if isinstance(event, Finished):
            self.record.completion_tokens += event.usage.completion
            self.record.cached_tokens += event.usage.cached
            self.record.finish_reasons.append(event.finish_reason)
        elif not isinstance(event, Waiting):
            self.record.note_token()


@dataclass(frozen=True)
class WholeChoice:
    """One answer, complete."""

    content: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    tokens: Sequence[AnswerToken]
    end: Finished


def whole_choices(answering: Answering) -> list[WholeChoice]:
    """All answers of the completion, in order. Raises what broke one of them."""
    for _ in answering.events():
        pass
    found = [(answer.text, answer.end) for answer in answering.completion.answers]
    return [
        WholeChoice(text.content, text.reasoning, text.tool_calls, text.tokens, end)
        for text, end in found
        if isinstance(end, Finished)
    ]


class UsageSum:
    """Tokens of several choices; a prompt counts once, however many answers it got."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt = prompt_tokens
        self.completion = self.cached = self.reasoning = 0

    def add(self, usage: Usage) -> None:
        self.completion += usage.completion
        self.reasoning += usage.reasoning
        self.cached = min(self.prompt, self.cached + usage.cached)


HEADERS_AFTER_S = 5.0
COMMENT_EVERY_S = 10.0
SSE = "text/event-stream; charset=utf-8"
JSON_LINES = "application/x-ndjson"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

encode = msgspec.json.encode
NumberedEvent = tuple[int, AnswerEvent]
"""With the number of the answer it belongs to."""
Write = Callable[[int, AnswerEvent], Iterator[bytes]]
log = logging.getLogger(__name__)


def data_event(value: Any) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def named_event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\n" + data_event(value)


def json_line(value: Any) -> bytes:
    return bytes(encode(value)) + b"\n"


def stream(
    answering: Answering,
    write: Write,
    write_error: Callable[[dict[str, Any]], bytes],
    begin: Callable[[], Iterator[bytes]] = lambda: iter(()),
    end: Callable[[], Iterator[bytes]] = lambda: iter(()),
    media_type: str = SSE,
    comment: bytes = b": waiting\n\n",
) -> Response:
    """``write`` turns events into bytes, ``begin`` and ``end`` frame them, ``write_error`` gets an error's body."""
    answering.record.is_stream = True
    events = answering.events()
    first = _first(events)  # raises what breaks before anything is written
    describe = _describer()
    body = _body(chain([first], events), answering, write, begin, end, describe, write_error, comment)
    response = Response(body, mimetype=None, content_type=media_type, headers=HEADERS)
    response.call_on_close(answering.close)  # closing a generator that never began runs nothing of it
    return response


def _first(events: Iterator[NumberedEvent | None]) -> NumberedEvent | None:
    """The first piece of an answer, or whatever came last when the time for it was over."""
    deadline = time.monotonic() + HEADERS_AFTER_S
    for event in events:
        if (event is not None and not isinstance(event[1], Waiting)) or time.monotonic() > deadline:
            return event
    return None


def _describer() -> Callable[[RoostError], dict[str, Any]]:
    """Made while there is a request, used when there is none any more."""
    path, locale = request.path, current_locale()

    def describe(error: RoostError) -> dict[str, Any]:
        return error_body(path, error, sentences(*translate_error(error, locale)), error.status)

    return describe


def _body(
    events: Iterator[NumberedEvent | None],
    answering: Answering,
    write: Write,
    begin: Callable[[], Iterator[bytes]],
    end: Callable[[], Iterator[bytes]],
    describe: Callable[[RoostError], dict[str, Any]],
    write_error: Callable[[dict[str, Any]], bytes],
    comment: bytes,
) -> Iterator[bytes]:
    try:
        yield from begin()
        written_at = time.monotonic()
        for event in events:
            written = b"".join(write(*event)) if event is not None else b""
            if not written and comment and time.monotonic() > written_at + COMMENT_EVERY_S:
                written = comment
            if written:
                yield written
                written_at = time.monotonic()
        yield from end()
    except ClientGone:
        return
    except Exception as exc:
        error = as_roost_error(exc)
        if error is not exc:
            log.error("a stream failed", exc_info=exc)
        answering.record.error = error.code
        yield write_error(describe(error))
    finally:
        answering.close()


def answer(value: Any, status: int = 200) -> Response:
    """One JSON document."""
    return current_app.response_class(encode(value), status=status, content_type="application/json")
