"""Answers that come as they are written: server-sent events (OpenAI, Anthropic) or lines of JSON (Ollama).

The status line goes out with the first piece, so that what breaks before it is an ordinary error answer; a wait longer
than :data:`HEADERS_AFTER_S` sends it earlier and keeps the connection alive with comments. What breaks after that is an
error inside the stream.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import msgspec
from flask import Response, current_app, request

from webapp.chat.events import AnswerEvent, Waiting
from webapp.errors import RoostError, as_roost_error, sentences
from webapp.i18n import translate_error
from webapp.web.api.answering import Answering, ClientGone
from webapp.web.api.error_bodies import error_body
from webapp.web.fragments import current_locale

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
