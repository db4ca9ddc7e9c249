"""The slices of an upload. JSON for the page's script (static/js/models.js); an error names the byte to go on at."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request

from webapp.errors import RoostError, WeightsError
from webapp.services.library.uploads import Upload
from webapp.web.kit.page import PageContext, current_page
from webapp.web.models.views import files_of

blueprint = Blueprint("uploads", __name__, url_prefix="/uploads")
NAME_CHARS = 1000
DIGITS = 18


@blueprint.post("")
def start() -> tuple[Response, int] | Response:
    """``name``, ``size`` in bytes and ``stamp``, the file's date: one that stopped halfway is found again by them."""
    page = current_page()
    name = request.form.get("name", "")[:NAME_CHARS]
    size = _number(request.form.get("size", ""))
    return _answer(
        page, lambda: _described(files_of(page).uploads.start(name, size, request.form.get("stamp", "")[:64]))
    )


@blueprint.put("/<upload_id>")
def write(upload_id: str) -> tuple[Response, int] | Response:
    """The body is the slice that begins at byte ``offset``; the last one makes it a file of the library."""
    page = current_page()
    offset = _number(request.args.get("offset", ""))
    return _answer(page, lambda: _take(page, upload_id, offset))


@blueprint.delete("/<upload_id>")
def discard(upload_id: str) -> tuple[Response, int] | Response:
    page = current_page()
    files_of(page).uploads.discard(upload_id)
    return jsonify(ok=True)


def _take(page: PageContext, upload_id: str, offset: int) -> dict[str, Any]:
    if not request.content_length:
        raise WeightsError("file_empty", path=upload_id)
    upload = files_of(page).uploads.write(upload_id, offset, request.stream)
    if upload.done_bytes < upload.size_bytes:
        return _described(upload)
    name = files_of(page).finish_upload(upload_id)
    return {**_described(upload), "is_done": True, "name": name, "text": page.t("models.said.uploaded", name=name)}


def _described(upload: Upload) -> dict[str, Any]:
    return {"id": upload.id, "name": upload.name, "offset": upload.done_bytes, "size": upload.size_bytes}


def _answer(page: PageContext, action: Any) -> tuple[Response, int] | Response:
    try:
        return jsonify(action())
    except RoostError as exc:
        message, hint = page.explain(exc)
        told = {"code": exc.code, "message": message, "hint": hint, "offset": exc.params.get("expected")}
        return jsonify(error=told), exc.status


def _number(text: str) -> int:
    """-1 for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else -1
