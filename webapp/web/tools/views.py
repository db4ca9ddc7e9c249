"""The content of the Tools pages: the list, and the form of one tool next to the resulting definition.

The values of each function are template variables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from flask import url_for

from webapp.chat.messages import ToolCall
from webapp.chat.tool_dialects import ToolDialect, all_dialects, compact_parameters, default_dialect, plain
from webapp.errors import RoostError, ToolInvalid
from webapp.services.generation.request import dialect_of
from webapp.services.tools import usable
from webapp.storage.mcp_servers import McpServerStore
from webapp.storage.tools import StoredTool
from webapp.tools.builtin import BUILTINS
from webapp.tools.definition import Approval, Behaviour, ToolDefinition
from webapp.tools.http_request import METHODS
from webapp.tools.parameter_rows import ITEM_KINDS, KINDS, MAX_DEPTH, ParameterRow
from webapp.tools.sample_arguments import sample_arguments
from webapp.web.kit.page import Choice, PageContext, Toast, Values
from webapp.web.tools.form_input import FORM_BEHAVIOURS, ToolDraft, definition_of

FIELDS = ("name", "description", "more", "fixed_value", "url", "method", "headers", "timeout_s", "json")
ROW_FIELDS = ("name", "enum", "default", "more")


def tools_page(
    page: PageContext, toasts: tuple[Toast, ...] = (), import_error: str = "", import_text: str = ""
) -> Values:
    tools = page.tools.list()
    servers = {server.id: server.config.name for server in McpServerStore(page.tools.database).list()}
    names = {tool.definition.name for tool in tools}
    builtins = [row.definition.name for row in BUILTINS.values() if row.definition.name not in names]
    return {
        "page_title": page.t("nav.tools"),
        "commands_url": url_for("tools.do"),
        "rows": [_tool_row(page, tool, servers) for tool in tools],
        "builtins": [{"name": name, "description": page.t(f"tools.builtin.{name}")} for name in builtins],
        "toasts": toasts,
        "import_error": import_error,
        "import_text": import_text,
    }


def _tool_row(page: PageContext, tool: StoredTool, servers: Mapping[str, str]) -> Values:
    """``parameters`` in the short form models see. ``is_own``: not brought by an MCP server."""
    definition = tool.definition
    is_own = definition.behaviour is not Behaviour.MCP
    kind = page.t(f"tools.behaviour.{definition.behaviour.value}")
    source = kind if is_own else page.t("tools.from_server", name=servers.get(definition.mcp.server_id, "MCP"))
    return {
        "id": tool.id,
        "name": definition.name,
        "url": page_of(tool),
        "description": definition.description,
        "parameters": compact_parameters(definition.parameters),
        "facts": [source, page.t(f"tools.approval.{definition.approval.value}")],
        "is_own": is_own,
    }


def page_of(tool: StoredTool) -> str:
    """Where a tool is changed: its form, or the page of the server that brought it."""
    if tool.definition.behaviour is Behaviour.MCP:
        return url_for("tools.servers.edit", server_id=tool.definition.mcp.server_id, _anchor=f"tool-{tool.id}")
    return url_for("tools.edit", tool_id=tool.id)


def tool_form(
    page: PageContext,
    draft: ToolDraft,
    tool_id: str = "",
    error: ToolInvalid | None = None,
    toasts: tuple[Toast, ...] = (),
    trial: Values | None = None,
) -> Values:
    """``tool_id`` "" is a new tool. ``trial``: a call that was tried (``result``, ``is_error``, ``reason``)."""
    errors = _errors_of(page, error)
    title = draft.name if tool_id else page.t("tools.new")
    return {
        "page_title": title or page.t("tools.new"),
        "commands_url": url_for("tools.do"),
        "tool_id": tool_id,
        "title": title,
        "action": url_for("tools.save", tool_id=tool_id) if tool_id else url_for("tools.create"),
        "draft": draft,
        "fields": {name: page.field(f"tools.field.{name}", error=errors.get(name, "")) for name in FIELDS},
        "rows": _row_fields(draft.rows, errors, ""),
        "behaviours": _choices(page, "behaviour", [choice.value for choice in FORM_BEHAVIOURS]),
        "approvals": _choices(page, "approval", [choice.value for choice in Approval]),
        "kinds": _choices(page, "kind", KINDS),
        "item_kinds": _choices(page, "kind", ITEM_KINDS),
        "methods": [Choice(method, method) for method in METHODS],
        "builtins": [Choice(name, name) for name in BUILTINS],
        "dialects": _choices(page, "dialect", ["", *(dialect.name for dialect in all_dialects())]),
        "preview": preview(page, draft, error),
        "toasts": toasts,
        "trial": trial,
        "hosts": ", ".join(page.settings.tool_hosts),
    }


def definition_in(draft: ToolDraft) -> ToolDefinition:
    """Raises ToolInvalid if it cannot be stored, offered or enforced."""
    return usable(definition_of(draft))


def preview(page: PageContext, draft: ToolDraft, error: ToolInvalid | None = None) -> Values:
    """What a definition comes to, or what is wrong with it. ``errors``: (field, text) of every field that can have one;
    an empty text takes an old error off the page."""
    if error is None:
        try:
            definition = definition_in(draft)
        except ToolInvalid as exc:
            error = exc
    if error is not None:
        problem = page.t("tools.preview.problem", reason=page.reason(error))
        return {"json": draft.json, "problem": problem, "errors": _all_errors(draft, _errors_of(page, error))}
    sample = json.dumps(sample_arguments(definition.parameters), ensure_ascii=False)
    dialect = _dialect(page, draft.dialect)
    offer = dialect.offer([definition.function])
    return {
        "json": json.dumps(plain(definition.function), ensure_ascii=False, indent=2),
        "sample": dialect.calls([ToolCall("", definition.name, sample)]),
        "prompt": offer,
        "tokens": _tokens_text(page, offer),
        "errors": _all_errors(draft, {}),
    }


def _dialect(page: PageContext, name: str) -> ToolDialect:
    """The named one, else what fits the chosen model."""
    try:
        return dialect_of(name, page.manager.model_info())
    except RoostError:
        return default_dialect("")


def _tokens_text(page: PageContext, text: str) -> str:
    """ "" where the chosen model's vocabulary is not known."""
    try:
        return str(page.t("unit.tokens", count=len(page.manager.tokenizer().encode(text))))
    except RoostError:
        return ""


