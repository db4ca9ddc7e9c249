"""Shared code of the dialects: the model for a request, its events while the client is connected, and the events as a
stream or as one document.

A stream is server-sent events (OpenAI, Anthropic) or lines of JSON (Ollama). The status line is sent with the first
piece, so that an earlier error becomes an ordinary error response. After a wait of :data:`HEADERS_AFTER_S` the status
line is sent earlier, and comments keep the connection alive. A later error is sent inside the stream.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from flask import Response, copy_current_request_context, current_app, g, request

from webapp.chat.events import AnswerEvent, Finished, Usage, Waiting
from webapp.errors import ModelNotFound, RoostError, as_roost_error, translate_error
from webapp.i18n import Text, sentences
from webapp.manager.library import ModelEntry, ModelFile
from webapp.manager.manager import ModelManager
from webapp.services.generation.completions import Completion, Completions
from webapp.services.generation.generation import AnswerText
from webapp.services.generation.request import AnswerRequest
from webapp.services.generation.structure import left_out
from webapp.services.strategy.choice import strategy_on_load
from webapp.settings import Settings
from webapp.web.api.calls import ClientGone, ModelTurns, Record
from webapp.web.api.operations import ANY_MODEL, error_body
from webapp.web.guard import asker, still_admitted
from webapp.web.kit.page import current_locale

POLL_S = 0.05
"""How soon a disconnected client is noticed while nothing is sent."""
DISCONNECTED = "waitress.client_disconnected"


def the_settings() -> Settings:
    settings: Settings = current_app.extensions["settings"]
    return settings


def the_completions() -> Completions:
    completions: Completions = current_app.extensions["completions"]
    return completions


def the_record() -> Record:
    record: Record = g.api_record
    return record


def begin(wanted: AnswerRequest) -> Answering:
    """Queues the request. Raises errors in the request.

    The client is the token's person, otherwise the IP address: programs at one address share it, without its pages.
    """
    check_count(len(wanted.prompts) * wanted.choices)
    g.tools_left_out = left_out(wanted.structure.tools) if wanted.structure.tools else []
    check = client_check()
    return Answering(the_completions().start(replace(wanted, client=asker("api "))), check, the_record())


def check_count(answers: int) -> None:
    """Raises ``invalid_parameter`` for more than ``api_max_choices``."""
    most = the_settings().api_max_choices
    if answers > most:
        reason = Text("reason.api.too_many_answers_at_once", found=answers, limit=most)
        raise RoostError("invalid_parameter", param="n", reason=reason)


def client_check() -> Callable[[], None]:
    """Returns a function that any thread calls repeatedly during the request. It raises ClientGone if the client has
    disconnected, and ``access_ended`` if its person was removed or its token revoked."""
    is_gone, is_admitted = request.environ.get(DISCONNECTED, lambda: False), still_admitted()
    record = the_record()

    def check() -> None:
        if is_gone():
            record.is_gone = True
            raise ClientGone
        if not is_admitted():
            raise RoostError("access_ended")

    return check


class Answering:
    """The events of a completion, each recorded for logs and metrics. An exception from ``check`` (see
    :func:`client_check`) ends them and the completion."""

    def __init__(self, completion: Completion, check: Callable[[], None], record: Record) -> None:
        self.completion = completion
        self.record = record
        self._check = check
        record.prompt_tokens = completion.prompt_tokens

    def events(self) -> Iterator[tuple[int, AnswerEvent] | None]:
        """(number of the answer, event); None at times while nothing happens."""
        try:
            for event in self.completion.events(POLL_S):
                self._check()
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
        elif event.phase == "loading":
            self.record.note_loading()


def whole_answers(answering: Answering) -> list[tuple[AnswerText, Finished]]:
    """All answers of the completion, in order. Raises the error of the first failed one."""
    for _ in answering.events():
        pass
    return [(answer.text, answer.end) for answer in answering.completion.answers if isinstance(answer.end, Finished)]


class UsageSum:
    """Token counts of several choices; a prompt counts once, whatever its number of answers."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt = prompt_tokens
        self.completion = self.cached = self.reasoning = 0

    def add(self, usage: Usage) -> None:
        self.completion += usage.completion
        self.reasoning += usage.reasoning
        self.cached = min(self.prompt, self.cached + usage.cached)


