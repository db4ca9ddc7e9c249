"""The presets pages: the list, a new preset, one with all its fields, a comparison of strategies.

GET reads; POST changes and returns or redirects to the next page. The values of the view functions are template
variables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.chat.tool_dialects import G1X_JSON, OfferedTools
from webapp.engine.backend import Availability
from webapp.engine.registry import KindEntry
from webapp.errors import PresetError, RoostError, error_from_dict
from webapp.i18n import Text, size_text
from webapp.manager.target import ZERO_STATE
from webapp.resources import STARTER_MODEL
from webapp.services.generation.request import format_of
from webapp.services.presets.fields import (
    BY_NAME,
    MODEL_NAME_CHARS,
    NAME_CHARS,
    NOTE_CHARS,
    PARAMETERS,
    PROMPT,
    SAMPLING,
    Parameter,
)
from webapp.services.presets.files import FILE_CHARS
from webapp.services.presets.presets import SaveOutcome, published_sampling
from webapp.services.states import StateEntry
from webapp.services.strategy import comparison, kept, kinds_here
from webapp.storage.presets import Preset
from webapp.web.kit import page as kit
from webapp.web.presets.builder import BuilderChoice, builder_panel, choice_of, machine_facts, read_choice, why_not
from webapp.web.presets.form import (
    Control,
    Controls,
    Draft,
    default_sampling,
    defaults_to_send,
    facts,
    is_same,
    labels,
    mode_in,
    model_file,
    read_form,
    save_form,
    shown_name,
    shown_note,
    shown_value,
)
from webapp.weights.inspection import Inspection

blueprint = Blueprint("presets", __name__, url_prefix="/presets")
IMPORT_BYTES = 4 << 20
TOASTS = ("deleted", "used", "imported")
OPTIONS = tuple(row for row in PARAMETERS if row.place == "options")
TOKENIZERS = ("", "world", "byte")
VOCABULARIES = (".txt", ".json")
MAX_FILES = 50
MAX_STARS = 5


def list_page(
    page: kit.PageContext, toasts: Sequence[kit.Toast] = (), pasted: str = "", refusal: RoostError | None = None
) -> kit.Values:
    """``refusal``: the error of an import, whose text was ``pasted``."""
    presets = page.presets
    rows = _rows(page, presets.list())
    message, hint = page.explain(refusal) if refusal else ("", "")
    return {
        **_every_page(page.t("nav.presets"), toasts),
        "own": [row for row in rows if not row["is_shipped"]],
        "shipped": [row for row in rows if row["is_shipped"]],
        "hidden": _rows(page, presets.store.hidden_shipped()),
        "pasted": pasted,
        "import_error": message,
        "import_hint": hint,
    }


def new_page(page: kit.PageContext, chosen: str = "", name: str = "", error: str = "") -> kit.Values:
    """``chosen``: id of the selected template."""
    shipped_first = sorted(page.presets.list(), key=lambda preset: not preset.shipped_key)
    return {
        **_every_page(page.t("preset_page.new.title")),
        "templates": _rows(page, shipped_first),
        "chosen": chosen,
        "name": name,
        "error": error,
    }


def _every_page(title: str, toasts: Sequence[kit.Toast] = ()) -> kit.Values:
    return {"page_title": title, "toasts": tuple(toasts)}


def _rows(page: kit.PageContext, presets: Sequence[Preset]) -> list[kit.Values]:
    """``trouble``: why a preset cannot run here now; "" if no problem is known."""
    active_id, t = page.presets.active().id, page.t
    unavailable = {row.kind.key: row.kind.label for row in kinds_here() if not row.availability.is_available}

    def trouble(preset: Preset) -> str:
        kind = choice_of(preset.strategy, None).kind if preset.strategy and unavailable else ""
        if kind in unavailable:
            return t("preset_page.trouble.kind", kind=t(unavailable[kind]))  # type: ignore[no-any-return]
        try:
            if preset.model:
                page.manager.library.find(preset.model)
        except RoostError:
            return t("preset_page.trouble.model")  # type: ignore[no-any-return]
        return ""

    return [
        {
            "id": preset.id,
            "name": shown_name(preset, t),
            "note": shown_note(preset, t),
            "facts": facts(preset, t),
            "is_active": preset.id == active_id,
            "is_shipped": bool(preset.shipped_key),
            "is_edited": preset.is_edited,
            "trouble": trouble(preset),
        }
        for preset in presets
    ]


def edit_page(page: kit.PageContext, preset: Preset, draft: Draft | None = None, saved: str = "") -> kit.Values:
    """One preset with all its fields. ``saved``: the result of the last save."""
    t, is_draft = page.t, draft is not None
    draft = draft or Draft()
    model = draft.raw.get("model", preset.model)
    found, presets = model_file(page, model), page.presets
    config = found.config if found else None
    mode = mode_in(preset, draft.raw)
    defaults = default_sampling(page, model, mode)
    controls = Controls(page, preset, defaults, draft, published_sampling(found, mode).origins)
    automatic = presets.resolved_strategy(model) or page.status.strategy
    panel = builder_panel(page, draft.choice or choice_of(preset.strategy, config), found, automatic)
    panel["error"] = panel["error"] or controls.error("strategy")
    message, hint = page.explain(draft.refusal) if draft.refusal else ("", "")
    row = _rows(page, [preset])[0]
    state = draft.raw.get("state", preset.state)
    return {
        **_every_page(row["name"]),
        "preset": row,
        "url": url_for("presets.edit", preset_id=preset.id),
        "expected": repr(preset.updated_at),
        "defaults": defaults_to_send(defaults),
        "name": controls.first("name", row["name"], NAME_CHARS),
        "note_field": controls.first("note", row["note"], NOTE_CHARS),
        "sampling": [controls.of(one) for one in SAMPLING if one.is_common],
        "more_sampling": [controls.of(one) for one in SAMPLING if not one.is_common],
        "prompt": [_prompt_field(page, controls, one, _fitting(controls, found)) for one in PROMPT],
        "model": controls.of(BY_NAME["model"], _model_choices(page, model)),
        "state": controls.of(BY_NAME["state"], state_choices(page, found, state)),
        "options": [_option(page, controls, one) for one in OPTIONS],
        "builder": panel,
        "in_use": in_use(page, preset),
        "saved": t("preset_page.saved.not") if draft.problems else saved,
        "error": message,
        "hint": hint,
        "is_unsaved": is_draft and draft.is_unsaved,
        "differences": list(_differences(page, controls, preset, draft)) if draft.is_conflict else [],
    }


def _prompt_field(page: kit.PageContext, controls: Controls, row: Parameter, fits: Mapping[str, str]) -> Control:
    """``fits``: what an open choice means now, by field."""
    if row.name == "tools":
        known = [tool.definition.name for tool in page.tools.list()]
        missing = [name for name in controls.value(row).split("\n") if name and name not in known]
        words = [*((name, name) for name in known)]
        words += [(name, page.t("preset_page.tools.missing", name=name)) for name in missing]
        return controls.of(row, tuple(kit.Choice(*one) for one in words), "checks")
    if row.kind != "choice":
        return controls.of(row)
    keys = {"template": "chat.template", "think_mode": "chat.think", "tool_dialect": "tools.dialect"}
    names = {value: page.t(f"{keys[row.name]}.{value}") for value in row.choices if value}
    auto = page.t("presets.choice.template.auto")
    if fitting := fits.get(row.name):
        auto = page.t("presets.choice.template.auto_is", name=names[fitting])
    return controls.of(row, tuple(kit.Choice(value, names.get(value, auto)) for value in row.choices))


def _fitting(controls: Controls, model: Inspection | None) -> dict[str, str]:
    """What "fits the model" means now, by field; {} if no model can be read."""
    names = ("template", "tool_dialect", "tools")
    return _formats_for(model, *(controls.value(BY_NAME[name]) for name in names)) if model and model.config else {}


@kept
def _formats_for(model: Inspection, template: str, dialect: str, tools: str) -> dict[str, str]:
    offered = OfferedTools(G1X_JSON, ({"name": "any"},) if tools else ())
    fitting, _ = format_of(model, (), offered, dialect)
    _, found = format_of(model, (template,), offered)
    return {"template": fitting.name, "tool_dialect": found.dialect.name}


def _option(page: kit.PageContext, controls: Controls, row: Parameter) -> Control:
    """If a backend's option needs more than this machine has, its help says so."""
    if row.name == "tokenizer":
        return controls.of(row, _tokenizer_choices(page, controls.value(row)))
    if row.name in ("adapter_file", "adapter_start"):
        return controls.of(row, _adapter_choices(page, row.name, controls.value(row)))
    found = _availability_of_switch(row.name) if row.kind == "bool" else None
    help = page.t("preset_page.kernel", reason=why_not(page, found)) if found and not found.is_available else ""
    return controls.of(row, more_help=help)


