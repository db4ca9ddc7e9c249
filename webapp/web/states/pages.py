"""The states pages: the list with its forms, and one state file.

GET reads; POST performs an action and redirects to a page that reports it. The values of the view functions are
template variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from flask import Blueprint, Response, redirect, request, send_file, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.chat.messages import display_name
from webapp.errors import FileMissing, RequestError, RoostError, WeightsError
from webapp.i18n import Text, size_text
from webapp.manager.library import STATE_ENDINGS
from webapp.manager.target import ZERO_STATE
from webapp.services.attachments import DOCUMENT_BYTES, file_text
from webapp.services.downloads.catalogue import trained_context
from webapp.services.generation.request import PrefixSource
from webapp.services.jobs import DONE, Job
from webapp.services.states import (
    MAKING,
    StateEntry,
    clear_snapshots,
    snapshot_use,
    source_of_document,
    source_of_preset,
)
from webapp.web.jobs import describes, job_list
from webapp.web.kit import page as kit
from webapp.web.presets.form import shown_name
from webapp.web.states.state_view import chat_state_page, file_view, short
from webapp.weights.state_sheet import DOCUMENT, PROMPT, PrefixSheet

blueprint = Blueprint("states", __name__, url_prefix="/states")
NAME_CHARS = 1000
TEXT_CHARS = 500_000
FORM_BYTES = 4 << 20
TOASTS = ("used", "used_none", "used_own", "deleted", "restored", "renamed", "added", "blended", "copied", "cleared")
MAX_NAMED = 3
CHART_HEIGHT = 40.0
CHART_PITCH, CHART_WIDTH = 10.0, 7.0
MIN_HEIGHT = 0.6
"""Height of a column for a norm near zero, so that it is visible; a norm of 0 has none."""


def states_page(
    page: kit.PageContext,
    toasts: tuple[kit.Toast, ...] = (),
    refusal: Mapping[str, str] | None = None,
    typed: Mapping[str, str] | None = None,
) -> kit.Values:
    """The list with its forms. ``refusal``: the ``form`` that was refused (upload, import, blend, make or copy), with
    ``message``, ``hint`` and ``code``. ``typed``: its input (path, text, make_name, blend_name)."""
    states = page.states
    jobs = job_list(page, MAKING)  # before the states, so that the list includes the result of a finished job
    entries = states.list()
    return {
        "page_title": page.t("nav.states"),
        "toasts": toasts,
        "in_use": in_use(page),
        "rows": [state_row(page, entry) for entry in entries],
        "merged": [
            {"model": entry.name, "url": page.model_url(entry.name), "new_name": f"{Path(entry.name).stem}-state"}
            for entry in states.merged()
        ],
        "parts": _blend_parts(page, entries),
        "jobs": jobs,
        "chats": chats_on_disk(page),
        "folder": str(states.folder),
        "model": page.status.model,
        "can_make": _can_make(page),
        "refusal": refusal,
        "typed": typed or {},
        "bake_kinds": [{"value": kind, "label": page.t(f"states.bake.as_{kind}")} for kind in (DOCUMENT, PROMPT)],
        "presets": bakeable_presets(page),
    }


def details_page(
    page: kit.PageContext, entry: StateEntry, toasts: tuple[kit.Toast, ...] = (), rename_error: str = ""
) -> kit.Values:
    message, hint = page.explain(entry.error, entry.name) if entry.error else ("", "")
    norms = entry.sheet.norms if entry.sheet else ()
    most = max(norms, default=0.0) or 1.0
    return {
        "page_title": entry.name,
        "toasts": toasts,
        "row": state_row(page, entry),
        "pairs": _facts_of_file(page, entry),
        "norms": [(layer, short(norm), f"{100 * norm / most:.0f}") for layer, norm in enumerate(norms)],
        "fits": [(name, page.model_url(name)) for name in entry.fits],
        "error_message": message,
        "error_hint": hint,
        "warning": page.t("states.unknown_version") if entry.has_unknown_version else "",
        "rename_error": rename_error,
    }


def chats_on_disk(page: kit.PageContext) -> kit.Values:
    """``states/_chats.html``: how much of their allowed space the states of chats use. ``share`` is in per cent."""
    count, used = snapshot_use(page.settings)
    limit = page.settings.snapshot_limit_bytes
    key = "states.chats.of" if limit else "states.chats.off"
    return {
        "count": count,
        "shown": page.t(key, used=size_text(used), limit=size_text(limit), count=count),
        "share": min(100, round(100 * used / limit)) if limit else 0,
        "folder": str(page.settings.snapshot_dir),
    }


def bakeable_presets(page: kit.PageContext) -> list[kit.Values]:
    """Presets with a system prompt or tools."""
    rows = page.presets.list()
    return [{"value": row.id, "label": shown_name(row, page.t)} for row in rows if row.system_prompt or row.tools]


def prefix_part(page: kit.PageContext, sheet: PrefixSheet | None) -> kit.Values | None:
    """The text that was prefilled into a state, and whether by the chosen model."""
    if sheet is None:
        return None
    is_stale, model = page.prefixes.is_stale(sheet), page.status.model
    made = kit.moment_text(sheet.made_at)
    words = {"kind": page.t(f"states.prefix.{sheet.kind}"), "title": sheet.title, "model": sheet.model}
    trained = trained_context(sheet.model)
    params = {"tokens": sheet.tokens, "trained": trained, "model": sheet.model}
    return {
        "beyond": page.t("states.view.beyond", **params) if trained is not None and sheet.tokens > trained else "",
        "name": sheet.title,
        "title": page.t("states.prefix.titled" if sheet.title else "states.prefix.untitled", **words),
        "facts": [page.t("states.prefix.tokens", count=sheet.tokens), page.t("states.prefix.by", **words), made],
        "stale": page.t("states.prefix.stale", made_by=sheet.model, model=model) if is_stale else "",
        "again": page.t("states.prefix.again", model=model) if is_stale and _can_make(page) else "",
        "help": page.t(f"states.prefix.help_{sheet.kind}"),
    }


def in_use(page: kit.PageContext) -> kit.Values:
    """The initial state of new answers. ``others``: (name, label) of choices other than files."""
    name, has_own = page.status.state, page.model is not None and page.model.has_time_state
    is_file = bool(name) and name != ZERO_STATE
    if is_file:
        title, text = name, page.t("states.in_use.file_text")
    elif not name and has_own:
        title, text = page.t("states.in_use.own"), page.t("states.in_use.own_text")
    else:
        title, text = page.t("states.in_use.none"), page.t("states.in_use.none_text")
    others = [("", page.t("states.in_use.use_own" if has_own else "states.in_use.use_none"))] if name else []
    if has_own and name != ZERO_STATE:
        others.append((ZERO_STATE, page.t("states.in_use.use_none")))
    return {
        "title": title,
        "text": text,
        "model": page.status.model,
        "state_url": url_for("states.details", name=name) if is_file and name in page.states.names() else "",
        "digest": page.status.state_digest[:12] if is_file else "",
        "others": others,
    }


def state_row(page: kit.PageContext, entry: StateEntry) -> kit.Values:
    """``why_not``: why the chosen model cannot use the state; "" if it can."""
    sheet, is_used = entry.sheet, entry.name == page.status.state
    prefix = prefix_part(page, sheet.prefix if sheet else None)
    why_not = "" if is_used or entry.error else _why_not(page, entry)
    return {
        "name": entry.name,
        "html_id": kit.html_id(entry.name),
        "url": url_for("states.details", name=entry.name),
        "file_url": url_for("states.file", name=entry.name),
        "badges": _badges(page, entry, is_used),
        "text": page.explain(entry.error, entry.name)[0] if entry.error else _fits_text(page, entry),
        "error_code": entry.error.code if entry.error else "",
        "facts": _facts(page, entry),
        "is_used": is_used,
        "can_use": sheet is not None and not is_used and not why_not,
        "why_not": "" if prefix and prefix["again"] else why_not,
        "prefix": prefix,
        "chat_url": _chat_url(page, entry) if sheet is not None and not why_not else "",
        "chart": norm_chart(page, sheet.norms) if sheet else None,
    }


@describes(MAKING)
def _describe_making(page: kit.PageContext, job: Job) -> kit.Values:
    words = {"running": "states.making.running_text", "done": "states.making.done_text"}
    text = page.t(words[job.status], **job.details) if job.status in words else ""
    actions = []
    if job.status == DONE:
        url = url_for("states.details", name=job.details["name"])
        actions = [{"url": url, "label": page.t("states.making.show"), "icon": "layers", "is_link": True}]
    return {"text": text, "actions": actions}


def norm_chart(page: kit.PageContext, norms: Sequence[float]) -> kit.Values:
    """The norm of each layer as columns of an SVG, which needs no script or inline style. The largest norm has the
    highest column."""
    most = max(norms, default=0.0)
    columns = []
    for layer, norm in enumerate(norms):
        height = max(CHART_HEIGHT * norm / most, MIN_HEIGHT) if norm > 0 and most > 0 else 0.0
        columns.append(
            {
                "x": f"{CHART_PITCH * layer:g}",
                "y": f"{CHART_HEIGHT - height:.2f}",
                "width": f"{CHART_WIDTH:g}",
                "height": f"{height:.2f}",
                "title": page.t("states.chart.layer", layer=layer, norm=short(norm)),
            }
        )
    least = short(min(norms, default=0.0))
    return {
        "view_box": f"0 0 {CHART_PITCH * len(norms) - (CHART_PITCH - CHART_WIDTH):g} {CHART_HEIGHT:g}",
        "label": page.t("states.chart.label", count=len(norms), least=least, most=short(most)),
        "columns": columns,
    }


def _badges(page: kit.PageContext, entry: StateEntry, is_used: bool) -> list[kit.Values]:
    found = [{"text": page.t("states.badge.in_use"), "kind": "accent"}] if is_used else []
    if entry.error is not None:
        found.append({"text": page.t("states.badge.unusable"), "kind": "red"})
    elif entry.sheet is not None and entry.sheet.prefix is not None:
        found.append({"text": page.t(f"states.prefix.{entry.sheet.prefix.kind}"), "kind": ""})
        found.append({"text": f"RWKV-{entry.sheet.architecture}", "kind": ""})
    elif entry.has_unknown_version:
        found.append({"text": page.t("states.badge.unknown"), "kind": "amber"})
    else:
        found.append({"text": f"RWKV-{entry.sheet.architecture}" if entry.sheet else "", "kind": ""})
    return found


def _fits_text(page: kit.PageContext, entry: StateEntry) -> str:
    if not entry.fits:
        return str(page.t("states.fits.none"))
    names = page.t("states.list_comma").join(entry.fits[:MAX_NAMED])
    more = len(entry.fits) - MAX_NAMED
    if more > 0:
        return str(page.t("states.fits.more", names=names, more=more))
    return str(page.t("states.fits.some", names=names))


def _facts(page: kit.PageContext, entry: StateEntry) -> list[str]:
    size = size_text(entry.size_bytes)
    if entry.sheet is None:
        return [size]
    prefix = prefix_part(page, entry.sheet.prefix)
    if prefix:
        return [*prefix["facts"], size]
    layers = page.t("states.fact.layers", count=entry.sheet.n_layer)
    return [layers, page.t("states.fact.width", width=entry.sheet.n_embd), size]


def _facts_of_file(page: kit.PageContext, entry: StateEntry) -> list[tuple[str, str]]:
    t, sheet = page.t, entry.sheet
    changed = kit.moment_text(entry.changed_at)
    of_file = [(t("states.about.size"), size_text(entry.size_bytes)), (t("states.about.changed"), changed)]
    if sheet is None:
        return of_file
    version = t("states.version.unknown")
    if sheet.architecture:
        version = t(f"states.version.{sheet.known_from}", version=f"RWKV-{sheet.architecture}")
    return [
        (t("states.about.version"), version),
        (t("states.about.layers"), str(sheet.n_layer)),
        (t("states.about.heads"), f"{sheet.n_head} × {sheet.head_size}"),
        (t("states.about.width"), str(sheet.n_embd)),
        *of_file,
        (t("states.about.digest"), sheet.digest),
    ]


def _chat_url(page: kit.PageContext, entry: StateEntry) -> str:
    """For a new chat that starts from it; with the preset whose prompt and tools were prefilled, if it still exists."""
    sheet = entry.sheet.prefix if entry.sheet else None
    presets = page.presets.list() if sheet is not None and sheet.kind != DOCUMENT else ()
    found = next((row.id for row in presets if sheet is not None and shown_name(row, page.t) == sheet.title), None)
    return url_for("chat.index", state=entry.name, preset=found)


def _why_not(page: kit.PageContext, entry: StateEntry) -> str:
    """Checks only version and sizes; applying the state checks everything."""
    config = page.model.config if page.model else None
    if config is None:
        return str(page.t("states.why_not.no_model"))
    if entry.sheet is None or entry.sheet.fits(config):
        return ""
    return str(page.t("states.why_not.model", model=page.status.model))


def _blend_parts(page: kit.PageContext, entries: Sequence[StateEntry]) -> list[kit.Values]:
    """The states that can be blended, then the zero state, which weakens the others. Empty if no state is usable."""
    usable = [entry for entry in entries if entry.sheet is not None]
    rows = [(e.name, e.name, kit.html_id(e.name), " · ".join(_facts(page, e)[:2])) for e in usable]
    if rows:
        rows.append((ZERO_STATE, page.t("states.blend.zero"), "zero", page.t("states.blend.zero_text")))
    names = ("name", "label", "html_id", "facts")
    return [{**dict(zip(names, row, strict=True)), "weight": "0"} for row in rows]


def _can_make(page: kit.PageContext) -> bool:
    try:
        config = page.model.config if page.model else None
        return config is not None and config.major > 4 and page.manager.tokenizer() is not None
    except RoostError:
        return False


# routes


@blueprint.get("")
def index() -> Response:
    page = kit.current_page()
    return kit.render_page("states/page.html", states_page(page, page.done_toast("states.said", TOASTS)))


@blueprint.get("/<path:name>")
def details(name: str) -> Response:
    page = kit.current_page()
    entry = page.states.entry(name)
    shown = details_page(page, entry, page.done_toast("states.said", TOASTS))
    view = file_view(page, entry, request.args.get("with", "")[:NAME_CHARS])
    return kit.render_page("states/details.html", {**shown, "view": view})


@blueprint.get("/of-chat")
def of_chat() -> BaseResponse | Response:
    """The state of the ``chat``, compared with the state ``with``."""
    chat_id = request.args.get("chat", "")[: kit.ID_CHARS]
    if not chat_id:
        return redirect("/", 303)
    page = kit.current_page()
    return kit.render_page(
        "states/chat.html", chat_state_page(page, chat_id, request.args.get("with", "")[:NAME_CHARS])
    )


@blueprint.post("/of-chat")
def load_for_chat() -> BaseResponse:
    """Loads the chosen model, so that its state can be shown."""
    kit.current_page().manager.begin_loading()
    return redirect(url_for("states.of_chat", chat=request.form.get("chat", "")[: kit.ID_CHARS]), 303)


@blueprint.get("/file")
def file() -> BaseResponse:
    """Downloads the file ``?name=``."""
    entry = kit.current_page().states.entry(request.args.get("name", "")[:NAME_CHARS])
    return send_file(
        entry.path, mimetype="application/octet-stream", as_attachment=True, download_name=entry.path.name, max_age=0
    )


@blueprint.post("/do")
def do() -> BaseResponse | Response:
    """The undo command of a toast."""
    return _act(lambda page: _said("restored", page.states.restore(kit.undone_id())))


@blueprint.post("/use")
def use() -> BaseResponse | Response:
    """``name`` of a file; "" for the model's own initial state; ``-`` for none."""
    name = request.form.get("name", "")[:NAME_CHARS]

    def use_it(page: kit.PageContext) -> str:
        page.states.use(name)
        own = "used_own" if page.model and page.model.has_time_state else "used_none"
        return _said({"": own, ZERO_STATE: "used_none"}.get(name, "used"), name, back=True)

    return _act(use_it)


