"""Every parameter of a preset as one table: the preset page and the side panel of a chat draw from it.

The words are in the catalogue, ``presets.field.<name>.label`` and ``.help``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from webapp.chat.messages import ThinkMode
from webapp.chat.prompt_templates import all_templates
from webapp.chat.tool_dialects import all_dialects

JS_SAFE_INTEGER = 2**53 - 1
MODEL_NAME_CHARS = 500
STRATEGY_CHARS = 4000
TOOL_NAME_CHARS = 64
MOST_TOOLS = 200


@dataclass(frozen=True)
class Parameter:
    """One row.

    ``kind``: float, int, bool, choice, text (lines), line, list (lines, each a value) or file (a name in the library).
    ``group``: sampling, prompt or model. ``place`` is where a preset keeps it: ``sampling`` or ``options`` (a dict of
    what differs from the default), ``preset`` (a field of its own), ``strategy`` (a part of the strategy string, which
    the builder takes apart). ``slider_least`` and ``slider_most`` bound the slider; a typed number may go to ``least``
    and ``most``. ``default`` None: nothing is set, and ``is_optional`` says that this can be chosen again.
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
        return f"presets.field.{self.name}.label"

    @property
    def help_key(self) -> str:
        return f"presets.field.{self.name}.help"

    @property
    def has_slider(self) -> bool:
        return self.slider_most > self.slider_least


def _number(
    name: str, default: float, least: float, most: float, step: float, slider: tuple[float, float]
) -> Parameter:
    kind = "int" if isinstance(default, int) else "float"
    return Parameter(name, kind, "sampling", "sampling", default, least, most, step, *slider)


def _common(row: Parameter) -> Parameter:
    return Parameter(**{**vars(row), "is_common": True})


SAMPLING = (
    _common(_number("temperature", 1.0, 0, 5, 0.05, (0, 2))),
    _common(_number("top_p", 0.3, 0, 1, 0.01, (0, 1))),
    _common(_number("presence_penalty", 0.0, -2, 2, 0.05, (-2, 2))),
    _common(_number("frequency_penalty", 1.0, -2, 2, 0.05, (-2, 2))),
    _common(_number("max_tokens", 2000, 1, 102_400, 1, (1, 8000))),
    _number("penalty_decay", 0.996, 0, 1, 0.001, (0.9, 1)),
    Parameter("global_penalty", "bool", "sampling", "sampling", False),
    _number("top_k", 0, 0, 65_536, 1, (0, 200)),
    _number("min_p", 0.0, 0, 1, 0.01, (0, 0.5)),
    Parameter("seed", "int", "sampling", "sampling", None, 0, JS_SAFE_INTEGER, is_optional=True),
)
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
    Parameter("precision", "choice", "model", "strategy", "", needs_reload=True),
    Parameter("gpu_layers", "int", "model", "strategy", 0, 0, 1000, 1, 0, 0, needs_reload=True),
    Parameter("quantized_layers", "int", "model", "strategy", 0, 0, 1000, 1, 0, 0, needs_reload=True),
    Parameter("custom_cuda", "bool", "model", "options", False, needs_reload=True),
    Parameter("prefill_chunk", "int", "model", "options", 0, 0, 65_536, 16, 0, 256, needs_reload=True),
    Parameter("state", "file", "model", "preset", "", most_chars=MODEL_NAME_CHARS),
    Parameter("tokenizer", "file", "model", "options", "", most_chars=MODEL_NAME_CHARS, needs_reload=True),
    Parameter("threads", "int", "model", "options", 0, 0, 4096, 1, 0, 64, needs_reload=True),
    Parameter("idle_unload_s", "float", "model", "options", None, 0, 1e9, 60, 0, 3600, is_optional=True),
)
PARAMETERS: tuple[Parameter, ...] = (*SAMPLING, *PROMPT, *MODEL)
BY_NAME: dict[str, Parameter] = {row.name: row for row in PARAMETERS}