@kept
def _availability_of_switch(name: str) -> Availability | None:
    """The availability of the first backend with an option of this name."""
    backends = dict.fromkeys(entry.backend for entry in kinds_here())
    found = (backend.availability_of(name) for backend in backends if any(row.name == name for row in backend.OPTIONS))
    return next(found, None)


def _differences(page: kit.PageContext, controls: Controls, preset: Preset, draft: Draft) -> Iterator[kit.Values]:
    """Differences between the form and the saved preset. ``value``: the saved one, as the form shows it."""
    t, raw = page.t, draft.raw
    for name, theirs in (("name", shown_name(preset, t)), ("note", shown_note(preset, t))):
        if name in raw and raw[name].strip() != theirs.strip():
            label = t(f"presets.field.{name}.label")
            yield {"name": name, "label": label, "value": theirs, "theirs": theirs, "yours": raw[name]}
    for row in (BY_NAME[name] for name in raw if name in BY_NAME):
        theirs, yours = controls.saved(row), raw[row.name]
        if not is_same(row, theirs, yours):
            shown = {"theirs": shown_value(t, row, theirs), "yours": shown_value(t, row, yours)}
            yield {"name": row.name, "label": t(row.label_key), "value": theirs, **shown}
    if draft.strategy is not None and draft.strategy != preset.strategy:
        theirs, yours = (text or t("preset_page.kind.auto.label") for text in (preset.strategy, draft.strategy))
        label = t(BY_NAME["strategy"].label_key)
        yield {"name": "", "label": label, "value": "", "theirs": theirs, "yours": yours}


