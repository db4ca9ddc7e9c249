"""What the templates of the MCP servers' pages are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from webapp.web.kit.page import Choice, FormField, Toast


@dataclass(frozen=True)
class ServerRow:
    """How a server stands. ``place`` is its command or address, without keys. ``phase``: "off", "idle", "connecting",
    "connected" or "failed"; ``problem`` with ``way_out`` belong to the last."""

    id: str
    name: str
    url: str
    kind: str
    place: str
    phase: str
    state: str
    facts: tuple[str, ...]
    problem: str = ""
    way_out: str = ""
    is_on: bool = False
    can_change: bool = False

    @property
    def badge(self) -> str:
        return {"connected": "badge-accent", "connecting": "badge-amber", "failed": "badge-red"}.get(self.phase, "")


@dataclass(frozen=True)
class ServersPage:
    """``missing`` says what has to be installed, ``barred`` why not every kind of server can be added;
    ``notice`` (sentence, way out) what a button of the list could not do."""

    page_title: str
    commands_url: str
    rows: tuple[ServerRow, ...]
    is_waiting: bool
    missing: tuple[str, str]
    barred: str
    toasts: tuple[Toast, ...] = ()
    notice: tuple[str, str] = ("", "")
    import_error: str = ""
    import_text: str = ""


@dataclass(frozen=True)
class ToolLine:
    """A tool of a server. ``remote`` is the server's own name for it, ``name`` the one it has here; ``id`` is "" for
    one that is not offered."""

    id: str
    name: str
    remote: str
    description: str
    parameters: str
    hints: tuple[str, ...]
    approval: str
    is_offered: bool


@dataclass(frozen=True)
class Trial:
    """What a try came to: ``title`` and ``text`` for a note of that ``kind``; the tools it found."""

    kind: str
    title: str
    text: str
    tools: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServerPage:
    """``row`` is None for a new one."""

    page_title: str
    commands_url: str
    title: str
    server_id: str
    action: str
    draft: object
    words: tuple[str, ...]
    fields: Mapping[str, FormField]
    kinds: tuple[Choice, ...]
    missing: tuple[str, str]
    barred: str
    row: ServerRow | None = None
    tools: tuple[ToolLine, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    left_out: str = ""
    approvals: tuple[Choice, ...] = ()
    is_waiting: bool = False
    trial: Trial | None = None
    toasts: tuple[Toast, ...] = ()