HEADERS_AFTER_S = 5.0
COMMENT_EVERY_S = 10.0
QUEUE_AHEAD = "X-Roost-Queue-Ahead"
"""Number of requests ahead, if a stream's status line is sent while it waits; later its comments contain it."""
SSE = "text/event-stream; charset=utf-8"
JSON_LINES = "application/x-ndjson"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

encode = msgspec.json.encode
log = logging.getLogger(__name__)


def data_event(value: Any) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def named_event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\n" + data_event(value)


def json_line(value: Any) -> bytes:
    return bytes(encode(value)) + b"\n"


class StreamWriter:
    """A dialect's stream: the bytes before, for and after the events, and for an error."""

    media_type = SSE
    comment = b": waiting\n\n"
    """Sent during a long pause; empty for none."""

    def is_begun_by(self, event: AnswerEvent) -> bool:
        """Whether this event starts the stream and so sends the response's status."""
        return not isinstance(event, Waiting)

    def begin(self) -> Iterator[bytes]:
        yield from ()

    def write(self, number: int, event: AnswerEvent) -> Iterator[bytes]:
        """``number``: the number of the answer."""
        raise NotImplementedError

    def end(self) -> Iterator[bytes]:
        yield from ()

    def error(self, body: dict[str, Any]) -> bytes:
        return data_event(body)


def stream(answering: Answering, writer: StreamWriter) -> Response:
    answering.record.is_stream = True
    events = answering.events()
    deadline, first, ahead, is_whole = time.monotonic() + HEADERS_AFTER_S, None, "", False
    for event in events:  # raises errors that occur before the first event
        if event is not None and isinstance(event[1], Waiting):
            ahead = str(event[1].done) if event[1].phase == "queued" else ""
        if (event is not None and writer.is_begun_by(event[1])) or time.monotonic() > deadline:
            first = event
            break

    @copy_current_request_context  # the request has ended when an error is written
    def error_event(error: RoostError) -> bytes:
        text = sentences(*translate_error(error, current_locale()))
        return writer.error(error_body(request.path, error, text, error.status))

    def body() -> Iterator[bytes]:
        nonlocal ahead, is_whole
        written = b""  # events that are available at once are sent together
        try:
            yield from writer.begin()
            written_at = time.monotonic()
            for event in chain([first], events):
                if event is not None:
                    written += b"".join(writer.write(*event))
                    if isinstance(event[1], Waiting):
                        ahead = str(event[1].done) if event[1].phase == "queued" else ""
                    if answering.completion.has_more:
                        continue
                if not written and writer.comment and time.monotonic() > written_at + COMMENT_EVERY_S:
                    told = f"waiting, {ahead} before this".encode() if ahead else b"waiting"
                    written = writer.comment.replace(b"waiting", told)
                if written:
                    yield written
                    written, written_at = b"", time.monotonic()
            if last := written + b"".join(writer.end()):
                yield last
            is_whole = True
        except ClientGone:
            return
        except Exception as exc:
            error = as_roost_error(exc)
            if error is not exc:
                log.error("a stream failed", exc_info=exc)
            answering.record.error = error.code
            yield written + error_event(error)
            is_whole = True
        finally:
            close()

    def close() -> None:
        answering.record.is_gone = not is_whole
        answering.close()

    response = Response(body(), mimetype=None, content_type=writer.media_type, headers=HEADERS)
    if ahead and (first is None or isinstance(first[1], Waiting)):
        response.headers[QUEUE_AHEAD] = ahead
    response.call_on_close(close)  # closing a generator that never started runs none of its code
    return response


def answer(value: Any, status: int = 200) -> Response:
    """One JSON document."""
    return current_app.response_class(encode(value), status=status, content_type="application/json")


def the_manager() -> ModelManager:
    manager: ModelManager = current_app.extensions["model_manager"]
    return manager


def served_model(asked: str | None) -> str:
    """The name of the model that answers. If requests may choose the model, waits for its turn and loads it; otherwise
    raises ModelNotFound or ``model_not_served`` unless the name is accepted for any model."""
    manager, settings = the_manager(), the_settings()
    served = manager.status().model
    if asked is None and settings.api_strict_models:
        raise RoostError("invalid_parameter", param="model", reason=Text("reason.common.is_missing"))
    if asked and not is_name_of(asked, served):
        served = other_model(manager, settings, asked, served)
    if settings.api_switch_models and served:
        take_turn(served)
    the_record().model = served
    return served


