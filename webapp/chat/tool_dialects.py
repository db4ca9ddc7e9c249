"""The dialects of function calling as data: how tools are offered, calls written and found in a text, results handed
back.

A definition is OpenAI's `function` object: name, description, parameters (a JSON Schema of an object). Sources: the
compact and JSON forms are those of RWKV7-G1x-templates.txt (BlinkDL/RWKV-LM), the legacy form is what RWKV-Runner
writes for Mobius models, the Hermes form that of NousResearch's function-calling models.

Each dialect has a :class:`CallSyntax`, what opens a call and what its body says; :mod:`webapp.chat.tool_parser` runs it
over a stream. Its grammar is in :mod:`webapp.chat.tool_grammars`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.chat import tool_grammars
from webapp.chat.lenient_json import read_members, read_value
from webapp.chat.messages import ToolCall
from webapp.chat.tool_grammars import ToolRules

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


MAX_NAME_CHARS = 64


@dataclass(frozen=True)
class ReadCall:
    """``arguments`` are values, not text."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Opening:
    """``begin`` is where the text ends that is sure to be no call. ``body`` is where a call's body begins; None while
    that cannot be told (more text must come) or where there is none (``begin`` is the end)."""

    begin: int
    body: int | None = None
    name: str = ""


@dataclass(frozen=True)
class CallSyntax:
    """``find(text, is_start, is_end)`` gives the first opening; ``read(name, body)`` its calls, None when it holds
    none; ``closer`` is what may stand behind the last body; ``repeats`` whether bodies may follow each other.

    ``opening`` is how the dialect's grammar begins a call, with ``{name}`` where the name comes before the body;
    ``is_keyword`` whether arguments then stand in brackets as ``"key"= value``. Both are of use only where the grammar
    holds the model: what may be found is more.
    """

    find: Callable[[str, bool, bool], Opening]
    read: Callable[[str, str], list[ReadCall] | None]
    closer: str
    opening: str
    repeats: bool = True
    is_keyword: bool = False


def find_fence(text: str, is_start: bool, is_end: bool) -> Opening:
    """A fence of JSON anywhere, or JSON as the very first thing of the answer."""
    if is_start:
        body = len(text) - len(text.lstrip())
        if text[body:].startswith(("{", "[")):
            return Opening(0, body)
    for match in re.finditer(r"`+", text):
        begin = max(match.start(), match.end() - 3)
        if match.end() - begin < 3 or match.end() == len(text):
            if match.end() == len(text) and not is_end:
                return Opening(begin)
            continue
        found = FENCE.match(text, begin)
        if found and found[1]:
            return Opening(begin, found.start(1))
        if not is_end and _may_become_fence(text[begin:]):
            return Opening(begin)
    return Opening(len(text))


def find_tag(text: str, is_start: bool, is_end: bool) -> Opening:
    """``<tool_call>`` anywhere."""
    for found in re.finditer(r"<tool_call>\s*", text):
        following = text[found.end() : found.end() + 1]
        if following in ("{", "["):
            return Opening(found.start(), found.end())
        if not following and not is_end:
            return Opening(found.start())
    return Opening(len(text) if is_end else len(text) - _partial_end(text, "<tool_call>"))


LEGACY = re.compile(r"(?<![\w.-])([\w.-]{1,64})\s{0,8}```[\w \t]{0,16}\n?\s{0,8}tool_call\s{0,8}(?=\()")
LEGACY_BEGUN = re.compile(r"(?<![\w.-])[\w.-]+(\s{0,8}(`{1,3}([\w \t]{0,16}(\n?\s{0,8}[tool_ca]{0,9}\s{0,8})?)?)?)?\Z")


def find_legacy(text: str, is_start: bool, is_end: bool) -> Opening:
    """``name``, a fence, ``tool_call(``: RWKV-Runner's form. Any word may be the name, until what follows it tells."""
    found = LEGACY.search(text)
    if found:
        return Opening(found.start(), found.end(), found[1])
    begun = None if is_end else LEGACY_BEGUN.search(text)
    return Opening(begun.start() if begun else len(text))


def read_json_calls(_name: str, body: str) -> list[ReadCall] | None:
    """``{"name": …, "arguments": {…}}``, or a list of them; OpenAI's own wrapping is read too."""
    value = read_value(body)
    calls = [_json_call(item) for item in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call] if calls and all(calls) else None


