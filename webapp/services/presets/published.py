"""The sampling values that the makers of a model recommend, by family and mode, with their sources.

Sources: publications with the G1 models since 2026-07, for thinking, for answers without thinking and for tool calls;
the author's ``music/run.py`` (ChatRWKV) for music models; RWKV-Runner's chat defaults for all earlier models. A
``generation_config.json`` in a model's folder overrides both, value by value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.chat.formats import writes_flowers
from webapp.chat.messages import ThinkMode
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RequestError
from webapp.services.presets.fields import CHAT_MAX_TOKENS
from webapp.settings import Settings
from webapp.tokenizer.music import ABC_END
from webapp.weights.inspection import Inspection, generation_config, model_name

PLAIN, THINK, TOOLS = "plain", "think", "tools"
MODES = (PLAIN, THINK, TOOLS)
T125 = 127
"""The token of the longest wait."""
TINY_PARAMETERS = 100_000_000
NO_PENALTIES = {"presence_penalty": 0.0, "frequency_penalty": 0.0}

RUNNER: Mapping[str, Any] = {
    "temperature": 1.0,
    "top_p": 0.3,
    "presence_penalty": 0.0,
    "frequency_penalty": 1.0,
    "penalty_decay": 0.996,
}
G1_FROM_H: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {"temperature": 1.0, "top_p": 0.28, "top_k": 32, **NO_PENALTIES},
    THINK: {
        "temperature": 0.96,
        "top_p": 0.76,
        "top_k": 32,
        "presence_penalty": 1.0,
        "frequency_penalty": 0.1,
        "penalty_decay": 0.988,
    },
    TOOLS: {"temperature": 0.96, "top_p": 0.76, "top_k": 32, **NO_PENALTIES},
}
MUSIC: Mapping[str, Any] = {"temperature": 1.0, "top_p": 0.8, "top_k": 8, **NO_PENALTIES}
MIDI_MUSIC: Mapping[str, Any] = {
    **MUSIC,
    "frequency_penalty": 0.5,
    "penalty_decay": 0.997,
    "count_weights": ((0, T125, 0.3),),
    "logit_bias": {T125: -1.0},
    "rising_bias": ((0, -4.0, 0.002),),
}
"""A wait counts less than a note, the longest wait gets a lower probability, and the end of the piece a higher one with
each token (its logit is lowered up to the 2,000th token and raised after that)."""
CONFIG_NAMES = {
    PLAIN: ("plain", "no_think", "fake_think"),
    THINK: ("think", "thinking", "open_think"),
    TOOLS: ("tools", "function_calling"),
}
"""Keys of a ``generation_config.json`` with values for one mode; other values apply to all modes."""
ALIASES = {
    "alpha_presence": "presence_penalty",
    "alpha_frequency": "frequency_penalty",
    "alpha_decay": "penalty_decay",
}
CONFIG_KEYS = ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "penalty_decay", "min_p")


@dataclass(frozen=True)
class Sampling:
    """``origins``: the source of each value: runner, tiny, g1h, music or folder; the texts are
    ``presets.origin.<source>``."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]


def mode_of(think_mode: ThinkMode | str, has_tools: bool) -> str:
    """Tools take priority over thinking: penalties prevent a model from repeating a tool's name and arguments."""
    if has_tools:
        return TOOLS
    return PLAIN if ThinkMode(think_mode) in (ThinkMode.NONE, ThinkMode.FAST) else THINK


def published_sampling(info: Inspection | None, mode: str = PLAIN) -> Sampling:
    """For a model, or None if there is none; ``mode`` is one of :data:`MODES`.

    A tiny model gets a mild frequency penalty: it knows few ways to express something, and the full penalty would
    suppress all of them.
    """
    values = dict(RUNNER)
    origins = dict.fromkeys(values, "runner")
    if info is not None and info.kind == "music":
        values = {**MUSIC, "stop_token_ids": (0, ABC_END)} if info.tokenizer == "abc" else dict(MIDI_MUSIC)
        origins = dict.fromkeys(values, "music")
    elif info is not None and 0 < info.parameters < TINY_PARAMETERS:
        values["frequency_penalty"], origins["frequency_penalty"] = 0.2, "tiny"
    elif info is not None and writes_flowers(model_name(info)):
        values = dict(G1_FROM_H[mode])
        origins = dict.fromkeys(values, "g1h")
    for name, value in (_configured(generation_config(info), mode) if info is not None else {}).items():
        values[name], origins[name] = value, "folder"
    return Sampling(values, origins)


def _configured(config: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """The valid values; invalid ones are ignored, because the file is untrusted."""
    found: dict[str, Any] = {}
    parts = [config, *(config[name] for name in CONFIG_NAMES[mode] if isinstance(config.get(name), Mapping))]
    for key, value in (pair for part in parts for pair in part.items()):
        name = ALIASES.get(key, key)
        if name not in CONFIG_KEYS or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        try:
            SamplingParams.from_dict({name: value})
        except RequestError:
            continue
        found[name] = value
    return found


def default_sampling(settings: Settings, info: Inspection | None = None, mode: str = PLAIN) -> SamplingParams:
    """The recommendation of the model's makers (:func:`published_sampling`), with enough tokens for a chat answer."""
    values = published_sampling(info, mode).values
    return SamplingParams(max_tokens=min(CHAT_MAX_TOKENS, settings.max_tokens_limit), **values)
