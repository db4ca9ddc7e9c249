"""How tools and calls are written in a prompt: G1x compact, G1x JSON, and RWKV-Runner's legacy form."""

from __future__ import annotations

import json
from typing import Any

COMPACT, JSON_LIST, LEGACY = "g1x-compact", "g1x-json", "runner-legacy"
RETURN_ONLY = "Return only a JSON function call."
LEGACY_INTRO = "You are a helpful assistant with access to the following functions. Use them if required -"


def compact_type(schema: dict[str, Any]) -> str:
    """JSON Schema as a short type: string, "a" | "b", string[], {city: string}."""
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if schema.get("type") == "array":
        return compact_type(schema.get("items", {})) + "[]"
    if schema.get("type") == "object":
        return "{" + compact_parameters(schema) + "}"
    return schema.get("type", "any")


def compact_parameters(schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    return ", ".join(
        f"{name}{'' if name in required else '?'}: {compact_type(part)}"
        for name, part in schema.get("properties", {}).items()
    )


def compact_tool(definition: dict[str, Any], described: bool) -> str:
    line = f"- {definition['name']}({compact_parameters(definition['parameters'])})"
    return f"{line}: {definition['description']}" if described else line


def tools_text(
    definitions: list[dict[str, Any]],
    form: str,
    described: bool = True,
    spaced: bool = False,
    last_line: str = RETURN_ONLY,
) -> str:
    """The system message that offers the tools, without `System: `."""
    if form == LEGACY:
        return LEGACY_INTRO + json.dumps(definitions, indent=2, ensure_ascii=False)
    if form == COMPACT:
        body = "\n".join(compact_tool(definition, described) for definition in definitions)
    else:
        separators = (", ", ": ") if spaced else (",", ":")
        body = json.dumps(definitions, ensure_ascii=False, separators=separators)
    return "Tools:\n" + body + ("\n" + last_line if last_line else "")


def call_text(calls: list[tuple[str, dict[str, Any]]], form: str) -> str:
    """The answer with the calls: one object, or a list of them, in a fenced JSON block."""
    if form == LEGACY:
        name, arguments = calls[0]
        pairs = ", ".join(f'"{key}"= "{value}"' for key, value in arguments.items())
        return f"{name}\n```python\ntool_call({pairs})\n```"
    objects = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return f"```json\n{compact_json(objects[0] if len(objects) == 1 else objects)}\n```"


def compact_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
