"""Parses a request's body into one of the dialects' types, or raises an error that names the problem."""

from __future__ import annotations

import codecs
import re
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from flask import current_app, request
from msgspec import Meta
from werkzeug.exceptions import RequestEntityTooLarge

from webapp.chat.messages import ThinkMode
from webapp.engine.sampling_params import PARAMETERS, SamplingParameter
from webapp.errors import RoostError
from webapp.i18n import Text

T = TypeVar("T")
_decoders: dict[tuple[type, bool], msgspec.json.Decoder[Any]] = {}
_making = threading.Lock()
JSON_TYPES = re.compile(r"application/(?:[\w.+-]+\+)?json", re.IGNORECASE)
PLACE = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
MISSING = re.compile(r"missing required field `(\w+)`")
SAID = (
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
    data = read_data(current_app.extensions["settings"].api_max_body_bytes).removeprefix(codecs.BOM_UTF8)
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
    said = next(((found, key) for pattern, key in SAID if (found := pattern.fullmatch(plain))), None)
    return RoostError(
        "invalid_parameter", param=param or "body", reason=Text(said[1], **said[0].groupdict()) if said else plain
    )


MAX_STOPS = 64
MAX_STOP_CHARS = 1000

Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""The range that the engine accepts."""
Stop = Annotated[str, Meta(max_length=MAX_STOP_CHARS)]


def sampling_struct(name: str, api: str, base: type[msgspec.Struct] = msgspec.Struct) -> type[msgspec.Struct]:
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
    limit: int = current_app.extensions["settings"].max_tokens_limit
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
    OpenAiSampling = msgspec.Struct
    OllamaSampling = msgspec.Struct
    RunnerSampling = msgspec.Struct
else:
    OpenAiSampling = sampling_struct("OpenAiSampling", "openai")
    OllamaSampling = sampling_struct("OllamaSampling", "ollama")
    RunnerSampling = sampling_struct("RunnerSampling", "runner")
