"""The Tools pages: the list, and the form of one tool next to the resulting definition.

GET reads; POST changes and redirects to a page that reports it. The values of the view functions are template
variables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from msgspec.structs import replace
from werkzeug.wrappers import Response as BaseResponse

from webapp.chat.messages import ToolCall
from webapp.chat.tool_dialects import ToolDialect, all_dialects, compact_parameters, default_dialect, plain
from webapp.errors import RoostError, ToolInvalid
from webapp.i18n import Text, say
from webapp.services.generation.request import dialect_of
from webapp.services.tools import try_call, usable
from webapp.storage.tools import McpServerStore, StoredTool
from webapp.tools.builtin import BUILTINS
from webapp.tools.definition import Approval, Behaviour, ToolDefinition
from webapp.tools.parameter_rows import ITEM_KINDS, KINDS, MAX_DEPTH, ParameterRow, sample_arguments
from webapp.tools.runner import METHODS, ToolResult
from webapp.web.kit import page as kit
from webapp.web.tools import bench, servers
from webapp.web.tools.form_input import (
    FORM_BEHAVIOURS,
    MAX_IMPORT_CHARS,
    ToolDraft,
    changed_rows,
    definition_of,
    definitions_in,
    draft_of,
    read_draft,
    with_json,
)

blueprint = Blueprint("tools", __name__, url_prefix="/tools")
blueprint.register_blueprint(bench.blueprint)
blueprint.register_blueprint(servers.blueprint)
FORM_BYTES = 4 << 20
TOASTS = ("saved", "deleted", "restored", "added", "imported")
EXAMPLE = ToolDefinition(
    "get_current_weather",
    "Get the current weather in a given location",
    {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["location"],
    },
    fixed_value='{"location": "Paris", "temperature": "22"}',
)
"""The example in RWKV-Runner's manual; shown in a new form."""
FIELDS = ("name", "description", "more", "fixed_value", "url", "method", "headers", "timeout_s", "json")
ROW_FIELDS = ("name", "enum", "default", "more")


def tools_page(
    page: kit.PageContext, toasts: tuple[kit.Toast, ...] = (), import_error: str = "", import_text: str = ""
) -> kit.Values:
    tools = page.tools.list()
    servers = {server.id: server.config.name for server in McpServerStore(page.tools.database).list()}
    names = {tool.definition.name for tool in tools}
    builtins = [row.definition.name for row in BUILTINS.values() if row.definition.name not in names]
    return {
        "page_title": page.t("nav.tools"),
        "rows": [_tool_row(page, tool, servers) for tool in tools],
        "builtins": [{"name": name, "description": page.t(f"tools.builtin.{name}")} for name in builtins],
        "toasts": toasts,
        "import_error": import_error,
        "import_text": import_text,
    }


def _tool_row(page: kit.PageContext, tool: StoredTool, servers: Mapping[str, str]) -> kit.Values:
    """``parameters`` in the short form for models. ``is_own``: not from an MCP server."""
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
    """The page on which a tool is changed: its form, or its server's page."""
    if tool.definition.behaviour is Behaviour.MCP:
        return url_for("tools.servers.edit", server_id=tool.definition.mcp.server_id, _anchor=f"tool-{tool.id}")
    return url_for("tools.edit", tool_id=tool.id)


def tool_form(
    page: kit.PageContext,
    draft: ToolDraft,
    tool_id: str = "",
    error: ToolInvalid | None = None,
    toasts: tuple[kit.Toast, ...] = (),
    trial: kit.Values | None = None,
) -> kit.Values:
    """``tool_id`` "" means a new tool. ``trial``: a call that was tried (``result``, ``is_error``, ``reason``)."""
    errors = _errors_of(page, error)
    title = draft.name if tool_id else page.t("tools.new")
    return {
        "page_title": title or page.t("tools.new"),
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
        "methods": [kit.Choice(method, method) for method in METHODS],
        "builtins": [kit.Choice(name, name) for name in BUILTINS],
        "dialects": _choices(page, "dialect", ["", *(dialect.name for dialect in all_dialects())]),
        "preview": preview(page, draft, error),
        "toasts": toasts,
        "trial": trial,
        "hosts": ", ".join(page.settings.tool_hosts),
    }