@blueprint.post("/clear-chats")
def clear_chats() -> BaseResponse | Response:
    """Deletes the states of chats on disk. The chats remain and are prefilled again when needed."""
    return _act(lambda page: _said("cleared", str(clear_snapshots(page.settings))))


@blueprint.post("/delete")
def delete() -> BaseResponse | Response:
    return _act(lambda page: _said("deleted", _name(), undo=page.states.delete(_name()).id))


@blueprint.post("/rename")
def rename() -> BaseResponse | Response:
    page = kit.current_page()
    try:
        name = page.states.rename(_name(), request.form.get("new_name", "")[:NAME_CHARS])
    except FileMissing:
        raise
    except RoostError as exc:
        shown = details_page(page, page.states.entry(_name()), rename_error=page.sentences(exc))
        return kit.render_page("states/details.html", shown, status=422)
    return redirect(url_for("states.details", name=name, said="renamed", about=name), 303)


@blueprint.post("/upload")
def upload() -> BaseResponse | Response:
    found = request.files.get("file")
    if found is None or not found.filename:
        return _refuse("upload", RoostError("file_name_unusable", name="", endings=" ".join(STATE_ENDINGS)))
    stream = cast(BinaryIO, found.stream)
    return _new("upload", "added", lambda page: page.states.add(found.filename or "", stream))