def in_use(page: kit.PageContext, preset: Preset) -> kit.Values:
    """``presets/_in_use.html``: whether the preset is in use completely, except for parts that need a reload, or
    not."""
    presets, status, t = page.presets, page.status, page.t
    is_changing = status.phase in ("loading", "unloading")
    kind, key, button, names = "", "", "", ""
    explained: tuple[str, str] | None = None
    if not presets.is_active(preset):
        key, button = "idle", "use"
    elif is_changing:
        key = "loading"
    elif status.error is not None:
        kind, explained, button = "bad", page.explain(error_from_dict(status.error)), "again"
    elif (problem := presets.problem(preset)) is not None:
        kind, explained = "bad", page.explain(problem)
    elif differences := presets.differences(preset):
        kind, key, button, names = "warn", "reload", "reload", labels(differences, t)
    elif status.phase == "empty":
        key, button = "empty", "load"
    else:
        kind, key = "good", "used"
    words = "preset_page.in_use"
    title, text = explained or (t(f"{words}.{key}.title", names=names), t(f"{words}.{key}.text"))
    return {
        "preset_id": preset.id,
        "kind": kind,
        "title": title,
        "text": text,
        "button": t(f"{words}.button.{button}") if button else "",
        "is_changing": is_changing,
    }


def _model_choices(page: kit.PageContext, chosen: str) -> tuple[kit.Choice, ...]:
    found = [kit.Choice("", page.t("presets.choice.model.any"))]
    for entry in page.manager.library.list():
        if entry.inspection is not None and entry.inspection.kind == "model":
            label = page.t("preset_page.model.starter") if entry.name == STARTER_MODEL else entry.name
            found.append(kit.Choice(entry.name, f"{label} · {size_text(entry.size_bytes)}"))
    return _with_chosen(page, found, chosen)


def _adapter_choices(page: kit.PageContext, field: str, chosen: str) -> tuple[kit.Choice, ...]:
    """A file that PiSSA training started from is not an adapter."""
    found = [kit.Choice("", page.t("models.adapter.none"))]
    for entry in page.manager.library.list():
        kind = entry.inspection.adapter if entry.inspection is not None else ""
        if kind and (kind == "pissa-init") == (field == "adapter_start"):
            found.append(kit.Choice(entry.name, f"{entry.name} · {size_text(entry.size_bytes)}"))
    return _with_chosen(page, found, chosen)


