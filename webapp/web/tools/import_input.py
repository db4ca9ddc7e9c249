"""Tools that were brought in: the text as it came, and the definitions in it, as many products write them."""

from __future__ import annotations

from flask import request

from webapp.errors import ToolInvalid
from webapp.tools.definition import ToolDefinition, from_openai
from webapp.tools.json_text import parse_json

MAX_IMPORT_CHARS = 1_000_000


def posted_text() -> str:
    """Of the file, or of what was pasted."""
    found = request.files.get("file")
    if found is not None and found.filename:
        return found.stream.read(MAX_IMPORT_CHARS).decode("utf-8-sig", "replace")
    return request.form.get("text", "")[:MAX_IMPORT_CHARS]


def definitions_in(text: str) -> list[ToolDefinition]:
    """All, or ToolInvalid for the first that cannot be: a list, an object that holds one, or a single tool."""
    value = parse_json(text, "JSON")
    rows = value.get("tools", value.get("functions", [value])) if isinstance(value, dict) else value
    if not isinstance(rows, list) or not rows:
        raise ToolInvalid(field="JSON", reason="it must be a tool or a list of tools")
    return [_definition(row, f"tools[{number}]" if len(rows) > 1 else "") for number, row in enumerate(rows)]


def _definition(row: object, place: str) -> ToolDefinition:
    """ToolInvalid says which of several it is."""
    try:
        return from_openai(row)
    except ToolInvalid as exc:
        field = ".".join(part for part in (place, str(exc.params.get("field", ""))) if part)
        raise ToolInvalid(**{**exc.params, "field": field}) from exc
