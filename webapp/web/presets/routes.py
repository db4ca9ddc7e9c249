"""Routes of the presets pages. GET reads; POST changes and returns or redirects to the next page."""

from __future__ import annotations

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import PresetError, RoostError
from webapp.i18n import Text
from webapp.services.presets.fields import BY_NAME
from webapp.services.presets.files import FILE_CHARS
from webapp.services.presets.presets import SaveOutcome
from webapp.storage.presets import Preset
from webapp.web.kit.page import PageContext, current_page, download, file_stem, fresh_page, render_page, wants_fragment
from webapp.web.presets.builder import BuilderChoice, builder_panel, read_choice
from webapp.web.presets.form import Draft, labels, model_file, read_form, save_form, shown_name
from webapp.web.presets.views import compare_page, edit_page, in_use, list_page, new_page, state_choices

blueprint = Blueprint("presets", __name__, url_prefix="/presets")
IMPORT_BYTES = 4 << 20
ID_CHARS = 64
NAME_CHARS = 500
SAID = ("deleted", "used", "imported")


@blueprint.get("")
def index() -> Response:
    page = current_page()
    return render_page("presets/list.html", list_page(page, page.done_toast("preset_page.done", SAID)))


@blueprint.get("/new")
def new() -> Response:
    return render_page("presets/new.html", new_page(current_page(), request.args.get("from", "")[:ID_CHARS]))


@blueprint.get("/compare")
def compare() -> Response:
    return render_page("presets/compare.html", compare_page(current_page()))


@blueprint.get("/builder")
def builder() -> Response | BaseResponse:
    """The strategy builder for what its fields say now, and the states that fit; the model is the one chosen in the
    form."""
    if not wants_fragment():
        return redirect(url_for("presets.index"), 303)
    page, model = current_page(), request.args.get("model", "")[:NAME_CHARS]
    found = model_file(page, model)
    choice = read_choice(request.args, found.config if found else None) or BuilderChoice()
    automatic = page.presets.resolved_strategy(model) or page.status.strategy
    state = request.args.get("state")
    states = () if state is None else state_choices(page, found, state[:NAME_CHARS])
    shown = {"builder": builder_panel(page, choice, found, automatic), "states": states, "chosen_state": state}
    return render_page("presets/_builder.html", shown)


@blueprint.get("/export.json")
def export_all() -> Response:
    return download(current_page().presets.export_json(), "application/json", "roost-presets.json")


@blueprint.get("/<preset_id>/export.json")
def export(preset_id: str) -> Response:
    page = current_page()
    preset = page.presets.get(preset_id)
    name = file_stem(shown_name(preset, page.t), "preset")
    return download(page.presets.export_json([preset.id]), "application/json", f"{name}.json")


@blueprint.get("/<preset_id>")
def edit(preset_id: str) -> Response:
    page = current_page()
    preset = page.presets.get(preset_id)
    return render_page("presets/edit.html", edit_page(page, preset, saved=_saved_text(page, preset)))


@blueprint.post("/<preset_id>")
def submit(preset_id: str) -> Response | BaseResponse:
    """``do``: save, save_and_use (which loads its model), or preview (the page again, nothing saved)."""
    page, do = current_page(), request.form.get("do", "save")
    preset = page.presets.get(preset_id)
    draft = read_form(page, preset, request.form)
    if do == "preview" or request.form.get("switch"):
        return render_page("presets/edit.html", edit_page(page, preset, draft))
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
    known = draft.refusal.status if draft.refusal and draft.refusal.status < 500 else 422
    return render_page("presets/edit.html", edit_page(fresh_page(), preset, draft), status=status or known)


@blueprint.get("/<preset_id>/in-use")
def show_in_use(preset_id: str) -> Response | BaseResponse:
    if not wants_fragment():
        return redirect(url_for("presets.edit", preset_id=preset_id), 303)
    page = current_page()
    return render_page("presets/_in_use.html", {"in_use": in_use(page, page.presets.get(preset_id))})


@blueprint.post("/do")
def do() -> Response | BaseResponse:
    """Commands on whole presets: ``do`` is their name, or ``name:ID``. A refusal is answered with the page the command
    came from, with what was typed."""
    request.max_form_memory_size = IMPORT_BYTES
    command, _, target = request.form.get("do", "")[:200].partition(":")
    target = target or request.form.get("id", "")[:ID_CHARS]
    try:
        return redirect(_perform(current_page(), command, target), 303)
    except RoostError as exc:
        page, status = fresh_page(), exc.status if exc.status < 500 else 422
        if command == "import":
            shown = list_page(page, pasted=request.form.get("text", ""), refusal=exc)
        elif command == "create" and isinstance(exc, PresetError):
            name, template = request.form.get("name", ""), request.form.get("from", "")[:ID_CHARS]
            shown = new_page(page, template, name, page.explain(exc)[0])
            return render_page("presets/new.html", shown, status=status)
        else:
            shown = list_page(page, (page.error_toast(exc),))
        return render_page("presets/list.html", shown, status=status)


def _perform(page: PageContext, command: str, target: str) -> str:
    """The address to show next; raises the typed error of what did not work."""
    presets, name, index = page.presets, request.form.get("name", ""), url_for("presets.index")
    match command:
        case "create":  # from a template, or from nothing; without a name it is called like its template
            template = request.form.get("from", "")[:ID_CHARS]
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
        case "use":  # its model is loaded when it is another than what runs
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
    """A chosen file, else pasted text."""
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


def _saved_text(page: PageContext, preset: Preset) -> str:
    """What the save before this page did; "" when there was none."""
    if "saved" not in request.args:
        return ""
    told = (request.args.get(key, "").split(",") for key in ("saved", "reload"))
    applied, late = ([name for name in names if name in BY_NAME] for names in told)
    if late:
        return str(page.t("preset_page.saved.reload", names=labels(late, page.t)))
    if applied:
        key = "applied" if page.presets.is_active(preset) else "inactive"
        return str(page.t(f"preset_page.saved.{key}", names=labels(applied, page.t)))
    return str(page.t("preset_page.saved.nothing"))