@blueprint.post("/import")
def import_() -> BaseResponse | Response:
    path = request.form.get("path", "")[: 4 * NAME_CHARS]
    return _new("import", "added", lambda page: page.states.import_path(path), {"path": path})


@blueprint.post("/blend")
def blend() -> BaseResponse | Response:
    """Each ``part`` has the ``weight`` at the same position; parts without a weight, or with 0, are left out."""
    name = request.form.get("name", "")[:NAME_CHARS]
    return _new("blend", "blended", lambda page: page.states.blend(_parts(), name), {"blend_name": name})


@blueprint.post("/copy-out")
def copy_out() -> BaseResponse | Response:
    name = request.form.get("name", "")[:NAME_CHARS]
    model = request.form.get("model", "")[:NAME_CHARS]
    return _new("copy", "copied", lambda page: page.states.copy_out(model, name))


@blueprint.post("/make")
def make() -> BaseResponse | Response:
    request.max_form_memory_size = FORM_BYTES
    text, name = request.form.get("text", "")[:TEXT_CHARS], request.form.get("name", "")[:NAME_CHARS]
    try:
        kit.current_page().states.make(text, name)
    except RoostError as exc:
        return _refuse("make", exc, {"text": text, "make_name": name})
    return redirect(url_for("states.index"), 303)


