"""The pages of MCP servers, below those of tools: the list, and one server with its connection, its form and its tools.

GET reads and starts nothing; POST changes and redirects to a page that reports it. All changes are made by
the service, which may refuse them. The values of the view functions are template variables.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, redirect, request, url_for
from msgspec import Struct
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as BaseResponse

from webapp.chat.tool_dialects import compact_parameters
from webapp.errors import McpError, McpServerInvalid, RoostError
from webapp.i18n import Text, say
from webapp.storage.tools import StoredServer, StoredTool
from webapp.tools.definition import Approval
from webapp.tools.mcp.answers import Listing
from webapp.tools.mcp.server_config import (
    DEFAULT_TIMEOUT_S,
    HIDDEN,
    ServerConfig,
    ServerKind,
    ServerState,
    checked_server,
)
from webapp.web.guard import current_role
from webapp.web.kit import page as kit
from webapp.web.roles import Role

blueprint = Blueprint("servers", __name__, url_prefix="/servers")
TOASTS = ("saved", "added", "removed", "restored", "imported", "on", "off", "tools")
MAX_IMPORT_CHARS = 200_000
MAX_CHARS = 20_000
FORMS = {
    "env": Text("reason.common.variable_line_form"),
    "headers": Text("reason.common.header_line_form"),
}


class ServerDraft(Struct, frozen=True):
    """Unchecked input. ``command`` is a whole command line; ``env`` and ``headers`` are lines."""

    name: str = ""
    kind: str = ServerKind.STDIO.value
    command: str = ""
    env: str = ""
    url: str = ""
    headers: str = ""
    timeout_s: str = f"{DEFAULT_TIMEOUT_S:g}"
    updated_at: str = ""


def draft_of(config: ServerConfig, updated_at: float) -> ServerDraft:
    return ServerDraft(
        name=config.name,
        kind=config.kind.value,
        command=joined((config.command, *config.args)) if config.command else "",
        env="\n".join(f"{name}={HIDDEN}" for name in config.env),
        url=config.url,
        headers="\n".join(f"{name}: {HIDDEN}" for name in config.headers),
        timeout_s=f"{config.timeout_s:g}",
        updated_at=repr(updated_at),
    )


def read_draft(form: MultiDict[str, str]) -> ServerDraft:
    """Never raises: long text is cut, an invalid choice becomes the first one."""
    texts = {name: form.get(name, "")[:MAX_CHARS] for name in ServerDraft.__struct_fields__}
    if texts["kind"] not in [kind.value for kind in ServerKind]:
        texts["kind"] = ServerKind.STDIO.value
    return ServerDraft(**texts)


def config_of(draft: ServerDraft, before: ServerConfig | None = None) -> ServerConfig:
    """Raises McpServerInvalid with the invalid field. ``before`` has secrets that may be kept."""
    kind = ServerKind(draft.kind)
    known = before if before is not None and before.kind is kind else ServerConfig("")
    shared: dict[str, Any] = {
        "name": " ".join(draft.name.split()),
        "kind": kind,
        "timeout_s": _seconds(draft.timeout_s),
    }
    if kind is ServerKind.STDIO:
        words = split_command(draft.command)
        env = _lines(draft.env, "=", "env", known.env)
        return checked_server(ServerConfig(**shared, command=words[0] if words else "", args=tuple(words[1:]), env=env))
    url = draft.url.strip()
    kept = known.headers if _origin(url) == _origin(known.url) else {}
    return checked_server(ServerConfig(**shared, url=url, headers=_lines(draft.headers, ":", "headers", kept)))


def split_command(text: str) -> list[str]:
    """Splits a command line as a shell would, without any other function of a shell."""
    is_windows = os.name == "nt"
    try:
        words = shlex.split(text, posix=not is_windows)
    except ValueError as exc:
        raise McpServerInvalid(field="command", reason=Text("reason.web.open_quote")) from exc
    return [word.strip('"') for word in words] if is_windows else words


def joined(words: tuple[str, ...]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _lines(text: str, mark: str, field: str, kept: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        name, has_mark, value = line.partition(mark)
        name, value = name.strip(), value.strip()
        if not has_mark or not name:
            raise McpServerInvalid(field=field, reason=FORMS[field])
        if value == HIDDEN and name not in kept:
            raise McpServerInvalid(field=field, reason=Text("reason.web.hidden_value_missing"))
        found[name] = kept[name] if value == HIDDEN else value
    return found


def _origin(url: str) -> tuple[str, str]:
    """Scheme and host with port. Invalid addresses are reported later, and differ from every other one."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", url
    return parts.scheme, parts.netloc.lower()


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise McpServerInvalid(field="timeout_s", reason=Text("reason.common.must_be_from_1_to_600")) from None


