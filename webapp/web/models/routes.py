"""Pages of models, and what is done to their files. With htmx a deed answers with what changed on the page; without,
the browser is sent back to a page that says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode, urlsplit

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import ModelNotFound, RoostError, sentences
from webapp.services.strategy.on_load import strategy_on_load
from webapp.web.fragments import render_page, wants_fragment
from webapp.web.kit.page import Toast
from webapp.web.login import local_path
from webapp.web.models import upload_routes
from webapp.web.models.activity_view import activity, import_form, trash_view
from webapp.web.models.contexts import Filter, News
from webapp.web.models.desk import Desk, the_desk
from webapp.web.models.details_view import details_page, tensor_rows
from webapp.web.models.list_view import PAGE, model_list, read_filter
from webapp.web.models.page_view import models_page

blueprint = Blueprint("models", __name__, url_prefix="/models")
blueprint.register_blueprint(upload_routes.blueprint)
NAME_CHARS = 1000
UNDO = re.compile(r"restore:([0-9a-f]{32})")
SAID = ("deleted", "restored", "renamed", "imported", "importing", "emptied")


@blueprint.get("")
def index() -> Response:
    desk = the_desk()
    page = models_page(desk, _filter(), _said_toast(desk))
    return render_page("models/page.html", page)


@blueprint.get("/rows")
def rows() -> Response | BaseResponse:
    """The rows from the one numbered ``from``, to stand below those that are there."""
    if not wants_fragment():
        return redirect(url_for("models.index"), 303)
    start = request.args.get("from", 0, type=int)
    wanted = replace(_filter(), count=PAGE)
    return render_page("models/_rows.html", {"list": model_list(the_desk(), wanted, max(start, 0))})


@blueprint.get("/list")
def list_() -> Response | BaseResponse:
    """The list of a filter that changed."""
    if not wants_fragment():
        return redirect(url_for("models.index", q=_filter().query, kind=_filter().kind), 303)
    return render_page("models/_list.html", {"list": model_list(the_desk(), _filter())})


@blueprint.get("/news")
def news() -> Response:
    """Of an open page that knows ``list`` and ``activity``: what changed since; 204 when nothing did."""
    desk = the_desk()
    now = activity(desk)
    is_list_old = desk.files.revision() != request.args.get("list")
    is_activity_old = now.revision != request.args.get("activity")
    if not (is_list_old or is_activity_old):
        return Response(status=204, headers={"Cache-Control": "no-store"})
    found = News(
        list=model_list(desk, _filter()) if is_list_old else None,
        activity=now if is_activity_old else None,
        trash=trash_view(desk) if is_list_old else None,
    )
    return render_page("models/_news.html", found)


@blueprint.get("/<path:name>")
def details(name: str) -> Response:
    desk = the_desk()
    return render_page("models/details.html", details_page(desk, desk.library.entry(name), _said_toast(desk)))


@blueprint.get("/tensors")
def tensors() -> Response:
    """Those of ``block``, "" for those of none; all of them without it."""
    found = the_desk().library.entry(request.args.get("name", "")[:NAME_CHARS]).inspection
    if found is None:
        raise ModelNotFound(name=request.args.get("name", "")[:NAME_CHARS])
    shown = {"tensors": tensor_rows(found, request.args.get("block"))}
    return render_page("models/tensors.html", shown, "models/_tensors.html")


@blueprint.post("/do")
def do() -> Response | BaseResponse:
    """The undo of a toast."""
    match = UNDO.fullmatch(request.form.get("do", ""))
    return _deed("restored", lambda desk: {"name": desk.files.restore(match[1] if match else "")})


@blueprint.post("/load")
def load() -> Response | BaseResponse:
    """Without a strategy, with the one in use where the file can be run with it; with ``anyway`` the one that was
    refused because it does not fit."""
    given = request.form.get("strategy", "")[:NAME_CHARS]

    def deed(desk: Desk) -> None:
        if request.form.get("anyway"):
            desk.manager.load_anyway()
            return
        strategy = given or strategy_on_load(desk.library, _name(), desk.status.strategy)
        desk.manager.load(model=_name(), strategy=strategy)

    return _deed("", deed)


@blueprint.post("/unload")
def unload() -> Response | BaseResponse:
    return _deed("", lambda desk: desk.manager.unload())


@blueprint.post("/cancel")
def cancel() -> Response | BaseResponse:
    return _deed("", lambda desk: desk.manager.cancel_load())


@blueprint.post("/delete")
def delete() -> Response | BaseResponse:
    def deed(desk: Desk) -> dict[str, str]:
        trashed = desk.files.delete(_name())
        return {"name": _name(), "undo": f"restore:{trashed.id}"}

    return _deed("deleted", deed, leaves_details=True)


@blueprint.post("/rename")
def rename() -> Response | BaseResponse:
    desk = the_desk()
    try:
        name = desk.files.rename(_name(), request.form.get("new_name", "")[:NAME_CHARS])
    except ModelNotFound:
        raise
    except RoostError as exc:
        entry = desk.library.entry(_name())
        page = details_page(desk, entry, rename_error=sentences(*desk.said(exc)))
        return render_page("models/details.html", page, status=422)
    return redirect(url_for("models.details", name=name, said="renamed", about=name), 303)


@blueprint.post("/import")
def import_() -> Response | BaseResponse:
    desk = the_desk()
    path, mode = request.form.get("path", "")[: 4 * NAME_CHARS], request.form.get("mode", "copy")
    try:
        job = desk.files.start_import(path, mode)
    except RoostError as exc:
        form = import_form(desk, path, mode, *desk.said(exc))
        if wants_fragment():
            return render_page("models/_import.html", {"import_form": form})
        return render_page("models/page.html", models_page(desk, _filter(), form=form), status=422)
    said = "imported" if job.phase == "done" else "importing"
    if not wants_fragment():
        return redirect(url_for("models.index", said=said, about=job.name), 303)
    return _news(desk, (_toast(desk, said, {"name": job.name}),), clears_import=True)


@blueprint.post("/import/cancel")
def cancel_import() -> Response | BaseResponse:
    """Ends a copy, or takes one that has ended off the page."""
    return _deed("", lambda desk: desk.files.imports.cancel(request.form.get("id", "")))


@blueprint.post("/uploads/discard")
def discard_upload() -> Response | BaseResponse:
    return _deed("", lambda desk: desk.files.uploads.discard(request.form.get("id", "")))


@blueprint.post("/trash/restore")
def restore() -> Response | BaseResponse:
    return _deed("restored", lambda desk: {"name": desk.files.restore(request.form.get("id", ""))})


@blueprint.post("/trash/empty")
def empty_trash() -> Response | BaseResponse:
    return _deed("emptied", lambda desk: {"size": desk.files.empty_trash()})


def _deed(said: str, deed: Callable[[Desk], Any], leaves_details: bool = False) -> Response | BaseResponse:
    """Carries it out and answers; ``said`` is what it is called in the catalogue, "" when there is nothing to say."""
    desk = the_desk()
    try:
        words = deed(desk) or {}
    except RoostError as exc:
        if not wants_fragment():
            raise
        message, hint = desk.said(exc, _name())
        return _news(the_desk(), (Toast("refused", message, hint, is_error=True),))
    if wants_fragment():
        toasts = (_toast(desk, said, words),) if said else ()
        return _news(the_desk(), toasts)
    back = urlsplit(request.headers.get("Referer", ""))
    page = url_for("models.index") if leaves_details or back.netloc != request.host else local_path(back.path)
    return redirect(f"{page}?{_query(said, words)}" if said else page, 303)


def _query(said: str, words: dict[str, str]) -> str:
    return urlencode({"said": said, "about": words.get("name", ""), "undo": words.get("undo", "")})


def _news(desk: Desk, toasts: tuple[Toast, ...], clears_import: bool = False) -> Response:
    found = News(model_list(desk, _filter()), activity(desk), trash_view(desk), toasts)
    form = {"import_form": import_form(desk)} if clears_import else {}
    return render_page("models/_news.html", {**vars(found), **form})


def _toast(desk: Desk, said: str, words: dict[str, str]) -> Toast:
    return Toast("done", desk.t(f"models.said.{said}", name=words.get("name", "")), undo=words.get("undo", ""))


def _said_toast(desk: Desk) -> tuple[Toast, ...]:
    """After a deed that was posted without scripts: what was done, with the button that takes it back."""
    said, undo = request.args.get("said", ""), request.args.get("undo", "")
    if said not in SAID:
        return ()
    words = {"name": request.args.get("about", "")[:NAME_CHARS], "undo": undo if UNDO.fullmatch(undo) else ""}
    return (_toast(desk, said, words),)


def _filter() -> Filter:
    return read_filter(dict(request.values.items()))


def _name() -> str:
    return request.form.get("name", "")[:NAME_CHARS]
