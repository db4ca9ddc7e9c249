"""Addresses of the presets pages. GET reads, POST changes and answers with the page to show next."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, make_response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import PresetError, RoostError
from webapp.i18n import translate_error
from webapp.services.presets.presets import SaveOutcome
from webapp.storage.presets import Preset
from webapp.web.kit.page import Toast, current_locale, file_name_options, render_page, translator, wants_fragment
from webapp.web.presets.builder_input import read_input
from webapp.web.presets.builder_view import builder_context
from webapp.web.presets.commands import perform
from webapp.web.presets.compare_view import compare_page
from webapp.web.presets.edit_view import Draft, edit_page
from webapp.web.presets.files_view import state_choices
from webapp.web.presets.house import House, house_of
from webapp.web.presets.list_view import list_page, new_page
from webapp.web.presets.names import shown_name, shown_note
from webapp.web.presets.outcomes import said_of_saving, toasts_of
from webapp.web.presets.saving import read_submission, save
from webapp.web.presets.standing import standing

blueprint = Blueprint("presets", __name__, url_prefix="/presets")
IMPORT_BYTES = 4 << 20
FILE_NAME_CHARS = 80


@blueprint.get("")
def index() -> Response:
    return show_list()


def show_list(pasted: str = "", refusal: RoostError | None = None, status: int = 200) -> Response:
    locale = current_locale()
    t = translator(locale)
    told = translate_error(refusal, locale) if refusal else ("", "")
    toasts = toasts_of(request.args, t)
    page = list_page(the_house(), t, models_url(), toasts, pasted, told)
    return render_page("presets/list.html", page, status=status)


def models_url() -> str:
    return url_for("models.index") if "models.index" in current_app.view_functions else ""


@blueprint.get("/new")
def new() -> Response:
    t = translator(current_locale())
    return render_page("presets/new.html", new_page(the_house(), t, request.args.get("from", "")[:64]))


@blueprint.get("/compare")
def compare() -> Response:
    return render_page("presets/compare.html", compare_page(the_house(), translator(current_locale())))


@blueprint.get("/builder")
def builder() -> Response | BaseResponse:
    """The strategy builder for what its fields say now, and the states that fit; the model is the one chosen in the
    form."""
    if not wants_fragment():
        return redirect("/presets", 303)
    locale = current_locale()
    house, t = the_house(), translator(locale)
    ground = house.ground(request.args.get("model", "")[:500])
    given = read_input(request.args, ground.n_layer)
    state = request.args.get("state")
    states = () if state is None else state_choices(house.states, ground.found, state[:500], t)
    shown = {"builder": builder_context(given, ground, t, locale), "states": states, "chosen_state": state}
    return render_page("presets/_builder.html", shown)


@blueprint.get("/export.json")
def export_all() -> Response:
    return download(the_house().presets.export_json(), "roost-presets")


@blueprint.get("/<preset_id>/export.json")
def export(preset_id: str) -> Response:
    house = the_house()
    preset = house.presets.get(preset_id)
    name = shown_name(preset, translator(current_locale()))
    return download(house.presets.export_json([preset.id]), name)


def download(body: str, name: str) -> Response:
    response = make_response(body, {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"})
    plain = "".join(letter for letter in name if letter.isalnum() or letter in " -_").strip()[:FILE_NAME_CHARS]
    options = file_name_options(f"{plain or 'preset'}.json")
    response.headers.set("Content-Disposition", "attachment", **options)
    return response


@blueprint.get("/<preset_id>")
def edit(preset_id: str) -> Response:
    house, t = the_house(), translator(current_locale())
    preset = house.presets.get(preset_id)
    said = said_of_saving(request.args, house.presets.is_active(preset), t)
    page = edit_page(house, preset, t, current_locale(), saved=said)
    return render_page("presets/edit.html", page)


@blueprint.post("/<preset_id>")
def submit(preset_id: str) -> Response | BaseResponse:
    """``do``: save, save_and_use (which loads its model), or preview (the page again, nothing saved)."""
    house, t = the_house(), translator(current_locale())
    preset = house.presets.get(preset_id)
    shown = {"name": shown_name(preset, t), "note": shown_note(preset, t)}
    submission = read_submission(house, preset, request.form, shown)
    do = request.form.get("do", "save")
    if do == "preview" or request.form.get("switch"):
        return show_draft(house, preset, submission.draft(), 200)
    outcome = save(house, preset, submission)
    if isinstance(outcome, Draft):
        return show_draft(house, house.presets.get(preset_id), outcome, status_of(outcome))
    if do == "save_and_use":
        try:
            house.presets.apply(preset_id)
        except RoostError as exc:
            return show_draft(house, outcome.preset, Draft(refusal=exc), 422)
        return redirect(saved_url(preset_id, SaveOutcome(outcome.preset, outcome.applied)), 303)
    return redirect(saved_url(preset_id, outcome), 303)


def saved_url(preset_id: str, outcome: SaveOutcome) -> str:
    reload = ",".join(outcome.needs_reload)
    return url_for("presets.edit", preset_id=preset_id, saved=",".join(outcome.applied), reload=reload or None)


def status_of(draft: Draft) -> int:
    if draft.refusal is None:
        return 422
    return draft.refusal.status if draft.refusal.status < 500 else 422


def show_draft(house: House, preset: Preset, draft: Draft, status: int) -> Response:
    locale = current_locale()
    page = edit_page(house, preset, translator(locale), locale, draft)
    return render_page("presets/edit.html", page, status=status)


@blueprint.get("/<preset_id>/standing")
def show_standing(preset_id: str) -> Response | BaseResponse:
    if not wants_fragment():
        return redirect(url_for("presets.edit", preset_id=preset_id), 303)
    house, locale = the_house(), current_locale()
    found = standing(house, house.presets.get(preset_id), translator(locale), locale)
    return render_page("presets/_standing.html", {"standing": found})


@blueprint.post("/do")
def do() -> Response | BaseResponse:
    """Commands on whole presets: ``do`` is their name, or ``name:ID``."""
    request.max_form_memory_size = IMPORT_BYTES
    house = the_house()
    command, _, target = request.form.get("do", "")[:200].partition(":")
    try:
        return redirect(perform(house, command, target or request.form.get("id", "")[:64], request), 303)
    except RoostError as exc:
        return refuse(house, command, exc)


def refuse(house: House, command: str, exc: RoostError) -> Response:
    """The page the command came from, with what was typed and why it was not done."""
    locale = current_locale()
    t = translator(locale)
    status = exc.status if exc.status < 500 else 422
    message, hint = translate_error(exc, locale)
    if command == "import":
        return show_list(request.form.get("text", ""), exc, status)
    if command == "create" and isinstance(exc, PresetError):
        page = new_page(house, t, request.form.get("from", "")[:64], request.form.get("name", ""), message)
        return render_page("presets/new.html", page, status=status)
    toast = Toast("refused", message, hint, is_error=True, code=exc.code)
    page_of_list = list_page(house, t, models_url(), (toast,))
    return render_page("presets/list.html", page_of_list, status=status)


def the_house() -> House:
    return house_of(current_app._get_current_object())  # type: ignore[attr-defined]