BADGES = {"connected": "badge-accent", "connecting": "badge-amber", "failed": "badge-red"}
FIELDS = ("name", "command", "env", "url", "headers", "timeout_s")
SHOWN_CHARS = 200
SHOWN_TOOLS = 30


def servers_page(
    page: kit.PageContext,
    toasts: tuple[kit.Toast, ...] = (),
    notice: tuple[str, str] = ("", ""),
    import_error: str = "",
    import_text: str = "",
) -> kit.Values:
    """``notice`` (sentence, what to do): why a button of the list failed."""
    rows = [server_row(page, server) for server in page.mcp_servers.store.list()]
    return {
        "page_title": page.t("mcp.title"),
        "rows": rows,
        "is_waiting": any(row["phase"] == "connecting" for row in rows),
        "missing": _missing(page),
        "barred": _barred(page),
        "toasts": toasts,
        "notice": notice,
        "import_error": import_error,
        "import_text": import_text,
    }


def _missing(page: kit.PageContext) -> tuple[str, str]:
    """What to install first, and how; two empty texts if nothing is missing."""
    return ("", "") if importlib.util.find_spec("mcp") else page.explain(McpError("mcp_not_installed"))


def _barred(page: kit.PageContext) -> str:
    """Why some kinds of server cannot be added, or ""."""
    return "" if page.settings.mcp_stdio else page.sentences(McpError("mcp_programs_off"))


def server_row(page: kit.PageContext, server: StoredServer) -> kit.Values:
    """``phase``: "off", "idle", "connecting", "connected" or "failed"; ``problem`` and ``way_out`` describe a failure.
    ``place`` is the command or address, without keys."""
    state = page.mcp_servers.state(server)
    problem, way_out = page.explain(state.error) if state.phase == "failed" and state.error else ("", "")
    is_owner = current_role() is Role.OWNER
    return {
        "id": server.id,
        "name": server.config.name,
        "url": url_for("tools.servers.edit", server_id=server.id),
        "kind": server.config.kind.value,
        "place": _place(server, is_owner),
        "phase": state.phase,
        "badge": BADGES.get(state.phase, ""),
        "state": page.t(f"mcp.phase.{state.phase}"),
        "facts": _facts(page, server, state),
        "problem": problem,
        "way_out": way_out,
        "is_on": server.is_on,
        "can_change": is_owner and page.mcp_servers.may_change(server.config) is None,
    }


def _place(server: StoredServer, is_owner: bool) -> str:
    """Arguments may be private: only the owner sees more than the program's name."""
    config = server.config
    if config.kind is ServerKind.HTTP:
        return config.shown_url[:SHOWN_CHARS]
    words = (config.command, *config.args) if is_owner else (PurePath(config.command).name,)
    return config.without_secrets(joined(words))[:SHOWN_CHARS]


def _facts(page: kit.PageContext, server: StoredServer, state: ServerState) -> list[str]:
    """Kind, number of tools, the server's own name."""
    refused = len(server.tools.refused) + server.tools.left_out
    offered = len(server.tools.names) - len(server.tools.refused) - len(server.tools.hidden)
    facts = [page.t(f"mcp.kind.{server.config.kind.value}")]
    if server.tools.names:
        facts.append(page.t("mcp.tools_count", count=max(0, offered)))
    if refused:
        facts.append(page.t("mcp.refused_count", count=refused))
    return [*facts, state.server] if state.server else facts


def server_page(
    page: kit.PageContext,
    draft: ServerDraft,
    server: StoredServer | None = None,
    error: McpServerInvalid | None = None,
    trial: kit.Values | None = None,
    toasts: tuple[kit.Toast, ...] = (),
) -> kit.Values:
    """``server`` None: a new one. ``trial``: the result of a test, from :func:`good_trial` or :func:`bad_trial`."""
    t, errors = page.t, _errors_of(page, error)
    refusal = page.mcp_servers.may_change(server.config) if server else None
    barred = page.sentences(refusal) if refusal else "" if server else _barred(page)
    title = server.config.name if server else t("mcp.new")
    action = url_for("tools.servers.save", server_id=server.id) if server else url_for("tools.servers.create")
    found: kit.Values = {
        "page_title": title,
        "title": title,
        "server_id": server.id if server else "",
        "action": action,
        "draft": draft,
        "words": words_of(draft.command),
        "fields": {name: page.field(f"mcp.field.{name}", error=errors.get(name, "")) for name in FIELDS},
        "kinds": [kit.Choice(kind.value, t(f"mcp.kind.{kind.value}")) for kind in ServerKind],
        "missing": _missing(page),
        "barred": barred,
        "approvals": [kit.Choice(choice.value, t(f"tools.approval.{choice.value}")) for choice in Approval],
        "trial": trial,
        "toasts": toasts,
    }
    if server is not None:
        row, listed = server_row(page, server), server.tools
        found |= {"row": row, "is_waiting": row["phase"] == "connecting", "tools": _tool_lines(page, server)}
        found["refused"] = [(name, say(reason, page.locale)) for name, reason in listed.refused]
        found["left_out"] = t("mcp.left_out", count=listed.left_out) if listed.left_out else ""
    return found


