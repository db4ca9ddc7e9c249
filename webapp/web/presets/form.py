"""A preset's parameters as controls and texts, and its posted form: parsing, checking, saving or showing it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct, field

from webapp.chat.messages import ThinkMode
from webapp.errors import PresetNameTaken, RoostError, WeightsError
from webapp.services.presets.fields import BY_NAME, PARAMETERS, SAMPLING, Parameter, escaped, flat, plain, read_fields
from webapp.services.presets.presets import SaveOutcome, is_as_shipped_name, mode_of
from webapp.services.strategy import validate
from webapp.storage.presets import Preset
from webapp.web.kit.page import Choice, FormField, PageContext
from webapp.web.presets.builder import BuilderChoice, read_choice
from webapp.weights.inspection import Inspection

Words = Callable[..., str]
FIRST_FIELDS = ("name", "note")
MODE_FIELDS = {"think_mode", "tools"}
"""Fields that change the defaults of others."""
SHOWN_CHARS = 40
MAX_FACTS = 3
DEFAULTS_CHARS = 2000
CONTROLS = {"bool": "switch", "choice": "choice", "file": "choice", "text": "text", "list": "lines", "line": "line"}


def shown_name(preset: Preset, t: Words) -> str:
    """Presets of Roost in the user's language, unless renamed."""
    return t(f"presets.shipped.{preset.shipped_key}.name") if is_as_shipped_name(preset) else preset.name


def shown_note(preset: Preset, t: Words) -> str:
    return t(f"presets.shipped.{preset.shipped_key}.note") if is_as_shipped_name(preset) else preset.note


def labels(names: Iterable[str], t: Words) -> str:
    """The parameters' labels, in the order of the table."""
    wanted = set(names)
    return t("preset_page.comma").join(t(row.label_key) for row in PARAMETERS if row.name in wanted)


def facts(preset: Preset, t: Words) -> list[str]:
    """The model, its strategy, and the first few values that differ from the defaults."""
    rows = [row for row in PARAMETERS if row.name in preset.sampling][:MAX_FACTS]
    values = [f"{t(row.label_key)} {shown_value(t, row, written(row, preset.sampling[row.name]))}" for row in rows]
    model = preset.model or t("preset_page.facts.any_model")
    return [model, preset.strategy or t("preset_page.facts.automatic"), *values]


def model_file(page: PageContext, model: str) -> Inspection | None:
    """The model's file; "" means the chosen model. None if it is missing or cannot be read."""
    if not model:
        return page.model
    try:
        return page.manager.library.entry(model).inspection
    except RoostError:
        return None


def mode_in(preset: Preset, raw: Mapping[str, str]) -> str:
    """Which of the recommended values apply (:mod:`webapp.services.presets.presets`), for the form's current input."""
    think_mode = raw.get("think_mode", preset.think_mode)
    is_known = think_mode in {mode.value for mode in ThinkMode}
    tools = raw["tools"].strip() if "tools" in raw else preset.tools
    return mode_of(think_mode if is_known else ThinkMode.NONE, bool(tools))


def default_sampling(page: PageContext, model: str, mode: str) -> Mapping[str, Any]:
    """The sampling values that a preset does not set, for the given model."""
    return page.presets.default_sampling(model_file(page, model), mode).to_dict()


def origin_of(t: Words, row: Parameter, origins: Mapping[str, str]) -> str:
    """Where a default comes from, as a sentence; "" if the model's makers recommend no value."""
    origin = origins.get(row.name)
    return t("presets.origin.line", origin=t(f"presets.origin.{origin}")) if origin else ""


class Draft(Struct, frozen=True):
    """Unsaved input.

    ``raw``: every field as submitted, to show it again. ``changes`` are for ``Presets.save``; a value equal to the
    form's default is None, which removes an override. ``choice`` and ``strategy``: the builder and its result, None if
    the form has no builder. ``expected`` None: ignores changes saved meanwhile. ``refusal``: an error of the whole
    form.
    """

    raw: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, RoostError] = field(default_factory=dict)
    choice: BuilderChoice | None = None
    strategy: str | None = None
    expected: float | None = None
    refusal: RoostError | None = None
    is_unsaved: bool = True

    @property
    def is_conflict(self) -> bool:
        """The preset was saved by someone else after this form was rendered."""
        return self.refusal is not None and self.refusal.code == "preset_changed"