def take_turn(model: str) -> None:
    """Reserves the model until the request ends. Raises exceptions of :func:`client_check`."""
    turns: ModelTurns = current_app.extensions["api_model_turns"]
    record = the_record()
    if record.may_wait:
        turns.enter(model, client_check())
    else:
        turns.enter_at_once(model)
    record.at_end.append(turns.leave)
    manager = the_manager()
    if manager.status().model != model:
        strategy = strategy_on_load(manager.library, model, manager.status().chosen_strategy)
        manager.load(model=model, strategy=strategy)


def other_model(manager: ModelManager, settings: Settings, asked: str, served: str) -> str:
    known = known_name(manager, asked)
    if known is None:
        if settings.api_strict_models or not served:
            raise ModelNotFound(name=asked, param="model")
        return served  # clients have "gpt-4o" built in
    if not settings.api_switch_models:
        raise RoostError("model_not_served", name=asked, served=served, param="model")
    return known


def known_name(manager: ModelManager, asked: str) -> str | None:
    """The library's model with this name. Reads no folder unless one has changed."""

    def name_in(files: list[ModelFile]) -> str | None:
        named = (file.name for file in files if is_name_of(asked, file.name))
        return next((file.name for file in files if file.name == asked), None) or next(named, None)

    return name_in(manager.library.known_files(lambda files: name_in(files) is not None))


def is_name_of(asked: str, name: str) -> bool:
    """With or without folder and extension, and with Ollama's ":latest"."""
    path = PurePosixPath(name)
    return asked.removesuffix(":latest") in (name, path.name, path.stem, str(path.with_suffix("")))


@dataclass(frozen=True)
class ServedEntry:
    """A model that clients may name, for lists."""

    name: str
    entry: ModelEntry | None
    is_loaded: bool


def served_models() -> list[ServedEntry]:
    """The model that answers; the whole library if requests may choose."""
    manager = the_manager()
    status = manager.status()
    is_loaded = status.phase in ("ready", "answering")
    library = manager.library
    if the_settings().api_switch_models:
        entries = [library.entry_at(file.path) for file in library.known_files()]
        good = [entry for entry in entries if entry.inspection is not None and entry.inspection.config is not None]
        return [ServedEntry(entry.name, entry, is_loaded and is_name_of(status.model, entry.name)) for entry in good]
    if not status.model:
        return []
    entry = library.entry_at(Path(status.model_path))
    return [ServedEntry(status.model, entry, is_loaded)]


def served_entry(name: str) -> ServedEntry | None:
    """The model with this name. "rwkv" is the served model, because RWKV-Runner's programs use only this name."""
    served = served_models()
    named = [one for one in served if is_name_of(name, one.name)]
    if not named and name.removesuffix(":latest") == ANY_MODEL:
        named = [one for one in served if one.is_loaded] or served
    return named[0] if named else None


TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+)', re.DOTALL)
CLOSERS = {"{": "}", "[": "]"}


def read_arguments(text: str) -> dict[str, Any]:
    """All arguments; if the token limit has cut the text off, those that are complete. Half surrogate pairs, which no
    response can contain, become "?"."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = json.loads(completed(text))
    whole = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    found: dict[str, Any] = json.loads(whole)
    return found


def completed(text: str) -> str:
    """The beginning of a JSON object up to its last complete value, with all open brackets closed.

    A number or word at the very end may be incomplete, so it does not count.
    """
    closers: list[str] = []
    best, place, before = "{}", 0, ""
    while token := TOKEN.match(text, place):
        written, place = token[1], token.end()
        if written in CLOSERS:
            closers.append(CLOSERS[written])
        elif written in ("}", "]"):
            closers.pop()
        is_key = written[0] == '"' and before in ("{", ",") and closers[-1] == "}"
        is_whole = place < len(text) or written[-1] in '"{}[]'
        if written not in (",", ":") and not is_key and is_whole:
            best = text[:place] + "".join(reversed(closers))
        before = written
    return best
