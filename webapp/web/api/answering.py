"""Shared code of the dialects: reads a request's body, finds the model for it, follows its events while the client is
connected, and writes them as a stream or as one document.

A stream is server-sent events (OpenAI, Anthropic) or lines of JSON (Ollama). The status line is sent with the first
piece, so that an earlier error becomes an ordinary error response. After a wait of :data:`HEADERS_AFTER_S` the status
line is sent earlier, and comments keep the connection alive. A later error is sent inside the stream.
"""

from __future__ import annotations

import codecs
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from flask import Response, copy_current_request_context, current_app, g, request
from msgspec import Meta, Struct
from msgspec.structs import replace
from werkzeug.exceptions import RequestEntityTooLarge

from webapp.chat.messages import AnswerEvent, Finished, ThinkMode, Usage, Waiting
from webapp.engine.sampling_params import PARAMETERS, SamplingParameter
from webapp.errors import ModelNotFound, RoostError, as_roost_error, translate_error
from webapp.i18n import Text, sentences
from webapp.manager.library import ModelEntry, ModelFile
from webapp.manager.manager import ModelManager
from webapp.services.generation.completions import Completion, Completions
from webapp.services.generation.generation import AnswerText
from webapp.services.generation.request import AnswerRequest
from webapp.services.generation.structure import left_out
from webapp.services.strategy import strategy_on_load
from webapp.settings import Settings
from webapp.web.api.calls import ClientGone, ModelTurns, Record
from webapp.web.api.operations import ANY_MODEL, error_body
from webapp.web.guard import asker, still_admitted
from webapp.web.kit.page import current_locale


def the_settings() -> Settings:
    settings: Settings = current_app.extensions["settings"]
    return settings


def the_manager() -> ModelManager:
    manager: ModelManager = current_app.extensions["model_manager"]
    return manager


def the_completions() -> Completions:
    completions: Completions = current_app.extensions["completions"]
    return completions


def the_record() -> Record:
    record: Record = g.api_record
    return record


# the body of a request

T = TypeVar("T")
_decoders: dict[tuple[type, bool], msgspec.json.Decoder[Any]] = {}
_making = threading.Lock()
JSON_TYPES = re.compile(r"application/(?:[\w.+-]+\+)?json", re.IGNORECASE)
PLACE = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
MISSING = re.compile(r"missing required field `(\w+)`")
MSGSPEC_MESSAGES = (
    (re.compile(r"Expected (?P<expected>.+), got (?P<found>.+)"), "reason.api.expected_not"),
    (re.compile(r"Expected (?P<expected>.+)"), "reason.api.expected"),
    (re.compile(r"Invalid (?:enum )?value (?P<found>.+)"), "reason.api.value_unknown"),
)
"""msgspec's messages, without its quotes, and ours."""


