"""Converts a JSON Schema of parameters to the rows of a form, and back without losing a keyword; example arguments.

A row is one property. Keywords with a form field become fields; all others stay with the row as JSON (``more``). If the
fields cannot describe a property's type (`anyOf`, `$ref`, lists of lists), its row has only JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field

from webapp.errors import ToolInvalid
from webapp.i18n import Text
from webapp.tools.definition import parse_json, strict_json
from webapp.tools.schema_check import target_of

SCALARS = ("string", "number", "integer", "boolean")
KINDS = (*SCALARS, "object", "array", "other")
ITEM_KINDS = (*SCALARS, "object")
LISTED = ("string", "number", "integer")
"""Kinds with a field for the allowed values."""
TYPES: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}
MAX_ROWS = 200
MAX_DEPTH = 5
SAMPLE_DEPTH = 12
MAX_ITEMS = 8
_OWN = {"type", "description", "enum", "default", "properties", "required", "items"}


class ParameterRow(Struct, frozen=True):
    """``enum`` has one value per line; ``default`` is as typed; ``more`` contains the other keywords (for ``other``,
    the whole schema) as JSON. ``children`` are the properties of an object, or of the objects in an array."""

    name: str = ""
    kind: str = "string"
    item_kind: str = "string"
    description: str = ""
    is_required: bool = False
    enum: str = ""
    default: str = ""
    more: str = ""
    children: tuple[ParameterRow, ...] = field(default_factory=tuple)


def rows_of(schema: Mapping[str, Any], depth: int = 0) -> tuple[ParameterRow, ...]:
    """The rows of an object's properties, in order. ``depth`` is the object's depth."""
    properties = schema.get("properties")
    required = schema.get("required")
    needed = set(required) if isinstance(required, list) else set()
    found = properties.items() if isinstance(properties, Mapping) else ()
    return tuple(_row(name, part, name in needed, depth) for name, part in found)


def more_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of the whole schema besides its properties, such as ``$defs``."""
    return {key: value for key, value in schema.items() if key not in ("type", "properties", "required")}


def schema_of(rows: Iterable[ParameterRow], more: Mapping[str, Any] | None = None, path: str = "") -> dict[str, Any]:
    """The schema that the rows describe. Raises ToolInvalid with the row's field (``city.enum``) if it cannot be
    parsed."""
    rows = tuple(rows)
    names: set[str] = set()
    properties: dict[str, Any] = {}
    for number, row in enumerate(rows):
        where = f"{path}{number}"
        if not row.name.strip():
            raise ToolInvalid(field=f"{where}.name", reason=Text("reason.tools.parameter_needs_a_name"))
        if row.name in names:
            raise ToolInvalid(field=f"{where}.name", reason=Text("reason.tools.two_parameters", name=row.name))
        names.add(row.name)
        properties[row.name] = _schema(row, where)
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    required = [row.name for row in rows if row.is_required]
    return {**schema, **({"required": required} if required else {}), **(more or {})}


def _row(name: str, schema: object, is_required: bool, depth: int) -> ParameterRow:
    if not isinstance(schema, Mapping) or not _has_fields(schema, depth):
        return ParameterRow(name, "other", is_required=is_required, more=_json(schema))
    kind = str(schema["type"])
    items = schema.get("items") if kind == "array" else None
    inner = items if isinstance(items, Mapping) else schema
    hidden = _OWN if kind in ("object", "array") else _OWN - {"properties", "required", "items"}
    more = {key: value for key, value in schema.items() if key not in hidden}
    has_default = "default" in schema and _is_plain(schema["default"], kind)
    if "default" in schema and not has_default:
        more["default"] = schema["default"]
    if kind == "object" and schema.get("properties") == {}:
        more["properties"] = {}
    return ParameterRow(
        name,
        kind,
        str(items["type"]) if isinstance(items, Mapping) else "string",
        str(schema.get("description", "")),
        is_required,
        "\n".join(_typed(value) for value in inner.get("enum", ())),
        _typed(schema["default"]) if has_default else "",
        _json(more) if more else "",
        rows_of(inner, depth + 1) if inner.get("type") == "object" else (),
    )