@blueprint.post("/bake")
def bake() -> BaseResponse | Response:
    """A ``file``, otherwise ``text``, as a ``kind``: document or prompt. The default name is the file's."""
    request.max_form_memory_size = FORM_BYTES
    form = request.form
    text, name, kind = form.get("text", "")[:TEXT_CHARS], form.get("name", "")[:NAME_CHARS].strip(), form.get("kind")
    given = request.files.get("file")
    title = display_name(given.filename) if given is not None and given.filename else ""
    page = kit.current_page()
    try:
        if given is not None and title:
            data = given.stream.read(DOCUMENT_BYTES + 1)
            text = file_text(page.manager, given.filename or "", data, reads_html=True)
        name = name or Path(title).stem
        source = PrefixSource(PROMPT, name, text.strip()) if kind == PROMPT else source_of_document(title or name, text)
        if not text.strip():
            raise RequestError("prompt_empty")
        page.prefixes.bake(source, name)
    except RoostError as exc:
        return _refuse("bake", exc, {"bake_text": "" if title else text, "bake_name": name, "bake_kind": kind or ""})
    return redirect(url_for("states.index"), 303)


@blueprint.post("/bake-preset")
def bake_preset() -> BaseResponse | Response:
    """From the system prompt and tools of the preset ``preset``."""
    name = request.form.get("name", "")[:NAME_CHARS].strip()
    page = kit.current_page()
    try:
        preset = page.presets.get(request.form.get("preset", "")[:NAME_CHARS])
        title = shown_name(preset, page.t)
        source = source_of_preset(preset, page.tools.list(), title)
        page.prefixes.bake(source, name or title)
    except RoostError as exc:
        return _refuse("bake-preset", exc, {"preset_name": name})
    return redirect(url_for("states.index"), 303)