def read_body(kind: type[T], *, is_strict: bool = True) -> T:
    """Raises ``unsupported_media_type``, ``unsupported_content_encoding``, ``too_large``, ``body_invalid`` or
    ``invalid_parameter``. Unless ``is_strict``, "true" and "1" are converted to the values they represent."""
    check_media_type()
    # PowerShell and .NET write a BOM before JSON in UTF-8 (RFC 8259, 8.1 lets a parser ignore it)
    data = read_data(the_settings().api_max_body_bytes).removeprefix(codecs.BOM_UTF8)
    try:
        return decoded(kind, data, is_strict)
    except msgspec.ValidationError as exc:
        raise invalid(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RoostError("body_invalid", reason=str(exc) or Text("reason.web.is_nested_too_deeply")) from exc


def read_query(kind: type[T]) -> T:
    """The query parameters; of a repeated name, the first. Raises ``invalid_parameter``."""
    try:
        return converted(request.args.to_dict(), kind, is_strict=False)
    except msgspec.ValidationError as exc:
        raise invalid(str(exc)) from exc


def read_data(limit: int) -> bytes:
    request.max_content_length = limit
    try:
        return request.get_data(cache=False)
    except RequestEntityTooLarge as exc:
        raise RoostError("too_large", found=request.content_length or "?", limit=limit) from exc


def decoded(kind: type[T], data: bytes, is_strict: bool) -> T:
    """Accepts 5.0 for an integer: JSON Schema allows it, and not every language has integers. Accepts "5" and "true"
    for a number or boolean: forms and templates send all values as text."""
    try:
        return decoder_of(kind, is_strict).decode(data)
    except msgspec.ValidationError as exc:
        if "got `float`" in str(exc):
            return converted(with_integers(msgspec.json.decode(data)), kind)
        if "got `str`" not in str(exc) or not is_strict:
            raise
        with suppress(msgspec.ValidationError):
            return decoder_of(kind, is_strict=False).decode(data)
        raise


def with_integers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [with_integers(item) for item in value]
    if isinstance(value, dict):
        return {name: with_integers(item) for name, item in value.items()}
    return value


def converted(value: Any, kind: type[T], is_strict: bool = True) -> T:
    """From plain data. Raises msgspec.ValidationError."""
    decoder_of(kind)  # initialises the type
    return msgspec.convert(value, kind, strict=is_strict)


def decoder_of(kind: type[T], is_strict: bool = True) -> msgspec.json.Decoder[T]:
    """Cached, and created by one thread at a time: msgspec 0.23 crashes the process if two threads use a type for the
    first time at once."""
    found = _decoders.get((kind, is_strict))
    if found is None:
        with _making:
            found = _decoders.setdefault((kind, is_strict), msgspec.json.Decoder(kind, strict=is_strict))
    return found


def check_media_type() -> None:
    """A page's form or a "simple" cross-site request cannot have this type; programs may omit it (curl does)."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RoostError("unsupported_content_encoding", found=encoding)
    is_browser = "Origin" in request.headers or "Sec-Fetch-Site" in request.headers
    kind = request.mimetype
    if JSON_TYPES.fullmatch(kind) or (not is_browser and kind in ("", "application/x-www-form-urlencoded")):
        return
    raise RoostError("unsupported_media_type", found=kind or "not given")


def invalid(text: str) -> RoostError:
    """From msgspec's message: "Expected `int`, got `str` - at `$.n`"."""
    found = PLACE.match(text)
    reason, path = (found["reason"], found["path"] or "$") if found else (text, "$")
    param = path.removeprefix("$").removeprefix(".")
    missing = MISSING.search(reason)
    if missing:
        param = f"{param}.{missing[1]}".lstrip(".")
        return RoostError("invalid_parameter", param=param, reason=Text("reason.common.is_missing"))
    plain = reason.replace("`", "")
    said = next(((found, key) for pattern, key in MSGSPEC_MESSAGES if (found := pattern.fullmatch(plain))), None)
    return RoostError(
        "invalid_parameter", param=param or "body", reason=Text(said[1], **said[0].groupdict()) if said else plain
    )


# its parameters and texts

MAX_STOP_CHARS = 1000

Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""The range that the engine accepts."""
Stop = Annotated[str, Meta(max_length=MAX_STOP_CHARS)]
Stops = Annotated[list[Stop], Meta(max_length=64)]
StateName = Annotated[str, Meta(max_length=500, description='A state file; "" is none.')]
PrefixId = Annotated[str, Meta(max_length=500, description="A prefix made on the States page, in place of `state`.")]


def sampling_struct(name: str, api: str, base: type[Struct] = Struct) -> type[Struct]:
    """A body's base class: ``base`` and the table's parameters, with their names in ``api``, all optional."""
    rows = [row for row in PARAMETERS if api in row.names]
    return msgspec.defstruct(
        name, [(row.names[api], _type_of(row, api), None) for row in rows], bases=(base,), kw_only=True
    )


def _type_of(row: SamplingParameter, api: str) -> Any:
    if row.kind is bool:
        return bool | None
    least, most = row.api_ranges.get(api, (row.least, row.most))
    return Annotated[row.kind, Meta(ge=least, le=most)] | None  # type: ignore[name-defined]


def asked_sampling(body: Any, api: str) -> dict[str, Any]:
    """Names of SamplingParams, only the requested ones. If an API's range is larger than the parameter's (top_k,
    num_predict): a value below 0 means "off", like a missing value, or 0 if that is allowed; a value above the maximum
    becomes the maximum."""
    found: dict[str, Any] = {}
    for row in PARAMETERS:
        value = getattr(body, row.names[api]) if api in row.names else None
        if value is not None and row.name != "seed" and api in row.api_ranges:
            value = min(value, row.most) if value >= row.least else 0 if row.least == 0 else None
        if value is not None:
            found[row.name] = value
    return found


def stops_of(stop: str | list[str] | None) -> tuple[str, ...] | None:
    """Without empty stops, which some programs send for none."""
    if stop is None:
        return None
    return tuple(one for one in ([stop] if isinstance(stop, str) else stop) if one)


def most_tokens(value: int | None, name: str = "max_tokens") -> int | None:
    """A program's limit for an answer: -1, or more than the server allows, means the server's maximum."""
    if value == 0:
        raise RoostError("invalid_parameter", param=name, reason=Text("reason.settings.must_be_at_least", least=1))
    limit = the_settings().max_tokens_limit
    return None if value is None else limit if value < 0 else min(value, limit)


def budget_mode(tokens: int) -> ThinkMode:
    """The thinking mode for a token budget: short below 1,024 tokens, Anthropic's minimum; long from 4,096 on."""
    if tokens == 0:
        return ThinkMode.NONE
    return ThinkMode.THINK_A_BIT if tokens < 1024 else ThinkMode.THINK_A_LOT if tokens >= 4096 else ThinkMode.THINK


NO_CONTENT = ("thinking", "redacted_thinking", "reasoning_text", "tool_use")


def text_of(content: Any, place: str) -> str:
    """The text of all parts of a message's content, joined by line ends. Images, audio and non-text files are refused;
    parts that are not content (calls, earlier thinking) are skipped."""
    if isinstance(content, str):
        return content
    texts = []
    for number, part in enumerate(content):
        kind = part.__struct_config__.tag
        if kind in NO_CONTENT:
            continue
        text = part.refusal if kind == "refusal" else getattr(part, "text", None)
        if text is None:
            reason = Text("reason.api.models_read_text", kind=kind)
            raise RoostError("unsupported_parameter", param=f"{place}[{number}]", reason=reason)
        texts.append(text)
    return "\n".join(texts)


if TYPE_CHECKING:  # a type checker does not know a base class created at run time
    OpenAiSampling = Struct
    OllamaSampling = Struct
    RunnerSampling = Struct
else:
    OpenAiSampling = sampling_struct("OpenAiSampling", "openai")
    OllamaSampling = sampling_struct("OllamaSampling", "ollama")
    RunnerSampling = sampling_struct("RunnerSampling", "runner")


# the events of its answers

POLL_S = 0.05
"""How soon a disconnected client is noticed while nothing is sent."""
DISCONNECTED = "waitress.client_disconnected"


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


class UsageSum(Struct):
    """Token counts of several choices; a prompt counts once, whatever its number of answers."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0

    def add(self, usage: Usage) -> None:
        self.completion += usage.completion
        self.reasoning += usage.reasoning
        self.cached = min(self.prompt, self.cached + usage.cached)


# the response

HEADERS_AFTER_S = 5.0
COMMENT_EVERY_S = 10.0
QUEUE_AHEAD = "X-Roost-Queue-Ahead"
"""Number of requests ahead, if a stream's status line is sent while it waits; later its comments contain it."""
SSE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
"""The end of OpenAI's streams."""
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


class StreamWriter(Struct):
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
                    comment = f"waiting, {ahead} before this".encode() if ahead else b"waiting"
                    written = writer.comment.replace(b"waiting", comment)
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


# the model that answers


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


class ServedEntry(Struct, frozen=True):
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
