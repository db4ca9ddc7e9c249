"""The dialects of function calling as data: how tools are offered, how calls are written and found in text, and how
results are returned.

A definition is OpenAI's `function` object: name, description, parameters (a JSON Schema of an object). Sources: the
compact and JSON forms are those of RWKV7-G1x-templates.txt (BlinkDL/RWKV-LM), function_calling is that of the chat
template published with G1 models since 2026-07, the legacy form is what RWKV-Runner
writes for Mobius models, the Hermes form that of NousResearch's function-calling models.

Each dialect has a :class:`CallSyntax`: what opens a call and the form of its body; :mod:`webapp.chat.tool_parser`
applies it to a stream. Its grammar is in :mod:`webapp.chat.tool_grammars`.

**Parsing accepts more than writing produces.** Models fall back on forms from their training data: of ten first calls
of a G1k 7.2B, five had a wrapper that was not requested. So every dialect accepts them all: JSON alone at the beginning
of a line, JSON in a fence, ``<tool_call>`` around one call, ``<tool_calls>`` around a list. Only known tools
count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

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


CALL_MARK = "**Tool Call:**"
HEADED_OUTRO = "\n".join(
    (
        "To call one of these tools, write exactly this format:",
        CALL_MARK,
        "```json",
        '{"name": "tool_name", "arguments": {"key": "value"}}',
        "```",
        "Do not invent tool call IDs or write tool outputs yourself.",
    )
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


def headed_offer(definitions: Sequence[Definition]) -> str:
    return "\n".join([*(line for definition in definitions for line in _headed_lines(plain(definition))), HEADED_OUTRO])


def headed_calls(calls: Sequence[ToolCall]) -> str:
    return "\n".join(f"{CALL_MARK}\n{_fenced_json(_call_object(call))}" for call in calls)


def headed_results(results: Sequence[str]) -> str:
    """Each result is a message of its own (``ToolDialect.has_own_results``)."""
    return "\n".join(_fenced_json(as_value(result)) for result in results)


def fenced_calls(calls: Sequence[ToolCall]) -> str:
    """One call, or a list of calls, in a fenced JSON block."""
    objects = [_call_object(call) for call in calls]
    return f"```json\n{compact_json(objects[0] if len(objects) == 1 else objects)}\n```"


def legacy_calls(calls: Sequence[ToolCall]) -> str:
    return "\n".join(_legacy_call(call) for call in calls)


def hermes_calls(calls: Sequence[ToolCall]) -> str:
    return "\n".join(f"<tool_call>\n{compact_json(_call_object(call))}\n</tool_call>" for call in calls)


def plain_results(results: Sequence[str]) -> str:
    """One result unchanged; several as a JSON list."""
    return results[0] if len(results) == 1 else compact_json([as_value(result) for result in results])


def hermes_results(results: Sequence[str]) -> str:
    return "\n".join(f"<tool_response>\n{result}\n</tool_response>" for result in results)


def plain(definition: Definition) -> dict[str, Any]:
    """The parts of a definition that a model needs."""
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


def _headed_lines(shown: Mapping[str, Any]) -> list[str]:
    described = [f"**Description:** {shown['description']}"] if shown["description"] else []
    return [f"### `{shown['name']}`", *described, "**Parameters:**", _fenced_json(shown["parameters"])]


def _fenced_json(value: object) -> str:
    return f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```"


def _call_object(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": as_value(call.arguments or "{}")}


def _legacy_call(call: ToolCall) -> str:
    arguments = as_value(call.arguments or "{}")
    pairs = arguments.items() if isinstance(arguments, dict) else ()
    written = ", ".join(f"{compact_json(key)}= {compact_json(value)}" for key, value in pairs)
    return f"{call.name}\n```python\ntool_call({written})\n```"


def as_value(text: str) -> Any:
    """The JSON value, or the text itself if it is not JSON: the history may contain anything."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


MAX_NAME_CHARS = 256


class ReadCall(Struct, frozen=True):
    """``arguments`` are values, not text."""

    name: str
    arguments: dict[str, Any]