@blueprint.post("/bake-again")
def bake_again() -> BaseResponse | Response:
    """Makes ``name`` again with the model that is chosen now."""

    def start(page: kit.PageContext) -> str:
        page.prefixes.bake_again(_name())
        return url_for("states.index")

    return _act(start)


def _parts() -> list[tuple[str, float]]:
    names, weights = request.form.getlist("part"), request.form.getlist("weight")
    found: list[tuple[str, float]] = []
    for name, text in zip(names, weights, strict=False):
        try:
            weight = float(text.strip().replace(",", ".") or 0)
        except ValueError as exc:
            raise WeightsError("blend_invalid", reason=Text("reason.common.weights_not_negative")) from exc
        if weight != 0:
            found.append((name[:NAME_CHARS], weight))
    return found


def _new(
    form: str, said: str, make_file: Callable[[kit.PageContext], str], typed: dict[str, str] | None = None
) -> BaseResponse | Response:
    """An action that creates a file. If it is refused, the form is shown again with its input and the reason."""
    try:
        return redirect(_said(said, make_file(kit.current_page())), 303)
    except RoostError as exc:
        return _refuse(form, exc, typed)


def _refuse(form: str, exc: RoostError, typed: dict[str, str] | None = None) -> Response:
    page = kit.fresh_page()
    message, hint = page.explain(exc)
    shown = states_page(page, refusal={"form": form, "message": message, "hint": hint, "code": exc.code}, typed=typed)
    return kit.render_page("states/page.html", shown, status=kit.refused_status(exc))


def _act(action: Callable[[kit.PageContext], str]) -> BaseResponse | Response:
    """Runs the action and redirects to the URL that it returns. An error is shown as a toast on the list."""
    try:
        return redirect(action(kit.current_page()), 303)
    except RoostError as exc:
        page = kit.fresh_page()
        shown = states_page(page, (page.error_toast(exc, _name()),))
        return kit.render_page("states/page.html", shown, status=max(exc.status, 400))


def _said(said: str, name: str, undo: str = "", back: bool = False) -> str:
    """The URL of the page with the message: the list, or the state's page if the form was there."""
    params: dict[str, Any] = {"said": said, "about": name or None, "undo": undo or None}
    if back and request.form.get("from") == "details":
        return url_for("states.details", name=request.form.get("shown", name), **params)
    return url_for("states.index", **params)


def _name() -> str:
    return request.form.get("name", "")[:NAME_CHARS]
