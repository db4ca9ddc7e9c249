"""What the panel's form says about a chat: read with care, put into the chat. To the page: :mod:`.options_view`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from webapp.chat.messages import ThinkMode
from webapp.chat.prompts import all_templates
from webapp.chat.tool_dialects import all_dialects
from webapp.errors import BadFrame, Phrase
from webapp.services.chat.tool_loop import chosen_tools
from webapp.services.presets.fields import flat, overrides, read_field, read_fields
from webapp.services.presets.parameters import MODEL_NAME_CHARS, SAMPLING, Parameter
from webapp.storage.presets import Preset
from webapp.storage.records import Chat, ChatTools
from webapp.web.chat.house import House
from webapp.web.kit.frames import FrameFields

NEW_CHAT = Chat(id="")
"""A chat that begins with its first message; what its panel says is in the page alone until then."""
SYSTEM_PROMPT_CHARS = 20_000
ID_CHARS = 64
BASE_CHARS = 4000
TOOLS_FORM_CHARS = 16
FROM_PRESET = "*"
"""The choice of a state that leaves it to the preset: "" is a choice of its own."""
MODES = tuple(mode.value for mode in ThinkMode)
DIALECTS = ("", *(row.name for row in all_dialects()))
TEMPLATES = ("", *(row.name for row in all_templates()))


def chat_with(house: House, chat: Chat, fields: FrameFields) -> Chat:
    """The chat as the form wants it; what the form does not say stays. BadFrame, PresetError or a WeightsError for what
    cannot be.

    ``base`` is what the page showed as the preset's values: only what differs from those becomes an override, so that a
    page that was drawn before the preset changed does not freeze the old values.
    """
    base = read_base(house, house.presets.of_chat(chat), fields)
    if "system_prompt" in fields:
        chat = replace(chat, system_prompt=fields.text("system_prompt", SYSTEM_PROMPT_CHARS).strip())
    if "think_mode" in fields:
        mode = ThinkMode(fields.choice("think_mode", MODES))
        chat = replace(chat, think_mode=None if mode.value == base["think_mode"] else mode)
    if "template" in fields:
        chat = replace(chat, template=fields.choice("template", TEMPLATES))
    given = {row.name: _given(fields, row) for row in SAMPLING if _is_given(fields, row)}
    if given:
        chat = replace(chat, sampling=overrides(given, base))
    was = chosen_tools(chat, house.presets.of_chat(chat), house.tools)
    chat = replace(chat, tools=_with_tools(house, chat.tools, was, fields))
    return _with_preset(house, _with_state(house, chat, fields), fields)


def read_base(house: House, preset: Preset, fields: FrameFields) -> Mapping[str, Any]:
    """Typed values by name: as the form says, else as the preset has them now."""
    known = preset_values(house, preset)
    if "base" not in fields:
        return known
    try:
        told = json.loads(fields.text("base", BASE_CHARS))
    except (ValueError, RecursionError) as exc:
        raise BadFrame(reason="base must be JSON") from exc
    if not isinstance(told, dict):
        raise BadFrame(reason="base must be JSON")
    values, _ = read_fields({name: value for name, value in told.items() if name in known})
    return {**known, **values}


def preset_values(house: House, preset: Preset) -> dict[str, Any]:
    """What a chat with this preset answers with where it sets nothing itself."""
    params = house.base_sampling(preset)
    return {**{row.name: getattr(params, row.name) for row in SAMPLING}, "think_mode": preset.think_mode}


def _is_given(fields: FrameFields, row: Parameter) -> bool:
    """A switch that is off is not sent: it counts as off in a form that sends its base."""
    return row.name in fields or (row.kind == "bool" and "base" in fields)


def _given(fields: FrameFields, row: Parameter) -> Any:
    value = fields.values.get(row.name, False)
    found = read_field(row.name, value)
    if found is None and not row.is_optional:
        raise BadFrame(reason=Phrase("{name} is missing", name=row.name))
    return found


def _with_tools(house: House, tools: ChatTools, was: ChatTools, fields: FrameFields) -> ChatTools:
    """``was``: what the chat offered until now. ``tools_form`` tells what the page showed: a form that says the same
    has chosen nothing. Switched on with none chosen, it is all of them."""
    if "tools_form" not in fields:
        return tools
    known = [tool.id for tool in house.tools.list()]
    ids = tuple(tool_id for tool_id in known if f"tool:{tool_id}" in fields)
    is_on, is_free = "tools_on" in fields, "tools_free" in fields
    dialect = fields.choice("tools_dialect", DIALECTS, "")
    given = replace(tools, is_own=True, is_on=is_on, tool_ids=ids, dialect=dialect, is_free=is_free)
    if tools_shown(given) == fields.text("tools_form", TOOLS_FORM_CHARS):
        return tools
    is_new = is_on and not ids and not was.is_on
    return replace(given, tool_ids=tuple(known)) if is_new else given


def tools_shown(tools: ChatTools) -> str:
    """What a page shows of them, as a short text."""
    shown = json.dumps((tools.is_on, sorted(tools.tool_ids), tools.dialect, tools.is_free))
    return hashlib.sha256(shown.encode()).hexdigest()[:TOOLS_FORM_CHARS]


def _with_state(house: House, chat: Chat, fields: FrameFields) -> Chat:
    """A state that is newly chosen has to fit the model that answers."""
    if "state" not in fields:
        return chat
    name = fields.text("state", MODEL_NAME_CHARS)
    state = None if name == FROM_PRESET else str(read_field("state", name))
    if state and state != chat.state:
        house.manager.check_state(state)
    return replace(chat, state=state)


def _with_preset(house: House, chat: Chat, fields: FrameFields) -> Chat:
    if "preset" not in fields:
        return chat
    preset_id = fields.text("preset", ID_CHARS)
    if preset_id and preset_id != chat.preset_id:
        house.presets.get(preset_id)
    return replace(chat, preset_id=preset_id)


def save_options(house: House, chat: Chat) -> None:
    """Writes what :func:`chat_with` made."""
    store = house.store
    store.set_options(chat.id, chat.template, chat.think_mode or "", chat.sampling, chat.preset_id)
    store.set_system_prompt(chat.id, chat.system_prompt)
    store.set_state(chat.id, chat.state)
    store.set_tools(chat.id, chat.tools)


def as_preset(house: House, chat: Chat, name: str) -> Preset:
    """A new preset that answers as this chat does."""
    values = {**flat(house.presets.of_chat(chat)), **chat.sampling}
    if chat.system_prompt:
        values["system_prompt"] = chat.system_prompt
    if chat.template:
        values["template"] = chat.template
    if chat.think_mode is not None:
        values["think_mode"] = chat.think_mode.value
    if chat.state is not None:
        values["state"] = chat.state
    if chat.tools.is_own:
        chosen = house.tools.by_ids(chat.tools.tool_ids) if chat.tools.is_on else []
        values["tools"] = [tool.definition.name for tool in chosen]
        values["tool_dialect"] = chat.tools.dialect or values["tool_dialect"]
    return house.presets.create(name, {**values, "note": ""})
