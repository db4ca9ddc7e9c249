"""The table of all parameters of a preset, and their values as flat fields: parsed from a form or JSON, checked, and
converted to and from a preset.

The preset page and the chat's side panel are generated from the table. Its sampling part is
:data:`webapp.engine.sampling_params.PARAMETERS`. The texts are in the catalogue: ``sampling.<name>`` or
``presets.field.<name>``, ``.label`` and ``.help``. Flat means one name for each value (as in the table, plus ``name``
and ``note``), so that forms, files and errors use the same names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from webapp.chat.formats import format_names
from webapp.chat.messages import ThinkMode
from webapp.chat.tool_dialects import all_dialects
from webapp.engine import sampling_params
from webapp.engine.options import MAX_ALPHA
from webapp.engine.sampling_params import SamplingParameter
from webapp.errors import PresetError
from webapp.i18n import Text
from webapp.storage.presets import Preset
from webapp.storage.records import storable

NAME_CHARS = 80
NOTE_CHARS = 2000
SHOWN_CHARS = 60
WORDS = {"true": True, "on": True, "1": True, "yes": True, "false": False, "off": False, "0": False, "": False}
CHAT_MAX_TOKENS = 2000
"""Enough for an answer with thinking; a person can stop it."""
MODEL_NAME_CHARS = 500
STRATEGY_CHARS = 4000
TOOL_NAME_CHARS = 64
MAX_TOOLS = 200


class Parameter(Struct, frozen=True):
    """One row.

    ``kind``: float, int, bool, choice, text (lines), line, list (one value per line) or file (a name in the library).
    ``group``: sampling, prompt or model. ``place``: where a preset stores it: ``sampling`` or ``options`` (a dict of
    values that differ from the default) or ``preset`` (its own field). ``slider_least`` and ``slider_most`` limit the
    slider; a typed number may be from ``least`` to ``most``. ``default`` None: not set; ``is_optional``: a person can
    choose that again.
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
    """A preset allows a longer answer than a bare request (``CHAT_MAX_TOKENS``)."""
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
    Parameter("template", "choice", "prompt", "preset", "", choices=("", *format_names())),
    Parameter("think_mode", "choice", "prompt", "preset", "none", choices=tuple(mode.value for mode in ThinkMode)),
    Parameter("tools", "list", "prompt", "preset", (), most_chars=TOOL_NAME_CHARS, most_items=MAX_TOOLS),
    Parameter("tool_dialect", "choice", "prompt", "preset", "", choices=("", *(row.name for row in all_dialects()))),
)
MODEL = (
    Parameter("model", "file", "model", "preset", "", most_chars=MODEL_NAME_CHARS, needs_reload=True),
    Parameter("strategy", "line", "model", "preset", "", most_chars=STRATEGY_CHARS, needs_reload=True),
    Parameter("custom_cuda", "bool", "model", "options", False, needs_reload=True),
    Parameter("prefill_chunk", "int", "model", "options", 0, 0, 65_536, 16, 0, 256, needs_reload=True),
    Parameter("state", "file", "model", "preset", "", most_chars=MODEL_NAME_CHARS),
    Parameter("tokenizer", "file", "model", "options", "", most_chars=MODEL_NAME_CHARS, needs_reload=True),
    Parameter("adapter_file", "file", "model", "options", "", most_chars=MODEL_NAME_CHARS, needs_reload=True),
    Parameter("adapter_alpha", "float", "model", "options", 0.0, 0, MAX_ALPHA, 1, 0, 128, needs_reload=True),
    Parameter("adapter_start", "file", "model", "options", "", most_chars=MODEL_NAME_CHARS, needs_reload=True),
    Parameter("threads", "int", "model", "options", 0, 0, 4096, 1, 0, 64, needs_reload=True),
    Parameter("idle_unload_s", "float", "model", "options", None, 0, 1e9, 60, 0, 3600, is_optional=True),
)
PARAMETERS: tuple[Parameter, ...] = (*SAMPLING, *PROMPT, *MODEL)
BY_NAME: dict[str, Parameter] = {row.name: row for row in PARAMETERS}


def read_fields(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, PresetError]]:
    """(typed values, errors by name). Numbers and switches may be text, as in forms; None, and "" for a number, mean
    "the default"."""
    found: dict[str, Any] = {}
    problems: dict[str, PresetError] = {}
    for name, value in values.items():
        try:
            found[name] = read_field(str(name), value)
        except PresetError as exc:
            problems[str(name)] = exc
    return found, problems


