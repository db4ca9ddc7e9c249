"""Generates example arguments of a call.

:func:`sample_arguments` makes the tool form's example, which the form also uses for a trial without input; the tool
bench samples values with :class:`ValueSampler`, by a parameter's schema, its name and a word list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from webapp.tools.schema_check import target_of

MAX_DEPTH = 12
MOST_ITEMS = 8


def sample_arguments(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Each parameter gets its default, its first allowed value, or a value of its type. Patterns are ignored."""
    return _sample_object(schema, schema, 0)


def _sample_object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    found = properties.items() if isinstance(properties, Mapping) else ()
    return {name: _sample(part, root, depth + 1) for name, part in found}


def _sample(schema: object, root: Mapping[str, Any], depth: int) -> Any:
    """Uses the first of several alternatives. A schema that contains itself ends at a limited depth, even if the value
    is then invalid."""
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return "text"
    if isinstance(schema.get("$ref"), str):
        return _sample(target_of(root, schema["$ref"]), root, depth + 1)
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    forms = next((schema[key] for key in ("anyOf", "oneOf", "allOf") if isinstance(schema.get(key), list)), None)
    if forms:
        return _sample(forms[0], root, depth + 1)
    kinds = schema.get("type", "object" if "properties" in schema else "string")
    kind = kinds[0] if isinstance(kinds, list) and kinds else kinds
    if kind == "object":
        return _sample_object(schema, root, depth)
    if kind == "array":
        return [_sample(schema.get("items"), root, depth + 1)] * _item_count(schema.get("minItems"))
    least = schema.get("minimum", 1)
    number = least if isinstance(least, (int, float)) else 1
    return {"integer": number, "number": number, "boolean": True, "null": None}.get(str(kind), "text")


def _item_count(least: object) -> int:
    return min(max(least, 1), MOST_ITEMS) if isinstance(least, int) else 1


MAX_VALUE_DEPTH = 6
USUAL = range(1, 100)
FORMATS = {
    "date": "2026-03-14",
    "time": "08:30:00Z",
    "date-time": "2026-03-14T08:30:00Z",
    "email": "mia@example.org",
    "uri": "https://example.org/birds",
    "uuid": "3f2b1c9e-8d47-4a6b-9c15-0e7d2a4b6c81",
    "ipv4": "192.0.2.17",
}

ValueLists = Sequence[tuple[Sequence[str], Sequence[str]]]
"""(words in a parameter's name, values for it). The first match is used; the last entry has no words and always
matches."""


class NoSample(Exception):
    pass


class ValueSampler:
    """Samples the arguments of one call. All lists advance together, so that *from* km gets *to* mi; numbers increase,
    so that a minimum is not above its maximum."""

    def __init__(self, rng: Random, root: Mapping[str, Any], lists: ValueLists) -> None:
        self._rng = rng
        self._root = root
        self._lists = lists
        self._turn = rng.randrange(1000)
        self._uses: dict[int, int] = {}
        self._above = 0.0

    def arguments(self, with_optional: bool) -> dict[str, Any]:
        """The required arguments, or all with a known value. Raises NoSample if a required one has no known value."""
        return self._object(self._root, with_optional, 0)

    def _value(self, name: str, schema: object, depth: int) -> Any:
        schema = self._resolved(schema)
        if depth > MAX_VALUE_DEPTH:
            raise NoSample("it is nested too deep")
        if "const" in schema:
            return schema["const"]
        for key in ("enum", "examples"):
            values = [value for value in schema.get(key) or () if value is not None]
            if values:
                return self._rng.choice(values)
        variants = [
            v for v in schema.get("anyOf") or schema.get("oneOf") or () if self._resolved(v) != {"type": "null"}
        ]
        if variants:
            return self._value(name, variants[0], depth + 1)
        return self._of_kind(name, schema, depth)

    def _of_kind(self, name: str, schema: Mapping[str, Any], depth: int) -> Any:
        kinds = schema.get("type", "string")
        kind = next((one for one in kinds if one != "null"), "null") if isinstance(kinds, list) else kinds
        if kind == "string":
            return FORMATS.get(str(schema.get("format"))) or self._word(name)
        if kind in ("integer", "number"):
            return self._number(schema, kind == "integer")
        if kind == "boolean":
            return self._rng.random() < 0.5
        if kind == "array":
            count = max(int(schema.get("minItems", 1)), 1)
            return [self._value(name, schema.get("items", {}), depth + 1) for _ in range(count)]
        if kind == "object":
            return self._object(schema, False, depth + 1)
        raise NoSample(f"nothing is known for the type {kind}")

    def _object(self, schema: Mapping[str, Any], with_optional: bool, depth: int) -> dict[str, Any]:
        required = set(schema.get("required") or ())
        properties = (schema.get("properties") or {}).items()
        wanted = [(name, part) for name, part in properties if with_optional or name in required]
        found = {}
        for name, part in wanted:
            try:
                found[name] = self._value(name, part, depth)
            except NoSample:
                if name in required:
                    raise
        return found

    def _number(self, schema: Mapping[str, Any], is_whole: bool) -> int | float:
        step = schema.get("multipleOf", 1 if is_whole or self._rng.random() < 0.5 else 0.5)
        least = max(_bound(schema, "inimum", USUAL.start), self._above if self._above < USUAL.stop else USUAL.start)
        most = min(_bound(schema, "aximum", USUAL.stop), max(USUAL.stop, least + 50 * step))
        if most < least:
            least, most = _bound(schema, "inimum", most - 50 * step), most
        first, last = -int(-least // step), int(most // step)
        if last < first:
            raise NoSample("no number is in its range")
        value = self._rng.randint(first, last) * step
        self._above = value + step
        return int(value) if value == int(value) else round(value, 6)

    def _word(self, name: str) -> str:
        words = set(re.sub(r"([a-z])([A-Z])", r"\1 \2", name).replace("_", " ").replace("-", " ").lower().split())
        for place, (keywords, values) in enumerate(self._lists):
            if not keywords or words & set(keywords):
                self._uses[place] = self._uses.get(place, 0) + 1
                return values[(self._turn + self._uses[place]) % len(values)]
        raise NoSample("the word list has no end")

    def _resolved(self, schema: object) -> Mapping[str, Any]:
        """Follows a reference within the parameters; raises NoSample for any other."""
        found = schema
        for _ in range(MAX_VALUE_DEPTH):
            if not isinstance(found, Mapping):
                return {}
            if "$ref" not in found:
                return found
            found = self._at(str(found["$ref"]))
        raise NoSample("its references have no end")

    def _at(self, reference: str) -> object:
        found: object = self._root
        for part in reference.removeprefix("#").strip("/").split("/"):
            if part:
                found = found.get(part) if isinstance(found, Mapping) else None
        return found


def _bound(schema: Mapping[str, Any], name: str, usual: float) -> float:
    """``name`` without its first letter, to find both minimum and exclusiveMinimum."""
    sign = 1 if name == "inimum" else -1
    strict = schema.get(f"exclusiveM{name}")
    value = schema.get(f"m{name}", usual)
    if isinstance(strict, (int, float)) and not isinstance(strict, bool):
        value = strict + sign * schema.get("multipleOf", 1)
    return float(value)
