"""The slices of an upload. JSON for the page's script (static/js/models.js); an error names the byte to go on at."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request

from webapp.errors import FileEmpty, RoostError
from webapp.services.library.uploads import Upload
from webapp.web.models.desk import Desk, the_desk

blueprint = Blueprint("uploads", __name__, url_prefix="/uploads")
NAME_CHARS = 1000
DIGITS = 18


@blueprint.post("")
def start() -> tuple[Response, int] | Response:
    """``name``, ``size`` in bytes and ``stamp``, the file's date: one that stopped halfway is found again by them."""
    desk = the_desk()
    name = request.form.get("name", "")[:NAME_CHARS]
    size = _number(request.form.get("size", ""))
    return _answer(desk, lambda: _described(desk.files.uploads.start(name, size, request.form.get("stamp", "")[:64])))


@blueprint.put("/<upload_id>")
def write(upload_id: str) -> tuple[Response, int] | Response:
    """The body is the slice that begins at byte ``offset``; the last one makes it a file of the library."""
    desk = the_desk()
    offset = _number(request.args.get("offset", ""))
    return _answer(desk, lambda: _take(desk, upload_id, offset))


@blueprint.delete("/<upload_id>")
def discard(upload_id: str) -> tuple[Response, int] | Response:
    desk = the_desk()
    desk.files.uploads.discard(upload_id)
    return jsonify(ok=True)


def _take(desk: Desk, upload_id: str, offset: int) -> dict[str, Any]:
    if not request.content_length:
        raise FileEmpty(path=upload_id)
    upload = desk.files.uploads.write(upload_id, offset, request.stream)
    if upload.done_bytes < upload.size_bytes:
        return _described(upload)
    name = desk.files.finish_upload(upload_id)
    return {**_described(upload), "is_done": True, "name": name, "text": desk.t("models.said.uploaded", name=name)}


def _described(upload: Upload) -> dict[str, Any]:
    return {"id": upload.id, "name": upload.name, "offset": upload.done_bytes, "size": upload.size_bytes}


def _answer(desk: Desk, deed: Any) -> tuple[Response, int] | Response:
    try:
        return jsonify(deed())
    except RoostError as exc:
        message, hint = desk.said(exc)
        told = {"code": exc.code, "message": message, "hint": hint, "offset": exc.params.get("expected")}
        return jsonify(error=told), exc.status


def _number(text: str) -> int:
    """-1 for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else -1
