"""Routes of the MCP servers' pages. GET reads and starts nothing; POST changes and redirects to a page that reports it.
Every change goes through the service, which may refuse it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import McpError, McpServerInvalid, RoostError
from webapp.tools.definition import Approval
from webapp.web.kit.page import ROW_ID, PageContext, current_page, posted_text, render_page, undone_id, wants_fragment
from webapp.web.servers.views import (
    ServerDraft,
    bad_trial,
    config_of,
    draft_of,
    good_trial,
    read_draft,
    server_page,
    servers_page,
    words_of,
)

blueprint = Blueprint("servers", __name__, url_prefix="/servers")
SAID = ("saved", "added", "removed", "restored", "imported", "on", "off", "tools")
MAX_IMPORT_CHARS = 200_000


@blueprint.get("")
def index() -> Response:
    page = current_page()
    shown = servers_page(page, page.done_toast("mcp.said", SAID))
    fragment = "servers/_list.html"
    return render_page("servers/page.html", shown, fragment)


@blueprint.get("/new")
def new() -> Response:
    page = current_page()
    kind = request.args.get("kind", "")
    draft = ServerDraft(kind="http") if kind == "http" or not page.settings.mcp_stdio else ServerDraft()
    return render_page("servers/edit.html", server_page(page, draft))


@blueprint.get("/<server_id>")
def edit(server_id: str) -> Response:
    """As a fragment, what changes while it is connecting."""
    page = current_page()
    server = page.mcp_servers.store.get(server_id)
    draft = draft_of(server.config, server.updated_at)
    shown = server_page(page, draft, server, toasts=page.done_toast("mcp.said", SAID))
    return render_page("servers/edit.html", shown, "servers/_live.html")


@blueprint.post("")
def create() -> BaseResponse | Response:
    page, draft = current_page(), read_draft(request.form)
    try:
        server = page.mcp_servers.add(config_of(draft))
    except RoostError as exc:
        return _refused(page, draft, "", exc)
    return redirect(url_for("tools.servers.edit", server_id=server.id, said="added"), 303)


@blueprint.post("/<server_id>")
def save(server_id: str) -> BaseResponse | Response:
    page, draft = current_page(), read_draft(request.form)
    try:
        before = page.mcp_servers.store.get(server_id).config
        page.mcp_servers.change(server_id, config_of(draft, before), _seen_at(draft))
    except RoostError as exc:
        return _refused(page, draft, server_id, exc)
    return redirect(url_for("tools.servers.edit", server_id=server_id, said="saved"), 303)


@blueprint.post("/try")
def try_out() -> Response:
    """Connects as the form has it, saved or not, and keeps nothing. As a fragment, only the result: it may take a
    while, and who waits may go on typing."""
    page, draft = current_page(), read_draft(request.form)
    server_id = request.form.get("server_id", "")
    server = page.mcp_servers.store.get(server_id) if ROW_ID.fullmatch(server_id) else None
    try:
        known = server.config if server else None
        trial = good_trial(page, *page.mcp_servers.try_out(config_of(draft, known)))
    except RoostError as exc:
        trial = bad_trial(page, exc)
    return render_page("servers/edit.html", server_page(page, draft, server, trial=trial), "servers/_trial.html")


@blueprint.post("/words")
def words() -> Response:
    """The command line as the words a program is given."""
    return render_page("servers/_words.html", {"words": words_of(request.form.get("command", ""))})


@blueprint.post("/<server_id>/connect")
def connect(server_id: str) -> BaseResponse | Response:
    page = current_page()
    return _done(page, server_id, lambda: page.mcp_servers.connect(server_id))


@blueprint.post("/<server_id>/switch")
def switch(server_id: str) -> BaseResponse | Response:
    page, is_on = current_page(), request.form.get("on") == "1"
    said = "on" if is_on else "off"
    return _done(page, server_id, lambda: page.mcp_servers.switch(server_id, is_on), said)


@blueprint.post("/<server_id>/tools")
def set_tools(server_id: str) -> BaseResponse:
    """Which tools are offered, to whom, and who is asked before each."""
    page = current_page()
    shown, offered = request.form.getlist("shown"), set(request.form.getlist("offered"))
    known = {choice.value: choice for choice in Approval}
    approvals = {
        name.removeprefix("approval:"): known[value]
        for name, value in request.form.items()
        if name.startswith("approval:") and value in known
    }
    hidden = {*page.mcp_servers.store.get(server_id).tools.hidden} - set(shown) | (set(shown) - offered)
    page.mcp_servers.set_tools(server_id, hidden, approvals, set(request.form.getlist("for_guests")))
    return redirect(url_for("tools.servers.edit", server_id=server_id, said="tools"), 303)


@blueprint.post("/<server_id>/delete")
def delete(server_id: str) -> BaseResponse:
    page = current_page()
    name = page.mcp_servers.remove(server_id).config.name
    return redirect(url_for("tools.servers.index", said="removed", about=name, undo=server_id), 303)


@blueprint.post("/do")
def do() -> BaseResponse:
    """The undo of a toast."""
    page = current_page()
    server = page.mcp_servers.restore(undone_id())
    return redirect(url_for("tools.servers.index", said="restored", about=server.config.name), 303)


@blueprint.post("/import")
def import_() -> BaseResponse | Response:
    """Another program's JSON, pasted or as a file."""
    page, text = current_page(), posted_text(MAX_IMPORT_CHARS)
    try:
        made = page.mcp_servers.import_text(text)
    except McpError as exc:
        reason = page.t("tools.problem", reason=page.reason(exc)) if isinstance(exc, McpServerInvalid) else ""
        shown = servers_page(page, import_error=reason or " ".join(page.explain(exc)), import_text=text[:20_000])
        return render_page("servers/page.html", shown, status=422)
    return redirect(url_for("tools.servers.index", said="imported", about=len(made)), 303)


def _done(page: PageContext, server_id: str, act: Callable[[], object], said: str = "") -> BaseResponse | Response:
    """After a button: the list again for htmx, else the page it stood on."""
    notice, status = ("", ""), 200
    try:
        act()
    except RoostError as exc:
        notice, status = page.explain(exc), exc.status
    if wants_fragment() and request.form.get("from") == "list":
        return render_page("servers/page.html", servers_page(page, notice=notice), "servers/_list.html")
    if notice[0]:
        return render_page("servers/page.html", servers_page(page, notice=notice), status=status)
    told: dict[str, Any] = {"said": said, "about": page.mcp_servers.store.get(server_id).config.name} if said else {}
    if request.form.get("from") == "list":
        return redirect(url_for("tools.servers.index", **told), 303)
    return redirect(url_for("tools.servers.edit", server_id=server_id, **told), 303)


def _refused(page: PageContext, draft: ServerDraft, server_id: str, error: RoostError) -> Response:
    server = page.mcp_servers.store.get(server_id) if server_id else None
    if isinstance(error, McpServerInvalid):
        return render_page("servers/edit.html", server_page(page, draft, server, error), status=422)
    shown = server_page(page, draft, server, toasts=(page.error_toast(error),))
    return render_page("servers/edit.html", shown, status=error.status)


def _seen_at(draft: ServerDraft) -> float | None:
    try:
        return float(draft.updated_at)
    except ValueError:
        return None