def _errors_of(page: PageContext, error: ToolInvalid | None) -> Mapping[str, str]:
    """The error at its form field: rows as ``0.1:enum``, what is about the schema as a whole at ``json``."""
    if error is None:
        return {}
    place, _, name = str(error.params.get("field", "")).rpartition(".")
    key = f"{place}:{name}" if place and place.replace(".", "").isdigit() else str(error.params.get("field", ""))
    known = key in FIELDS or ":" in key
    return {key if known else "json": page.t("tools.problem", reason=page.reason(error))}


def _all_errors(draft: ToolDraft, errors: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    names = [*FIELDS, *_row_error_names(draft.rows, "")]
    return tuple((name, errors.get(name, "")) for name in names)


def _row_error_names(rows: tuple[ParameterRow, ...], prefix: str) -> list[str]:
    names = []
    for number, row in enumerate(rows):
        names += [f"{prefix}{number}:{name}" for name in ROW_FIELDS]
        names += _row_error_names(row.children, f"{prefix}{number}.")
    return names


def _row_fields(rows: tuple[ParameterRow, ...], errors: Mapping[str, str], prefix: str) -> list[Values]:
    """``place`` names the row; ``errors`` are those of its fields, by their names."""
    found = []
    for number, row in enumerate(rows):
        kind = row.item_kind if row.kind == "array" else row.kind
        found.append(
            {
                "place": f"{prefix}{number}",
                "row": row,
                "errors": {name: errors.get(f"{prefix}{number}:{name}", "") for name in ROW_FIELDS},
                "children": _row_fields(row.children, errors, f"{prefix}{number}."),
                "has_children": kind == "object",
                "has_enum": kind in ("string", "number", "integer"),
                "can_nest": prefix.count(".") + 1 < MAX_DEPTH,
                "is_first": number == 0,
                "is_last": number == len(rows) - 1,
            }
        )
    return found


def _choices(page: PageContext, group: str, values: list[str] | tuple[str, ...]) -> list[Choice]:
    return [Choice(value, page.t(f"tools.{group}.{value or 'auto'}")) for value in values]
