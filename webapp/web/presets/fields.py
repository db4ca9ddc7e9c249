"""A parameter as a control of the form, and the posted form read back into typed changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from webapp.errors import RoostError, error_from_dict
from webapp.i18n import translate_error
from webapp.services.presets.fields import escaped, plain, read_fields
from webapp.services.presets.parameters import BY_NAME, PARAMETERS, Parameter
from webapp.web.presets.contexts import Choice, Field

FIRST_FIELDS = ("name", "note")
BUILT = ("precision", "gpu_layers", "quantized_layers")
"""Parts of the strategy: the builder draws them and reads them back."""
SHOWN_CHARS = 40
CONTROLS = {
    "bool": "switch",
    "choice": "choice",
    "file": "choice",
    "text": "text",
    "list": "lines",
    "line": "line",
}


@dataclass(frozen=True)
class PostedForm:
    """``raw``: every field as it came, for the page to show again. ``changes`` are for ``Presets.save``; a value equal
    to the default the page was drawn with is None, which takes an override back."""

    raw: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, RoostError] = field(default_factory=dict)


def read_form(form: Mapping[str, str], defaults: Mapping[str, Any]) -> PostedForm:
    """Only of fields that are there: a part of the form changes a part of the preset."""
    names = [*FIRST_FIELDS, *(row.name for row in PARAMETERS if row.name not in (*BUILT, "strategy"))]
    raw = {name: _text(form, name) for name in names if name in form}
    values, problems = read_fields(raw)
    changes = {name: None if is_default(name, value, defaults) else value for name, value in values.items()}
    return PostedForm(raw, changes, dict(problems))


def _text(form: Mapping[str, str], name: str) -> str:
    """A switch sends "0" from a hidden field and, when it is on, "1" after it; a list may send each item by itself."""
    values = form.getlist(name) if hasattr(form, "getlist") else [form[name]]
    is_list = name in BY_NAME and BY_NAME[name].kind == "list"
    text = "\n".join(value for value in values if value) if is_list else str(values[-1])
    return text.replace("\r\n", "\n")


def is_default(name: str, value: Any, defaults: Mapping[str, Any]) -> bool:
    row = BY_NAME.get(name)
    if row is None or row.place not in ("sampling", "options"):
        return False
    return bool(value == default_of(row, defaults))


def default_of(row: Parameter, defaults: Mapping[str, Any]) -> Any:
    return defaults.get(row.name, row.default) if row.place == "sampling" else row.default


class FieldMaker:
    """Draws one preset's fields. ``stored`` are its flat values, ``posted`` what a person wrote over them."""

    def __init__(
        self,
        t: Callable[..., str],
        locale: str,
        stored: Mapping[str, Any],
        defaults: Mapping[str, Any],
        posted: PostedForm,
    ) -> None:
        self.t = t
        self.locale = locale
        self.stored = stored
        self.defaults = defaults
        self.posted = posted

    def make(self, name: str, choices: tuple[Choice, ...] = (), control: str = "") -> Field:
        """``control`` in place of the usual one of its kind."""
        row = BY_NAME[name]
        default = written(row, default_of(row, self.defaults))
        value = self.value(row)
        return Field(
            name=name,
            control=control or control_of(row),
            label=self.t(row.label_key),
            help=self.t(row.help_key),
            value=value,
            default=default,
            shown_default=shown_value(self.t, row, default, choices),
            at_least=plain(row.least),
            at_most=plain(row.most),
            range_least=plain(row.slider_least),
            range_most=plain(row.slider_most),
            step=plain(row.step),
            choices=choices,
            placeholder=self.t("preset_page.by_itself") if row.is_optional else "",
            most_chars=row.most_chars,
            is_changed=not is_same(row, value, default),
            needs_reload=row.needs_reload,
            error=self.error(name),
        )

    def head(self, name: str, value: str, most_chars: int) -> Field:
        """Name or note: no parameter, without a default."""
        t = self.t
        return Field(
            name=name,
            control="line",
            label=t(f"presets.field.{name}.label"),
            help=t(f"presets.field.{name}.help"),
            value=self.posted.raw.get(name, value),
            most_chars=most_chars,
            error=self.error(name),
        )

    def value(self, row: Parameter) -> str:
        return self.posted.raw.get(row.name, self.written(row))

    def written(self, row: Parameter) -> str:
        """What is saved."""
        return written(row, self.stored.get(row.name, default_of(row, self.defaults)))

    def error(self, name: str) -> str:
        """In the words of the page: a problem knows a parameter by its name in files."""
        problem = self.posted.problems.get(name)
        if problem is None:
            return ""
        label = self.t(BY_NAME[name].label_key if name in BY_NAME else f"presets.field.{name}.label")
        told = error_from_dict({**problem.to_dict(), "params": {**problem.params, "name": label}})
        return translate_error(told, self.locale)[0]


def shown_value(t: Callable[..., str], row: Parameter, value: str, choices: tuple[Choice, ...] = ()) -> str:
    named = {choice.value: choice.label for choice in choices}
    if value in named:
        return named[value]
    if row.kind == "bool":
        return t("controls.on" if value == "1" else "controls.off")
    if value == "":
        return t("preset_page.by_itself" if row.is_optional else "preset_page.empty")
    return value if len(value) <= SHOWN_CHARS else value[:SHOWN_CHARS] + "…"


def written(row: Parameter, value: Any) -> str:
    """As the form holds it."""
    if value is None:
        return ""
    if row.kind == "bool":
        return "1" if value else "0"
    if row.kind == "list":
        return "\n".join(escaped(item) for item in value)
    return plain(value) if row.kind in ("int", "float") else str(value)


def is_same(row: Parameter, one: str, other: str) -> bool:
    if row.kind not in ("int", "float"):
        return one.strip() == other.strip()
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other


def control_of(row: Parameter) -> str:
    if row.kind in ("int", "float"):
        return "number" if row.is_optional or not row.has_slider else "knob"
    return CONTROLS[row.kind]
