"""One preset with all its fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from webapp.errors import RoostError
from webapp.i18n import translate_error
from webapp.services.presets.fields import NAME_CHARS, NOTE_CHARS, flat
from webapp.services.presets.parameters import BY_NAME, PARAMETERS, PROMPT, SAMPLING, Parameter
from webapp.services.strategy.choice import custom_kernel
from webapp.storage.presets import Preset
from webapp.web.kit.page import Toast
from webapp.web.presets.builder_input import BuilderInput, input_of
from webapp.web.presets.builder_view import Builder, builder_context
from webapp.web.presets.contexts import Choice, Difference, EditPage, Field
from webapp.web.presets.drawn import as_sent
from webapp.web.presets.fields import FieldMaker, PostedForm, is_same, shown_value
from webapp.web.presets.files_view import model_choices, state_choices, tokenizer_choices
from webapp.web.presets.house import House
from webapp.web.presets.list_view import preset_row, unavailable_kinds
from webapp.web.presets.names import shown_name, shown_note
from webapp.web.presets.standing import standing

Words = Callable[..., str]
OPTIONS = tuple(row.name for row in PARAMETERS if row.place == "options")


@dataclass(frozen=True)
class Draft:
    """What a person wrote and is not saved: the form, the builder and the strategy it comes to (None: no builder).

    ``refusal`` is what was wrong with the whole, a ``conflict`` that someone else saved meanwhile.
    """

    posted: PostedForm = field(default_factory=PostedForm)
    builder: BuilderInput | None = None
    strategy: str | None = None
    refusal: RoostError | None = None
    is_conflict: bool = False
    is_unsaved: bool = False


def edit_page(
    house: House,
    preset: Preset,
    t: Words,
    locale: str,
    draft: Draft | None = None,
    saved: str = "",
    toasts: tuple[Toast, ...] = (),
) -> EditPage:
    draft = draft or Draft()
    raw = draft.posted.raw
    model = raw.get("model", preset.model)
    ground = house.ground(model)
    defaults = house.defaults(preset, model)
    maker = FieldMaker(t, locale, flat(preset), defaults, draft.posted)
    given = draft.builder or input_of(preset.strategy, ground.n_layer)
    message, hint = translate_error(draft.refusal, locale) if draft.refusal else ("", "")
    row = preset_row(house, preset, t, house.presets.is_active(preset), unavailable_kinds())
    return EditPage(
        page_title=row.name,
        commands_url="/presets/do",
        toasts=toasts,
        preset=row,
        url=f"/presets/{preset.id}",
        expected=repr(preset.updated_at),
        drawn=as_sent(defaults),
        name=maker.head("name", shown_name(preset, t), NAME_CHARS),
        note_field=maker.head("note", shown_note(preset, t), NOTE_CHARS),
        sampling=tuple(maker.make(row.name) for row in SAMPLING if row.is_common),
        more_sampling=tuple(maker.make(row.name) for row in SAMPLING if not row.is_common),
        prompt=tuple(_prompt_field(house, maker, row, t) for row in PROMPT),
        model=maker.make("model", model_choices(house.library, model, t)),
        state=maker.make("state", state_choices(house.states, ground.found, raw.get("state", preset.state), t)),
        options=_options(house, maker, preset, raw, t),
        builder=with_error(builder_context(given, ground, t, locale), maker.error("strategy")),
        standing=standing(house, preset, t, locale),
        saved=t("preset_page.saved.not") if draft.posted.problems else saved,
        error=message,
        hint=hint,
        is_unsaved=draft.is_unsaved,
        differences=tuple(_differences(maker, preset, draft)) if draft.is_conflict else (),
    )


def _prompt_field(house: House, maker: FieldMaker, row: Parameter, t: Words) -> Field:
    if row.name == "tools":
        return maker.make(row.name, _tool_choices(house, maker.value(row).split("\n"), t), "checks")
    return maker.make(row.name, word_choices(row.name, row.choices, t))


def _tool_choices(house: House, chosen: Sequence[str], t: Words) -> tuple[Choice, ...]:
    """Those there are, and names the preset has beside them."""
    known = [tool.definition.name for tool in house.tools.list()]
    missing = [name for name in chosen if name and name not in known]
    rows = [(name, name) for name in known]
    rows += [(name, t("preset_page.tools.missing", name=name)) for name in missing]
    return tuple(Choice(value, label) for value, label in rows)


def word_choices(name: str, values: tuple[str, ...], t: Words) -> tuple[Choice, ...]:
    """They have their words on other pages already."""
    keys = {"template": "chat.template", "think_mode": "chat.think", "tool_dialect": "tools.dialect"}
    words = {"": t("presets.choice.template.auto")}
    return tuple(Choice(value, words.get(value) or t(f"{keys[name]}.{value}")) for value in values)


def with_error(builder: Builder, error: str) -> Builder:
    return builder if not error or builder.error else Builder(**{**vars(builder), "error": error})


def _options(house: House, maker: FieldMaker, preset: Preset, raw: Mapping[str, str], t: Words) -> tuple[Field, ...]:
    tokenizer = raw.get("tokenizer", preset.options.get("tokenizer", ""))
    choices = {"tokenizer": tokenizer_choices(house.library, tokenizer, t)}
    return tuple(_with_kernel(maker.make(name, choices.get(name, ())), t) for name in OPTIONS)


def _with_kernel(option: Field, t: Words) -> Field:
    """CUDA kernels of its own: why this machine could not build them."""
    kernel = custom_kernel() if option.name == "custom_cuda" else None
    if kernel is None or kernel.is_available:
        return option
    reason = t(kernel.reason_key, **kernel.params)
    return replace(option, help=f"{option.help} {t('preset_page.kernel', reason=reason)}")


def _differences(maker: FieldMaker, preset: Preset, draft: Draft) -> Iterator[Difference]:
    """Where the form and what is saved now say different things."""
    t, raw = maker.t, draft.posted.raw
    for name, theirs in (("name", shown_name(preset, t)), ("note", shown_note(preset, t))):
        if name in raw and raw[name].strip() != theirs.strip():
            yield Difference(name, t(f"presets.field.{name}.label"), theirs, theirs, raw[name])
    for row in (BY_NAME[name] for name in raw if name in BY_NAME):
        theirs, yours = maker.written(row), raw[row.name]
        if not is_same(row, theirs, yours):
            shown = [shown_value(t, row, value) for value in (theirs, yours)]
            yield Difference(row.name, t(row.label_key), theirs, *shown)
    if draft.strategy is not None and draft.strategy != preset.strategy:
        shown = [value or t("preset_page.kind.auto.label") for value in (preset.strategy, draft.strategy)]
        yield Difference("", t(BY_NAME["strategy"].label_key), "", *shown)
