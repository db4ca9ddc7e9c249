"""The Lark grammar (in llguidance's dialect) of answers with tools, for each form of a call.

Text is free until a call begins; after that, only a call of a known tool with arguments for its schema can follow, and
after the last call only the end. If the answer needs a form, it is calls or that form from the beginning. ``lazy``
rules end at the first possible position, so a call's opening is never part of the free text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from webapp.errors import GrammarInvalid
from webapp.i18n import Text

Definition = Mapping[str, Any]

MAX_PARALLEL = 8
SPACING = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?", "lenient": True}
"""Lenient: keywords that llguidance cannot enforce are checked after the call."""
LINED = {"whitespace_pattern": r"[ \n]{0,16}", "lenient": True}
"""Also allows indented JSON, but only limited whitespace."""
THOUGHT = "thought[lazy]: /(.|\\n)*<\\/think>/"
SCHEMA_LISTS = ("anyOf", "oneOf")
SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
SILENT = {"type", "title", "description", "$schema", "$id", "$comment", "examples", "default", "$defs", "definitions"}
"""Keywords that do not describe the object's properties."""
PLAIN_VALUES = ("enum", "const", "default", "examples")
MAX_COPIES_CHARS = 256 * 1024
"""The limit of a whole grammar (:mod:`webapp.structured.grammar`), for the copies of a schema in it."""


class ToolRules(Struct, frozen=True):
    """The tools that may be called. ``is_required``: the answer must be a call. ``max_calls``: per answer. ``form``:
    Lark rules, starting at `form`, for an answer without a call; "" allows any text.

    ``thinking``: the prompt ends inside thinking; ``tag_end``: only the ">" of its closing tag is missing.
    """

    definitions: tuple[Definition, ...]
    is_required: bool = False
    max_calls: int = MAX_PARALLEL
    thinking: bool = False
    tag_end: bool = False
    form: str = ""


def fenced_grammar(rules: ToolRules) -> str:
    """```` ```json ```` with an object or a list of objects."""
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
    """``**Tool Call:**`` and a fence with one object; the JSON may be indented or on one line, because these models
    write both."""
    names, lines = _object_rules(rules.definitions, LINED)
    opening = "**Tool Call:**\n```json\n"
    lines.append("call: (" + " | ".join(names) + ') "\\n```"')
    more = f' ("\\n" {json.dumps(opening)} call){{0,{rules.max_calls - 1}}}' if rules.max_calls > 1 else ""
    lines.append(f"calls: call{more}")
    return _grammar(rules, [(opening, "calls")], lines)


def legacy_grammar(rules: ToolRules) -> str:
    """One call, as in RWKV-Runner. Each tool has its own opening, because the name comes first."""
    lines: list[str] = []
    openings = []
    for index, definition in enumerate(rules.definitions):
        openings.append((f"{definition['name']}\n```python\ntool_call(", f"rest_{index}"))
        lines += _keyword_rules(index, _arguments(definition))
        lines.append(f'rest_{index}: first_{index}_0 ")\\n```"')
    return _grammar(rules, openings, lines)


def _grammar(rules: ToolRules, openings: Sequence[tuple[str, str]], lines: list[str]) -> str:
    """``openings``: the text that begins a call, and the rule for what follows."""
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
    """`"key"= value` pairs in the schema's order: `first` rules before the first pair, then `more` rules."""
    properties = [(name, part) for name, part in (schema.get("properties") or {}).items() if part is not False]
    values = _values([part for _, part in properties], schema)
    required = set(schema.get("required") or ())
    lines = []
    for index, ((name, _), value) in enumerate(zip(properties, values, strict=True)):
        pair, following = f"pair_{tool}_{index}", index + 1
        lines.append(f"{pair}: {json.dumps(json.dumps(name, ensure_ascii=False) + '=')} / ?/ value_{tool}_{index}")
        lines.append(f"value_{tool}_{index}: %json {json.dumps({**value, 'x-guidance': SPACING})}")
        skip_first = "" if name in required else f" | first_{tool}_{following}"
        skip_more = "" if name in required else f" | more_{tool}_{following}"
        lines.append(f"first_{tool}_{index}: {pair} more_{tool}_{following}{skip_first}")
        lines.append(f"more_{tool}_{index}: /, ?/ {pair} more_{tool}_{following}{skip_more}")
    return [*lines, f'first_{tool}_{len(properties)}: ""', f'more_{tool}_{len(properties)}: ""']


LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
SAFE_DIGITS = 10**16 - 1
MIN_STEP = 1e-9
"""JSON parsers disagree on numbers with more digits, and a small model may write digits without end."""


def _arguments(definition: Definition) -> dict[str, Any]:
    """The schema of a call's arguments, which are always an object. A schema that describes no content means a tool
    without arguments."""
    given = definition.get("parameters")
    if isinstance(given, Mapping) and given.keys() <= SILENT:
        given = {**given, "properties": {}}
    return {"type": "object", **enforced_schema(given)}


def enforced_schema(schema: object) -> dict[str, Any]:
    """The schema that the grammar enforces, for a call's arguments or an answer. Objects that list their properties
    without `additionalProperties` get no others, because a model must not invent any. Numbers have at most 16 digits
    before the point and 9 after it, and no exponent."""
    if not isinstance(schema, Mapping):
        return {"type": "object", "properties": {}, "additionalProperties": False}
    found = dict(schema)
    for key in SCHEMA_MAPS:
        if isinstance(found.get(key), Mapping):
            found[key] = {name: _enforced_part(part) for name, part in found[key].items()}
    for key in SCHEMA_LISTS:
        if isinstance(found.get(key), list):
            found[key] = [_enforced_part(part) for part in found[key]]
    if isinstance(found.get("items"), Mapping):
        found["items"] = enforced_schema(found["items"])
    if "properties" in found and "allOf" not in found:
        found.setdefault("additionalProperties", False)
    kinds = found.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if found.keys() & {"enum", "const"}:
        return found
    if "number" in kinds and "multipleOf" not in found:
        found["multipleOf"] = MIN_STEP
    return _bounded(found) if "number" in kinds or "integer" in kinds else found


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """Unchanged if the schema allows larger numbers explicitly."""
    given = [schema[key] for key in (*LOWER, *UPPER) if key in schema]
    if not all(isinstance(bound, (int, float)) and abs(bound) <= SAFE_DIGITS for bound in given):
        return schema
    least = {} if schema.keys() & set(LOWER) else {"minimum": -SAFE_DIGITS}
    most = {} if schema.keys() & set(UPPER) else {"maximum": SAFE_DIGITS}
    return {**schema, **least, **most}


def _enforced_part(part: object) -> object:
    return enforced_schema(part) if isinstance(part, Mapping) else part


def _values(parts: Sequence[object], schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each parameter's schema by itself, with a copy of the whole beside it if it refers to it. Raises GrammarInvalid
    if the copies are too long together."""
    root = "#/$defs/parameters"
    plain = [part if isinstance(part, Mapping) else {} for part in parts]
    values: list[dict[str, Any]] = [_rerooted(part, root) for part in plain]
    refers = [value != part for value, part in zip(values, plain, strict=True)]
    if not any(refers):
        return values
    whole = _rerooted(schema, root)
    length = len(json.dumps(whole)) * sum(refers)
    if length > MAX_COPIES_CHARS:
        raise GrammarInvalid(reason=Text("reason.common.too_long", found=length, limit=MAX_COPIES_CHARS))
    beside = {"$defs": {"parameters": whole}}
    return [{**value, **beside} if needs else value for value, needs in zip(values, refers, strict=True)]


def _rerooted(schema: Any, root: str) -> Any:
    """The schema with its references changed for its new place at ``root`` of another schema."""
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
