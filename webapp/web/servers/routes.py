"""Addresses of the MCP servers' pages. GET reads and starts nothing; POST changes and answers with the page that says
so. Every change asks the service, which asks where the person sits."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import McpError, McpServerInvalid, RoostError
from webapp.tools.definition import Approval
from webapp.web.fragments import render_page, wants_fragment
from webapp.web.kit.page import Toast
from webapp.web.servers.desk import Desk, the_desk
from webapp.web.servers.form_input import ServerDraft, config_of, draft_of, read_draft
from webapp.web.servers.list_view import servers_page
from webapp.web.servers.server_view import bad_trial, good_trial, server_page, words_of

blueprint = Blueprint("servers", __name__, url_prefix="/servers")
ID = r"[0-9a-f]{32}"
SAID = ("saved", "added", "removed", "restored", "imported", "on", "off", "tools")
MAX_IMPORT_CHARS = 200_000


@blueprint.get("")
def index() -> Response:
    desk = the_desk()
    page = servers_page(desk, _said_toast(desk))
    fragment = "servers/_list.html"
    return render_page("servers/page.html", page, fragment)


@blueprint.get("/new")
def new() -> Response:
    desk = the_desk()
    kind = request.args.get("kind", "")
    draft = ServerDraft(kind="http") if kind == "http" or not desk.settings.mcp_stdio else ServerDraft()
    return render_page("servers/edit.html", server_page(desk, draft))


@blueprint.get("/<server_id>")
def edit(server_id: str) -> Response:
    """As a fragment, what changes while it is connecting."""
    desk = the_desk()
    server = desk.servers.store.get(server_id)
    draft = draft_of(server.config, server.updated_at)
    page = server_page(desk, draft, server, toasts=_said_toast(desk))
    return render_page("servers/edit.html", page, "servers/_live.html")


@blueprint.post("")
def create() -> BaseResponse | Response:
    desk, draft = the_desk(), read_draft(request.form)
    try:
        server = desk.servers.add(config_of(draft))
    except RoostError as exc:
        return _refused(desk, draft, "", exc)
    return redirect(url_for("tools.servers.edit", server_id=server.id, said="added"), 303)


@blueprint.post("/<server_id>")
def save(server_id: str) -> BaseResponse | Response:
    desk, draft = the_desk(), read_draft(request.form)
    try:
        before = desk.servers.store.get(server_id).config
        desk.servers.change(server_id, config_of(draft, before), _seen_at(draft))
    except RoostError as exc:
        return _refused(desk, draft, server_id, exc)
    return redirect(url_for("tools.servers.edit", server_id=server_id, said="saved"), 303)


@blueprint.post("/try")
def try_out() -> Response:
    """Connects as the form has it, saved or not, and keeps nothing. As a fragment only what came of it: it may take a
    while, and who waits may go on typing."""
    desk, draft = the_desk(), read_draft(request.form)
    server_id = request.form.get("server_id", "")
    server = desk.servers.store.get(server_id) if re.fullmatch(ID, server_id) else None
    try:
        known = server.config if server else None
        trial = good_trial(desk, *desk.servers.try_out(config_of(draft, known)))
    except RoostError as exc:
        trial = bad_trial(desk, exc)
    return render_page("servers/edit.html", server_page(desk, draft, server, trial=trial), "servers/_trial.html")


@blueprint.post("/words")
def words() -> Response:
    """The command line as the words a program is given."""
    return render_page("servers/_words.html", {"words": words_of(request.form.get("command", ""))})


@blueprint.post("/<server_id>/connect")
def connect(server_id: str) -> BaseResponse | Response:
    desk = the_desk()
    return _done(desk, server_id, lambda: desk.servers.connect(server_id))


@blueprint.post("/<server_id>/switch")
def switch(server_id: str) -> BaseResponse | Response:
    desk, is_on = the_desk(), request.form.get("on") == "1"
    said = "on" if is_on else "off"
    return _done(desk, server_id, lambda: desk.servers.switch(server_id, is_on), said)


@blueprint.post("/<server_id>/tools")
def set_tools(server_id: str) -> BaseResponse:
    """Which tools are offered, and who is asked before each."""
    desk = the_desk()
    shown, offered = request.form.getlist("shown"), set(request.form.getlist("offered"))
    known = {choice.value: choice for choice in Approval}
    approvals = {
        name.removeprefix("approval:"): known[value]
        for name, value in request.form.items()
        if name.startswith("approval:") and value in known
    }
    hidden = {*desk.servers.store.get(server_id).tools.hidden} - set(shown) | (set(shown) - offered)
    desk.servers.set_tools(server_id, hidden, approvals)
    return redirect(url_for("tools.servers.edit", server_id=server_id, said="tools"), 303)


@blueprint.post("/<server_id>/delete")
def delete(server_id: str) -> BaseResponse:
    desk = the_desk()
    name = desk.servers.remove(server_id).config.name
    return redirect(url_for("tools.servers.index", said="removed", about=name, undo=server_id), 303)


@blueprint.post("/do")
def do() -> BaseResponse:
    """The undo of a toast."""
    desk = the_desk()
    found = re.fullmatch(rf"restore:({ID})", request.form.get("do", ""))
    server = desk.servers.restore(found[1] if found else "")
    return redirect(url_for("tools.servers.index", said="restored", about=server.config.name), 303)


@blueprint.post("/import")
def import_() -> BaseResponse | Response:
    """Another program's JSON, pasted or as a file."""
    desk, text = the_desk(), _import_text()
    try:
        made = desk.servers.import_text(text)
    except McpError as exc:
        reason = desk.t("tools.problem", reason=desk.reason(exc)) if isinstance(exc, McpServerInvalid) else ""
        page = servers_page(desk, import_error=reason or " ".join(desk.said(exc)), import_text=text[:20_000])
        return render_page("servers/page.html", page, status=422)
    return redirect(url_for("tools.servers.index", said="imported", about=len(made)), 303)