def words_of(command: str) -> tuple[str, ...]:
    """The program's arguments; () if the command line cannot be split yet."""
    try:
        return tuple(split_command(command[:4_000]))
    except McpServerInvalid:
        return ()


def _tool_lines(page: kit.PageContext, server: StoredServer) -> list[kit.Values]:
    """In the server's order; hidden tools are listed and switched off."""
    living = {tool.definition.mcp.name: tool for tool in page.tools.of_server(server.id)}
    known = {tool.definition.mcp.name: tool for tool in page.tools.of_server(server.id, deleted=True)} | living
    names = [name for name in server.tools.names if name in living or name in server.tools.hidden]
    return [_tool_line(page, name, known.get(name), name in living) for name in names]


def _tool_line(page: kit.PageContext, remote: str, tool: StoredTool | None, is_offered: bool) -> kit.Values:
    """``remote``: the server's name for it; ``name``: the name in Roost; ``id`` is "" if it is not offered."""
    if tool is None:
        return {"id": "", "name": remote, "remote": remote, "hints": (), "approval": Approval.ALWAYS.value}
    definition = tool.definition
    return {
        "id": tool.id if is_offered else "",
        "name": definition.name,
        "remote": remote,
        "description": definition.description,
        "parameters": compact_parameters(definition.parameters),
        "hints": [page.t(f"mcp.hint.{hint}") for hint in definition.mcp.hints],
        "approval": definition.approval.value,
        "for_guests": definition.for_guests,
        "is_offered": is_offered,
    }


def good_trial(page: kit.PageContext, state: ServerState, listing: Listing) -> kit.Values:
    names = [tool.name for tool in listing.tools]
    more = len(names) - SHOWN_TOOLS + listing.left_out
    return {
        "kind": "good",
        "title": page.t("mcp.try.good", server=state.server or "MCP"),
        "text": page.t("mcp.tools_count", count=len(names) + listing.left_out),
        "tools": names[:SHOWN_TOOLS] + ([page.t("mcp.more_tools", count=more)] if more > 0 else []),
    }


def bad_trial(page: kit.PageContext, error: RoostError) -> kit.Values:
    """An error of a field includes the field's name, because the form itself is not updated."""
    field = str(error.params.get("field", ""))
    if isinstance(error, McpServerInvalid) and field in FIELDS:
        title, text = page.t(f"mcp.field.{field}.label"), page.t("tools.problem", reason=page.reason(error))
    else:
        title, text = page.explain(error)
    return {"kind": "bad", "title": title, "text": text}


def _errors_of(page: kit.PageContext, error: McpServerInvalid | None) -> dict[str, str]:
    """By field; other errors are shown at the name."""
    if error is None:
        return {}
    field = str(error.params.get("field", ""))
    return {field if field in FIELDS else "name": page.t("tools.problem", reason=page.reason(error))}


# routes


@blueprint.get("")
def index() -> Response:
    page = kit.current_page()
    shown = servers_page(page, page.done_toast("mcp.said", TOASTS))
    fragment = "servers/_list.html"
    return kit.render_page("servers/page.html", shown, fragment)


@blueprint.get("/new")
def new() -> Response:
    page = kit.current_page()
    kind = request.args.get("kind", "")
    draft = ServerDraft(kind="http") if kind == "http" or not page.settings.mcp_stdio else ServerDraft()
    return kit.render_page("servers/edit.html", server_page(page, draft))


@blueprint.get("/<server_id>")
def edit(server_id: str) -> Response:
    """As a fragment, only the parts that change while it connects."""
    page = kit.current_page()
    server = page.mcp_servers.store.get(server_id)
    draft = draft_of(server.config, server.updated_at)
    shown = server_page(page, draft, server, toasts=page.done_toast("mcp.said", TOASTS))
    return kit.render_page("servers/edit.html", shown, "servers/_live.html")


@blueprint.post("")
def create() -> BaseResponse | Response:
    page, draft = kit.current_page(), read_draft(request.form)
    try:
        server = page.mcp_servers.add(config_of(draft))
    except RoostError as exc:
        return _refused(page, draft, "", exc)
    return redirect(url_for("tools.servers.edit", server_id=server.id, said="added"), 303)


