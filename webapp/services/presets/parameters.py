"""Every parameter of a preset as one table: the preset page and the side panel of a chat draw from it.

Its sampling part is :data:`webapp.engine.sampling_params.PARAMETERS`. The words are in the catalogue:
``sampling.<name>`` or ``presets.field.<name>``, ``.label`` and ``.help``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from webapp.chat.messages import ThinkMode
from webapp.chat.prompts import all_templates
from webapp.chat.tool_dialects import all_dialects
from webapp.engine import sampling_params
from webapp.engine.sampling_params import SamplingParameter, SamplingParams
from webapp.settings import Settings

CHAT_MAX_TOKENS = 2000
"""Room for an answer that thinks first; a person can stop it."""
TINY_PARAMETERS = 100_000_000
MODEL_NAME_CHARS = 500
STRATEGY_CHARS = 4000
TOOL_NAME_CHARS = 64
MOST_TOOLS = 200


@dataclass(frozen=True)
class Parameter:
    """One row.

    ``kind``: float, int, bool, choice, text (lines), line, list (lines, each a value) or file (a name in the library).
    ``group``: sampling, prompt or model. ``place`` is where a preset keeps it: ``sampling`` or ``options`` (a dict of
    what differs from the default) or ``preset`` (a field of its own). ``slider_least`` and ``slider_most`` bound the
    slider; a typed number may go to ``least`` and ``most``. ``default`` None: nothing is set, and ``is_optional`` says
    that this can be chosen again.
    """

    name: str
    kind: str
    group: str
    place: str
    default: Any
    least: float = 0
    most: float = 0
    step: float = 1
    slider_least: float = 0
    slider_most: float = 0
    choices: tuple[str, ...] = ()
    most_chars: int = 0
    most_items: int = 0
    is_common: bool = False
    is_optional: bool = False
    needs_reload: bool = False

    @property
    def label_key(self) -> str:
        return f"{self._words}.{self.name}.label"

    @property
    def help_key(self) -> str:
        return f"{self._words}.{self.name}.help"

    @property
    def _words(self) -> str:
        return "sampling" if self.place == "sampling" else "presets.field"

    @property
    def has_slider(self) -> bool:
        return self.slider_most > self.slider_least


def _sampling(row: SamplingParameter) -> Parameter:
    """A preset leaves an answer more room than a bare request has (``CHAT_MAX_TOKENS``)."""
    default = CHAT_MAX_TOKENS if row.name == "max_tokens" else row.default
    return Parameter(
        row.name,
        row.kind.__name__,
        "sampling",
        "sampling",
        default,
        row.least,
        row.most,
        row.step,
        *row.slider,
        is_common=row.is_common,
        is_optional=row.default is None,
    )


SAMPLING = tuple(_sampling(row) for row in sampling_params.PARAMETERS)
PROMPT = (
    Parameter("system_prompt", "text", "prompt", "preset", "", most_chars=20_000),
    Parameter("stop", "list", "prompt", "preset", (), most_chars=200, most_items=16),
    Parameter("template", "choice", "prompt", "preset", "", choices=("", *(row.name for row in all_templates()))),
    Parameter("think_mode", "choice", "prompt", "preset", "none", choices=tuple(mode.value for mode in ThinkMode)),
    Parameter("tools", "list", "prompt", "preset", (), most_chars=TOOL_NAME_CHARS, most_items=MOST_TOOLS),
    Parameter("tool_dialect", "choice", "prompt", "preset", "", choices=("", *(row.name for row in all_dialects()))),
)
MODEL = (
    Parameter("model", "file", "model", "preset", "", most_chars=MODEL_NAME_CHARS, needs_reload=True),
    Parameter("strategy", "line", "model", "preset", "", most_chars=STRATEGY_CHARS, needs_reload=True),
    Parameter("custom_cuda", "bool", "model", "options", False, needs_reload=True),
    Parameter("prefill_chunk", "int", "model", "options", 0, 0, 65_536, 16, 0, 256, needs_reload=True),
    Parameter("state", "file", "model", "preset", "", most_chars=MODEL_NAME_CHARS),
    Parameter("tokenizer", "file", "model", "options", "", most_chars=MODEL_NAME_CHARS, needs_reload=True),
    Parameter("threads", "int", "model", "options", 0, 0, 4096, 1, 0, 64, needs_reload=True),
    Parameter("idle_unload_s", "float", "model", "options", None, 0, 1e9, 60, 0, 3600, is_optional=True),
)
PARAMETERS: tuple[Parameter, ...] = (*SAMPLING, *PROMPT, *MODEL)
BY_NAME: dict[str, Parameter] = {row.name: row for row in PARAMETERS}


def default_sampling(settings: Settings, parameters: int = 0) -> SamplingParams:
    """The chat defaults of RWKV-Runner: temperature 1, top_p 0.3, presence 0, frequency 1, decay 0.996.

    A model known to be tiny (``parameters``, 0 = unknown) gets a mild frequency penalty instead: it has learnt few ways
    to say a thing, and the full penalty pushes it off every one of them.
    """
    is_tiny = 0 < parameters < TINY_PARAMETERS
    return SamplingParams(
        max_tokens=min(CHAT_MAX_TOKENS, settings.max_tokens_limit),
        temperature=1.0,
        top_p=0.3,
        presence_penalty=0.0,
        frequency_penalty=0.2 if is_tiny else 1.0,
        penalty_decay=0.996,
    )
