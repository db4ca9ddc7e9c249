"""What the pages of MCP servers work with. One a request."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import current_app

from webapp.errors import McpNotInstalled, McpOnlyHere, McpProgramsOff, RoostError
from webapp.i18n import phrase, translate_error
from webapp.services.tools.mcp_servers import McpServers
from webapp.settings import Settings
from webapp.storage.tools import ToolStore
from webapp.web.fragments import current_locale, translator
from webapp.web.guard import is_from_here


@dataclass(frozen=True)
class Desk:
    """``is_here``: the reader sits at the machine Roost runs on."""

    servers: McpServers
    tools: ToolStore
    settings: Settings
    locale: str
    t: Callable[..., Any]
    is_here: bool

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
        """Why this reader cannot add every kind of server, or ""."""
        if not self.is_here:
            return " ".join(self.said(McpOnlyHere()))
        return "" if self.settings.mcp_stdio else " ".join(self.said(McpProgramsOff()))


def the_desk() -> Desk:
    locale = current_locale()
    parts = current_app.extensions
    tools = ToolStore(parts["database"])
    return Desk(parts["mcp_servers"], tools, parts["settings"], locale, translator(locale), is_from_here())
