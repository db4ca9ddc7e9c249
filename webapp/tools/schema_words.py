"""What the `jsonschema` package found, in words that can be said in another language. The English is the package's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from webapp.errors import Phrase

MAX_VALUE_CHARS = 80
MAX_TEXT_CHARS = 300


def problem_text(error: Any) -> str:
    """A Phrase for the keywords people use, the package's sentence for any other (``error``: a ValidationError)."""
    words = WORDS.get(str(error.validator))
    return words(error.instance, error.validator_value) if words else str(error.message)[:MAX_TEXT_CHARS]


def _type(value: Any, expected: Any) -> Phrase:
    names = expected if isinstance(expected, list) else [expected]
    wanted = ", ".join(repr(name) for name in names)[:MAX_TEXT_CHARS]
    return Phrase("{value} is not of type {type}", value=_shown(value), type=wanted)


def _enum(value: Any, expected: Any) -> Phrase:
    return Phrase("{value} is not one of {values}", value=_shown(value), values=repr(expected)[:MAX_TEXT_CHARS])


def _required(value: Any, expected: Any) -> Phrase:
    """All names that are missing: the package makes an error of each, so the same words come several times."""
    missing = ", ".join(repr(name) for name in expected if name not in value)
    return Phrase("missing: {names}", names=missing[:MAX_TEXT_CHARS])


def _additional(value: Any, expected: Any) -> Phrase:
    return Phrase("{value} has a property that is not in the schema", value=_shown(value))


def _any_of(value: Any, expected: Any) -> Phrase:
    return Phrase("{value} is not valid under any of the given schemas", value=_shown(value))


def _least(value: Any, expected: Any) -> Phrase:
    return Phrase("{value} is less than the minimum of {limit}", value=_shown(value), limit=str(expected))


def _most(value: Any, expected: Any) -> Phrase:
    return Phrase("{value} is greater than the maximum of {limit}", value=_shown(value), limit=str(expected))


def _short(value: Any, expected: Any) -> Phrase:
    return Phrase("{value} is shorter than {limit}", value=_shown(value), limit=str(expected))


def _long(value: Any, expected: Any) -> Phrase:
    return Phrase("{value} is longer than {limit}", value=_shown(value), limit=str(expected))


def _pattern(value: Any, expected: Any) -> Phrase:
    return Phrase("{value} does not match {pattern}", value=_shown(value), pattern=_shown(expected))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"


WORDS: dict[str, Callable[[Any, Any], Phrase]] = {
    "type": _type,
    "enum": _enum,
    "required": _required,
    "additionalProperties": _additional,
    "anyOf": _any_of,
    "minimum": _least,
    "maximum": _most,
    "minLength": _short,
    "maxLength": _long,
    "minItems": _short,
    "maxItems": _long,
    "pattern": _pattern,
}
