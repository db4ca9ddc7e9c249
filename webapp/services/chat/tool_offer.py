"""What a chat offers its model to call, and the constraint that keeps the calls right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from webapp.chat.prompt_rendering import RenderedPrompt
from webapp.chat.tool_dialects import OfferedTools, ToolDialect, all_dialects, default_dialect
from webapp.chat.tool_grammars import ToolRules
from webapp.storage.chat_tools import ChatTools
from webapp.storage.tools import ToolStore
from webapp.weights.inspection import Inspection

KNOWN_CALLERS = ("roost-starter", "rwkv7-g1", "rwkv7a-g1", "rwkv7b-g1", "mobius")


def dialect_of(name: str, info: Inspection) -> ToolDialect:
    """The one of that name; for "" (or one that is no more) what fits the model."""
    known = {dialect.name: dialect for dialect in all_dialects()}
    return known.get(name) or default_dialect(Path(info.path).name)


def is_known_to_call(model_name: str) -> bool:
    """True for families trained on function calling; any other may talk about a call instead of making one."""
    return any(family in model_name.lower() for family in KNOWN_CALLERS)


def offered_tools(chosen: ChatTools, store: ToolStore, info: Inspection) -> OfferedTools:
    """Without definitions where the chat's tools are off or gone: its dialect still writes the calls of the past."""
    tools = store.by_ids(chosen.tool_ids) if chosen.is_on else []
    return OfferedTools(dialect_of(chosen.dialect, info), tuple(tool.definition.function for tool in tools))


def call_constraint(
    rendered: RenderedPrompt, *, is_required: bool = False, max_calls: int | None = None, consumed: str = ""
) -> dict[str, Any] | None:
    """For ``GenerationRequest.constraint``: free text until a call begins, then a call of an offered tool. None where
    nothing is offered. ``consumed`` is the answer's text so far."""
    tools = rendered.tools
    if tools is None:
        return None
    most = tools.dialect.max_calls if max_calls is None else min(max_calls, tools.dialect.max_calls)
    thinking = rendered.starts_in_reasoning
    rules = ToolRules(tools.definitions, is_required, most, thinking, rendered.awaits_tag_end and not thinking)
    return {"kind": "lark", "grammar": tools.dialect.grammar(rules), "consumed": consumed}
