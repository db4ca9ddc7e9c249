"""Addresses of the states pages. GET reads; POST does something and sends the browser to the page that says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from flask import Blueprint, Response, redirect, request, send_file, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import BlendInvalid, FileMissing, FileNameUnusable, RoostError, sentences
from webapp.manager.library import STATE_ENDINGS
from webapp.manager.target import ZERO_STATE
from webapp.web.chat.contexts import Toast
from webapp.web.fragments import render_page, wants_fragment
from webapp.web.states.contexts import Refusal, Typed
from webapp.web.states.desk import Desk, the_desk
from webapp.web.states.details_view import details_page
from webapp.web.states.page_view import making, states_page

blueprint = Blueprint("states", __name__, url_prefix="/states")
NAME_CHARS = 1000
TEXT_CHARS = 500_000
FORM_BYTES = 4 << 20
UNDO = re.compile(r"restore:([0-9a-f]{32})")
SAID = ("used", "used_none", "used_own", "deleted", "restored", "renamed", "added", "blended", "copied")


@blueprint.get("")
def index() -> Response:
    desk = the_desk()
    return render_page("states/page.html", states_page(desk, _said_toast(desk)))


@blueprint.get("/making")
def show_making() -> Response | BaseResponse:
    """What is being made, or was; it asks again while it runs."""
    if not wants_fragment():
        return redirect(url_for("states.index"), 303)
    return render_page("states/_making.html", {"making": making(the_desk())})


@blueprint.get("/<path:name>")
def details(name: str) -> Response:
    desk = the_desk()
    return render_page("states/details.html", details_page(desk, desk.states.entry(name), _said_toast(desk)))


@blueprint.get("/file")
def file() -> BaseResponse:
    """The file itself, ``?name=``, to keep or give away."""
    entry = the_desk().states.entry(request.args.get("name", "")[:NAME_CHARS])
    return send_file(
        entry.path, mimetype="application/octet-stream", as_attachment=True, download_name=entry.path.name, max_age=0
    )


@blueprint.post("/do")
def do() -> BaseResponse | Response:
    """The undo of a toast."""
    match = UNDO.fullmatch(request.form.get("do", ""))
    return _deed(lambda desk: _said("restored", desk.states.restore(match[1] if match else "")))


@blueprint.post("/use")
def use() -> BaseResponse | Response:
    """``name`` of a file, "" for the model's own beginning, ``-`` for none at all."""
    name = request.form.get("name", "")[:NAME_CHARS]

    def deed(desk: Desk) -> str:
        desk.states.use(name)
        own = "used_own" if desk.model and desk.model.has_time_state else "used_none"
        return _said({"": own, ZERO_STATE: "used_none"}.get(name, "used"), name, back=True)

    return _deed(deed)


@blueprint.post("/delete")
def delete() -> BaseResponse | Response:
    return _deed(lambda desk: _said("deleted", _name(), undo=f"restore:{desk.states.delete(_name()).id}"))


@blueprint.post("/rename")
def rename() -> BaseResponse | Response:
    desk = the_desk()
    try:
        name = desk.states.rename(_name(), request.form.get("new_name", "")[:NAME_CHARS])
    except FileMissing:
        raise
    except RoostError as exc:
        page = details_page(desk, desk.states.entry(_name()), rename_error=sentences(*desk.said(exc)))
        return render_page("states/details.html", page, status=422)
    return redirect(url_for("states.details", name=name, said="renamed", about=name), 303)


@blueprint.post("/upload")
def upload() -> BaseResponse | Response:
    found = request.files.get("file")
    if found is None or not found.filename:
        return _refuse("upload", FileNameUnusable(name="", endings=" ".join(STATE_ENDINGS)))
    stream = cast(BinaryIO, found.stream)
    return _new("upload", "added", lambda desk: desk.states.add(found.filename or "", stream))


