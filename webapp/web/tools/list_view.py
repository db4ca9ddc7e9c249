"""The page of all tools."""

from __future__ import annotations

from collections.abc import Mapping

from flask import url_for

from webapp.chat.tool_offers import compact_parameters
from webapp.storage.mcp_servers import McpServerStore
from webapp.storage.tools import StoredTool
from webapp.tools.builtin import BUILTINS
from webapp.tools.definition import Behaviour
from webapp.web.kit.page import Toast
from webapp.web.tools.contexts import Builtin, ToolRow, ToolsPage
from webapp.web.tools.desk import Desk


def tools_page(desk: Desk, toasts: tuple[Toast, ...] = (), import_error: str = "", import_text: str = "") -> ToolsPage:
    tools = desk.tools.list()
    servers = {server.id: server.config.name for server in McpServerStore(desk.tools.database).list()}
    names = {tool.definition.name for tool in tools}
    builtins = [row.definition for row in BUILTINS.values() if row.definition.name not in names]
    return ToolsPage(
        page_title=desk.t("nav.tools"),
        commands_url=url_for("tools.do"),
        rows=tuple(_row(desk, tool, servers) for tool in tools),
        builtins=tuple(Builtin(row.name, desk.t(f"tools.builtin.{row.name}")) for row in builtins),
        toasts=toasts,
        import_error=import_error,
        import_text=import_text,
    )


def _row(desk: Desk, tool: StoredTool, servers: Mapping[str, str]) -> ToolRow:
    definition = tool.definition
    is_own = definition.behaviour is not Behaviour.MCP
    kind = desk.t(f"tools.behaviour.{definition.behaviour.value}")
    facts = (
        kind if is_own else desk.t("tools.from_server", name=servers.get(definition.mcp.server_id, "MCP")),
        desk.t(f"tools.approval.{definition.approval.value}"),
    )
    parameters = compact_parameters(definition.parameters)
    return ToolRow(tool.id, definition.name, page_of(tool), definition.description, parameters, facts, is_own)


def page_of(tool: StoredTool) -> str:
    """Where a tool is changed: its form, or the page of the server that brought it."""
    if tool.definition.behaviour is Behaviour.MCP:
        return url_for("tools.servers.edit", server_id=tool.definition.mcp.server_id, _anchor=f"tool-{tool.id}")
    return url_for("tools.edit", tool_id=tool.id)
