"""The Lark grammar (in llguidance's dialect) of answers with tools, for each form of a call.

Text is free until a call begins; after that, only a call of a known tool with arguments for its schema can follow, and
after the last call only the end. If the answer needs a form, it is calls or that form from the beginning. ``lazy``
rules end at the first possible position, so a call's opening is never part of the free text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Definition = Mapping[str, Any]

MAX_PARALLEL = 8
SPACING = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?", "lenient": True}
"""Lenient: a keyword llguidance cannot enforce is left to the check of the finished call."""
LINED = {"whitespace_pattern": r"[ \n]{0,16}", "lenient": True}
"""Indented JSON too, though never endless blank space."""
THOUGHT = "thought[lazy]: /(.|\\n)*<\\/think>/"
SCHEMA_LISTS = ("anyOf", "oneOf")
SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
SILENT = {"type", "title", "description", "$schema", "$id", "$comment", "examples", "default", "$defs", "definitions"}
"""Keywords that say nothing of an object's properties."""
PLAIN_VALUES = ("enum", "const", "default", "examples")


@dataclass(frozen=True)
class ToolRules:
    """What may be called. ``is_required``: the answer has to be a call. ``max_calls``: in one answer. ``form``: Lark
    rules from a rule `form`, of what the answer has to be where it is no call; "" is any text.

    ``thinking``: the prompt left a thought open; ``tag_end``: only the ">" of its closing tag.
    """

    definitions: tuple[Definition, ...]
    is_required: bool = False
    max_calls: int = MAX_PARALLEL
    thinking: bool = False
    tag_end: bool = False
    form: str = ""


def fenced_grammar(rules: ToolRules) -> str:
    """```` ```json ```` with an object, or a list of them."""
    names, lines = _object_rules(rules.definitions)
    lines.append("call: " + " | ".join(names))
    listed = f' | "[" call (/, ?/ call){{0,{rules.max_calls - 1}}} "]"' if rules.max_calls > 1 else ""
    lines.append(f'calls: (call{listed}) "\\n```"')
    return _grammar(rules, [("```json\n", "calls")], lines)


def hermes_grammar(rules: ToolRules) -> str:
    names, lines = _object_rules(rules.definitions)
    lines.append("call: (" + " | ".join(names) + ') "\\n</tool_call>"')
    more = f' ("\\n<tool_call>\\n" call){{0,{rules.max_calls - 1}}}' if rules.max_calls > 1 else ""
    lines.append(f"calls: call{more}")
    return _grammar(rules, [("<tool_call>\n", "calls")], lines)


def headed_grammar(rules: ToolRules) -> str:
    """``**Tool Call:**`` and a fence with one object; JSON as such models were trained to write it, over several lines
    or on one."""
    names, lines = _object_rules(rules.definitions, LINED)
    opening = "**Tool Call:**\n```json\n"
    lines.append("call: (" + " | ".join(names) + ') "\\n```"')
    more = f' ("\\n" {json.dumps(opening)} call){{0,{rules.max_calls - 1}}}' if rules.max_calls > 1 else ""
    lines.append(f"calls: call{more}")
    return _grammar(rules, [(opening, "calls")], lines)


def legacy_grammar(rules: ToolRules) -> str:
    """One call, as RWKV-Runner's models know it; each tool has an opening of its own, because its name comes first."""
    lines: list[str] = []
    openings = []
    for index, definition in enumerate(rules.definitions):
        openings.append((f"{definition['name']}\n```python\ntool_call(", f"rest_{index}"))
        lines += _keyword_rules(index, _arguments(definition))
        lines.append(f'rest_{index}: first_{index}_0 ")\\n```"')
    return _grammar(rules, openings, lines)


def _grammar(rules: ToolRules, openings: Sequence[tuple[str, str]], lines: list[str]) -> str:
    """``openings``: what begins a call, and the rule of what follows it."""
    tag_end = "/>?/ " if rules.tag_end else ""
    heads = []
    for index, (opening, rest) in enumerate(openings):
        if rules.is_required or rules.form:
            heads.append(f"{tag_end}/[ \\n]?/ {json.dumps(opening)} {rest}")
        else:
            lines.append(f"head_{index}[lazy]: /(.|\\n)*{_as_regex(opening)}/")
            heads.append(f"head_{index} {rest}")
    if rules.form and not rules.is_required:
        heads.append(f"{tag_end}form")
        lines.append(rules.form)
    elif not rules.is_required:
        heads.append("text")
        lines += ["text: TEXT", "TEXT: /(.|\\n)*/"]
    start = "start: thought answer" if rules.thinking else "start: answer"
    thought = [THOUGHT] if rules.thinking else []
    return "\n".join([start, "answer: " + " | ".join(heads), *thought, *lines]) + "\n"