def read_form(page: PageContext, preset: Preset, form: Mapping[str, str]) -> Draft:
    """Reads only the fields that are present, so a part of the form changes a part of the preset."""
    model = str(form.get("model", preset.model))
    now = default_sampling(page, model, mode_in(preset, {name: _text(form, name) for name in MODE_FIELDS & {*form}}))
    then = _defaults_sent(form, now)
    known = (*FIRST_FIELDS, *(row.name for row in PARAMETERS if row.name != "strategy"))
    raw = {name: _text(form, name) for name in known if name in form}
    values, found = read_fields(raw)
    problems: dict[str, RoostError] = dict(found)
    changes = {name: None if _is_default(name, value, then) else value for name, value in values.items()}
    for name in then.keys() & raw.keys():  # unchanged default: use the default of the model chosen now
        if changes.get(name, name) is None and then[name] != now.get(name):
            raw[name] = written(BY_NAME[name], default_of(BY_NAME[name], now))
    for name, text in (("name", shown_name(preset, page.t)), ("note", shown_note(preset, page.t))):
        if raw.get(name) == text:  # an unchanged translated name is not a change
            changes.pop(name, None)
    try:
        expected = float(form.get("expected", ""))
    except ValueError:
        expected = None
    file = model_file(page, model)
    choice = read_choice(form, file.config if file else None)
    strategy = None if choice is None else choice.strategy_for(preset.strategy, file.config if file else None)
    # an unchanged strategy does not prevent saving the rest
    if strategy and (strategy, model) != (preset.strategy, preset.model):
        check = validate(strategy, file.config if file else None)
        # a strategy for another machine may be saved, because presets are shared
        if check.error and not check.is_elsewhere:
            problems["strategy"] = check.error
    return Draft(raw, changes, problems, choice, strategy, expected)


def save_form(page: PageContext, preset: Preset, draft: Draft) -> SaveOutcome | Draft:
    """The outcome, or the draft with the reason why nothing was saved."""
    if draft.problems:
        return draft
    changes = draft.changes if draft.strategy is None else {**draft.changes, "strategy": draft.strategy}
    problems: dict[str, RoostError] = {}
    refusal = None
    try:
        return page.presets.save(preset.id, changes, draft.expected)
    except PresetNameTaken as exc:
        problems["name"] = exc
    except WeightsError as exc:  # the state of the active preset is applied to the running model
        problems["state"] = exc
    except RoostError as exc:
        refusal = exc
    return Draft(draft.raw, draft.changes, problems, draft.choice, draft.strategy, draft.expected, refusal)


def defaults_to_send(defaults: Mapping[str, Any]) -> str:
    """For a hidden field with the form's defaults: they depend on the model, and another one may be chosen or loaded
    before the form is submitted."""
    return json.dumps({row.name: default_of(row, defaults) for row in SAMPLING})


