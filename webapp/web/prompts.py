"""The prompt library: texts that ``/name`` inserts into the composer, asking for their variables.
``static/js/prompts.js`` requests the list; the page manages prompts without scripts too."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.storage.records import storable
from webapp.storage.saved_items import SavedItem, SavedItems
from webapp.web.kit.page import (
    PageContext,
    Values,
    current_page,
    download,
    fresh_page,
    posted_text,
    render_page,
    undone_id,
)

KIND = "prompt"
NAME = re.compile(r"[^\s/{}]{1,60}")
TITLE_CHARS = 200
TEXT_CHARS = 200_000
FORM_BYTES = 2 << 20
IMPORT_CHARS = 8_000_000
MOST_IMPORTED = 1000
WORDS = ("insert", "cancel", "fill", "none", "add", "list")

blueprint = Blueprint("prompts", __name__, url_prefix="/prompts")


def prompts_of(page: PageContext) -> SavedItems:
    return SavedItems(page.database, KIND)


@blueprint.get("")
def index() -> Response:
    page = current_page()
    return render_page("prompts/page.html", prompts_page(page))


def prompts_page(
    page: PageContext, form: Values | None = None, error: RoostError | None = None, place: str = ""
) -> Values:
    """``form``: input that could not be saved; ``place``: "form" or "import", the position of ``error``."""
    return {
        "page_title": page.t("prompts.title"),
        "commands_url": url_for("prompts.do"),
        "rows": [{"id": item.id, "name": item.name, **item.body} for item in prompts_of(page).list()],
        "form": form or {"id": "", "seen": "", "name": "", "title": "", "content": ""},
        "error": {"place": place, "code": error.code, "text": page.sentences(error)} if error else None,
        "toasts": page.done_toast("prompts.said", ("saved", "deleted", "restored", "imported")),
    }


@blueprint.get("/list")
def list_() -> Response:
    """For the composer: the prompts, and the words of its list and form."""
    page = current_page()
    prompts = [{"name": item.name, **item.body} for item in prompts_of(page).list()]
    return jsonify(prompts=prompts, words={word: page.t(f"prompts.{word}") for word in WORDS})


@blueprint.get("/<prompt_id>")
def edit(prompt_id: str) -> Response:
    page = current_page()
    item = prompts_of(page).get(prompt_id)
    return render_page("prompts/page.html", prompts_page(page, _form_of(item)))


def _form_of(item: SavedItem) -> Values:
    return {"id": item.id, "seen": repr(item.updated_at), "name": item.name, **item.body}


@blueprint.post("")
def save() -> Response | BaseResponse:
    """``id`` "" creates a new one."""
    request.max_form_memory_size = FORM_BYTES
    page = current_page()
    form = {name: request.form.get(name, "") for name in ("id", "seen", "name", "title", "content")}
    try:
        name, body = checked(form)
        saved = prompts_of(page).save(form["id"], name, body, seen=request.form.get("seen", type=float))
    except RoostError as exc:
        if exc.status == 404:
            raise
        return render_page("prompts/page.html", prompts_page(fresh_page(), form, exc, "form"), status=422)
    return redirect(url_for("prompts.index", said="saved", about=saved.name), 303)


def checked(form: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """(name, body); raises ``item_invalid`` for a name that cannot be typed after a slash, and for an empty text."""
    name = storable(str(form.get("name", ""))).strip().removeprefix("/")
    if not NAME.fullmatch(name) or not name.isprintable():
        raise RoostError("item_invalid", reason=Text("reason.web.prompt_name"))
    content = storable(str(form.get("content", "")).replace("\r\n", "\n"))
    if not content.strip():
        raise RoostError("item_invalid", reason=Text("reason.common.is_empty"))
    if len(content) > TEXT_CHARS:
        raise RoostError("too_large", found=len(content), limit=TEXT_CHARS)
    title = " ".join(storable(str(form.get("title", ""))).split())[:TITLE_CHARS]
    return name, {"title": title, "content": content}


@blueprint.post("/<prompt_id>/delete")
def delete(prompt_id: str) -> BaseResponse:
    item = prompts_of(current_page()).delete(prompt_id)
    return redirect(url_for("prompts.index", said="deleted", about=item.name, undo=item.id), 303)


@blueprint.post("/do")
def do() -> BaseResponse:
    """The undo command of a toast."""
    item = prompts_of(current_page()).restore(undone_id())
    return redirect(url_for("prompts.index", said="restored", about=item.name), 303)


@blueprint.post("/import")
def import_() -> Response | BaseResponse:
    """Imports files of :func:`export` and of Open WebUI; pasted or as a file. All or none."""
    request.max_form_memory_size = FORM_BYTES
    page = current_page()
    try:
        made = [(name, body, None) for name, body in prompts_in(posted_text(IMPORT_CHARS))]
        prompts_of(page).create_all(made)
    except RoostError as exc:
        return render_page("prompts/page.html", prompts_page(fresh_page(), None, exc, "import"), status=422)
    return redirect(url_for("prompts.index", said="imported", about=len(made)), 303)


def prompts_in(text: str) -> list[tuple[str, dict[str, str]]]:
    """(name, body) for each object in an array; Open WebUI stores the name in ``command`` ("/name") and the title in
    ``title`` or, in later versions, ``name``. Raises ``item_invalid``."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise RoostError("item_invalid", reason=Text("reason.common.is_not_valid_json")) from exc
    rows = rows if isinstance(rows, list) else [rows]
    if not rows or len(rows) > MOST_IMPORTED or not all(isinstance(row, dict) for row in rows):
        raise RoostError("item_invalid", reason=Text("reason.web.no_prompts_in_it"))
    found = []
    for row in rows:
        if not isinstance(row.get("content"), str) or not isinstance(row.get("command"), str):
            raise RoostError("item_invalid", reason=Text("reason.web.no_prompts_in_it"))
        name = re.sub(r"[\s/{}]+", "-", row["command"].strip().strip("/"))[:60]
        title = row.get("title") or row.get("name") or ""
        found.append(checked({"name": name, "title": title, "content": row["content"]}))
    return found


@blueprint.get("/export.json")
def export() -> Response:
    """In a form that old and new Open WebUI versions can read."""
    rows = [
        {"command": f"/{item.name}", "title": item.body["title"], "name": item.body["title"], **item.body}
        for item in prompts_of(current_page()).list()
    ]
    return download(json.dumps(rows, ensure_ascii=False, indent=2), "application/json", "prompts.json")