def checked_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Like :func:`read_fields`, but raises the first error."""
    found, problems = read_fields(values)
    for problem in problems.values():
        raise problem
    return found


def read_field(name: str, value: Any) -> Any:
    """The typed value of one field; raises ``preset_invalid``, ``preset_out_of_range`` or ``preset_too_long``."""
    if name == "name":
        return _name(value)
    if name == "note":
        return _text(name, value or "", NOTE_CHARS)
    row = BY_NAME.get(name)
    if row is None:
        raise invalid(name, value, Text("reason.services.no_such_parameter"))
    if value is None or (value == "" and row.kind in ("int", "float")):
        return None
    return READERS[row.kind](row, value)


def flat(preset: Preset) -> dict[str, Any]:
    """The values that the preset sets, by name, without sampling and options that have their default."""
    fields = {row.name: getattr(preset, row.name) for row in PARAMETERS if row.place == "preset"}
    return {"name": preset.name, "note": preset.note, **fields, **preset.sampling, **preset.options}


def put(preset: Preset, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of :class:`Preset` that these typed flat ``values`` change; None removes an override."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        row = BY_NAME.get(name)
        if row is None or row.place == "preset":
            changes[name] = value if value is not None or row is None else row.default
            continue
        inner = changes.setdefault(row.place, dict(getattr(preset, row.place)))
        inner.pop(name, None)
        if value is not None:
            inner[name] = value
    return {name: value for name, value in changes.items() if value != getattr(preset, name)}


def changed_names(before: Preset, after: Preset) -> tuple[str, ...]:
    """Parameters with different values, in the order of the table, without name and note."""
    old, new = flat(before), flat(after)
    return tuple(row.name for row in PARAMETERS if old.get(row.name) != new.get(row.name))


def overrides(given: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a form sets: those that differ from the defaults with which its page was rendered."""
    return {name: value for name, value in given.items() if name not in base or value != base[name]}


def invalid(name: str, value: Any, reason: Text | str) -> PresetError:
    shown = value if isinstance(value, (str, int, float)) else type(value).__name__
    return PresetError(
        "preset_invalid", name=name[:SHOWN_CHARS], value=storable(str(shown)[:SHOWN_CHARS]), reason=reason
    )


def _name(value: Any) -> str:
    name = " ".join(_text("name", value, NAME_CHARS).split())
    if not name:
        raise PresetError("preset_unnamed", name="name")
    if not name.isprintable():
        raise invalid("name", value, Text("reason.common.must_be_text"))
    return name


def _text(name: str, value: Any, most: int) -> str:
    if not isinstance(value, str):
        raise invalid(name, value, Text("reason.common.must_be_text"))
    if len(value) > most:
        raise PresetError("preset_too_long", name=name, found=len(value), limit=most)
    if "\0" in value:
        raise invalid(name, "NUL", Text("reason.common.must_be_text"))
    return storable(value.replace("\r\n", "\n"))


def _lines(row: Parameter, value: Any) -> str:
    return _text(row.name, value, row.most_chars).strip()


def _line(row: Parameter, value: Any) -> str:
    text = _lines(row, value)
    if not text.isprintable():
        raise invalid(row.name, text, Text("reason.common.must_be_one_line_of_text"))
    return text


def _file(row: Parameter, value: Any) -> str:
    """A name in the library, not a path: presets are moved between machines, and a path could mean another file there
    or one outside the library."""
    name = _line(row, value)
    if not is_library_name(name):
        raise invalid(row.name, name, Text("reason.services.not_a_library_name"))
    return name


def is_library_name(name: str) -> bool:
    """``file``, ``folder/file`` or ``disk:folder/file``; "" is no file."""
    inner = name.replace("\\", "/")
    parts = inner.split("/") if inner else []
    return not inner.startswith("~") and ":/" not in inner and not {"", ".", ".."} & set(parts)


def _list(row: Parameter, value: Any) -> tuple[str, ...]:
    """A list, or text with one item per line, where ``\\n`` and ``\\t`` mean line break and tab."""
    items = value
    if isinstance(value, str):
        items = [unescaped(line) for line in value.replace("\r\n", "\n").split("\n") if line]
    if not isinstance(items, (list, tuple)):
        raise invalid(row.name, value, Text("reason.services.not_a_text_list"))
    if len(items) > row.most_items:
        raise PresetError("preset_too_long", name=row.name, found=len(items), limit=row.most_items)
    return tuple(dict.fromkeys(text for item in items if (text := _text(row.name, item, row.most_chars))))


def _number(row: Parameter, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise invalid(row.name, value, Text("reason.common.must_be_a_number"))
    if not row.least <= number <= row.most:
        raise PresetError(
            "preset_out_of_range", name=row.name, value=plain(number), least=plain(row.least), most=plain(row.most)
        )
    return number


def _whole(row: Parameter, value: Any) -> int:
    number = _number(row, value)
    if number != int(number):
        raise invalid(row.name, value, Text("reason.common.must_be_a_whole_number"))
    return int(number)


def _switch(row: Parameter, value: Any) -> bool:
    found = value if isinstance(value, bool) else WORDS.get(str(value).lower())
    if found is None:
        raise invalid(row.name, value, Text("reason.services.must_be_on_or_off"))
    return found


def _choice(row: Parameter, value: Any) -> str:
    if value not in row.choices:
        raise invalid(row.name, value, Text("reason.services.no_such_choice"))
    return str(value)


READERS: dict[str, Callable[[Parameter, Any], Any]] = {
    "float": _number,
    "int": _whole,
    "bool": _switch,
    "choice": _choice,
    "text": _lines,
    "line": _line,
    "file": _file,
    "list": _list,
}


def escaped(item: str) -> str:
    """A stop string as one line of a form; :func:`unescaped` is the inverse."""
    return item.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def unescaped(line: str) -> str:
    return re.sub(r"\\([\\nt])", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), line)


def plain(value: float) -> str:
    """A number in everyday form: no exponent, no trailing zeros."""
    if float(value) == int(value):
        return str(int(value))
    return f"{value:.6f}".rstrip("0").rstrip(".")