def _object_rules(
    definitions: Sequence[Definition], spacing: Mapping[str, Any] = SPACING
) -> tuple[list[str], list[str]]:
    names = [f"call_{index}" for index in range(len(definitions))]
    lines = []
    for name, definition in zip(names, definitions, strict=True):
        schema = {
            "type": "object",
            "properties": {
                "name": {"const": definition["name"]},
                "arguments": _rerooted(_arguments(definition), "#/properties/arguments"),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        lines.append(f"{name}: %json {json.dumps(schema | {'x-guidance': spacing})}")
    return names, lines


def _keyword_rules(tool: int, schema: Mapping[str, Any]) -> list[str]:
    """`"key"= value` pairs in the schema's order: `first` rules until something is written, then `more` rules."""
    properties = [(name, part) for name, part in (schema.get("properties") or {}).items() if part is not False]
    required = set(schema.get("required") or ())
    lines = []
    for index, (name, part) in enumerate(properties):
        pair, following = f"pair_{tool}_{index}", index + 1
        lines.append(f"{pair}: {json.dumps(json.dumps(name, ensure_ascii=False) + '=')} / ?/ value_{tool}_{index}")
        lines.append(f"value_{tool}_{index}: %json {json.dumps({**_value(part, schema), 'x-guidance': SPACING})}")
        skip_first = "" if name in required else f" | first_{tool}_{following}"
        skip_more = "" if name in required else f" | more_{tool}_{following}"
        lines.append(f"first_{tool}_{index}: {pair} more_{tool}_{following}{skip_first}")
        lines.append(f"more_{tool}_{index}: /, ?/ {pair} more_{tool}_{following}{skip_more}")
    return [*lines, f'first_{tool}_{len(properties)}: ""', f'more_{tool}_{len(properties)}: ""']


LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
SAFE_DIGITS = 10**16 - 1
LEAST_STEP = 1e-9
"""A number of more digits is none that JSON's readers agree on, and a small model may write digits for ever."""


def _arguments(definition: Definition) -> dict[str, Any]:
    """The schema of a call's arguments, which are an object even where it does not say so. One that says nothing of its
    content is what programs write for a tool without arguments."""
    given = definition.get("parameters")
    if isinstance(given, Mapping) and given.keys() <= SILENT:
        given = {**given, "properties": {}}
    return {"type": "object", **held(given)}


def held(schema: object) -> dict[str, Any]:
    """As a model is held to it, of a call's arguments and of an answer's form. Objects that list their properties and
    do not speak of others have no others: a model must not invent any. Numbers have at most 16 digits before the point
    and 9 behind it, and no exponent."""
    if not isinstance(schema, Mapping):
        return {"type": "object", "properties": {}, "additionalProperties": False}
    found = dict(schema)
    for key in SCHEMA_MAPS:
        if isinstance(found.get(key), Mapping):
            found[key] = {name: _held_part(part) for name, part in found[key].items()}
    for key in SCHEMA_LISTS:
        if isinstance(found.get(key), list):
            found[key] = [_held_part(part) for part in found[key]]
    if isinstance(found.get("items"), Mapping):
        found["items"] = held(found["items"])
    if "properties" in found and "allOf" not in found:
        found.setdefault("additionalProperties", False)
    kinds = found.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if found.keys() & {"enum", "const"}:
        return found
    if "number" in kinds and "multipleOf" not in found:
        found["multipleOf"] = LEAST_STEP
    return _bounded(found) if "number" in kinds or "integer" in kinds else found


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """As it is where it names larger numbers itself."""
    given = [schema[key] for key in (*LOWER, *UPPER) if key in schema]
    if not all(isinstance(bound, (int, float)) and abs(bound) <= SAFE_DIGITS for bound in given):
        return schema
    least = {} if schema.keys() & set(LOWER) else {"minimum": -SAFE_DIGITS}
    most = {} if schema.keys() & set(UPPER) else {"maximum": SAFE_DIGITS}
    return {**schema, **least, **most}


def _held_part(part: object) -> object:
    return held(part) if isinstance(part, Mapping) else part


def _value(part: object, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's schema by itself, with the whole beside it where it refers to it."""
    value: dict[str, Any] = _rerooted(part, "#/$defs/parameters") if isinstance(part, Mapping) else {}
    if value == part:
        return value
    return {**value, "$defs": {"parameters": _rerooted(schema, "#/$defs/parameters")}}


def _rerooted(schema: Any, root: str) -> Any:
    """The same where the schema stands at ``root`` of another: its references are to its own beginning."""
    if isinstance(schema, list):
        return [_rerooted(part, root) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _rerooted_part(key, part, root) for key, part in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = root + reference[1:]
    return moved


def _rerooted_part(key: str, part: Any, root: str) -> Any:
    if key in PLAIN_VALUES:
        return part
    if key in SCHEMA_MAPS and isinstance(part, Mapping):
        return {name: _rerooted(inner, root) for name, inner in part.items()}
    return _rerooted(part, root)


def _as_regex(text: str) -> str:
    escaped = re.sub(r"([\\.^$|?*+()\[\]{}/])", r"\\\1", text)
    return escaped.replace("\n", "\\n")
