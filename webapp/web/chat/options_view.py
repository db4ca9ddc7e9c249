"""The panel beside a chat: its preset, its own sampling, prompt, state. From the page: :mod:`.options_form`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from webapp.chat.messages import ThinkMode
from webapp.chat.prompts import PromptTemplate, all_templates, template
from webapp.chat.tool_dialects import all_dialects
from webapp.errors import ModelNotFound, RoostError, sentences
from webapp.i18n import translate_error
from webapp.manager.target import ZERO_STATE
from webapp.services.attachments.attachments import FILE_BYTES
from webapp.services.chat.tool_loop import chosen_tools, is_known_to_call
from webapp.services.chat.turn_writer import think_mode_of
from webapp.services.generation.request import template_of
from webapp.services.presets.fields import plain
from webapp.services.presets.loading import file_name
from webapp.services.presets.parameters import SAMPLING, Parameter
from webapp.storage.presets import Preset
from webapp.storage.records import Chat, ChatTools
from webapp.web.chat.contexts import (
    Choice,
    ChoiceGroup,
    Composer,
    Knob,
    LoadOffer,
    Options,
    Thinking,
    ToolOptions,
    ToolSwitch,
)
from webapp.web.chat.house import House
from webapp.web.chat.message_view import attached_context
from webapp.web.chat.options_form import FROM_PRESET, preset_values, tools_shown
from webapp.web.presets.names import labels, shown_name, shown_note

Words = Callable[..., str]
PLACEHOLDER_CHARS = 300


def options_context(house: House, t: Words, chat: Chat) -> Options:
    preset = house.presets.of_chat(chat)
    base = preset_values(house, preset)
    knobs = [_knob(row, t, base, chat) for row in SAMPLING]
    known = zip(SAMPLING, knobs, strict=True)
    more = tuple(knob for row, knob in known if not row.is_common)
    made = Options(
        chat_id=chat.id,
        base=json.dumps({name: _written(value) for name, value in base.items()}),
        presets=preset_choices(house, t, chat),
        preset_note=shown_note(preset, t),
        preset_sets=t("chat.options.preset_sets", names=names) if (names := preset_names(preset, t)) else "",
        preset_url=f"/presets/{preset.id}",
        system_prompt=chat.system_prompt,
        system_prompt_placeholder=preset.system_prompt[:PLACEHOLDER_CHARS],
        knobs=tuple(knob for knob in knobs if knob not in more),
        more=more,
        is_more_open=any(knob.is_changed for knob in more),
        templates=_templates(house, t, chat, preset),
        states=_states(house, t, chat, preset),
        name_hint=t("chat.options.save_as_hint", name=shown_name(preset, t)),
        tools=tool_options(house, t, chat),
    )
    return replace(made, fingerprint=hashlib.sha256(repr(made).encode()).hexdigest()[:16])


def preset_choices(house: House, t: Words, chat: Chat) -> tuple[ChoiceGroup, ...]:
    """First the one that follows the active preset, then a person's own, then the shipped ones."""
    found = house.presets.list()
    own = tuple(_preset_choice(preset, t, chat) for preset in found if not preset.shipped_key)
    shipped = tuple(_preset_choice(preset, t, chat) for preset in found if preset.shipped_key)
    is_known = any(preset.id == chat.preset_id for preset in found)
    active = t("chat.options.preset_active", name=shown_name(house.presets.active(), t))
    groups = (
        ChoiceGroup("", (Choice("", active, not is_known),)),
        ChoiceGroup(t("chat.options.presets_own"), own),
        ChoiceGroup(t("chat.options.presets_shipped"), shipped),
    )
    return tuple(group for group in groups if group.choices)


def preset_names(preset: Preset, t: Words) -> str:
    """The parameters a preset sets, in the reader's words."""
    names = [*preset.sampling, *preset.options]
    fields = ("system_prompt", "stop", "template", "tools", "tool_dialect", "model", "strategy", "state")
    names += [name for name in fields if getattr(preset, name)]
    return labels([*names, *(["think_mode"] if preset.think_mode != ThinkMode.NONE.value else [])], t)


def composer_context(house: House, t: Words, chat: Chat, text: str = "") -> Composer:
    is_answering = house.answering(chat.id) is not None
    thinking, tools = thinking_context(house, t, chat), tool_switch(house, chat)
    return Composer(chat.id, is_answering, thinking, tools, attached_context(house, t, chat.id), text, FILE_BYTES)


def tool_switch(house: House, chat: Chat) -> ToolSwitch | None:
    is_on = chosen_tools(chat, house.presets.of_chat(chat), house.tools).is_on
    return ToolSwitch(is_on) if is_on or house.tools.list() else None


def shown_tools(house: House, chat: Chat) -> ChatTools:
    """With the chat's own dialect: where it has none, the panel says that the preset or the model decides."""
    chosen = chosen_tools(chat, house.presets.of_chat(chat), house.tools)
    return replace(chosen, dialect=chat.tools.dialect if chat.tools.is_own else "")


