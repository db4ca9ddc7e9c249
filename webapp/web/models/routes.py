"""Pages of models, and actions on their files. With htmx, an action returns the changed parts of the page; without it,
the browser is redirected to a page that reports it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, jsonify, redirect, request, url_for
from msgspec.structs import replace
from werkzeug.wrappers import Response as BaseResponse

from webapp.engine.options import EngineOptions
from webapp.errors import ModelNotFound, RoostError, WeightsError
from webapp.services.library.model_files import Parts, Upload
from webapp.services.presets.fields import checked_fields
from webapp.services.strategy import strategy_on_load
from webapp.web.jobs import job_list, strip_jobs
from webapp.web.kit.page import PageContext, Toast, current_page, fresh_page, render_page, undone_id, wants_fragment
from webapp.web.login import page_before
from webapp.web.models import downloads
from webapp.web.models.views import (
    JOBS,
    PAGE,
    Filter,
    activity,
    details_page,
    import_form,
    model_list,
    models_page,
    read_filter,
    tensor_rows,
    trash,
)

blueprint = Blueprint("models", __name__, url_prefix="/models")
blueprint.register_blueprint(downloads.blueprint)
uploads = Blueprint("uploads", __name__, url_prefix="/uploads")  # registered below, with its routes
NAME_CHARS = 1000
TOASTS = ("deleted", "restored", "renamed", "imported", "importing", "emptied")


@blueprint.get("")
def index() -> Response:
    page = current_page()
    return render_page("models/page.html", models_page(page, _filter(), page.done_toast("models.said", TOASTS)))


@blueprint.get("/rows")
def rows() -> Response | BaseResponse:
    """The rows from number ``from``, for the end of the list."""
    if not wants_fragment():
        return redirect(url_for("models.index"), 303)
    start = request.args.get("from", 0, type=int)
    wanted = replace(_filter(), count=PAGE)
    return render_page("models/_rows.html", {"list": model_list(current_page(), wanted, max(start, 0))})


@blueprint.get("/list")
def list_() -> Response | BaseResponse:
    """The list for a changed filter."""
    if not wants_fragment():
        return redirect(url_for("models.index", q=_filter().query, kind=_filter().kind), 303)
    return render_page("models/_list.html", {"list": model_list(current_page(), _filter())})


@blueprint.get("/news")
def news() -> Response:
    """Changes since ``list`` and ``activity``, which the open page sends; 204 if there are none."""
    page = current_page()
    now = activity(page)
    is_list_old = page.model_files.revision() != request.args.get("list")
    is_activity_old = now["revision"] != request.args.get("activity")
    if not (is_list_old or is_activity_old):
        return Response(status=204, headers={"Cache-Control": "no-store"})
    changed: dict[str, object] = (
        {"activity": now, "jobs": job_list(page, *JOBS), "news_of_strip": strip_jobs(page)} if is_activity_old else {}
    )
    if is_list_old:
        changed |= {"list": model_list(page, _filter()), "trash": trash(page)}
    return render_page("models/_news.html", changed)


@blueprint.get("/<path:name>")
def details(name: str) -> Response:
    page = current_page()
    entry, toasts = page.manager.library.entry(name), page.done_toast("models.said", TOASTS)
    return render_page("models/details.html", details_page(page, entry, toasts))


@blueprint.get("/tensors")
def tensors() -> Response:
    """The tensors of ``block``, "" for those outside the blocks; all if it is missing."""
    found = current_page().manager.library.entry(request.args.get("name", "")[:NAME_CHARS]).inspection
    if found is None:
        raise ModelNotFound(name=request.args.get("name", "")[:NAME_CHARS])
    shown = {"tensors": tensor_rows(found, request.args.get("block"))}
    return render_page("models/tensors.html", shown, "models/_tensors.html")


@blueprint.post("/do")
def do() -> Response | BaseResponse:
    """The undo command of a toast."""
    return _act("restored", lambda page: {"name": page.model_files.restore(undone_id())})


@blueprint.post("/load")
def load() -> Response | BaseResponse:
    """Without a strategy, uses the current one if the file can run with it. ``anyway`` loads a model that was refused
    because it does not fit. Without an adapter, uses none."""
    given = request.form.get("strategy", "")[:NAME_CHARS]

    def act(page: PageContext) -> None:
        if request.form.get("anyway"):
            page.manager.load_anyway()
            return
        strategy = given or strategy_on_load(page.manager.library, _name(), page.status.chosen_strategy)
        page.manager.load(model=_name(), strategy=strategy, options=_with_adapter(page))

    return _act("", act)


def _with_adapter(page: PageContext) -> EngineOptions:
    """The current options with the form's adapter."""
    given = {name: request.form.get(name, "")[:NAME_CHARS] for name in ("adapter_file", "adapter_alpha")}
    checked = checked_fields({**given, "adapter_start": request.form.get("adapter_start", "")[:NAME_CHARS]})
    return page.manager.options().with_adapter(
        checked["adapter_file"], checked["adapter_alpha"] or 0.0, checked["adapter_start"]
    )


