"""Runs one call: the arguments are checked first, and any failure becomes text for the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from msgspec import Struct

from webapp.chat.messages import ToolCall
from webapp.errors import ToolFailed
from webapp.i18n import Text
from webapp.tools import http_request
from webapp.tools.builtin import BUILTINS
from webapp.tools.builtin.attachment_search import Texts
from webapp.tools.definition import Behaviour, ToolDefinition, strict_json
from webapp.tools.schema_check import Matcher, Problem, argument_problems, coerced

MAX_RESULT_CHARS = 16_000
"""The longest result that a model reads; a longer one is cut off, with a note."""


class ToolResult(Struct, frozen=True):
    """``text`` is for the model. ``problems`` are those of the arguments, with their paths. ``reason`` is the error for
    the user, or ""."""

    text: str
    is_error: bool = False
    problems: tuple[Problem, ...] = ()
    reason: Text | str = ""


IsStopped = Callable[[], bool]
Remote = Callable[[ToolDefinition, Mapping[str, Any], IsStopped], ToolResult]
"""Runs a call of a remote tool (MCP) with checked arguments; never raises. Returns soon after the result is no longer
needed."""


def never() -> bool:
    return False


def arguments_of(call: ToolCall, definition: ToolDefinition) -> dict[str, Any]:
    """The call's arguments, converted to the schema's types. Raises ValueError if they are not a JSON object."""
    value = strict_json(call.arguments or "{}")
    if not isinstance(value, dict):
        raise ValueError(Text("reason.tools.arguments_not_an_object"))
    return coerced(value, definition.parameters)


def check_call(call: ToolCall, definition: ToolDefinition, matches: Matcher | None = None) -> tuple[Problem, ...]:
    """The problems of the arguments; runs nothing."""
    try:
        arguments = arguments_of(call, definition)
    except ValueError as exc:
        return (Problem("", Text("reason.tools.arguments_not_an_object_error", error=str(exc)[:250])),)
    return argument_problems(arguments, definition.parameters, matches)


def run_call(
    call: ToolCall,
    definition: ToolDefinition,
    allowed_hosts: Collection[str] = (),
    matches: Matcher | None = None,
    remote: Remote | None = None,
    texts: Texts | None = None,
    is_stopped: IsStopped = never,
) -> ToolResult | None:
    """Returns the result, or None if the user must enter it (ASK). Never raises for an error of the tool or the model.

    ``texts`` are the chat's attachments, for a built-in tool.
    """
    problems = check_call(call, definition, matches)
    if problems:
        return error_result(Text("reason.tools.arguments_do_not_fit", problems=_listed(problems)), problems)
    if definition.behaviour is Behaviour.ASK:
        return None
    if definition.behaviour is Behaviour.FIXED:
        return ToolResult(bounded(definition.fixed_value))
    if definition.behaviour is Behaviour.MCP:
        arguments = arguments_of(call, definition)
        if remote is None:
            return error_result(Text("reason.tools.no_mcp_here"))
        return remote(definition, arguments, is_stopped)
    try:
        return ToolResult(bounded(_answer(call, definition, allowed_hosts, texts)))
    except (ToolFailed, ValueError, ArithmeticError) as exc:
        return error_result(_reason(exc))


def _reason(exc: Exception) -> Text | str:
    given = exc.params.get("reason") if isinstance(exc, ToolFailed) else next(iter(exc.args), None)
    return given if isinstance(given, (Text, str)) else str(exc)


def error_result(reason: Text | str, problems: tuple[Problem, ...] = ()) -> ToolResult:
    """JSON, so that a model can distinguish an error from a value."""
    return ToolResult(bounded(json.dumps({"error": str(reason)}, ensure_ascii=False)), True, problems, reason)


def _listed(problems: tuple[Problem, ...]) -> Text | str:
    """As a Text, if possible, so that the user's language is used."""
    texts = [_placed(problem) for problem in problems]
    return texts[0] if len(texts) == 1 else "; ".join(map(str, texts))


def _placed(problem: Problem) -> Text | str:
    if not problem.path:
        return problem.message
    return Text("reason.common.place_and_problem", path=problem.path, problem=problem.message)


def bounded(text: str) -> str:
    if len(text) <= MAX_RESULT_CHARS:
        return text
    return f"{text[:MAX_RESULT_CHARS]}\n[cut: {len(text)} characters in all]"


def _answer(call: ToolCall, definition: ToolDefinition, allowed_hosts: Collection[str], texts: Texts | None) -> str:
    arguments: Mapping[str, Any] = arguments_of(call, definition)
    if definition.behaviour is Behaviour.HTTP:
        properties = (definition.parameters.get("properties") or {}).items()
        optional = {name: part.get("default") if isinstance(part, Mapping) else None for name, part in properties}
        return http_request.request(definition.name, definition.http, arguments, allowed_hosts, optional)
    builtin = BUILTINS.get(definition.builtin)
    if builtin is None:
        raise ToolFailed(name=definition.name, reason=Text("reason.tools.no_built_in_tool", name=definition.builtin))
    return json.dumps(builtin.run(arguments, texts), ensure_ascii=False)