def read_keyword_call(name: str, body: str) -> list[ReadCall] | None:
    """``("key"= value, key=value)`` with values as JSON or Python writes them."""
    try:
        return [ReadCall(name, read_members(body))]
    except ValueError:
        return None


def _json_call(item: object) -> ReadCall | None:
    if not isinstance(item, dict):
        return None
    item = item["function"] if isinstance(item.get("function"), dict) else item
    name, arguments = item.get("name"), item.get("arguments", item.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = read_value(arguments)
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS or not isinstance(arguments, dict):
        return None
    return ReadCall(name, arguments)


FENCE = re.compile(r"```(?:json|tool_call|tool_code)?[ \t]*\n?\s*([{\[])?")


def _may_become_fence(text: str) -> bool:
    return any(not text[len(head) :].strip() for head in _heads(text)) or bool(
        re.fullmatch(r"```(j|js|jso|t|to|too|tool|tool_|tool_c|tool_ca|tool_cal|tool_co|tool_cod)?", text)
    )


def _heads(text: str) -> list[str]:
    return [head for head in ("```json", "```tool_call", "```tool_code", "```") if text.startswith(head)]


def _partial_end(text: str, mark: str) -> int:
    return next((length for length in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:length])), 0)


FENCED = CallSyntax(find_fence, read_json_calls, "```", "```json\n")
TAGGED = CallSyntax(find_tag, read_json_calls, "</tool_call>", "<tool_call>\n")
KEYWORD = CallSyntax(
    find_legacy, read_keyword_call, "```", "{name}\n```python\ntool_call", repeats=False, is_keyword=True
)


@dataclass(frozen=True)
class ToolDialect:
    """``result_prefix`` stands before the results in the prompt; "" leaves it to the prompt template."""

    name: str
    offer: Callable[[Sequence[Definition]], str]
    calls: Callable[[Sequence[ToolCall]], str]
    results: Callable[[Sequence[str]], str]
    grammar: Callable[[ToolRules], str]
    syntax: CallSyntax
    result_prefix: str = ""
    stop_strings: tuple[str, ...] = ()
    """Where a model that was not held back begins to make up the result."""
    max_calls: int = tool_grammars.MAX_PARALLEL
    """How many calls one answer can hold."""


@dataclass(frozen=True)
class OfferedTools:
    """The tools of one prompt. Without definitions the dialect is only how calls in the history are written.

    ``is_held``: the dialect's grammar holds the answer, so that what begins as a call is one and nothing follows it.
    """

    dialect: ToolDialect
    definitions: tuple[Definition, ...] = ()
    is_held: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(definition["name"] for definition in self.definitions)

    def system_text(self, system: str) -> str:
        """The system prompt with the offer below it."""
        offer = self.dialect.offer(self.definitions) if self.definitions else ""
        return "\n".join(text for text in (system, offer) if text)


_FENCED = (fenced_calls, plain_results, tool_grammars.fenced_grammar, FENCED)

G1X_COMPACT = ToolDialect("g1x_compact", compact_offer, *_FENCED)
G1X_JSON = ToolDialect("g1x_json", json_offer, *_FENCED)
RUNNER_LEGACY = ToolDialect(
    "runner_legacy",
    legacy_offer,
    legacy_calls,
    plain_results,
    tool_grammars.legacy_grammar,
    KEYWORD,
    result_prefix="Observation: ",
    stop_strings=("\n\nObservation:",),
    max_calls=1,
)
HERMES = ToolDialect(
    "hermes",
    hermes_offer,
    hermes_calls,
    hermes_results,
    tool_grammars.hermes_grammar,
    TAGGED,
    stop_strings=("<tool_response>",),
)

_DIALECTS = {dialect.name: dialect for dialect in (G1X_COMPACT, G1X_JSON, RUNNER_LEGACY, HERMES)}


def all_dialects() -> tuple[ToolDialect, ...]:
    """In the order to offer them."""
    return tuple(_DIALECTS.values())


def dialect(name: str) -> ToolDialect:
    """KeyError for a name that is none of :func:`all_dialects`."""
    return _DIALECTS[name]


def default_dialect(model_name: str) -> ToolDialect:
    """What a model's makers trained it on, as far as its file name tells; the G1x JSON form otherwise."""
    return RUNNER_LEGACY if "mobius" in model_name.lower() else G1X_JSON
