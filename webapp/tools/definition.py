"""A tool definition: its description for the model, what a call does, and whose approval it needs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from msgspec import Struct, field

from webapp.chat.lenient_json import NotInJson, finite, refused
from webapp.errors import ToolInvalid
from webapp.i18n import Text
from webapp.structured.grammar import is_pattern
from webapp.tools.schema_check import MAX_DEPTH, MAX_ENUM_VALUES, MAX_NODES, check_parameters, is_resolvable

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
PROGRAMS_NAME = re.compile(r"[\w./:@-]{1,256}", re.ASCII)
"""Also allows dots and slashes: MCP servers and agents use them to join names."""
MAX_DESCRIPTION_CHARS = 16_000
"""Some agents describe a tool in several pages."""
MAX_FIXED_CHARS = 100_000
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
PARAMETER_NAMES = ("parameters", "input_schema", "inputSchema")
"""The key of OpenAI and Ollama, of Anthropic, and of MCP."""


class Behaviour(str, Enum):
    """What happens when the tool is called."""

    FIXED = "fixed"
    ASK = "ask"
    HTTP = "http"
    BUILTIN = "builtin"
    MCP = "mcp"


class Approval(str, Enum):
    """Whether the user must approve a call: each time, once per chat, or never."""

    ALWAYS = "always"
    ONCE = "once"
    NEVER = "never"


class HttpCall(Struct, frozen=True):
    """``url`` may contain ``{argument}`` in its path and query. Other arguments are sent as JSON body (POST, PUT) or in
    the query (GET). ``timeout_s`` limits the time for the whole response."""

    url: str = ""
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 10.0


class McpTool(Struct, frozen=True):
    """``name`` is the server's name of the tool; ``server_id`` is the stored server. ``hints`` are the server's claims
    about the tool, shown to the user who approves calls."""

    server_id: str = ""
    name: str = ""
    hints: tuple[str, ...] = ()


class ToolDefinition(Struct, frozen=True):
    """``fixed_value`` is the result of FIXED; ``builtin`` is the name of the tool in :mod:`webapp.tools.builtin` that
    BUILTIN runs. ``for_guests``: everybody may use it in chats, not only the owner and admins."""

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
        """OpenAI's `function` object, as dialects offer it."""
        return {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}


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
    """Reads an entry of an OpenAI `tools` array, or a bare function object (RWKV-Runner). Raises ToolInvalid.

    Accepts the keys of other products for the parameters (:data:`PARAMETER_NAMES`). ``is_loose``: for the tools of one
    request by a program; parts of the parameters that cannot be enforced are removed.
    """
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


def parse_json(text: str, field: str) -> Any:
    """The value. Raises ToolInvalid for ``field``, with line and column of the error."""
    try:
        return strict_json(text)
    except json.JSONDecodeError as exc:
        where = {"line": exc.lineno, "column": exc.colno}
        raise ToolInvalid(field=field, reason=Text("reason.tools.is_not_json_at_line", **where)) from exc
    except NotInJson as exc:
        raise ToolInvalid(field=field, reason=Text("reason.tools.json_has_no_number", number=str(exc)[:40])) from exc
    except (ValueError, RecursionError) as exc:  # an integer with more digits than Python converts
        raise ToolInvalid(field=field, reason=Text("reason.tools.json_too_deep")) from exc


def strict_json(text: str) -> Any:
    """The value. Raises ValueError also for NaN and Infinity, which only Python accepts, and for numbers that become
    infinite (1e999): other programs could not read them."""
    return json.loads(text, parse_constant=refused, parse_float=finite)


TYPES = {name: name for name in ("string", "number", "integer", "boolean", "object", "array", "null")}
TYPES |= {"str": "string", "int": "integer", "float": "number", "double": "number", "bool": "boolean"}
TYPES |= {"dict": "object", "map": "object", "list": "array", "tuple": "array", "none": "null"}
"""Names of the types in other languages and OpenAPI 2; Gemini's are in capitals."""
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
COUNTS = {"minLength": 1000, "maxLength": 100_000, "minItems": 1000, "maxItems": 10_000, "minProperties": 1000,
          "maxProperties": 10_000, "minContains": 1000, "maxContains": 10_000}  # fmt: skip
"""Above these limits a grammar would be too large, and a maximum has no effect."""
MAPS = ("properties", "$defs", "definitions", "dependentSchemas")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
ONES = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedItems",
        "unevaluatedProperties")  # fmt: skip
TEXTS = ("title", "description", "$comment", "format", "$anchor", "$id", "$schema")


def loosened(parameters: object) -> dict[str, Any]:
    """Converts a tool's parameters, as programs send them, to an object schema that JSON Schema 2020-12 and the grammar
    accept. JSON text is parsed; other values mean no parameters.

    Tools come from Zod, pydantic, OpenAPI documents, older drafts and authors. One invalid field must not fail the
    whole request: a part that cannot be enforced is removed, so the field accepts more; the program checks its
    arguments itself. A valid schema is returned unchanged.
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
    """Converts one schema; references start at ``root``."""

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
        """A subschema; None if it is invalid."""
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
        return value if is_inside and is_resolvable(self._root, value) else None


def _modern(given: Mapping[str, Any]) -> dict[str, Any]:
    """Converts booleans of draft 4, tuples of draft 7 and OpenAPI's nullable to draft 2020-12."""
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
    """None, which allows any value, if there are too many values or none."""
    return value if isinstance(value, list) and 0 < len(value) <= MAX_ENUM_VALUES else None


def _names(value: Any) -> Any:
    names = [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
    return list(dict.fromkeys(names)) or None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _count(value: Any, most: int) -> Any:
    return value if _is_number(value) and 0 <= value <= most and value == int(value) else None