@blueprint.post("/import")
def import_() -> BaseResponse | Response:
    path = request.form.get("path", "")[: 4 * NAME_CHARS]
    return _new("import", "added", lambda desk: desk.states.import_path(path), Typed(path=path))


@blueprint.post("/blend")
def blend() -> BaseResponse | Response:
    """``part``s, each with a ``weight`` at the same place; a weight of 0 or nothing leaves a part out."""
    name = request.form.get("name", "")[:NAME_CHARS]
    return _new("blend", "blended", lambda desk: desk.states.blend(_parts(), name), Typed(blend_name=name))


@blueprint.post("/copy-out")
def copy_out() -> BaseResponse | Response:
    name = request.form.get("name", "")[:NAME_CHARS]
    model = request.form.get("model", "")[:NAME_CHARS]
    return _new("copy", "copied", lambda desk: desk.states.copy_out(model, name))


@blueprint.post("/make")
def make() -> BaseResponse | Response:
    request.max_form_memory_size = FORM_BYTES
    text, name = request.form.get("text", "")[:TEXT_CHARS], request.form.get("name", "")[:NAME_CHARS]
    try:
        the_desk().states.make(text, name)
    except RoostError as exc:
        return _refuse("make", exc, Typed(text=text, make_name=name))
    return redirect(url_for("states.index"), 303)


@blueprint.post("/making/close")
def close_making() -> BaseResponse | Response:
    the_desk().states.making.forget()
    return redirect(url_for("states.index"), 303)


def _parts() -> list[tuple[str, float]]:
    names, weights = request.form.getlist("part"), request.form.getlist("weight")
    found: list[tuple[str, float]] = []
    for name, text in zip(names, weights, strict=False):
        try:
            weight = float(text.strip().replace(",", ".") or 0)
        except ValueError as exc:
            raise BlendInvalid(reason="weights are numbers from 0 up, and not all of them 0") from exc
        if weight != 0:
            found.append((name[:NAME_CHARS], weight))
    return found


def _new(form: str, said: str, deed: Callable[[Desk], str], typed: Typed | None = None) -> BaseResponse | Response:
    """A deed that makes a file; refused, its form comes back with what was typed and why."""
    try:
        return redirect(_said(said, deed(the_desk())), 303)
    except RoostError as exc:
        return _refuse(form, exc, typed)


def _refuse(form: str, exc: RoostError, typed: Typed | None = None) -> Response:
    desk = the_desk()
    message, hint = desk.said(exc)
    page = states_page(desk, refusal=Refusal(form, message, hint), typed=typed)
    return render_page("states/page.html", page, status=exc.status if exc.status < 500 else 422)


def _deed(deed: Callable[[Desk], str]) -> BaseResponse | Response:
    """Carries it out and goes where it says; a refusal is a toast on the list."""
    desk = the_desk()
    try:
        return redirect(deed(desk), 303)
    except RoostError as exc:
        message, hint = desk.said(exc, _name())
        toast = Toast("refused", message, hint, is_error=True)
        return render_page("states/page.html", states_page(the_desk(), (toast,)), status=max(exc.status, 400))


def _said(said: str, name: str, undo: str = "", back: bool = False) -> str:
    """The address of a page that tells it: the list, or the state's own when the form stood there."""
    told: dict[str, Any] = {"said": said, "about": name or None, "undo": undo or None}
    if back and request.form.get("from") == "details":
        return url_for("states.details", name=request.form.get("shown", name), **told)
    return url_for("states.index", **told)


def _said_toast(desk: Desk) -> tuple[Toast, ...]:
    said, undo = request.args.get("said", ""), request.args.get("undo", "")
    if said not in SAID:
        return ()
    text = desk.t(f"states.said.{said}", name=request.args.get("about", "")[:NAME_CHARS])
    return (Toast("done", text, undo=undo if UNDO.fullmatch(undo) else ""),)


def _name() -> str:
    return request.form.get("name", "")[:NAME_CHARS]
