"""Routes of the states pages. GET reads; POST performs an action and redirects to a page that reports it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from flask import Blueprint, Response, redirect, request, send_file, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.chat.messages import display_name
from webapp.errors import FileMissing, RequestError, RoostError, WeightsError
from webapp.i18n import Text
from webapp.manager.library import STATE_ENDINGS
from webapp.manager.target import ZERO_STATE
from webapp.services.generation.prefixes import DOCUMENT_BYTES, Source, document, read_document, source_of_preset
from webapp.services.states import clear_snapshots
from webapp.web.kit.page import PageContext, current_page, fresh_page, render_page, undone_id
from webapp.web.presets.form import shown_name
from webapp.web.states.state_view import chat_state_page, file_view
from webapp.web.states.views import details_page, states_page
from webapp.weights.state_sheet import PROMPT

blueprint = Blueprint("states", __name__, url_prefix="/states")
NAME_CHARS = 1000
ID_CHARS = 64
TEXT_CHARS = 500_000
FORM_BYTES = 4 << 20
SAID = ("used", "used_none", "used_own", "deleted", "restored", "renamed", "added", "blended", "copied", "cleared")


@blueprint.get("")
def index() -> Response:
    page = current_page()
    return render_page("states/page.html", states_page(page, page.done_toast("states.said", SAID)))


@blueprint.get("/<path:name>")
def details(name: str) -> Response:
    page = current_page()
    entry = page.states.entry(name)
    shown = details_page(page, entry, page.done_toast("states.said", SAID))
    view = file_view(page, entry, request.args.get("with", "")[:NAME_CHARS])
    return render_page("states/details.html", {**shown, "view": view})


@blueprint.get("/of-chat")
def of_chat() -> BaseResponse | Response:
    """The state of the ``chat``, against the state ``with``."""
    chat_id = request.args.get("chat", "")[:ID_CHARS]
    if not chat_id:
        return redirect("/", 303)
    page = current_page()
    return render_page("states/chat.html", chat_state_page(page, chat_id, request.args.get("with", "")[:NAME_CHARS]))


@blueprint.post("/of-chat")
def load_for_chat() -> BaseResponse:
    """Loads the chosen model, so that there is a state to look at."""
    current_page().manager.begin_loading()
    return redirect(url_for("states.of_chat", chat=request.form.get("chat", "")[:ID_CHARS]), 303)


@blueprint.get("/file")
def file() -> BaseResponse:
    """The file itself, ``?name=``, to keep or give away."""
    entry = current_page().states.entry(request.args.get("name", "")[:NAME_CHARS])
    return send_file(
        entry.path, mimetype="application/octet-stream", as_attachment=True, download_name=entry.path.name, max_age=0
    )


@blueprint.post("/do")
def do() -> BaseResponse | Response:
    """The undo of a toast."""
    return _act(lambda page: _said("restored", page.states.restore(undone_id())))


@blueprint.post("/use")
def use() -> BaseResponse | Response:
    """``name`` of a file, "" for the model's own beginning, ``-`` for none at all."""
    name = request.form.get("name", "")[:NAME_CHARS]

    def use_it(page: PageContext) -> str:
        page.states.use(name)
        own = "used_own" if page.model and page.model.has_time_state else "used_none"
        return _said({"": own, ZERO_STATE: "used_none"}.get(name, "used"), name, back=True)

    return _act(use_it)


@blueprint.post("/clear-chats")
def clear_chats() -> BaseResponse | Response:
    """Deletes the states of chats on disk; the chats stay and are read again."""
    return _act(lambda page: _said("cleared", str(clear_snapshots(page.settings))))


@blueprint.post("/delete")
def delete() -> BaseResponse | Response:
    return _act(lambda page: _said("deleted", _name(), undo=page.states.delete(_name()).id))


@blueprint.post("/rename")
def rename() -> BaseResponse | Response:
    page = current_page()
    try:
        name = page.states.rename(_name(), request.form.get("new_name", "")[:NAME_CHARS])
    except FileMissing:
        raise
    except RoostError as exc:
        shown = details_page(page, page.states.entry(_name()), rename_error=page.sentences(exc))
        return render_page("states/details.html", shown, status=422)
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
    """``part``s, each with a ``weight`` at the same place; a weight of 0 or nothing leaves a part out."""
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
        current_page().states.make(text, name)
    except RoostError as exc:
        return _refuse("make", exc, {"text": text, "make_name": name})
    return redirect(url_for("states.index"), 303)


@blueprint.post("/bake")
def bake() -> BaseResponse | Response:
    """A ``file``, or else ``text``, as a ``kind``: document or prompt. Without a name it has the file's."""
    request.max_form_memory_size = FORM_BYTES
    form = request.form
    text, name, kind = form.get("text", "")[:TEXT_CHARS], form.get("name", "")[:NAME_CHARS].strip(), form.get("kind")
    given = request.files.get("file")
    title = display_name(given.filename) if given is not None and given.filename else ""
    states = current_page().states
    try:
        if given is not None and title:
            text = read_document(states, given.filename or "", given.stream.read(DOCUMENT_BYTES + 1))
        name = name or Path(title).stem
        source = Source(PROMPT, name, text.strip()) if kind == PROMPT else document(title or name, text)
        if not text.strip():
            raise RequestError("prompt_empty")
        current_page().prefixes.bake(source, name)
    except RoostError as exc:
        return _refuse("bake", exc, {"bake_text": "" if title else text, "bake_name": name, "bake_kind": kind or ""})
    return redirect(url_for("states.index"), 303)


@blueprint.post("/bake-preset")
def bake_preset() -> BaseResponse | Response:
    """System prompt and tools of the preset ``preset``."""
    name = request.form.get("name", "")[:NAME_CHARS].strip()
    page = current_page()
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
    """``name`` for the model that is chosen now."""

    def start(page: PageContext) -> str:
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
    form: str, said: str, make_file: Callable[[PageContext], str], typed: dict[str, str] | None = None
) -> BaseResponse | Response:
    """An action that makes a file. When it is refused its form comes back with what was typed and the reason."""
    try:
        return redirect(_said(said, make_file(current_page())), 303)
    except RoostError as exc:
        return _refuse(form, exc, typed)


def _refuse(form: str, exc: RoostError, typed: dict[str, str] | None = None) -> Response:
    page = fresh_page()
    message, hint = page.explain(exc)
    shown = states_page(page, refusal={"form": form, "message": message, "hint": hint, "code": exc.code}, typed=typed)
    return render_page("states/page.html", shown, status=exc.status if exc.status < 500 else 422)


def _act(action: Callable[[PageContext], str]) -> BaseResponse | Response:
    """Carries an action out and goes to the address it returns. A refusal is a toast on the list."""
    try:
        return redirect(action(current_page()), 303)
    except RoostError as exc:
        page = fresh_page()
        shown = states_page(page, (page.error_toast(exc, _name()),))
        return render_page("states/page.html", shown, status=max(exc.status, 400))


def _said(said: str, name: str, undo: str = "", back: bool = False) -> str:
    """The address of a page that tells it: the list, or the state's own when the form stood there."""
    told: dict[str, Any] = {"said": said, "about": name or None, "undo": undo or None}
    if back and request.form.get("from") == "details":
        return url_for("states.details", name=request.form.get("shown", name), **told)
    return url_for("states.index", **told)


def _name() -> str:
    return request.form.get("name", "")[:NAME_CHARS]
