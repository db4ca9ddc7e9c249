"""What the pages of MCP servers work with. One a request."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import current_app

from webapp.errors import McpNotInstalled, McpProgramsOff, RoostError
from webapp.i18n import phrase, translate_error
from webapp.services.tools.mcp_servers import McpServers
from webapp.settings import Settings
from webapp.storage.tools import ToolStore
from webapp.web.fragments import current_locale, translator
from webapp.web.guard import current_role
from webapp.web.roles import Role


@dataclass(frozen=True)
class Desk:
    """``is_owner``: the reader may change servers."""

    servers: McpServers
    tools: ToolStore
    settings: Settings
    locale: str
    t: Callable[..., Any]
    is_owner: bool

    def said(self, error: RoostError) -> tuple[str, str]:
        """Sentence and way out, in the reader's language."""
        return translate_error(error, self.locale)

    def reason(self, error: RoostError) -> str:
        """Only what is wrong, for a place that says what it is about."""
        return str(phrase(error.params.get("reason", ""), self.locale))

    @property
    def missing(self) -> tuple[str, str]:
        """What to install first, and how; two empty texts when it is there."""
        return ("", "") if importlib.util.find_spec("mcp") else self.said(McpNotInstalled())

    @property
    def barred(self) -> str:
        """Why not every kind of server can be added, or ""."""
        return "" if self.settings.mcp_stdio else " ".join(self.said(McpProgramsOff()))


def the_desk() -> Desk:
    locale = current_locale()
    parts = current_app.extensions
    tools = ToolStore(parts["database"])
    is_owner = current_role() is Role.OWNER
    return Desk(parts["mcp_servers"], tools, parts["settings"], locale, translator(locale), is_owner)