class Opening(Struct, frozen=True):
    """Text before ``begin`` is certainly not part of a call. ``body`` is the position of a call's body; None if more
    text is needed or there is no call (then ``begin`` is the end). ``closers`` may follow the body, in any order;
    ``name`` is set if the name comes before the body."""

    begin: int
    body: int | None = None
    name: str = ""
    closers: tuple[str, ...] = ()


Find = Callable[[str, bool, bool], Opening]


class CallSyntax(Struct, frozen=True):
    """``find(text, is_start, is_end)`` returns the first opening; ``repeats``: several bodies may follow each other.

    ``opening`` begins a call in the dialect's grammar, with ``{name}`` if the name comes before the body;
    ``is_keyword``: arguments are in brackets as ``"key"= value``. Both apply only to constrained answers; ``find``
    accepts more forms.
    """

    find: Find
    opening: str
    repeats: bool = True
    is_keyword: bool = False


TAG_CLOSERS = ("</tool_call>", "</tool_calls>")
FENCE_CLOSER = "```"
CLOSERS = (FENCE_CLOSER, *TAG_CLOSERS)


def find_json(text: str, is_start: bool, is_end: bool) -> Opening:
    """The first call in any of the four wrappers, including the heading that ``function_calling`` writes before it."""
    found = _first(text, (find_fence, find_tag, find_bare), is_start, is_end)
    is_open = found.body is None and not is_end
    mark = (MARK_BEGUN if is_open else MARK_BEFORE).search(text, 0, found.begin)
    return replace(found, begin=mark.start()) if mark and (is_open or found.body is not None) else found


def find_keyword(text: str, is_start: bool, is_end: bool) -> Opening:
    """RWKV-Runner's form, or any form of :func:`find_json`."""
    return _first(text, (find_legacy, find_json), is_start, is_end)


def _first(text: str, finders: Sequence[Find], is_start: bool, is_end: bool) -> Opening:
    """The earliest opening; of two at the same place, the certain one."""
    return min((find(text, is_start, is_end) for find in finders), key=lambda one: (one.begin, one.body is None))


def find_fence(text: str, is_start: bool, is_end: bool) -> Opening:
    """A JSON fence anywhere."""
    for match in re.finditer(r"`+", text):
        begin = max(match.start(), match.end() - 3)
        if match.end() - begin < 3 or match.end() == len(text):
            if match.end() == len(text) and not is_end:
                return Opening(begin)
            continue
        found = FENCE.match(text, begin)
        if found and found[1]:
            return Opening(begin, found.start(1), closers=(FENCE_CLOSER,))
        if not is_end and FENCE_BEGUN.fullmatch(text, begin):
            return Opening(begin)
    return Opening(len(text))


def find_tag(text: str, is_start: bool, is_end: bool) -> Opening:
    """``<tool_call>`` or ``<tool_calls>`` anywhere; one tag may contain the other, and a fence."""
    for found in TAG.finditer(text):
        closers = (*TAG_CLOSERS, *((FENCE_CLOSER,) if found[1] else ()))
        if text[found.end() : found.end() + 1] in ("{", "["):
            return Opening(found.start(), found.end(), closers=closers)
        if not is_end and TAG_BEGUN.fullmatch(text, found.start()):
            return Opening(found.start())
    if is_end:
        return Opening(len(text))
    return Opening(len(text) - max(_partial_end(text, tag) for tag in ("<tool_call>", "<tool_calls>")))


def find_bare(text: str, is_start: bool, is_end: bool) -> Opening:
    """JSON at the very start of an answer; later only at the start of a line and if it begins like a call."""
    if is_start:
        body = len(text) - len(text.lstrip())
        if text[body:].startswith(("{", "[")):
            return Opening(0, body)
    found = BARE.search(text)
    if found:
        return Opening(found.start(), found.start(1))
    begun = None if is_end else BARE_BEGUN.search(text)
    return Opening(begun.start() if begun else len(text))