@blueprint.post("/unload")
def unload() -> Response | BaseResponse:
    return _act("", lambda page: page.manager.unload())


@blueprint.post("/cancel")
def cancel() -> Response | BaseResponse:
    return _act("", lambda page: page.manager.cancel_load())


@blueprint.post("/delete")
def delete() -> Response | BaseResponse:
    def act(page: PageContext) -> dict[str, str]:
        return {"name": _name(), "undo": page.model_files.delete(_name()).id}

    return _act("deleted", act, leaves_details=True)


@blueprint.post("/rename")
def rename() -> Response | BaseResponse:
    page = current_page()
    try:
        name = page.model_files.rename(_name(), request.form.get("new_name", "")[:NAME_CHARS])
    except ModelNotFound:
        raise
    except RoostError as exc:
        entry = page.manager.library.entry(_name())
        shown = details_page(page, entry, rename_error=page.sentences(exc))
        return render_page("models/details.html", shown, status=422)
    return redirect(url_for("models.details", name=name, said="renamed", about=name), 303)


@blueprint.post("/import")
def import_() -> Response | BaseResponse:
    page = current_page()
    path, mode = request.form.get("path", "")[: 4 * NAME_CHARS], request.form.get("mode", "copy")
    try:
        job = page.model_files.start_import(path, mode)
    except RoostError as exc:
        form = import_form(page, path, mode, *page.explain(exc))
        if wants_fragment():
            return render_page("models/_import.html", {"import_form": form})
        return render_page("models/page.html", models_page(page, _filter(), form=form), status=422)
    said = "imported" if job.is_over else "importing"
    if not wants_fragment():
        return redirect(url_for("models.index", said=said, about=job.title), 303)
    return _news(page, (_toast(page, said, {"name": job.title}),), clears_import=True)


@blueprint.post("/uploads/discard")
def discard_upload() -> Response | BaseResponse:
    return _act("", lambda page: page.model_files.uploads.discard(request.form.get("id", "")))


@blueprint.post("/trash/restore")
def restore() -> Response | BaseResponse:
    return _act("restored", lambda page: {"name": page.model_files.restore(request.form.get("id", ""))})


@blueprint.post("/trash/empty")
def empty_trash() -> Response | BaseResponse:
    return _act("emptied", lambda page: {"size": page.model_files.empty_trash()})


def _act(said: str, action: Callable[[PageContext], Any], leaves_details: bool = False) -> Response | BaseResponse:
    """Runs the action and returns the response; ``said``: key of the success message, "" for none."""
    try:
        words = action(current_page()) or {}
    except RoostError as exc:
        if not wants_fragment():
            raise
        page = fresh_page()
        return _news(page, (page.error_toast(exc, _name()),))
    page = fresh_page()
    if wants_fragment():
        return _news(page, (_toast(page, said, words),) if said else ())
    url = url_for("models.index") if leaves_details else page_before(url_for("models.index"))
    return redirect(f"{url}?{_query(said, words)}" if said else url, 303)


