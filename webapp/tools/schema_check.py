"""JSON Schemas people write: checked before they are kept, and arguments checked against them.

The `jsonschema` package judges; two of its habits are turned off. References to other documents are refused instead of
fetched, and `pattern` is left to whoever can match without exponential time (Python's `re` cannot).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from webapp.errors import ToolInvalid

MAX_SCHEMA_CHARS = 100_000
MAX_DEPTH = 32
MAX_ENUM_VALUES = 2_000
MAX_PROBLEMS = 20
SCALARS: dict[str, Callable[[str], Any]] = {"integer": int, "number": float}
TRUTH = {"true": True, "false": False}

Matcher = Callable[[str, str], bool]
"""``(pattern, text)`` -> whether the pattern occurs in the text, in time linear in the text."""


@dataclass(frozen=True)
class Problem:
    """``path`` leads to the value: `days`, `at.x`, `tags[2]`; "" is the whole."""

    path: str
    message: str


def check_parameters(schema: object) -> None:
    """ToolInvalid (field `parameters`, or the path inside it) for what is no schema of an object, or is too much."""
    if not isinstance(schema, Mapping):
        raise ToolInvalid(field="parameters", reason="it must be a JSON Schema object")
    _check_size(schema)
    if schema.get("type", "object") != "object":
        raise ToolInvalid(field="parameters", reason="its type must be object: arguments have names")
    problem = next(schema_problems(schema), None)
    if problem is not None:
        field = f"parameters.{problem.path}" if problem.path else "parameters"
        raise ToolInvalid(field=field, reason=problem.message)


def schema_problems(schema: Mapping[str, Any]) -> Iterator[Problem]:
    """What JSON Schema (draft 2020-12) itself has against it."""
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(Draft202012Validator.META_SCHEMA)
    for error in validator.iter_errors(schema):
        yield Problem(_path(error.absolute_path), error.message[:300])
    for path, reference in _references(schema):
        if not reference.startswith("#"):
            yield Problem(
                path, f"{reference[:100]!r} is another document; only references inside the schema are followed"
            )


def coerced(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Text where the schema wants a number or a truth value becomes one: some dialects only write text."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return dict(arguments)
    return {name: _coerced_value(value, properties.get(name)) for name, value in arguments.items()}


def argument_problems(
    arguments: Mapping[str, Any], schema: Mapping[str, Any], matches: Matcher | None = None
) -> tuple[Problem, ...]:
    """What is wrong with a call's arguments; () when they fit. Without ``matches`` patterns are not looked at."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry

    def pattern(validator: Any, expected: str, instance: Any, schema: Any) -> Iterator[Any]:
        from jsonschema import ValidationError

        if matches is not None and isinstance(instance, str) and not matches(expected, instance):
            yield ValidationError(f"{instance[:80]!r} does not match {expected[:80]!r}")

    validator_class = extend(Draft202012Validator, {"pattern": pattern, "patternProperties": _ignored})
    validator = validator_class(schema, registry=Registry())
    try:
        errors = sorted(validator.iter_errors(dict(arguments)), key=lambda error: list(map(str, error.absolute_path)))
    except Exception as exc:  # an unresolvable reference; every name of its class is private to the package
        return (Problem("", f"the schema cannot be followed: {exc}"[:300]),)
    return tuple(Problem(_path(error.absolute_path), error.message[:300]) for error in errors[:MAX_PROBLEMS])


def _ignored(validator: Any, expected: Any, instance: Any, schema: Any) -> Iterator[Any]:
    return iter(())


def _check_size(schema: Mapping[str, Any]) -> None:
    for depth, node in _nodes(schema):
        if depth > MAX_DEPTH:
            raise ToolInvalid(field="parameters", reason=f"it is nested more than {MAX_DEPTH} levels deep")
        if isinstance(node.get("enum"), list) and len(node["enum"]) > MAX_ENUM_VALUES:
            raise ToolInvalid(field="parameters", reason=f"an enum has more than {MAX_ENUM_VALUES} values")
    try:
        length = len(json.dumps(schema))
    except (TypeError, ValueError) as exc:
        raise ToolInvalid(field="parameters", reason=f"it is no JSON: {exc}") from exc
    if length > MAX_SCHEMA_CHARS:
        raise ToolInvalid(field="parameters", reason=f"it has {length} characters; the limit is {MAX_SCHEMA_CHARS}")


def _nodes(schema: object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    waiting = [(0, schema)]
    while waiting:
        depth, node = waiting.pop()
        if isinstance(node, Mapping):
            yield depth, node
            waiting += [(depth + 1, value) for value in node.values()]
        elif isinstance(node, list):
            waiting += [(depth + 1, value) for value in node]


def _references(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for _, node in _nodes(schema):
        for key in ("$ref", "$dynamicRef"):
            if isinstance(node.get(key), str):
                yield key, node[key]


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