def _defaults_sent(form: Mapping[str, str], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """The current ones if the form's are missing or invalid."""
    try:
        defaults = json.loads(form.get("defaults", "")[:DEFAULTS_CHARS])
    except (ValueError, RecursionError):
        return now
    if not isinstance(defaults, dict):
        return now
    values, _ = read_fields({row.name: defaults[row.name] for row in SAMPLING if row.name in defaults})
    return {**now, **values}


def _text(form: Mapping[str, str], name: str) -> str:
    """A checkbox sends "0" from a hidden field and, if checked, "1" after it; a list may send its items separately."""
    values = form.getlist(name) if hasattr(form, "getlist") else [form[name]]
    is_list = name in BY_NAME and BY_NAME[name].kind == "list"
    text = "\n".join(value for value in values if value) if is_list else str(values[-1])
    return text.replace("\r\n", "\n")


def _is_default(name: str, value: Any, defaults: Mapping[str, Any]) -> bool:
    row = BY_NAME.get(name)
    return row is not None and row.place in ("sampling", "options") and bool(value == default_of(row, defaults))


def default_of(row: Parameter, defaults: Mapping[str, Any]) -> Any:
    return defaults.get(row.name, row.default) if row.place == "sampling" else row.default


class Control(FormField, frozen=True):
    """One control of ``_field.html``. ``control``: knob, number, switch, choice, checks, text, lines or line. ``value``
    is the input, even if it is invalid."""

    control: str = "line"
    shown_default: str = ""
    at_least: str = ""
    at_most: str = ""
    range_least: str = ""
    range_most: str = ""
    step: str = ""
    choices: tuple[Choice, ...] = ()
    placeholder: str = ""
    most_chars: int = 0


class Controls:
    """The controls of one preset: saved values, and unsaved input over them."""

    def __init__(
        self,
        page: PageContext,
        preset: Preset,
        defaults: Mapping[str, Any],
        draft: Draft,
        origins: Mapping[str, str] | None = None,
    ) -> None:
        self._page = page
        self._origins = origins or {}
        self._stored = flat(preset)
        self._defaults = defaults
        self._draft = draft

    def of(self, row: Parameter, choices: tuple[Choice, ...] = (), control: str = "", more_help: str = "") -> Control:
        """``control`` replaces the usual control of its kind."""
        t = self._page.t
        default, value = written(row, default_of(row, self._defaults)), self.value(row)
        origin = origin_of(t, row, self._origins)
        if not control and row.kind in ("int", "float"):
            control = "number" if row.is_optional or not row.has_slider else "knob"
        return Control(
            name=row.name,
            control=control or CONTROLS[row.kind],
            label=t(row.label_key),
            help=" ".join(text for text in (t(row.help_key), more_help, origin) if text),
            value=value,
            default=default,
            shown_default=shown_value(t, row, default, choices),
            at_least=plain(row.least),
            at_most=plain(row.most),
            range_least=plain(row.slider_least),
            range_most=plain(row.slider_most),
            step=plain(row.step),
            choices=choices,
            placeholder=t("preset_page.by_itself") if row.is_optional else "",
            most_chars=row.most_chars,
            is_changed=not is_same(row, value, default),
            needs_reload=row.needs_reload,
            error=self.error(row.name),
        )

    def first(self, name: str, value: str, most_chars: int) -> Control:
        """Name or note, which are not parameters and have no default."""
        words = f"presets.field.{name}"
        return Control(
            name=name,
            label=self._page.t(f"{words}.label"),
            help=self._page.t(f"{words}.help"),
            value=self._draft.raw.get(name, value),
            most_chars=most_chars,
            error=self.error(name),
        )

    def value(self, row: Parameter) -> str:
        return self._draft.raw.get(row.name, self.saved(row))

    def saved(self, row: Parameter) -> str:
        return written(row, self._stored.get(row.name, default_of(row, self._defaults)))

    def error(self, name: str) -> str:
        """The problem of a field; problems use the parameters' names in files."""
        problem = self._draft.problems.get(name)
        if problem is None:
            return ""
        label = self._page.t(BY_NAME[name].label_key if name in BY_NAME else f"presets.field.{name}.label")
        labelled = problem.with_params(name=label)
        return self._page.explain(labelled)[0]


def shown_value(t: Words, row: Parameter, value: str, choices: tuple[Choice, ...] = ()) -> str:
    named = {choice.value: choice.label for choice in choices}
    if value in named:
        return named[value]
    if row.kind == "bool":
        return t("controls.on" if value == "1" else "controls.off")
    if value == "":
        return t("preset_page.by_itself" if row.is_optional else "preset_page.empty")
    return value if len(value) <= SHOWN_CHARS else value[:SHOWN_CHARS] + "…"


def written(row: Parameter, value: Any) -> str:
    """As the form shows it."""
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