def _with_chosen(page: kit.PageContext, found: list[kit.Choice], chosen: str) -> tuple[kit.Choice, ...]:
    """A chosen name that is missing here remains in the list."""
    if all(choice.value != chosen for choice in found):
        found.append(kit.Choice(chosen, page.t("preset_page.not_here", name=chosen)))
    return tuple(found)


def state_choices(page: kit.PageContext, model: Inspection | None, chosen: str) -> tuple[kit.Choice, ...]:
    """States that fit the model first; others are listed but disabled."""
    states = page.states
    brings_own = model is not None and model.has_time_state
    found = [kit.Choice("", page.t("presets.choice.state.own" if brings_own else "preset_page.state.none"))]
    if brings_own:
        found.append(kit.Choice(ZERO_STATE, page.t("presets.choice.state.zero")))

    def fits(entry: StateEntry) -> bool:
        """If no model is known, every readable state fits."""
        return entry.error is None if model is None else states.library.name_of(Path(model.path)) in entry.fits

    rows = [(entry.name, fits(entry)) for entry in states.list()]
    found += [kit.Choice(name, name) for name, is_fit in rows if is_fit]
    others = [name for name, is_fit in rows if not is_fit]
    found += [kit.Choice(name, page.t("preset_page.state.other", name=name), name != chosen) for name in others]
    return _with_chosen(page, found, chosen)


def _tokenizer_choices(page: kit.PageContext, chosen: str) -> tuple[kit.Choice, ...]:
    found = [kit.Choice(name, page.t(f"preset_page.tokenizer.{name or 'auto'}")) for name in TOKENIZERS]
    names = sorted(one.name for one in page.manager.library.models_dir.glob("*") if one.suffix in VOCABULARIES)
    found += [kit.Choice(name, name) for name in names[:MAX_FILES]]
    return _with_chosen(page, found, chosen)


def compare_page(page: kit.PageContext) -> kit.Values:
    """The tables of RWKV-Runner's manual, next to the engines here and measurements of Roost."""
    t, data, found = page.t, comparison(), kinds_here()
    labels_of = {row.kind.key: t(row.kind.label) for row in found}
    measured = data["measured"]

    def cell(row: kit.Values, cell: kit.Values, size: str) -> kit.Values:
        note = t("preset_page.compare.some_layers", layers=cell["layers"]) if "layers" in cell else ""
        if "all_gb" in cell:
            note += " " + t("preset_page.compare.more_layers", layers=cell["all_layers"], gb=f"{cell['all_gb']:g}")
        same = [one for one in measured if (one["kind"], one["precision"], one["size"]) == (*_key(row), size)]
        ours = [t("preset_page.compare.ours", gb=f"{one['peak_gb']:g}", version=one["architecture"]) for one in same]
        text = f"{cell['gb']:g} GB" if "gb" in cell else t("preset_page.compare.not_advised")
        return {"text": text, "note": note, "ours": ours}

    def label(row: kit.Values) -> str:
        return f"{labels_of.get(row['kind'], row['kind'])} {row['precision']}"

    def speed(row: kit.Values) -> str:
        rate = row["tokens_per_s"]
        return t("unit.tokens_per_s", rate=f"{rate:g}") if rate is not None else ""  # type: ignore[no-any-return]

    return {
        **_every_page(t("preset_page.compare.title")),
        "sizes": data["sizes"],
        "memory": [
            {
                "label": label(row),
                "place": t(f"preset_page.compare.{row['place']}"),
                "cells": [cell(row, one, size) for one, size in zip(row["cells"], data["sizes"], strict=True)],
            }
            for row in data["memory"]
        ],
        "kinds": [_compared(page, row, data["kinds"].get(row.kind.key, {})) for row in found if not row.kind.is_text],
        "measured": [
            {
                **row,
                "label": label(row),
                "size": f"RWKV-{row['architecture']} {row['parameters']}",
                "peak": f"{row['peak_gb']:g} GB",
                "speed": speed(row),
            }
            for row in measured
        ],
        "machine": machine_facts(page),
    }


def _key(row: kit.Values) -> tuple[str, str]:
    return row["kind"], row["precision"]


