"""What a chat offers its model to call, and the constraint that keeps the calls right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from webapp.chat.prompt_rendering import RenderedPrompt
from webapp.chat.tool_dialects import OfferedTools, ToolDialect, all_dialects, default_dialect
from webapp.chat.tool_grammars import ToolRules
from webapp.services.attachments.offer import with_search
from webapp.storage.chat_tools import ChatTools
from webapp.storage.presets import Preset
from webapp.storage.records import Chat
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


def chosen_tools(chat: Chat, preset: Preset, store: ToolStore) -> ChatTools:
    """What the chat chose itself, else its preset's tools, all allowed to be offered; approvals are the chat's."""
    own = chat.tools
    if own.is_own:
        return replace(own, dialect=own.dialect or preset.tool_dialect)
    ids = tuple(tool.id for tool in store.list() if tool.definition.name in preset.tools)
    return replace(own, is_on=bool(ids), tool_ids=ids, dialect=preset.tool_dialect)


def offered_tools(
    chosen: ChatTools, store: ToolStore, info: Inspection, has_searchable_files: bool = False
) -> OfferedTools:
    """Without definitions where the chat's tools are off or gone: its dialect still writes the calls of the past.

    Files that can only be searched bring their tool along, also where the chat's tools are off."""
    tools = store.by_ids(chosen.tool_ids) if chosen.is_on else []
    tools = with_search(tools, store) if has_searchable_files else tools
    definitions = tuple(tool.definition.function for tool in tools)
    return OfferedTools(dialect_of(chosen.dialect, info), definitions, is_held=not chosen.is_free)


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