def tool_options(house: House, t: Words, chat: Chat) -> ToolOptions:
    chosen = shown_tools(house, chat)
    tools = tuple(Choice(tool.id, tool.definition.name, tool.id in chosen.tool_ids) for tool in house.tools.list())
    model = house.manager.status().model
    dialects = [("", t("chat.tools.dialect_auto")), *((d.name, t(f"tools.dialect.{d.name}")) for d in all_dialects())]
    return ToolOptions(
        shown=tools_shown(chosen),
        tools=tools,
        dialects=tuple(Choice(value, label, value == chosen.dialect) for value, label in dialects),
        is_free=chosen.is_free,
        warning="" if not model or is_known_to_call(model) else t("chat.tools.unknown_model", model=model),
    )


def thinking_context(house: House, t: Words, chat: Chat) -> Thinking:
    preset = house.presets.of_chat(chat)
    chosen = think_mode_of(chat, preset)
    modes = chat_template(house, chat).think_modes
    choices = tuple(Choice(mode.value, t(f"chat.think.{mode.value}"), mode is chosen) for mode in modes)
    is_set = chosen is not ThinkMode.NONE and chosen in modes
    return Thinking(choices if len(choices) > 1 else (), is_set)


def chat_template(house: House, chat: Chat) -> PromptTemplate:
    """The one its next answer uses (G1x while no model can be read)."""
    try:
        return template_of(house.manager.model_info(), chat.template, house.presets.of_chat(chat).template)
    except RoostError:
        return template(chat.template or house.presets.of_chat(chat).template or "g1x")


def load_offer(house: House, t: Words, locale: str, chat: Chat) -> LoadOffer:
    """When the chat's preset is for another model, or another way to run it, than what is there."""
    preset = house.presets.of_chat(chat)
    names = house.presets.differences(preset)
    status = house.manager.status()
    if not names or status.phase in ("loading", "unloading"):
        return LoadOffer()
    problem = house.presets.problem(preset)
    if isinstance(problem, ModelNotFound):
        model, loaded = file_name(preset.model), status.model or t("status.no_model")
        text = t("chat.offer.missing", preset=shown_name(preset, t), model=model, loaded=loaded)
        return LoadOffer(True, text, url="/models")
    if problem is not None:
        message, hint = translate_error(problem, locale)
        return LoadOffer(True, t("chat.offer.cannot", preset=shown_name(preset, t)), sentences(message, hint))
    if "model" in names:
        loaded = status.model or t("status.no_model")
        text = t("chat.offer.other_model", preset=shown_name(preset, t), model=file_name(preset.model), loaded=loaded)
    else:
        text = t("chat.offer.other_options", preset=shown_name(preset, t), names=labels(names, t))
    return LoadOffer(True, text, do=f"load_preset:{preset.id}")


def _preset_choice(preset: Preset, t: Words, chat: Chat) -> Choice:
    return Choice(preset.id, shown_name(preset, t), preset.id == chat.preset_id)


def _templates(house: House, t: Words, chat: Chat, preset: Preset) -> tuple[Choice, ...]:
    auto = chat_template(house, replace(chat, template=""))
    follow = t("chat.options.template_from_preset", name=t(f"chat.template.{auto.name}"))
    rows = [("", follow), *((row.name, t(f"chat.template.{row.name}")) for row in all_templates())]
    return tuple(Choice(value, label, value == chat.template) for value, label in rows)


def _states(house: House, t: Words, chat: Chat, preset: Preset) -> tuple[Choice, ...]:
    """Empty where there is nothing to choose from."""
    names = house.state_names()
    if not names and chat.state is None and not preset.state:
        return ()
    words = {"": t("presets.choice.state.own"), ZERO_STATE: t("presets.choice.state.zero")}
    follow = t("chat.options.state_from_preset", name=words.get(preset.state, preset.state))
    rows = [(FROM_PRESET, follow), *words.items(), *((name, name) for name in names)]
    chosen = FROM_PRESET if chat.state is None else chat.state
    if chosen not in dict(rows):
        rows.append((chosen, chosen))
    return tuple(Choice(value, label, value == chosen) for value, label in rows)


def _knob(row: Parameter, t: Words, base: dict[str, Any], chat: Chat) -> Knob:
    default = _written(base[row.name])
    return Knob(
        name=row.name,
        kind="switch" if row.kind == "bool" else "slider" if row.has_slider else "number",
        label=t(row.label_key),
        help=t(row.help_key),
        value=_written(chat.sampling.get(row.name, base[row.name])),
        default=default,
        at_least=plain(row.least),
        at_most=plain(row.most),
        step=plain(row.step),
        range_least=plain(min(row.slider_least, *_numbers(default))),
        range_most=plain(max(row.slider_most, *_numbers(default))),
        is_whole=row.kind == "int",
    )


def _numbers(text: str) -> tuple[float, float]:
    """Twice, for min and max; a default beyond the slider widens it."""
    number = float(text) if text not in ("", "true", "false") else 0.0
    return number, number


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return plain(value) if isinstance(value, (int, float)) else str(value)
