"""Arguments a call could have: what the tool form shows as an example, and tries where nothing is typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webapp.tools.schema_check import target_of

MAX_DEPTH = 12
MOST_ITEMS = 8


def sample_arguments(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter with its default, first allowed value, or one of its type; it need not fit a pattern."""
    return _sample_object(schema, schema, 0)


def _sample_object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    found = properties.items() if isinstance(properties, Mapping) else ()
    return {name: _sample(part, root, depth + 1) for name, part in found}


def _sample(schema: object, root: Mapping[str, Any], depth: int) -> Any:
    """Of the first of several forms; a schema inside itself ends at some depth, fitting or not."""
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
