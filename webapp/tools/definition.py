"""A tool as a person defines it: what the model is told, what happens when it is called, and who is asked first."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NoReturn

from webapp.errors import ToolInvalid
from webapp.i18n import Text
from webapp.tools.loose_schema import loosened
from webapp.tools.schema_check import check_parameters

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
    """``fixed_value`` is returned by FIXED, ``builtin`` names the tool of :mod:`webapp.tools.builtin` BUILTIN runs."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: dict(NO_PARAMETERS))
    behaviour: Behaviour = Behaviour.ASK
    fixed_value: str = ""
    http: HttpCall = HttpCall()
    builtin: str = ""
    approval: Approval = Approval.ALWAYS
    mcp: McpTool = McpTool()

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