def definition_in(draft: ToolDraft) -> ToolDefinition:
    """Raises ToolInvalid if it cannot be stored, offered or enforced."""
    return usable(definition_of(draft))


def preview(page: kit.PageContext, draft: ToolDraft, error: ToolInvalid | None = None) -> kit.Values:
    """The resulting definition, or its error. ``errors``: (field, text) for every field; an empty text removes an old
    error from the page."""
    if error is None:
        try:
            definition = definition_in(draft)
        except ToolInvalid as exc:
            error = exc
    if error is not None:
        problem = page.t("tools.preview.problem", reason=page.reason(error))
        errors = _all_errors(draft, _errors_of(page, error))
        return {"json": draft.json, "problem": problem, "is_begun": bool(draft.name), "errors": errors}
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


def _dialect(page: kit.PageContext, name: str) -> ToolDialect:
    """The named dialect, otherwise the chosen model's."""
    try:
        return dialect_of(name, page.manager.model_info())
    except RoostError:
        return default_dialect("")


def _tokens_text(page: kit.PageContext, text: str) -> str:
    """Empty if the chosen model's vocabulary is unknown."""
    try:
        return str(page.t("unit.tokens", count=len(page.manager.tokenizer().encode(text))))
    except RoostError:
        return ""


def _errors_of(page: kit.PageContext, error: ToolInvalid | None) -> Mapping[str, str]:
    """Errors by form field: rows as ``0.1:enum``, errors of the whole schema at ``json``."""
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


def _row_fields(rows: tuple[ParameterRow, ...], errors: Mapping[str, str], prefix: str) -> list[kit.Values]:
    """``place`` names the row; ``errors`` are those of its fields."""
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


def _choices(page: kit.PageContext, group: str, values: list[str] | tuple[str, ...]) -> list[kit.Choice]:
    return [kit.Choice(value, page.t(f"tools.{group}.{value or 'auto'}")) for value in values]


# routes


@blueprint.get("")
def index() -> Response:
    page = kit.current_page()
    return kit.render_page("tools/page.html", tools_page(page, page.done_toast("tools.said", TOASTS)))


@blueprint.get("/new")
def new() -> Response:
    page = kit.current_page()
    draft = replace(draft_of(EXAMPLE), behaviour="fixed") if request.args.get("from") == "example" else ToolDraft()
    return kit.render_page("tools/edit.html", tool_form(page, draft))


@blueprint.get("/<tool_id>")
def edit(tool_id: str) -> BaseResponse | Response:
    page = kit.current_page()
    stored = page.tools.get(tool_id)
    if stored.definition.behaviour is Behaviour.MCP:
        return redirect(page_of(stored), 303)
    draft = draft_of(stored.definition, stored.updated_at)
    return kit.render_page(
        "tools/edit.html", tool_form(page, draft, tool_id, toasts=page.done_toast("tools.said", TOASTS))
    )


@blueprint.post("")
def create() -> BaseResponse | Response:
    return _save("", lambda page, definition: page.tools.create(definition).id)


@blueprint.post("/<tool_id>")
def save(tool_id: str) -> BaseResponse | Response:
    def change(page: kit.PageContext, definition: ToolDefinition) -> str:
        _own(page, tool_id)
        return page.tools.update(tool_id, definition, request.form.get("updated_at", type=float)).id

    return _save(tool_id, change)


@blueprint.post("/form")
def form() -> Response:
    """The form after one of its own buttons: rows added, moved or removed, or JSON applied."""
    page, draft = kit.current_page(), _draft()
    tool_id, error = _tool_id(), None
    command = request.form.get("do", "")[:100]
    try:
        if command == "json":
            draft = with_json(draft, request.form.get("json", "")[:MAX_IMPORT_CHARS])
        else:
            draft = replace(draft, rows=changed_rows(draft.rows, command))
    except ToolInvalid as exc:
        error = exc if exc.params.get("field") == "json" else exc.with_params(field="json")
    return kit.render_page("tools/edit.html", tool_form(page, draft, tool_id, error), "tools/_form.html")


@blueprint.post("/preview")
def show_preview() -> Response:
    """The definition that the form describes, and the errors of its fields."""
    return kit.render_page("tools/_preview.html", {"preview": preview(kit.current_page(), _draft()), "is_update": True})