def _compared(page: kit.PageContext, row: KindEntry, manual: kit.Values) -> kit.Values:
    """A kind in the manual, its equivalent in Roost, and whether it runs on this machine."""
    t, kind = page.t, row.kind
    here = t("preset_page.compare.reads", versions=", ".join(kind.versions), formats=" ".join(kind.formats))
    if not row.availability.is_available:
        here = f"{t('preset_page.compare.not_on_this')} {here}"
    stars = manual.get("stars", 0)
    return {
        "label": t(kind.label),
        "text": t(kind.text),
        "hardware": t(f"preset_page.compare.hardware.{kind.hardware}"),
        "format": manual.get("format") or " ".join(kind.formats),
        "models": " / ".join(manual.get("models", ())) or "–",
        "stars": "★" * stars + "☆" * (MAX_STARS - stars) if stars else "–",
        "stars_said": t("preset_page.compare.stars", count=stars, most=MAX_STARS) if stars else "",
        "here": here,
        "is_here": row.availability.is_available,
    }


# routes


@blueprint.get("")
def index() -> Response:
    page = kit.current_page()
    return kit.render_page("presets/list.html", list_page(page, page.done_toast("preset_page.done", TOASTS)))


@blueprint.get("/new")
def new() -> Response:
    return kit.render_page(
        "presets/new.html", new_page(kit.current_page(), request.args.get("from", "")[: kit.ID_CHARS])
    )


@blueprint.get("/compare")
def compare() -> Response:
    return kit.render_page("presets/compare.html", compare_page(kit.current_page()))


@blueprint.get("/builder")
def builder() -> Response | BaseResponse:
    """The strategy builder for the current fields, and the states that fit; uses the form's model."""
    if not kit.wants_fragment():
        return redirect(url_for("presets.index"), 303)
    page, model = kit.current_page(), request.args.get("model", "")[:MODEL_NAME_CHARS]
    found = model_file(page, model)
    choice = read_choice(request.args, found.config if found else None) or BuilderChoice()
    automatic = page.presets.resolved_strategy(model) or page.status.strategy
    state = request.args.get("state")
    states = () if state is None else state_choices(page, found, state[:MODEL_NAME_CHARS])
    shown = {"builder": builder_panel(page, choice, found, automatic), "states": states, "chosen_state": state}
    return kit.render_page("presets/_builder.html", shown)


@blueprint.get("/export.json")
def export_all() -> Response:
    return kit.download(kit.current_page().presets.export_json(), "application/json", "roost-presets.json")


@blueprint.get("/<preset_id>/export.json")
def export(preset_id: str) -> Response:
    page = kit.current_page()
    preset = page.presets.get(preset_id)
    name = kit.file_stem(shown_name(preset, page.t), "preset")
    return kit.download(page.presets.export_json([preset.id]), "application/json", f"{name}.json")


@blueprint.get("/<preset_id>")
def edit(preset_id: str) -> Response:
    page = kit.current_page()
    preset = page.presets.get(preset_id)
    return kit.render_page("presets/edit.html", edit_page(page, preset, saved=_saved_text(page, preset)))


@blueprint.post("/<preset_id>")
def submit(preset_id: str) -> Response | BaseResponse:
    """``do``: save, save_and_use (which loads its model), or preview (renders the page without saving)."""
    page, do = kit.current_page(), request.form.get("do", "save")
    preset = page.presets.get(preset_id)
    draft = read_form(page, preset, request.form)
    if do == "preview" or request.form.get("switch"):
        return kit.render_page("presets/edit.html", edit_page(page, preset, draft))
    outcome = save_form(page, preset, draft)
    if isinstance(outcome, Draft):
        return _refused(page.presets.get(preset_id), outcome)
    if do == "save_and_use":
        try:
            page.presets.apply(preset_id)
        except RoostError as exc:
            return _refused(outcome.preset, Draft(refusal=exc, is_unsaved=False), 422)
        outcome = SaveOutcome(outcome.preset, outcome.applied)
    applied, late = ",".join(outcome.applied), ",".join(outcome.needs_reload)
    return redirect(url_for("presets.edit", preset_id=preset_id, saved=applied, reload=late or None), 303)


