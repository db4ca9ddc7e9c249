"""Checks JSON Schemas from users before they are stored, and arguments against them.

The `jsonschema` package checks (draft 2020-12), with limits on its time, because users, models and servers choose the
schema and the arguments. References to other documents are refused, not fetched, and so are circular references; more
than :data:`MAX_REFERENCES` steps raise TooManySteps. Patterns are matched in linear time or not at all;
`unevaluatedProperties` and `unevaluatedItems` are ignored; 1 and 1.0 count as equal in `uniqueItems`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from msgspec import Struct

from webapp.errors import ToolInvalid
from webapp.i18n import Text
from webapp.structured.grammar import schema_nodes

MAX_SCHEMA_CHARS = 100_000
MAX_DEPTH = 32
MAX_NODES = 2_000
"""Nested objects: validating one against JSON Schema's own schema takes about 0.5 ms."""
MAX_ENUM_VALUES = 2_000
MAX_PROBLEMS = 20
MAX_ARGUMENT_CHARS = 200_000
KEPT_CHECKS = 512
SCALARS: dict[str, Callable[[str], Any]] = {"integer": int, "number": float}
TRUTH = {"true": True, "false": False}


class Problem(Struct, frozen=True):
    """``path`` is the value's place: `days`, `at.x`, `tags[2]`; "" is the whole."""

    path: str
    message: Text | str


def check_parameters(schema: object) -> None:
    """Raises ToolInvalid (field `parameters`, or a path inside it) if it is not the schema of an object, or is too
    large."""
    if not isinstance(schema, Mapping):
        raise ToolInvalid(field="parameters", reason=Text("reason.tools.not_a_schema"))
    _check_size(schema)
    if schema.get("type", "object") != "object":
        raise ToolInvalid(field="parameters", reason=Text("reason.tools.schema_type_must_be_object"))
    problem = _first_problem(json.dumps(schema, sort_keys=True))
    if problem is not None:
        field = f"parameters.{problem.path}" if problem.path else "parameters"
        raise ToolInvalid(field=field, reason=problem.message)


@lru_cache(KEPT_CHECKS)
def _first_problem(text: str) -> Problem | None:
    """Cached, because programs send the same tools with every request."""
    return next(schema_problems(json.loads(text)), None)


def schema_problems(schema: Mapping[str, Any]) -> Iterator[Problem]:
    """Violations of JSON Schema (draft 2020-12) itself, and references that cannot be resolved."""
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(Draft202012Validator.META_SCHEMA)
    for error in validator.iter_errors(schema):
        yield Problem(_path(error.absolute_path), problem_text(error))
    for path, reference in _references(schema):
        if not reference.startswith("#"):
            shown = repr(reference[:100])
            yield Problem(
                path,
                Text("reason.tools.foreign_reference", reference=shown),
            )
        elif not is_resolvable(schema, reference):
            yield Problem(path, Text("reason.tools.broken_reference", reference=repr(reference[:100])))


