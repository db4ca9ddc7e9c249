"""What a chat offers its model to call."""

from __future__ import annotations

from dataclasses import replace

from webapp.chat.tool_dialects import OfferedTools
from webapp.services.attachments.offer import with_search
from webapp.services.generation.structure import dialect_of
from webapp.storage.chat_tools import ChatTools
from webapp.storage.presets import Preset
from webapp.storage.records import Chat
from webapp.storage.tools import ToolStore
from webapp.weights.inspection import Inspection

KNOWN_CALLERS = ("roost-starter", "rwkv7-g1", "rwkv7a-g1", "rwkv7b-g1", "mobius")


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
