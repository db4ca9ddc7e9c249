"""A tool definition: its description for the model, what a call does, and whose approval it needs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NoReturn

from webapp.errors import ToolInvalid
from webapp.i18n import Text
from webapp.structured.grammar import is_pattern
from webapp.tools.schema_check import MAX_DEPTH, MAX_ENUM_VALUES, MAX_NODES, check_parameters, leads_somewhere

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
PROGRAMS_NAME = re.compile(r"[\w./:@-]{1,256}", re.ASCII)
"""Wider: MCP servers and agents join theirs with dots and slashes."""
MAX_DESCRIPTION_CHARS = 16_000
"""Some agents describe a tool with pages of advice."""
MAX_FIXED_CHARS = 100_000
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
PARAMETER_NAMES = ("parameters", "input_schema", "inputSchema")
"""OpenAI's and Ollama's, Anthropic's, MCP's."""


class Behaviour(str, Enum):
    """What a tool does when it is called."""

    FIXED = "fixed"
    ASK = "ask"
    HTTP = "http"
    BUILTIN = "builtin"
    MCP = "mcp"


class Approval(str, Enum):
    """Who is asked before it runs: the person each time, once a chat, or nobody."""

    ALWAYS = "always"
    ONCE = "once"
    NEVER = "never"


@dataclass(frozen=True)
class HttpCall:
    """``url`` may hold ``{argument}`` in its path and query. Arguments not used there go as JSON body (POST, PUT) or
    query (GET). ``timeout_s`` counts for the whole answer."""

    url: str = ""
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 10.0


@dataclass(frozen=True)
class McpTool:
    """``name`` is the server's own name for the tool; ``server_id`` is the stored server's. ``hints`` are the server's
    claims about it, for the person who decides."""

    server_id: str = ""
    name: str = ""
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToolDefinition:
    """``fixed_value`` is returned by FIXED, ``builtin`` names the tool of :mod:`webapp.tools.builtin` BUILTIN runs.
    ``for_guests``: not only chats of the owner and of admins may offer it."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: dict(NO_PARAMETERS))
    behaviour: Behaviour = Behaviour.ASK
    fixed_value: str = ""
    http: HttpCall = HttpCall()
    builtin: str = ""
    approval: Approval = Approval.ALWAYS
    mcp: McpTool = McpTool()
    for_guests: bool = False

    @property
    def function(self) -> dict[str, Any]:
        """OpenAI's `function` object, which dialects offer."""
        return {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}

    def to_openai(self) -> dict[str, Any]:
        return {"type": "function", "function": self.function}


def checked(definition: ToolDefinition, name: re.Pattern[str] = NAME) -> ToolDefinition:
    """Returns the definition, or raises ToolInvalid with the field that is wrong."""
    if not name.fullmatch(definition.name):
        raise ToolInvalid(field="name", reason=Text("reason.tools.bad_tool_name"))
    if len(definition.description) > MAX_DESCRIPTION_CHARS:
        raise ToolInvalid(
            field="description", reason=Text("reason.tools.too_many_characters", limit=MAX_DESCRIPTION_CHARS)
        )
    if len(definition.fixed_value) > MAX_FIXED_CHARS:
        raise ToolInvalid(field="fixed_value", reason=Text("reason.tools.too_many_characters", limit=MAX_FIXED_CHARS))
    check_parameters(definition.parameters)
    return definition


def from_openai(value: object, *, is_loose: bool = False) -> ToolDefinition:
    """One entry of an OpenAI `tools` array, or a bare function object as RWKV-Runner's box wants it; ToolInvalid.

    Other products name the parameters otherwise (:data:`PARAMETER_NAMES`); a tool must not lose them. ``is_loose``: a
    program sends it for one request, so what its parameters say that nobody can hold a model to is left out."""
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping):
        raise ToolInvalid(field="tool", reason=Text("reason.tools.not_a_named_object"))
    name, description = value.get("name"), value.get("description") or ""
    given = next((value[name] for name in PARAMETER_NAMES if value.get(name) is not None), None)
    parameters = dict(NO_PARAMETERS) if given in (None, {}) else loosened(given) if is_loose else given
    description = description if isinstance(description, str) or not is_loose else ""
    if not isinstance(name, str):
        raise ToolInvalid(field="name", reason=Text("reason.common.must_be_text"))
    if not isinstance(description, str):
        raise ToolInvalid(field="description", reason=Text("reason.common.must_be_text"))
    return checked(ToolDefinition(name, description, parameters), PROGRAMS_NAME if is_loose else NAME)


class NotInJson(ValueError):
    """A number, or a word Python has for one."""


def parse_json(text: str, field: str) -> Any:
    """The value; ToolInvalid at ``field`` says in which line and column it stops being JSON."""
    try:
        return strict_json(text)
    except json.JSONDecodeError as exc:
        where = {"line": exc.lineno, "column": exc.colno}
        raise ToolInvalid(field=field, reason=Text("reason.tools.is_not_json_at_line", **where)) from exc
    except NotInJson as exc:
        raise ToolInvalid(field=field, reason=Text("reason.tools.json_has_no_number", number=str(exc)[:40])) from exc
    except (ValueError, RecursionError) as exc:  # a number of more digits than Python reads
        raise ToolInvalid(field=field, reason=Text("reason.tools.json_too_deep")) from exc


def strict_json(text: str) -> Any:
    """The value; raises ValueError also for what only Python takes for JSON (NaN, Infinity) and for numbers that are
    infinite to it (1e999): other programs could not read them back."""
    return json.loads(text, parse_constant=_refused, parse_float=_finite)


def _finite(written: str) -> float:
    number = float(written)
    return number if math.isfinite(number) else _refused(written)


def _refused(written: str) -> NoReturn:
    raise NotInJson(written)


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
    """A tool's parameters as programs send them, made into a schema of an object that JSON Schema 2020-12 and the
    grammar both take; JSON text too, and nothing at all is no parameters.

    Tools come out of Zod, pydantic, OpenAPI documents, older drafts and by hand. One odd field must not cost the whole
    request: what nobody can hold a model to is left out of that field, which then takes more; the program checks its
    arguments itself. What is fine already comes back as it was.
    """
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
