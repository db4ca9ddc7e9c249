"""What a chat sets for itself: system prompt, sampling, thinking, prompt template. To the page and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from webapp.chat.messages import ThinkMode
from webapp.chat.prompt_templates import PromptTemplate, all_templates, default_template, template
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import BadFrame, RoostError
from webapp.storage.records import Chat
from webapp.web.chat.contexts import Choice, Composer, Knob, Options
from webapp.web.chat.house import House
from webapp.web.frames import FrameFields

SYSTEM_PROMPT_CHARS = 20_000
WHOLE = ("max_tokens",)

# name: least, most, step, most of the slider (typed numbers may go further)
KNOBS: dict[str, tuple[float, float, float, float]] = {
    "temperature": (0, 5, 0.05, 2),
    "top_p": (0, 1, 0.01, 1),
    "presence_penalty": (-2, 2, 0.05, 2),
    "frequency_penalty": (-2, 2, 0.05, 2),
    "penalty_decay": (0, 1, 0.001, 1),
    "max_tokens": (1, 102_400, 1, 4000),
}


@dataclass(frozen=True)
class ChosenOptions:
    """What a form asked for; None where it did not say."""

    system_prompt: str | None = None
    think_mode: ThinkMode | None = None
    template: str | None = None
    sampling: dict[str, Any] | None = None


def options_context(house: House, t: Callable[..., str], chat: Chat) -> Options:
    defaults = house.default_sampling()
    knobs = tuple(_knob(name, t, defaults, chat.sampling) for name in KNOBS)
    names = [
        ("", t("chat.options.template_auto")),
        *((row.name, t(f"chat.template.{row.name}")) for row in all_templates()),
    ]
    templates = tuple(Choice(value, label, value == chat.template) for value, label in names)
    return Options(chat.id, chat.system_prompt, knobs, templates)


def composer_context(house: House, t: Callable[..., str], chat: Chat) -> Composer:
    modes = template_of(house, chat).think_modes
    choices = tuple(Choice(mode.value, t(f"chat.think.{mode.value}"), mode is chat.think_mode) for mode in modes)
    is_set = chat.think_mode is not ThinkMode.NONE and chat.think_mode in modes
    is_answering = house.answering(chat.id) is not None
    return Composer(chat.id, is_answering, choices if len(choices) > 1 else (), is_set)


def template_of(house: House, chat: Chat) -> PromptTemplate:
    """The chat's own, or the one that fits the chosen model (G1x while none can be read)."""
    if chat.template:
        return template(chat.template)
    try:
        found = house.manager.model_info()
    except RoostError:
        return template("g1x")
    if found.config is None:
        return template("g1x")
    return default_template(found.config.architecture, found.config.vocab_size, found.path)


def read_options(fields: FrameFields, defaults: SamplingParams) -> ChosenOptions:
    """BadFrame or InvalidSampling for what cannot be; sampling keeps only what differs from ``defaults``."""
    chosen = ChosenOptions()
    if "system_prompt" in fields:
        chosen = replace(chosen, system_prompt=fields.text("system_prompt", SYSTEM_PROMPT_CHARS).strip())
    if "think_mode" in fields:
        chosen = replace(chosen, think_mode=ThinkMode(fields.choice("think_mode", tuple(m.value for m in ThinkMode))))
    if "template" in fields:
        names = ("", *(row.name for row in all_templates()))
        chosen = replace(chosen, template=fields.choice("template", names))
    given = {name: _number(fields, name) for name in KNOBS if name in fields}
    if given:
        overrides = {name: value for name, value in given.items() if value != getattr(defaults, name)}
        SamplingParams.from_dict(defaults.to_dict() | overrides)  # raises InvalidSampling
        chosen = replace(chosen, sampling=overrides)
    return chosen


def _number(fields: FrameFields, name: str) -> float | int:
    value = fields.number(name, -1e9, 1e9)
    if name not in WHOLE:
        return value
    if value != int(value):
        raise BadFrame(reason=f"{name} must be a whole number")
    return int(value)


def _knob(name: str, t: Callable[..., str], defaults: SamplingParams, sampling: Mapping[str, Any]) -> Knob:
    least, most, step, range_most = KNOBS[name]
    default = getattr(defaults, name)
    return Knob(
        name=name,
        label=t(f"chat.knob.{name}.label"),
        help=t(f"chat.knob.{name}.help"),
        value=_plain(sampling.get(name, default)),
        default=_plain(default),
        at_least=_plain(least),
        at_most=_plain(most),
        step=_plain(step),
        range_most=_plain(max(range_most, default)),
    )


def _plain(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
