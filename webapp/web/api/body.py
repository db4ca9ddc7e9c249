"""A request's body as one of the dialects' types, or an error that names what is wrong with it."""

from __future__ import annotations

import re
import threading
from typing import Any, TypeVar

import msgspec
from flask import current_app, request

from webapp.errors import BodyInvalid, ParameterInvalid, WrongMediaType

T = TypeVar("T")
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}
_making = threading.Lock()
JSON_TYPES = re.compile(r"application/(?:[\w.+-]+\+)?json", re.IGNORECASE)
PLACE = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
MISSING = re.compile(r"missing required field `(\w+)`")


def read_body(kind: type[T]) -> T:
    """Raises WrongMediaType, TooLarge (by way of Flask), BodyInvalid or ParameterInvalid."""
    check_media_type()
    request.max_content_length = current_app.extensions["settings"].api_max_body_bytes
    data = request.get_data(cache=False)
    try:
        return decoder_of(kind).decode(data)
    except msgspec.ValidationError as exc:
        raise invalid(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BodyInvalid(reason=str(exc) or "it is nested too deeply") from exc


def decoder_of(kind: type[T]) -> msgspec.json.Decoder[T]:
    """Kept, and made by one thread at a time: msgspec 0.22 was once seen to crash the process where several threads
    looked into a type for the first time at once."""
    found = _decoders.get(kind)
    if found is None:
        with _making:
            found = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    return found


def check_media_type() -> None:
    """A page's form or a "simple" cross-site request cannot carry this type; programs may leave it out (curl does)."""
    is_browser = "Origin" in request.headers or "Sec-Fetch-Site" in request.headers
    kind = request.mimetype
    if JSON_TYPES.fullmatch(kind) or (not is_browser and kind in ("", "application/x-www-form-urlencoded")):
        return
    raise WrongMediaType(found=kind or "not given")


def invalid(text: str) -> ParameterInvalid:
    """From msgspec's words: "Expected `int`, got `str` - at `$.n`"."""
    found = PLACE.match(text)
    reason, path = (found["reason"], found["path"] or "$") if found else (text, "$")
    param = path.removeprefix("$").removeprefix(".")
    missing = MISSING.search(reason)
    if missing:
        param, reason = f"{param}.{missing[1]}".lstrip("."), "it is missing"
    return ParameterInvalid(param=param or "body", reason=reason.replace("`", ""))