def _has_fields(schema: Mapping[str, Any], depth: int) -> bool:
    """True if the fields of the row and its children can express the whole schema."""
    kind = schema.get("type")
    if kind not in KINDS or kind == "other" or not isinstance(schema.get("description", ""), str):
        return False
    if kind == "array":
        items = schema.get("items")
        allowed = {"type", "enum", "properties", "required"}
        if "enum" in schema or not isinstance(items, Mapping) or set(items) - allowed:
            return False
        is_plain = items.get("type") in ITEM_KINDS and _has_plain_enum(items, str(items["type"]))
        return is_plain and items.get("properties") != {} and _has_room(items, depth)
    return _has_plain_enum(schema, str(kind)) and _has_room(schema, depth)


def _has_room(schema: Mapping[str, Any], depth: int) -> bool:
    """False if the properties are nested deeper than the form allows."""
    return schema.get("type") != "object" or not schema.get("properties") or depth + 1 < MAX_DEPTH


def _has_plain_enum(schema: Mapping[str, Any], kind: str) -> bool:
    """True if all values can be written as lines of text without loss."""
    if "enum" not in schema:
        return True
    values = schema["enum"]
    if not isinstance(values, list) or not values or kind not in LISTED:
        return False
    return all(_is_plain(value, kind) and "\n" not in _typed(value) for value in values)


def _is_plain(value: object, kind: str) -> bool:
    """True if the value's text is parsed as the same value."""
    try:
        found = _read(_typed(value), kind)
    except ValueError:
        return False
    return found == value and type(found) is type(value)


def _schema(row: ParameterRow, path: str) -> Any:
    if row.kind == "other":
        return parse_json(row.more or "{}", f"{path}.more")
    schema: dict[str, Any] = {"type": row.kind}
    if row.description:
        schema["description"] = row.description
    value_kind = row.item_kind if row.kind == "array" else row.kind
    inner: dict[str, Any] = {"type": value_kind} if row.kind == "array" else schema
    if row.enum.strip() and value_kind in LISTED:
        inner["enum"] = _enum(row, value_kind, path)
    if value_kind == "object":
        # without names, any property is allowed
        nested = schema_of(row.children, path=f"{path}.") if row.children else {}
        inner |= {key: nested[key] for key in ("properties", "required") if key in nested}
    if row.kind == "array":
        schema["items"] = inner
    if row.default.strip():
        schema["default"] = _default(row, path)
    more = parse_json(row.more, f"{path}.more") if row.more.strip() else {}
    if not isinstance(more, dict):
        raise ToolInvalid(field=f"{path}.more", reason=Text("reason.common.must_be_a_json_object"))
    return {**schema, **more}


def _enum(row: ParameterRow, kind: str, path: str) -> list[Any]:
    try:
        return [_read(line.strip(), kind) for line in row.enum.splitlines() if line.strip()]
    except ValueError as exc:
        raise ToolInvalid(field=f"{path}.enum", reason=Text("reason.tools.each_line_must_be", type=kind)) from exc


def _default(row: ParameterRow, path: str) -> Any:
    try:
        return _read(row.default.strip(), row.kind)
    except ValueError as exc:
        raise ToolInvalid(field=f"{path}.default", reason=Text("reason.tools.wrong_type", type=row.kind)) from exc


def _read(text: str, kind: str) -> Any:
    """Raises ValueError if the text is not of that kind. Text that is not a JSON string is used as it is."""
    if kind == "string":
        return strict_json(text) if text.startswith('"') and text.endswith('"') and len(text) > 1 else text
    value = strict_json(text)
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        raise ValueError(text)
    return value


def _typed(value: object) -> str:
    """A value as a user would type it; quoted if spaces would be lost."""
    is_plain = isinstance(value, str) and value == value.strip() and value and not value.startswith('"')
    return str(value) if is_plain and "\n" not in str(value) else _json(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def sample_arguments(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The form's example, also for a trial without input: each parameter's default, its first allowed value, or a value
    of its type. Patterns are ignored."""
    return _sample_object(schema, schema, 0)


def _sample_object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    found = properties.items() if isinstance(properties, Mapping) else ()
    return {name: _sample(part, root, depth + 1) for name, part in found}


def _sample(schema: object, root: Mapping[str, Any], depth: int) -> Any:
    """Uses the first of several alternatives. A schema that contains itself ends at a limited depth, even if the value
    is then invalid."""
    if not isinstance(schema, Mapping) or depth > SAMPLE_DEPTH:
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
    return min(max(least, 1), MAX_ITEMS) if isinstance(least, int) else 1