def coerced(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Converts text to a number or boolean if the schema requires one: some dialects only write text."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return dict(arguments)
    return {name: _coerced_value(value, properties.get(name)) for name, value in arguments.items()}


def argument_problems(
    arguments: Mapping[str, Any], schema: Mapping[str, Any], matches: Matcher | None = None
) -> tuple[Problem, ...]:
    """The problems of a call's arguments; () if they are valid. Without ``matches``, patterns are ignored."""
    length = len(json.dumps(arguments))
    if length > MAX_ARGUMENT_CHARS:
        reason = Text("reason.common.too_long", found=length, limit=MAX_ARGUMENT_CHARS)
        return (Problem("", reason),)
    validator = bounded_validator(schema, matches)
    try:
        errors = sorted(validator.iter_errors(dict(arguments)), key=lambda error: list(map(str, error.absolute_path)))
    except Exception as exc:  # a reference cannot be resolved; the package's exception class is private
        return (Problem("", Text("reason.tools.schema_cannot_be_followed", error=str(exc)[:250])),)
    return tuple(Problem(_path(error.absolute_path), problem_text(error)) for error in errors[:MAX_PROBLEMS])


def _check_size(schema: Mapping[str, Any]) -> None:
    for number, (depth, node) in enumerate(schema_nodes(schema)):
        if number >= MAX_NODES:
            raise ToolInvalid(field="parameters", reason=Text("reason.tools.too_many_parts", limit=MAX_NODES))
        if depth > MAX_DEPTH:
            raise ToolInvalid(field="parameters", reason=Text("reason.tools.too_deep", limit=MAX_DEPTH))
        if isinstance(node.get("enum"), list) and len(node["enum"]) > MAX_ENUM_VALUES:
            raise ToolInvalid(field="parameters", reason=Text("reason.tools.enum_too_long", limit=MAX_ENUM_VALUES))
    try:
        length = len(json.dumps(schema))
    except (TypeError, ValueError) as exc:
        raise ToolInvalid(field="parameters", reason=Text("reason.tools.is_not_json", error=str(exc)[:200])) from exc
    if length > MAX_SCHEMA_CHARS:
        reason = Text("reason.common.too_long", found=length, limit=MAX_SCHEMA_CHARS)
        raise ToolInvalid(field="parameters", reason=reason)


def _references(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for _, node in schema_nodes(schema):
        for key in ("$ref", "$dynamicRef"):
            if isinstance(node.get(key), str):
                yield key, node[key]


def is_resolvable(schema: Mapping[str, Any], reference: str) -> bool:
    """False for circular references and those without a target."""
    seen: set[str] = set()
    while reference not in seen and reference.startswith("#"):
        seen.add(reference)
        target = target_of(schema, reference)
        if not isinstance(target, Mapping):
            return isinstance(target, bool)
        if not isinstance(target.get("$ref"), str):
            return True
        reference = target["$ref"]
    return not reference.startswith("#")


def target_of(schema: Mapping[str, Any], reference: str) -> object:
    """The target of a JSON pointer, or None. A named anchor is accepted without a check."""
    if not reference.startswith("#/"):
        return schema if reference == "#" else {}
    found: object = schema
    for part in unquote(reference[2:]).split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _coerced_value(value: Any, schema: object) -> Any:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if not isinstance(value, str) or not isinstance(kind, str):
        return value
    if kind == "boolean":
        return TRUTH.get(value.strip().lower(), value)
    try:
        return SCALARS[kind](value) if kind in SCALARS else value
    except ValueError:
        return value


def _path(parts: Any) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else str(part))
    return path


MAX_REFERENCES = 5_000
"""Per value: 25 levels of two references each would be 33 million."""

Matcher = Callable[[str, str], bool]
"""``(pattern, text)`` -> whether the pattern occurs in the text. Must take linear time."""


class TooManySteps(Exception):
    pass


def bounded_validator(schema: Mapping[str, Any], matches: Matcher | None) -> Any:
    """A `jsonschema` validator for one value. Without ``matches``, patterns are ignored."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry

    words = _Keywords(matches, Draft202012Validator.VALIDATORS["$ref"])
    changed = {
        "$ref": words.reference,
        "pattern": words.pattern,
        "patternProperties": words.pattern_properties,
        "additionalProperties": words.additional_properties,
        "uniqueItems": _unique_items,
        "unevaluatedProperties": _ignored,
        "unevaluatedItems": _ignored,
    }
    return extend(Draft202012Validator, changed)(schema, registry=Registry())


class _Keywords:
    """Our implementations of keywords, each ``(validator, keyword's value, instance, schema)`` -> errors."""

    def __init__(self, matches: Matcher | None, follow: Any) -> None:
        self._matches = matches
        self._follow = follow
        self._references = 0

    def reference(self, validator: Any, reference: Any, instance: Any, schema: Any) -> Iterator[Any]:
        self._references += 1
        if self._references > MAX_REFERENCES:
            raise TooManySteps(f"it refers to itself more than {MAX_REFERENCES} times")
        yield from self._follow(validator, reference, instance, schema)

    def pattern(self, validator: Any, expected: str, instance: Any, schema: Any) -> Iterator[Any]:
        from jsonschema import ValidationError

        if self._matches is not None and isinstance(instance, str) and not self._matches(expected, instance):
            yield ValidationError(f"{instance[:80]!r} does not match {expected[:80]!r}")

    def pattern_properties(self, validator: Any, expected: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if self._matches is None or not isinstance(instance, dict):
            return
        for name, value in instance.items():
            for pattern in self._patterns_of(name, expected):
                yield from validator.descend(value, expected[pattern], path=name, schema_path=pattern)

    def additional_properties(self, validator: Any, expected: Any, instance: Any, schema: Any) -> Iterator[Any]:
        from jsonschema import ValidationError

        patterns = schema.get("patternProperties", {})
        if not isinstance(instance, dict) or (patterns and self._matches is None):
            return
        known = schema.get("properties", {})
        extra = [name for name in instance if name not in known and not self._patterns_of(name, patterns)]
        if expected is False and extra:
            yield ValidationError(f"there is no parameter {', '.join(map(repr, extra[:5]))[:200]}")
        elif expected is not False:
            for name in extra:
                yield from validator.descend(instance[name], expected, path=name)

    def _patterns_of(self, name: str, patterns: Mapping[str, Any]) -> list[str]:
        assert self._matches is not None or not patterns, "patterns are matched only by who can"
        return [pattern for pattern in patterns if self._matches and self._matches(pattern, name)]


def _unique_items(validator: Any, expected: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    values = instance if expected is True and isinstance(instance, list) else []
    if len({json.dumps(value, sort_keys=True) for value in values}) < len(values):
        yield ValidationError("it has the same value twice")


def _ignored(validator: Any, expected: Any, instance: Any, schema: Any) -> Iterator[Any]:
    return iter(())


MAX_VALUE_CHARS = 80
MAX_TEXT_CHARS = 300


def problem_text(error: Any) -> Text | str:
    """A Text for common keywords, otherwise the package's sentence. ``error`` is a ValidationError."""
    words = WORDS.get(str(error.validator))
    return words(error.instance, error.validator_value) if words else str(error.message)[:MAX_TEXT_CHARS]


def _type(value: Any, expected: Any) -> Text:
    names = expected if isinstance(expected, list) else [expected]
    wanted = ", ".join(repr(name) for name in names)[:MAX_TEXT_CHARS]
    return Text("reason.tools.is_not_of_type", value=_shown(value), type=wanted)


def _enum(value: Any, expected: Any) -> Text:
    return Text("reason.tools.is_not_one_of", value=_shown(value), values=repr(expected)[:MAX_TEXT_CHARS])


def _required(value: Any, expected: Any) -> Text:
    """All missing names: the package reports one error per name, so the same sentence is repeated."""
    missing = ", ".join(repr(name) for name in expected if name not in value)
    return Text("reason.tools.names_are_missing", names=missing[:MAX_TEXT_CHARS])


def _additional(value: Any, expected: Any) -> Text:
    return Text("reason.tools.unknown_property", value=_shown(value))


def _any_of(value: Any, expected: Any) -> Text:
    return Text("reason.tools.fits_no_schema", value=_shown(value))


def _least(value: Any, expected: Any) -> Text:
    return Text("reason.tools.below_minimum", value=_shown(value), limit=str(expected))


def _most(value: Any, expected: Any) -> Text:
    return Text("reason.tools.above_maximum", value=_shown(value), limit=str(expected))


def _short(value: Any, expected: Any) -> Text:
    return Text("reason.tools.is_shorter_than", value=_shown(value), limit=str(expected))


def _long(value: Any, expected: Any) -> Text:
    return Text("reason.tools.is_longer_than", value=_shown(value), limit=str(expected))


def _pattern(value: Any, expected: Any) -> Text:
    return Text("reason.tools.does_not_match", value=_shown(value), pattern=_shown(expected))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"


WORDS: dict[str, Callable[[Any, Any], Text]] = {
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
