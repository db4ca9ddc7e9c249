"""The values of a preset as flat fields: read from a form or from JSON, checked, put into a preset and taken out.

Flat: one name each (as in the table of :mod:`webapp.services.presets.parameters`, besides ``name`` and ``note``), so
that a form, a file and an error speak of the same thing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from webapp.errors import PresetError
from webapp.services.presets.parameters import BY_NAME, PARAMETERS, Parameter
from webapp.storage.presets import Preset
from webapp.storage.records import storable

NAME_CHARS = 80
NOTE_CHARS = 2000
SHOWN_CHARS = 60
WORDS = {"true": True, "on": True, "1": True, "yes": True, "false": False, "off": False, "0": False, "": False}


def read_fields(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, PresetError]]:
    """(typed values, what is wrong by name). Numbers and switches may be text, as forms send them; None, and "" for a
    number, mean "the default"."""
    found: dict[str, Any] = {}
    problems: dict[str, PresetError] = {}
    for name, value in values.items():
        try:
            found[name] = read_field(str(name), value)
        except PresetError as exc:
            problems[str(name)] = exc
    return found, problems


def checked_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Like :func:`read_fields`, but raises the first problem."""
    found, problems = read_fields(values)
    for problem in problems.values():
        raise problem
    return found


def read_field(name: str, value: Any) -> Any:
    """The typed value of one field; ``preset_invalid``, ``preset_out_of_range`` or ``preset_too_long``."""
    if name == "name":
        return _name(value)
    if name == "note":
        return _text(name, value or "", NOTE_CHARS)
    row = BY_NAME.get(name)
    if row is None:
        raise invalid(name, value, "there is no such parameter")
    if value is None or (value == "" and row.kind in ("int", "float")):
        return None
    return READERS[row.kind](row, value)


def flat(preset: Preset) -> dict[str, Any]:
    """What the preset sets, by name; sampling and options it leaves at their default are not in it."""
    fields = {row.name: getattr(preset, row.name) for row in PARAMETERS if row.place == "preset"}
    return {"name": preset.name, "note": preset.note, **fields, **preset.sampling, **preset.options}


def put(preset: Preset, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of :class:`Preset` that typed flat ``values`` change; None takes an override away."""
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
    """Parameters whose value differs, in the order of the table; name and note are none."""
    old, new = flat(before), flat(after)
    return tuple(row.name for row in PARAMETERS if old.get(row.name) != new.get(row.name))


def overrides(given: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What a form sets: the given values that are not those its page was drawn with as the defaults."""
    return {name: value for name, value in given.items() if name not in base or value != base[name]}


def invalid(name: str, value: Any, reason: str) -> PresetError:
    shown = value if isinstance(value, (str, int, float)) else type(value).__name__
    return PresetError(
        "preset_invalid", name=name[:SHOWN_CHARS], value=storable(str(shown)[:SHOWN_CHARS]), reason=reason
    )


def _name(value: Any) -> str:
    name = " ".join(_text("name", value, NAME_CHARS).split())
    if not name:
        raise PresetError("preset_unnamed", name="name")
    if not name.isprintable():
        raise invalid("name", value, "it must be text")
    return name


def _text(name: str, value: Any, most: int) -> str:
    if not isinstance(value, str):
        raise invalid(name, value, "it must be text")
    if len(value) > most:
        raise PresetError("preset_too_long", name=name, found=len(value), limit=most)
    if "\0" in value:
        raise invalid(name, "NUL", "it must be text")
    return storable(value.replace("\r\n", "\n"))


def _lines(row: Parameter, value: Any) -> str:
    return _text(row.name, value, row.most_chars).strip()


def _line(row: Parameter, value: Any) -> str:
    text = _lines(row, value)
    if not text.isprintable():
        raise invalid(row.name, text, "it must be one line of text")
    return text


def _file(row: Parameter, value: Any) -> str:
    """A name in the library. Presets travel between machines: a path would name another file there, or one that is
    none of the library's."""
    name = _line(row, value)
    if not is_library_name(name):
        raise invalid(row.name, name, "it must be the name of a file in the models folder, not a path")
    return name


def is_library_name(name: str) -> bool:
    """``file``, ``folder/file`` or ``disk:folder/file``; "" is no file."""
    inner = name.replace("\\", "/")
    parts = inner.split("/") if inner else []
    return not inner.startswith("~") and ":/" not in inner and not {"", ".", ".."} & set(parts)


def _list(row: Parameter, value: Any) -> tuple[str, ...]:
    """A list, or text with one item a line; ``\\n`` and ``\\t`` in an item of text stand for line break and tab."""
    items = value
    if isinstance(value, str):
        items = [unescaped(line) for line in value.replace("\r\n", "\n").split("\n") if line]
    if not isinstance(items, (list, tuple)):
        raise invalid(row.name, value, "it must be a list of texts")
    if len(items) > row.most_items:
        raise PresetError("preset_too_long", name=row.name, found=len(items), limit=row.most_items)
    return tuple(dict.fromkeys(text for item in items if (text := _text(row.name, item, row.most_chars))))


def _number(row: Parameter, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise invalid(row.name, value, "it must be a number")
    if not row.least <= number <= row.most:
        raise PresetError(
            "preset_out_of_range", name=row.name, value=plain(number), least=plain(row.least), most=plain(row.most)
        )
    return number


def _whole(row: Parameter, value: Any) -> int:
    number = _number(row, value)
    if number != int(number):
        raise invalid(row.name, value, "it must be a whole number")
    return int(number)


def _switch(row: Parameter, value: Any) -> bool:
    found = value if isinstance(value, bool) else WORDS.get(str(value).lower())
    if found is None:
        raise invalid(row.name, value, "it must be on or off")
    return found


def _choice(row: Parameter, value: Any) -> str:
    if value not in row.choices:
        raise invalid(row.name, value, "there is no such choice")
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
    """A stop string as one line of a form; :func:`unescaped` reads it back."""
    return item.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def unescaped(line: str) -> str:
    return re.sub(r"\\([\\nt])", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), line)


def plain(value: float) -> str:
    """A number as a person writes it: no exponent, no trailing zeros."""
    if float(value) == int(value):
        return str(int(value))
    return f"{value:.6f}".rstrip("0").rstrip(".")