def _query(said: str, words: dict[str, str]) -> str:
    return urlencode({"said": said, "about": words.get("name", ""), "undo": words.get("undo", "")})


def _news(page: PageContext, toasts: tuple[Toast, ...], clears_import: bool = False) -> Response:
    shown = {"list": model_list(page, _filter()), "activity": activity(page), "trash": trash(page), "toasts": toasts}
    shown |= {"jobs": job_list(page, *JOBS), "news_of_strip": strip_jobs(page)}
    if clears_import:
        shown["import_form"] = import_form(page)
    return render_page("models/_news.html", shown)


def _toast(page: PageContext, said: str, words: dict[str, str]) -> Toast:
    undo = f"restore:{words['undo']}" if "undo" in words else ""
    return Toast("done", page.t(f"models.said.{said}", name=words.get("name", "")), undo=undo)


def _filter() -> Filter:
    return read_filter(dict(request.values.items()))


def _name() -> str:
    return request.form.get("name", "")[:NAME_CHARS]


DIGITS = 18
"""For an upload's size and offset."""


# the slices of an upload: JSON for the page's script (static/js/models.js); an error contains the offset to continue at


@uploads.post("", endpoint="start")
def start_upload() -> tuple[Response, int] | Response:
    """``name``, ``size`` in bytes and ``stamp``, the file's date; they identify an unfinished upload. For a folder also
    ``parts``, a JSON list of its files' names and sizes, in the order of their bytes."""
    page = current_page()
    name, stamp = request.form.get("name", "")[:NAME_CHARS], request.form.get("stamp", "")[:64]
    size = _number(request.form.get("size", ""))

    def start() -> dict[str, Any]:
        parts = _parts(request.form.get("parts", ""), name)
        return _upload_facts(page.model_files.uploads.start(name, size, stamp, parts))

    return _upload_answer(page, start)


@uploads.put("/<upload_id>", endpoint="write")
def write_upload(upload_id: str) -> tuple[Response, int] | Response:
    """The body is the slice at byte ``offset``; the last slice completes the file in the library."""
    page = current_page()
    offset = _number(request.args.get("offset", ""))
    return _upload_answer(page, lambda: _take_slice(page, upload_id, offset))


@uploads.delete("/<upload_id>", endpoint="discard")
def discard_slices(upload_id: str) -> tuple[Response, int] | Response:
    page = current_page()
    page.model_files.uploads.discard(upload_id)
    return jsonify(ok=True)


def _take_slice(page: PageContext, upload_id: str, offset: int) -> dict[str, Any]:
    if not request.content_length:
        raise WeightsError("file_empty", path=upload_id)
    upload = page.model_files.uploads.write(upload_id, offset, request.stream)
    if upload.done_bytes < upload.size_bytes:
        return _upload_facts(upload)
    name = page.model_files.finish_upload(upload_id)
    return {**_upload_facts(upload), "is_done": True, "name": name, "text": page.t("models.said.uploaded", name=name)}


def _upload_facts(upload: Upload) -> dict[str, Any]:
    return {"id": upload.id, "name": upload.name, "offset": upload.done_bytes, "size": upload.size_bytes}


def _upload_answer(page: PageContext, action: Any) -> tuple[Response, int] | Response:
    try:
        return jsonify(action())
    except RoostError as exc:
        return jsonify(error={**page.error_values(exc), "offset": exc.params.get("expected")}), exc.status


def _parts(text: str, name: str) -> Parts:
    """Raises ``file_name_unusable`` if it is not a list of names and sizes."""
    try:
        found = json.loads(text) if text else []
        parts = tuple((part, size) for part, size in found)
        if not all(isinstance(part, str) and type(size) is int and size < 10**DIGITS for part, size in parts):
            raise ValueError(text)
    except (ValueError, TypeError, RecursionError):
        raise RoostError("file_name_unusable", name=name, endings="") from None
    return parts


def _number(text: str) -> int:
    """-1 if it is not a number."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else -1


blueprint.register_blueprint(uploads)
