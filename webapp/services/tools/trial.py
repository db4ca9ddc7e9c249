"""A tool before it is kept: whether every dialect could hold a model to it, and what a call of it gives."""

from __future__ import annotations

from collections.abc import Collection

from webapp.chat.messages import ToolCall
from webapp.chat.tool_dialects import all_dialects
from webapp.chat.tool_grammars import ToolRules
from webapp.errors import GrammarInvalid, ToolInvalid
from webapp.structured.grammar import check
from webapp.structured.pattern_match import matches
from webapp.tools.definition import ToolDefinition, checked
from webapp.tools.runner import ToolResult, run_call


def usable(definition: ToolDefinition) -> ToolDefinition:
    """The same, or ToolInvalid for one that could not be kept, offered or held to."""
    rules = ToolRules((checked(definition).function,), is_required=True)
    for dialect in all_dialects():
        try:
            check({"kind": "lark", "grammar": dialect.grammar(rules)})
        except GrammarInvalid as exc:
            raise ToolInvalid(field="parameters", reason=exc.params["reason"]) from exc
    return definition


def try_call(definition: ToolDefinition, arguments: str, allowed_hosts: Collection[str]) -> ToolResult | None:
    """None where a person would be asked for the result."""
    return run_call(ToolCall("try", definition.name, arguments), definition, allowed_hosts, matches)