@blueprint.post("/<server_id>")
def save(server_id: str) -> BaseResponse | Response:
    page, draft = kit.current_page(), read_draft(request.form)
    try:
        before = page.mcp_servers.store.get(server_id).config
        page.mcp_servers.change(server_id, config_of(draft, before), _seen_at(draft))
    except RoostError as exc:
        return _refused(page, draft, server_id, exc)
    return redirect(url_for("tools.servers.edit", server_id=server_id, said="saved"), 303)


@blueprint.post("/try")
def try_out() -> Response:
    """Connects with the form's values, saved or not, and stores nothing. As a fragment, only the result, so that the
    user can continue typing meanwhile."""
    page, draft = kit.current_page(), read_draft(request.form)
    server_id = request.form.get("server_id", "")
    server = page.mcp_servers.store.get(server_id) if kit.ROW_ID.fullmatch(server_id) else None
    try:
        known = server.config if server else None
        trial = good_trial(page, *page.mcp_servers.try_out(config_of(draft, known)))
    except RoostError as exc:
        trial = bad_trial(page, exc)
    return kit.render_page("servers/edit.html", server_page(page, draft, server, trial=trial), "servers/_trial.html")


@blueprint.post("/words")
def words() -> Response:
    """The command line, split into the program's arguments."""
    return kit.render_page("servers/_words.html", {"words": words_of(request.form.get("command", ""))})


@blueprint.post("/<server_id>/connect")
def connect(server_id: str) -> BaseResponse | Response:
    page = kit.current_page()
    return _done(page, server_id, lambda: page.mcp_servers.connect(server_id))


@blueprint.post("/<server_id>/switch")
def switch(server_id: str) -> BaseResponse | Response:
    page, is_on = kit.current_page(), request.form.get("on") == "1"
    said = "on" if is_on else "off"
    return _done(page, server_id, lambda: page.mcp_servers.switch(server_id, is_on), said)


@blueprint.post("/<server_id>/tools")
def set_tools(server_id: str) -> BaseResponse:
    """Which tools are offered, to whom, and when calls need approval."""
    page = kit.current_page()
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
    page = kit.current_page()
    name = page.mcp_servers.remove(server_id).config.name
    return redirect(url_for("tools.servers.index", said="removed", about=name, undo=server_id), 303)


@blueprint.post("/do")
def do() -> BaseResponse:
    """The undo command of a toast."""
    page = kit.current_page()
    server = page.mcp_servers.restore(kit.undone_id())
    return redirect(url_for("tools.servers.index", said="restored", about=server.config.name), 303)


@blueprint.post("/import")
def import_() -> BaseResponse | Response:
    """Another program's JSON, pasted or as a file."""
    page, text = kit.current_page(), kit.posted_text(MAX_IMPORT_CHARS)
    try:
        made = page.mcp_servers.import_text(text)
    except McpError as exc:
        reason = page.t("tools.problem", reason=page.reason(exc)) if isinstance(exc, McpServerInvalid) else ""
        shown = servers_page(page, import_error=reason or " ".join(page.explain(exc)), import_text=text[:20_000])
        return kit.render_page("servers/page.html", shown, status=422)
    return redirect(url_for("tools.servers.index", said="imported", about=len(made)), 303)


def _done(page: kit.PageContext, server_id: str, act: Callable[[], object], said: str = "") -> BaseResponse | Response:
    """After a button: the new list for htmx, otherwise a redirect to the button's page."""
    notice, status = ("", ""), 200
    try:
        act()
    except RoostError as exc:
        notice, status = page.explain(exc), exc.status
    if kit.wants_fragment() and request.form.get("from") == "list":
        return kit.render_page("servers/page.html", servers_page(page, notice=notice), "servers/_list.html")
    if notice[0]:
        return kit.render_page("servers/page.html", servers_page(page, notice=notice), status=status)
    query: dict[str, Any] = {"said": said, "about": page.mcp_servers.store.get(server_id).config.name} if said else {}
    if request.form.get("from") == "list":
        return redirect(url_for("tools.servers.index", **query), 303)
    return redirect(url_for("tools.servers.edit", server_id=server_id, **query), 303)


def _refused(page: kit.PageContext, draft: ServerDraft, server_id: str, error: RoostError) -> Response:
    server = page.mcp_servers.store.get(server_id) if server_id else None
    if isinstance(error, McpServerInvalid):
        return kit.render_page("servers/edit.html", server_page(page, draft, server, error), status=422)
    shown = server_page(page, draft, server, toasts=(page.error_toast(error),))
    return kit.render_page("servers/edit.html", shown, status=error.status)


def _seen_at(draft: ServerDraft) -> float | None:
    try:
        return float(draft.updated_at)
    except ValueError:
        return None
