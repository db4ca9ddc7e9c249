"""The page of one server: how it stands, how it is reached, its tools."""

from __future__ import annotations

from flask import url_for

from webapp.chat.tool_offers import compact_parameters
from webapp.errors import McpServerInvalid, RoostError
from webapp.i18n import phrase
from webapp.storage.mcp_servers import StoredServer
from webapp.storage.tools import StoredTool
from webapp.tools.definition import Approval
from webapp.tools.mcp.client import ServerState
from webapp.tools.mcp.listing import Listing
from webapp.tools.mcp.server_config import ServerKind
from webapp.web.kit.page import Choice, FormField, Toast
from webapp.web.servers.contexts import ServerPage, ToolLine, Trial
from webapp.web.servers.desk import Desk
from webapp.web.servers.form_input import ServerDraft, split_command
from webapp.web.servers.list_view import server_row

FIELDS = ("name", "command", "env", "url", "headers", "timeout_s")
SHOWN_TOOLS = 30


def server_page(
    desk: Desk,
    draft: ServerDraft,
    server: StoredServer | None = None,
    error: McpServerInvalid | None = None,
    trial: Trial | None = None,
    toasts: tuple[Toast, ...] = (),
) -> ServerPage:
    errors = errors_of(desk, error)
    row = server_row(desk, server) if server else None
    refusal = desk.servers.may_change(server.config) if server else None
    title = server.config.name if server else desk.t("mcp.new")
    return ServerPage(
        page_title=title,
        commands_url=url_for("tools.servers.do"),
        title=title,
        server_id=server.id if server else "",
        action=url_for("tools.servers.save", server_id=server.id) if server else url_for("tools.servers.create"),
        draft=draft,
        words=words_of(draft.command),
        fields={name: _field(desk, name, errors.get(name, "")) for name in FIELDS},
        kinds=tuple(Choice(kind.value, desk.t(f"mcp.kind.{kind.value}")) for kind in ServerKind),
        missing=desk.missing,
        barred=" ".join(desk.said(refusal)) if refusal else "" if server else desk.barred,
        row=row,
        tools=tool_lines(desk, server) if server else (),
        refused=tuple((name, phrase(reason, desk.locale)) for name, reason in server.tools.refused) if server else (),
        left_out=desk.t("mcp.left_out", count=server.tools.left_out) if server and server.tools.left_out else "",
        approvals=tuple(Choice(choice.value, desk.t(f"tools.approval.{choice.value}")) for choice in Approval),
        is_waiting=row is not None and row.phase == "connecting",
        trial=trial,
        toasts=toasts,
    )


def words_of(command: str) -> tuple[str, ...]:
    """The words a program would be given; () for what cannot be split yet."""
    try:
        return tuple(split_command(command[:4_000]))
    except McpServerInvalid:
        return ()


def tool_lines(desk: Desk, server: StoredServer) -> tuple[ToolLine, ...]:
    """In the server's order; what is hidden is there with its switch off."""
    living = {tool.definition.mcp.name: tool for tool in desk.tools.of_server(server.id)}
    known = {tool.definition.mcp.name: tool for tool in desk.tools.of_server(server.id, deleted=True)} | living
    names = [name for name in server.tools.names if name in living or name in server.tools.hidden]
    return tuple(_line(desk, name, known.get(name), name in living) for name in names)


def _line(desk: Desk, remote: str, tool: StoredTool | None, is_offered: bool) -> ToolLine:
    if tool is None:
        return ToolLine("", remote, remote, "", "", (), Approval.ALWAYS.value, False)
    definition = tool.definition
    return ToolLine(
        id=tool.id if is_offered else "",
        name=definition.name,
        remote=remote,
        description=definition.description,
        parameters=compact_parameters(definition.parameters),
        hints=tuple(desk.t(f"mcp.hint.{hint}") for hint in definition.mcp.hints),
        approval=definition.approval.value,
        is_offered=is_offered,
    )


def good_trial(desk: Desk, state: ServerState, listing: Listing) -> Trial:
    names = tuple(tool.name for tool in listing.tools)
    more = len(names) - SHOWN_TOOLS + listing.left_out
    shown = (*names[:SHOWN_TOOLS], *((desk.t("mcp.more_tools", count=more),) if more > 0 else ()))
    text = desk.t("mcp.tools_count", count=len(names) + listing.left_out)
    return Trial("good", desk.t("mcp.try.good", server=state.server or "MCP"), text, shown)


def bad_trial(desk: Desk, error: RoostError) -> Trial:
    """What is wrong with a field is said with the field's name: the form itself stays as it is."""
    field = str(error.params.get("field", ""))
    if isinstance(error, McpServerInvalid) and field in FIELDS:
        return Trial("bad", desk.t(f"mcp.field.{field}.label"), desk.t("tools.problem", reason=desk.reason(error)))
    return Trial("bad", *desk.said(error))


def errors_of(desk: Desk, error: McpServerInvalid | None) -> dict[str, str]:
    """By field; what belongs to none is said at the name."""
    if error is None:
        return {}
    field = str(error.params.get("field", ""))
    return {field if field in FIELDS else "name": desk.t("tools.problem", reason=desk.reason(error))}


def _field(desk: Desk, name: str, error: str) -> FormField:
    return FormField(name, desk.t(f"mcp.field.{name}.label"), desk.t(f"mcp.field.{name}.help"), error)
