"""The page of all MCP servers, and a server in one row."""

from __future__ import annotations

from pathlib import PurePath

from flask import url_for

from webapp.storage.mcp_servers import StoredServer
from webapp.tools.mcp.client import ServerState
from webapp.tools.mcp.server_config import ServerKind
from webapp.web.kit.page import Toast
from webapp.web.servers.contexts import ServerRow, ServersPage
from webapp.web.servers.desk import Desk
from webapp.web.servers.form_input import joined

SHOWN_CHARS = 200


def servers_page(
    desk: Desk,
    toasts: tuple[Toast, ...] = (),
    notice: tuple[str, str] = ("", ""),
    import_error: str = "",
    import_text: str = "",
) -> ServersPage:
    rows = tuple(server_row(desk, server) for server in desk.servers.store.list())
    return ServersPage(
        page_title=desk.t("mcp.title"),
        commands_url=url_for("tools.servers.do"),
        rows=rows,
        is_waiting=any(row.phase == "connecting" for row in rows),
        missing=desk.missing,
        barred=desk.barred,
        toasts=toasts,
        notice=notice,
        import_error=import_error,
        import_text=import_text,
    )


def server_row(desk: Desk, server: StoredServer) -> ServerRow:
    state = desk.servers.state(server)
    problem, way_out = desk.said(state.error) if state.phase == "failed" and state.error else ("", "")
    return ServerRow(
        id=server.id,
        name=server.config.name,
        url=url_for("tools.servers.edit", server_id=server.id),
        kind=server.config.kind.value,
        place=place_of(desk, server),
        phase=state.phase,
        state=desk.t(f"mcp.phase.{state.phase}"),
        facts=facts_of(desk, server, state),
        problem=problem,
        way_out=way_out,
        is_on=server.is_on,
        can_change=desk.is_owner and desk.servers.may_change(server.config) is None,
    )


def place_of(desk: Desk, server: StoredServer) -> str:
    """Arguments may hold what is nobody else's business: only the owner sees more than the program's name."""
    config = server.config
    if config.kind is ServerKind.HTTP:
        return config.shown_url[:SHOWN_CHARS]
    words = (config.command, *config.args) if desk.is_owner else (PurePath(config.command).name,)
    return config.without_secrets(joined(words))[:SHOWN_CHARS]


def facts_of(desk: Desk, server: StoredServer, state: ServerState) -> tuple[str, ...]:
    """Kind, number of tools, what the server calls itself."""
    refused = len(server.tools.refused) + server.tools.left_out
    offered = len(server.tools.names) - len(server.tools.refused) - len(server.tools.hidden)
    facts = [desk.t(f"mcp.kind.{server.config.kind.value}")]
    if server.tools.names:
        facts.append(desk.t("mcp.tools_count", count=max(0, offered)))
    if refused:
        facts.append(desk.t("mcp.refused_count", count=refused))
    if state.server:
        facts.append(state.server)
    return tuple(facts)