def _done(desk: Desk, server_id: str, act: Callable[[], object], said: str = "") -> BaseResponse | Response:
    """After a button: the list again for htmx, else the page it stood on."""
    notice, status = ("", ""), 200
    try:
        act()
    except RoostError as exc:
        notice, status = desk.said(exc), exc.status
    if wants_fragment() and request.form.get("from") == "list":
        return render_page("servers/page.html", servers_page(desk, notice=notice), "servers/_list.html")
    if notice[0]:
        return render_page("servers/page.html", servers_page(desk, notice=notice), status=status)
    told: dict[str, Any] = {"said": said, "about": desk.servers.store.get(server_id).config.name} if said else {}
    if request.form.get("from") == "list":
        return redirect(url_for("tools.servers.index", **told), 303)
    return redirect(url_for("tools.servers.edit", server_id=server_id, **told), 303)


def _refused(desk: Desk, draft: ServerDraft, server_id: str, error: RoostError) -> Response:
    server = desk.servers.store.get(server_id) if server_id else None
    if isinstance(error, McpServerInvalid):
        return render_page("servers/edit.html", server_page(desk, draft, server, error), status=422)
    page = server_page(desk, draft, server, toasts=(_toast(*desk.said(error), is_error=True),))
    return render_page("servers/edit.html", page, status=error.status)


def _seen_at(draft: ServerDraft) -> float | None:
    try:
        return float(draft.updated_at)
    except ValueError:
        return None


def _import_text() -> str:
    found = request.files.get("file")
    if found is not None and found.filename:
        return found.stream.read(MAX_IMPORT_CHARS).decode("utf-8", "replace")
    return request.form.get("text", "")[:MAX_IMPORT_CHARS]


def _said_toast(desk: Desk) -> tuple[Toast, ...]:
    said, about = request.args.get("said", ""), request.args.get("about", "")[:100]
    if said not in SAID:
        return ()
    undo = request.args.get("undo", "")
    command = f"restore:{undo}" if re.fullmatch(ID, undo) else ""
    return (_toast(desk.t(f"mcp.said.{said}", name=about), undo=command),)


def _toast(text: str, hint: str = "", undo: str = "", is_error: bool = False) -> Toast:
    return Toast(uuid.uuid4().hex[:8], text, hint, undo, is_error)