@blueprint.post("/try")
def try_out() -> Response:
    """Runs the tool with the form's values, saved or not."""
    page, draft = kit.current_page(), _draft()
    try:
        definition = definition_in(draft)
        arguments = draft.arguments.strip() or json.dumps(sample_arguments(definition.parameters))
        found = try_call(definition, arguments, page.settings.tool_hosts)
    except ToolInvalid as exc:
        return kit.render_page("tools/edit.html", tool_form(page, draft, _tool_id(), exc), "tools/_form.html")
    result = _trial(page, found) if found else {"result": page.t("tools.try.asks")}
    shown = tool_form(page, replace(draft, arguments=arguments), _tool_id(), trial=result)
    return kit.render_page("tools/edit.html", shown, "tools/_form.html")


def _trial(page: kit.PageContext, found: ToolResult) -> dict[str, Any]:
    """``result``: the text for the model; ``reason``: why it is an error, in the user's language."""
    reason = str(say(found.reason, page.locale)) if found.is_error else ""
    return {"result": found.text or page.t("tools.try.empty"), "is_error": found.is_error, "reason": reason}


@blueprint.post("/<tool_id>/delete")
def delete(tool_id: str) -> BaseResponse:
    page = kit.current_page()
    name = _own(page, tool_id).definition.name
    page.tools.delete(tool_id)
    return redirect(url_for("tools.index", said="deleted", about=name, undo=tool_id), 303)


@blueprint.post("/do")
def do() -> BaseResponse:
    """The undo command of a toast."""
    stored = kit.current_page().tools.restore(kit.undone_id())
    return redirect(url_for("tools.index", said="restored", about=stored.definition.name), 303)


@blueprint.post("/builtin")
def add_builtin() -> BaseResponse | Response:
    row = BUILTINS.get(request.form.get("name", ""))
    if row is None:
        return redirect(url_for("tools.index"), 303)
    try:
        kit.current_page().tools.create(row.definition)
    except ToolInvalid as exc:
        page = kit.current_page()
        return kit.render_page("tools/page.html", tools_page(page, (page.error_toast(exc),)), status=422)
    return redirect(url_for("tools.index", said="added", about=row.definition.name), 303)


@blueprint.post("/import")
def import_() -> BaseResponse | Response:
    """A `tools` array, one of its entries, or a bare function object; pasted or as a file."""
    request.max_form_memory_size = FORM_BYTES
    page, text = kit.current_page(), kit.posted_text(MAX_IMPORT_CHARS)
    try:
        made = page.tools.create_all(definitions_in(text))
    except ToolInvalid as exc:
        shown = tools_page(page, import_error=page.sentences(exc), import_text=text[:20_000])
        return kit.render_page("tools/page.html", shown, status=422)
    return redirect(url_for("tools.index", said="imported", about=len(made)), 303)


@blueprint.get("/export")
def export() -> Response:
    """All tools as an OpenAI `tools` array, without their behaviour."""
    tools = [{"type": "function", "function": tool.definition.function} for tool in kit.current_page().tools.list()]
    return kit.download(json.dumps(tools, ensure_ascii=False, indent=2), "application/json", "tools.json")


def _own(page: kit.PageContext, tool_id: str) -> StoredTool:
    """Raises ToolInvalid for a tool of an MCP server, which is managed on the server's page."""
    stored = page.tools.get(tool_id)
    if stored.definition.behaviour is Behaviour.MCP:
        raise ToolInvalid(field="name", reason=Text("reason.web.tool_of_an_mcp_server"))
    return stored


def _save(tool_id: str, change: Any) -> BaseResponse | Response:
    page, draft = kit.current_page(), _draft()
    try:
        saved = change(page, definition_in(draft))
    except ToolInvalid as exc:
        return kit.render_page("tools/edit.html", tool_form(page, draft, tool_id, exc), status=422)
    return redirect(url_for("tools.edit", tool_id=saved, said="saved"), 303)


def _draft() -> ToolDraft:
    request.max_form_memory_size = FORM_BYTES
    request.max_form_parts = 3_000
    return read_draft(request.form)


def _tool_id() -> str:
    found = request.form.get("tool_id", "")
    return found if kit.ROW_ID.fullmatch(found) else ""