LEGACY = re.compile(r"(?<![\w./:@-])([\w./:@-]{1,256})\s{0,8}```[\w \t]{0,16}\n?\s{0,8}tool_call\s{0,8}(?=\()")
LEGACY_BEGUN = re.compile(
    r"(?<![\w./:@-])[\w./:@-]+(\s{0,8}(`{1,3}([\w \t]{0,16}(\n?\s{0,8}[tool_ca]{0,9}\s{0,8})?)?)?)?\Z"
)


def find_legacy(text: str, is_start: bool, is_end: bool) -> Opening:
    """``name``, a fence, ``tool_call(``: RWKV-Runner's form. Any word may be the name until the following text
    decides."""
    found = LEGACY.search(text)
    if found:
        return Opening(found.start(), found.end(), found[1], (FENCE_CLOSER,))
    begun = None if is_end else LEGACY_BEGUN.search(text)
    return Opening(begun.start() if begun else len(text))


def read_calls(name: str, body: str) -> list[ReadCall] | None:
    """Parses the body of any dialect; None if it is not a call. In round brackets it is ``("key"= value, key=value)``
    for the tool ``name``, otherwise ``{"name": …, "arguments": {…}}`` or a list of these."""
    if body.startswith("("):
        try:
            return [ReadCall(name, read_members(body))]
        except ValueError:
            return None
    value = read_value(body)
    calls = [_json_call(item) for item in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call] if calls and all(calls) else None


NAME_KEYS = ("name", "tool_name", "tool", "function")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")
AROUND_CALL = {"type", "id", "index"}


def _json_call(item: object) -> ReadCall | None:
    """Also accepts OpenAI's wrapping object, and arguments next to the name."""
    if not isinstance(item, dict):
        return None
    item = item["function"] if isinstance(item.get("function"), dict) else item
    name_key = next((key for key in NAME_KEYS if isinstance(item.get(key), str)), "")
    name = item.get(name_key, "")
    key = next((key for key in ARGUMENT_KEYS if key in item), None)
    beside = {word: value for word, value in item.items() if word not in {name_key, *AROUND_CALL}}
    arguments = beside if key is None else item[key]
    if isinstance(arguments, str):
        arguments = read_value(arguments) if arguments.strip() else {}
    if not 0 < len(name) <= MAX_NAME_CHARS or not isinstance(arguments, dict):
        return None
    return ReadCall(name, arguments)


def _begun(word: str) -> str:
    """A pattern for every prefix of a word, including the empty one and the whole word."""
    return "".join(f"(?:{re.escape(character)}" for character in word) + ")?" * len(word)


LANGUAGES = ("json", "tool_call", "tool_code")
FENCE = re.compile(rf"```(?:{'|'.join(LANGUAGES)})?[ \t]*\n?\s*([{{\[])?")
FENCE_BEGUN = re.compile(rf"```(?:(?:{'|'.join(LANGUAGES)})?\s*|{'|'.join(map(_begun, LANGUAGES))})")
TAG = re.compile(r"<tool_calls?>\s*(?:<tool_call>\s*)?(```(?:json)?\s*)?")
TAG_BEGUN = re.compile(
    rf"<tool_calls?>\s*(?:<tool_call>\s*|{_begun('<tool_call>')})?(?:`{{0,2}}|```(?:json\s*|\s*|{_begun('json')}))"
)
CALL_KEYS = "name|function|type|id|tool_name|tool|arguments"
BARE = re.compile(rf"(?:^|(?<=\*\*))[ \t]*(\[\s*\{{|\{{)(?=\s*[\"']?(?:{CALL_KEYS})[\"']?\s*:)", re.MULTILINE)
BARE_BEGUN = re.compile(r"(?:^|(?<=\*\*))[ \t]*(?:\[\s*)?(?:\{\s*[\"']?[a-z_]{0,9}[\"']?\s*)?\Z", re.MULTILINE)
MARK_BEFORE = re.compile(r"\*{0,2}Tool Call:?\*{0,2}:?\s*\Z")
MARK_BEGUN = re.compile(rf"\*{{1,2}}(?:{_begun('Tool Call')}|Tool Call:?\*{{0,2}}:?\s*)\Z")


