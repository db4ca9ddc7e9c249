"""The page of all tools."""

from __future__ import annotations

from flask import url_for

from webapp.chat.tool_offers import compact_parameters
from webapp.storage.tools import StoredTool
from webapp.tools.builtin import BUILTINS
from webapp.web.chat.contexts import Toast
from webapp.web.tools.contexts import Builtin, ToolRow, ToolsPage
from webapp.web.tools.desk import Desk


def tools_page(desk: Desk, toasts: tuple[Toast, ...] = (), import_error: str = "", import_text: str = "") -> ToolsPage:
    tools = desk.tools.list()
    names = {tool.definition.name for tool in tools}
    builtins = [row.definition for row in BUILTINS.values() if row.definition.name not in names]
    return ToolsPage(
        page_title=desk.t("nav.tools"),
        commands_url=url_for("tools.do"),
        rows=tuple(_row(desk, tool) for tool in tools),
        builtins=tuple(Builtin(row.name, desk.t(f"tools.builtin.{row.name}")) for row in builtins),
        toasts=toasts,
        import_error=import_error,
        import_text=import_text,
    )


def _row(desk: Desk, tool: StoredTool) -> ToolRow:
    definition = tool.definition
    facts = (
        desk.t(f"tools.behaviour.{definition.behaviour.value}"),
        desk.t(f"tools.approval.{definition.approval.value}"),
    )
    url = url_for("tools.edit", tool_id=tool.id)
    return ToolRow(
        tool.id, definition.name, url, definition.description, compact_parameters(definition.parameters), facts
    )