def _refused(preset: Preset, draft: Draft, status: int = 0) -> Response:
    known = kit.refused_status(draft.refusal) if draft.refusal else 422
    return kit.render_page("presets/edit.html", edit_page(kit.fresh_page(), preset, draft), status=status or known)


@blueprint.get("/<preset_id>/in-use")
def show_in_use(preset_id: str) -> Response | BaseResponse:
    if not kit.wants_fragment():
        return redirect(url_for("presets.edit", preset_id=preset_id), 303)
    page = kit.current_page()
    return kit.render_page("presets/_in_use.html", {"in_use": in_use(page, page.presets.get(preset_id))})


@blueprint.post("/do")
def do() -> Response | BaseResponse:
    """Commands on whole presets: ``do`` is the command's name, or ``name:ID``. An error returns the previous page with
    its input."""
    request.max_form_memory_size = IMPORT_BYTES
    command, _, target = request.form.get("do", "")[:200].partition(":")
    target = target or request.form.get("id", "")[: kit.ID_CHARS]
    try:
        return redirect(_perform(kit.current_page(), command, target), 303)
    except RoostError as exc:
        page, status = kit.fresh_page(), kit.refused_status(exc)
        if command == "import":
            shown = list_page(page, pasted=request.form.get("text", ""), refusal=exc)
        elif command == "create" and isinstance(exc, PresetError):
            name, template = request.form.get("name", ""), request.form.get("from", "")[: kit.ID_CHARS]
            shown = new_page(page, template, name, page.explain(exc)[0])
            return kit.render_page("presets/new.html", shown, status=status)
        else:
            shown = list_page(page, (page.error_toast(exc),))
        return kit.render_page("presets/list.html", shown, status=status)


def _perform(page: kit.PageContext, command: str, target: str) -> str:
    """Returns the next URL; raises a typed error."""
    presets, name, index = page.presets, request.form.get("name", ""), url_for("presets.index")
    match command:
        case "create":  # from a template, or empty; the default name is the template's
            template = request.form.get("from", "")[: kit.ID_CHARS]
            if template:
                original = presets.get(template)
                return _edit_url(presets.duplicate(template, name.strip() or shown_name(original, page.t)))
            if not name.strip():
                raise PresetError("preset_unnamed", name="name")
            return _edit_url(presets.create(name.strip()))
        case "duplicate":
            return _edit_url(presets.duplicate(target, shown_name(presets.get(target), page.t)))
        case "rename":
            presets.rename(target, name)
        case "delete":
            presets.delete(target)
            return url_for("presets.index", said="deleted", undo=target)
        case "restore":
            presets.restore(target)
        case "use":  # loads its model if another one is running
            preset = presets.apply(target)
            return _edit_url(preset) if request.form.get("back") == "edit" else url_for("presets.index", said="used")
        case "reset":
            return _edit_url(presets.reset(target).preset)
        case "import":
            made = presets.import_text(_imported_text())
            return url_for("presets.index", said="imported", about=len(made))
        case _:
            raise RoostError("bad_frame", reason=Text("reason.web.no_command", name=repr(command[:40])))
    return index


def _imported_text() -> str:
    """The chosen file, otherwise the pasted text."""
    file = request.files.get("file")
    if file is None or not file.filename:
        return request.form.get("text", "")
    data = file.stream.read(4 * FILE_CHARS + 1)
    if len(data) > 4 * FILE_CHARS:
        raise PresetError("preset_file_invalid", reason=Text("reason.web.is_too_large"))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise PresetError("preset_file_invalid", reason=Text("reason.web.no_text")) from exc


def _edit_url(preset: Preset) -> str:
    return url_for("presets.edit", preset_id=preset.id)


def _saved_text(page: kit.PageContext, preset: Preset) -> str:
    """The result of the last save; "" if there was none."""
    if "saved" not in request.args:
        return ""
    lists = (request.args.get(key, "").split(",") for key in ("saved", "reload"))
    applied, late = ([name for name in names if name in BY_NAME] for names in lists)
    if late:
        return str(page.t("preset_page.saved.reload", names=labels(late, page.t)))
    if applied:
        key = "applied" if page.presets.is_active(preset) else "inactive"
        return str(page.t(f"preset_page.saved.{key}", names=labels(applied, page.t)))
    return str(page.t("preset_page.saved.nothing"))