def _partial_end(text: str, mark: str) -> int:
    return next((length for length in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:length])), 0)


FENCED = CallSyntax(find_json, "```json\n")
TAGGED = CallSyntax(find_json, "<tool_call>\n")
HEADED = CallSyntax(find_json, f"{CALL_MARK}\n```json\n")
KEYWORD = CallSyntax(find_keyword, "{name}\n```python\ntool_call", repeats=False, is_keyword=True)


def only_opening(syntax: CallSyntax) -> CallSyntax:
    """Finds calls only by the dialect's own opening. It contains a line end, which JSON strings cannot, so no part of a
    JSON answer is mistaken for a call."""
    if syntax.is_keyword:
        return replace(syntax, find=find_legacy)

    def find(text: str, is_start: bool, is_end: bool) -> Opening:
        begin = text.find(syntax.opening)
        if begin < 0:
            return Opening(len(text) - (0 if is_end else _partial_end(text, syntax.opening)))
        found = syntax.find(text[begin:], False, is_end)
        body = None if found.body is None else begin + found.body
        return replace(found, begin=begin + found.begin, body=body)

    return replace(syntax, find=find)


class ToolDialect(Struct, frozen=True):
    """``result_prefix`` comes before the results in the prompt; "" means the format's own prefix."""

    name: str
    offer: Callable[[Sequence[Definition]], str]
    calls: Callable[[Sequence[ToolCall]], str]
    results: Callable[[Sequence[str]], str]
    grammar: Callable[[ToolRules], str]
    syntax: CallSyntax
    result_prefix: str = ""
    stop_strings: tuple[str, ...] = ()
    """Where an unconstrained model begins to invent the result."""
    max_calls: int = tool_grammars.MAX_PARALLEL
    """The most calls in one answer."""
    has_own_results: bool = False
    """Each result is a message of its own."""


class OfferedTools(Struct, frozen=True):
    """The tools of one prompt. Without definitions, the dialect only decides how calls in the history are written.

    ``is_held``: the answer is constrained by the dialect's grammar, so what begins like a call is one, and nothing
    follows it.
    """

    dialect: ToolDialect
    definitions: tuple[Definition, ...] = ()
    is_held: bool = False
    has_form: bool = False
    """An answer without a call must follow a schema, so it may itself be JSON."""

    @property
    def syntax(self) -> CallSyntax:
        return only_opening(self.dialect.syntax) if self.has_form else self.dialect.syntax

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(definition["name"] for definition in self.definitions)

    def system_text(self, system: str) -> str:
        """The system prompt, followed by the offer."""
        offer = self.dialect.offer(self.definitions) if self.definitions else ""
        return "\n".join(text for text in (system, offer) if text)


_FENCED = (fenced_calls, plain_results, tool_grammars.fenced_grammar, FENCED)

G1X_COMPACT = ToolDialect("g1x_compact", compact_offer, *_FENCED)
G1X_JSON = ToolDialect("g1x_json", json_offer, *_FENCED)
FUNCTION_CALLING = ToolDialect(
    "function_calling",
    headed_offer,
    headed_calls,
    headed_results,
    tool_grammars.headed_grammar,
    HEADED,
    has_own_results=True,
)
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

_DIALECTS = {dialect.name: dialect for dialect in (G1X_COMPACT, G1X_JSON, FUNCTION_CALLING, RUNNER_LEGACY, HERMES)}


def all_dialects() -> tuple[ToolDialect, ...]:
    """In the order of the pages."""
    return tuple(_DIALECTS.values())


def dialect(name: str) -> ToolDialect:
    """Raises KeyError for a name that is not in :func:`all_dialects`."""
    return _DIALECTS[name]


def default_dialect(model_name: str, of_format: str = "g1x_json") -> ToolDialect:
    """The dialect that the model was trained on, if its file name shows it; otherwise the format's."""
    return RUNNER_LEGACY if "mobius" in model_name.lower() else dialect(of_format)
