"""What the templates of the Tools pages are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from webapp.tools.parameter_rows import ParameterRow
from webapp.web.kit.page import Toast


@dataclass(frozen=True)
class Choice:
    value: str
    label: str
    is_disabled: bool = False


@dataclass(frozen=True)
class FormField:
    """What the macros of ``_controls.html`` want to know of a control."""

    name: str
    label: str
    help: str = ""
    error: str = ""
    is_changed: bool = False
    default: str | None = None
    needs_reload: bool = False


@dataclass(frozen=True)
class ToolRow:
    """A line of the list. ``parameters`` in the short form models see. ``is_own``: not brought by an MCP server."""

    id: str
    name: str
    url: str
    description: str
    parameters: str
    facts: tuple[str, ...]
    is_own: bool = True


@dataclass(frozen=True)
class Builtin:
    name: str
    description: str


@dataclass(frozen=True)
class ToolsPage:
    page_title: str
    commands_url: str
    rows: tuple[ToolRow, ...]
    builtins: tuple[Builtin, ...]
    toasts: tuple[Toast, ...] = ()
    import_error: str = ""
    import_text: str = ""


@dataclass(frozen=True)
class RowField:
    """``place`` names the row; ``error_of`` its fields' errors by their names."""

    place: str
    row: ParameterRow
    errors: Mapping[str, str]
    children: tuple[RowField, ...]
    can_nest: bool
    is_first: bool
    is_last: bool

    @property
    def has_children(self) -> bool:
        kind = self.row.item_kind if self.row.kind == "array" else self.row.kind
        return kind == "object"

    @property
    def has_enum(self) -> bool:
        kind = self.row.item_kind if self.row.kind == "array" else self.row.kind
        return kind in ("string", "number", "integer")


@dataclass(frozen=True)
class Preview:
    """What the definition comes to. ``problem`` is said where there is none; the other texts are "" then."""

    json: str = ""
    sample: str = ""
    prompt: str = ""
    tokens: str = ""
    problem: str = ""
    errors: tuple[tuple[str, str], ...] = ()
    """(field, text) of every field that can have one; empty texts take an old one back."""


@dataclass(frozen=True)
class Trial:
    """A call that was tried from the page. ``result`` is what the model would read, ``reason`` why it is an error, in
    the reader's language."""

    result: str = ""
    is_error: bool = False
    reason: str = ""


@dataclass(frozen=True)
class ToolForm:
    """``fields`` by name. ``tool_id`` "" for a new one."""

    page_title: str
    commands_url: str
    tool_id: str
    title: str
    action: str
    draft: object
    fields: Mapping[str, FormField]
    rows: tuple[RowField, ...]
    behaviours: tuple[Choice, ...]
    approvals: tuple[Choice, ...]
    kinds: tuple[Choice, ...]
    item_kinds: tuple[Choice, ...]
    methods: tuple[Choice, ...]
    builtins: tuple[Choice, ...]
    dialects: tuple[Choice, ...]
    preview: Preview
    toasts: tuple[Toast, ...] = ()
    trial: Trial | None = None
    hosts: str = ""
