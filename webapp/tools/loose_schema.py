"""A tool's parameters as programs send them, made into a schema that JSON Schema 2020-12 and the grammar both take.

Tools come out of Zod, pydantic, OpenAPI documents, older drafts and by hand. One odd field must not cost the whole
request: what nobody can hold a model to is left out of that field, which then takes more; the program checks its
arguments itself. What is fine already comes back as it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from webapp.structured.grammar import is_pattern
from webapp.tools.schema_check import MAX_DEPTH, MAX_ENUM_VALUES, MAX_NODES, leads_somewhere

TYPES = {name: name for name in ("string", "number", "integer", "boolean", "object", "array", "null")}
TYPES |= {"str": "string", "int": "integer", "float": "number", "double": "number", "bool": "boolean"}
TYPES |= {"dict": "object", "map": "object", "list": "array", "tuple": "array", "none": "null"}
"""What other languages and OpenAPI 2 call them; Gemini's are in capitals."""
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
COUNTS = {"minLength": 1000, "maxLength": 100_000, "minItems": 1000, "maxItems": 10_000, "minProperties": 1000,
          "maxProperties": 10_000, "minContains": 1000, "maxContains": 10_000}  # fmt: skip
"""Beyond these a grammar is too large; so large a maximum says nothing."""
MAPS = ("properties", "$defs", "definitions", "dependentSchemas")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
ONES = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedItems",
        "unevaluatedProperties")  # fmt: skip
TEXTS = ("title", "description", "$comment", "format", "$anchor", "$id", "$schema")


def loosened(parameters: object) -> dict[str, Any]:
    """The schema of an object, whatever was sent: JSON text too, and nothing at all is no parameters."""
    if isinstance(parameters, str):
        try:
            parameters = json.loads(parameters)
        except (ValueError, RecursionError):
            parameters = None
    if not isinstance(parameters, Mapping):
        return {"type": "object", "properties": {}}
    found = _Loosening(parameters).schema(parameters)
    if found.get("type", "object") != "object":
        return {"type": "object", "properties": {}}
    return found


class _Loosening:
    """Of one schema; ``root`` is where its references begin."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._nodes = 0
        self._depth = 0
        self._words: dict[str, Callable[[Any], Any]] = {
            **dict.fromkeys(MAPS, self._map),
            **dict.fromkeys(LISTS, self._list),
            **dict.fromkeys(ONES, self._one),
            **dict.fromkeys(TEXTS, lambda value: value if isinstance(value, str) else None),
            **dict.fromkeys(NUMBERS, lambda value: value if _is_number(value) else None),
            "type": _type,
            "enum": _enum,
            "required": _names,
            "pattern": lambda value: value if isinstance(value, str) and is_pattern(value) else None,
            "patternProperties": self._by_pattern,
            "$ref": self._reference,
            "$dynamicRef": self._reference,
            "examples": lambda value: value if isinstance(value, list) else None,
            "uniqueItems": lambda value: value if isinstance(value, bool) else None,
            "dependentRequired": lambda value: value if isinstance(value, Mapping) else None,
        }

    def schema(self, given: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
        self._nodes += 1
        if depth > MAX_DEPTH // 2 or self._nodes > MAX_NODES // 2:
            return {}
        found: dict[str, Any] = {}
        for key, value in _modern(given).items():
            self._depth = depth
            if key in COUNTS:
                value = _count(value, COUNTS[key])
            elif key in self._words:
                value = self._words[key](value)
            if value is not None or key in ("const", "default"):
                found[key] = value
        return found

    def _part(self, value: Any) -> Any:
        """A schema inside of this one; None for what is none."""
        depth = self._depth
        part = (
            self.schema(value, depth + 1) if isinstance(value, Mapping) else value if isinstance(value, bool) else None
        )
        self._depth = depth
        return part

    def _one(self, value: Any) -> Any:
        return self._part(value)

    def _map(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return None
        parts = {name: self._part(part) for name, part in value.items()}
        return {name: {} if part is None else part for name, part in parts.items()}

    def _by_pattern(self, value: Any) -> Any:
        good = {name: part for name, part in value.items() if is_pattern(name)} if isinstance(value, Mapping) else {}
        return self._map(good) or None

    def _list(self, value: Any) -> Any:
        parts = [self._part(part) for part in value] if isinstance(value, list) else []
        return [part for part in parts if part is not None] or None

    def _reference(self, value: Any) -> Any:
        is_inside = isinstance(value, str) and value.startswith("#")
        return value if is_inside and leads_somewhere(self._root, value) else None


def _modern(given: Mapping[str, Any]) -> dict[str, Any]:
    """In the words of draft 2020-12: booleans of draft 4, tuples of draft 7, OpenAPI's nullable."""
    found = dict(given)
    for word, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(found.get(word), bool):
            is_exclusive = found.pop(word)
            if is_exclusive and plain in found:
                found[word] = found.pop(plain)
    if isinstance(found.get("items"), list):
        found["prefixItems"] = found.pop("items")
        found["items"] = found.pop("additionalItems", True)
    if found.get("nullable") is True and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
        if isinstance(found.get("enum"), list):
            found["enum"] = [*found["enum"], None]
    found.pop("nullable", None)
    return found


def _type(value: Any) -> Any:
    if isinstance(value, list):
        names = [TYPES.get(name.lower()) for name in value if isinstance(name, str)]
        return list(dict.fromkeys(names)) if names and None not in names else None
    return TYPES.get(value.lower()) if isinstance(value, str) else None


def _enum(value: Any) -> Any:
    """Values that are too many, or none, are any value."""
    return value if isinstance(value, list) and 0 < len(value) <= MAX_ENUM_VALUES else None


def _names(value: Any) -> Any:
    names = [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
    return list(dict.fromkeys(names)) or None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _count(value: Any, most: int) -> Any:
    return value if _is_number(value) and 0 <= value <= most and value == int(value) else None
