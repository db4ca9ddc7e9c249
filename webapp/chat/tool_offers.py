"""How tools are offered to a model, and how a call and its result are written, in each dialect's own words.

A definition is OpenAI's `function` object: name, description, parameters (a JSON Schema of an object). Sources: the
compact and JSON forms are those of RWKV7-G1x-templates.txt (BlinkDL/RWKV-LM), the legacy form is what RWKV-Runner
writes for Mobius models, the Hermes form that of NousResearch's function-calling models.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from webapp.chat.messages import ToolCall

Definition = Mapping[str, Any]

RETURN_ONLY = "Return only a JSON function call."
LEGACY_INTRO = "You are a helpful assistant with access to the following functions. Use them if required -"
HERMES_INTRO = (
    "You are a function calling AI model. You are provided with function signatures within <tools></tools> XML tags. "
    "You may call one or more functions to assist with the user query. Don't make assumptions about what values to "
    "plug into functions. Here are the available tools: <tools>"
)
HERMES_OUTRO = (
    "</tools> For each function call return a JSON object with function name and arguments within "
    "<tool_call></tool_call> XML tags."
)


def compact_offer(definitions: Sequence[Definition]) -> str:
    lines = [_compact_line(definition) for definition in definitions]
    return "\n".join(["Tools:", *lines, RETURN_ONLY])


def json_offer(definitions: Sequence[Definition]) -> str:
    return "\n".join(["Tools:", compact_json([plain(definition) for definition in definitions]), RETURN_ONLY])


def legacy_offer(definitions: Sequence[Definition]) -> str:
    listed = json.dumps([plain(definition) for definition in definitions], indent=2, ensure_ascii=False)
    return LEGACY_INTRO + listed


def hermes_offer(definitions: Sequence[Definition]) -> str:
    listed = [compact_json({"type": "function", "function": plain(definition)}) for definition in definitions]
    return "\n".join([HERMES_INTRO, *listed, HERMES_OUTRO])


def fenced_calls(calls: Sequence[ToolCall]) -> str:
    """One object, or a list of them, in a fenced JSON block."""
    objects = [_call_object(call) for call in calls]
    return f"```json\n{compact_json(objects[0] if len(objects) == 1 else objects)}\n```"


def legacy_calls(calls: Sequence[ToolCall]) -> str:
    return "\n".join(_legacy_call(call) for call in calls)


def hermes_calls(calls: Sequence[ToolCall]) -> str:
    return "\n".join(f"<tool_call>\n{compact_json(_call_object(call))}\n</tool_call>" for call in calls)


def plain_results(results: Sequence[str]) -> str:
    """One result as it is, several as a JSON list."""
    return results[0] if len(results) == 1 else compact_json([_as_value(result) for result in results])


def hermes_results(results: Sequence[str]) -> str:
    return "\n".join(f"<tool_response>\n{result}\n</tool_response>" for result in results)


def plain(definition: Definition) -> dict[str, Any]:
    """What a model needs to see of a definition."""
    shown = {"name": definition["name"], "description": definition.get("description") or ""}
    return {**shown, "parameters": definition.get("parameters") or {"type": "object", "properties": {}}}


def compact_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def compact_type(schema: object) -> str:
    """A JSON Schema as a short type: string, "a" | "b", string[], {city: string, days?: integer}."""
    if not isinstance(schema, Mapping):
        return "any"
    if isinstance(schema.get("enum"), list):
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    variants = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(variants, list):
        return " | ".join(compact_type(variant) for variant in variants)
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return " | ".join(str(name) for name in kind)
    if kind == "array":
        return compact_type(schema.get("items")) + "[]"
    return "{" + compact_parameters(schema) + "}" if kind == "object" and schema.get("properties") else str(kind)


def compact_parameters(schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required") or ())
    parts: Iterable[tuple[str, object]] = (schema.get("properties") or {}).items()
    return ", ".join(f"{name}{'' if name in required else '?'}: {compact_type(part)}" for name, part in parts)


def _compact_line(definition: Definition) -> str:
    line = f"- {definition['name']}({compact_parameters(definition.get('parameters') or {})})"
    description = " ".join(str(definition.get("description") or "").split())
    return f"{line}: {description}" if description else line


def _call_object(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": _as_value(call.arguments or "{}")}


def _legacy_call(call: ToolCall) -> str:
    arguments = _as_value(call.arguments or "{}")
    pairs = arguments.items() if isinstance(arguments, dict) else ()
    written = ", ".join(f"{compact_json(key)}= {compact_json(value)}" for key, value in pairs)
    return f"{call.name}\n```python\ntool_call({written})\n```"


def _as_value(text: str) -> Any:
    """The JSON value, or the text itself where it is none: history may hold anything."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
