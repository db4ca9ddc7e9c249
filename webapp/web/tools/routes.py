"""Routes of the Tools pages. GET reads; POST changes and redirects to a page that reports it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import ToolInvalid
from webapp.i18n import Text, say
from webapp.services.tools import try_call
from webapp.storage.tools import StoredTool
from webapp.tools.builtin import BUILTINS
from webapp.tools.definition import Behaviour, ToolDefinition
from webapp.tools.runner import ToolResult
from webapp.tools.sample_arguments import sample_arguments
from webapp.web.kit.page import ROW_ID, PageContext, current_page, download, posted_text, render_page, undone_id
from webapp.web.servers import routes as server_routes
from webapp.web.tools import bench_routes
from webapp.web.tools.form_input import (
    MAX_IMPORT_CHARS,
    ToolDraft,
    changed_rows,
    definitions_in,
    draft_of,
    read_draft,
    with_json,
)
from webapp.web.tools.views import definition_in, page_of, preview, tool_form, tools_page

blueprint = Blueprint("tools", __name__, url_prefix="/tools")
blueprint.register_blueprint(bench_routes.blueprint)
blueprint.register_blueprint(server_routes.blueprint)
FORM_BYTES = 4 << 20
SAID = ("saved", "deleted", "restored", "added", "imported")
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
"""The example of RWKV-Runner's manual: what a new form begins with, so that nobody faces an empty one."""


@blueprint.get("")
def index() -> Response:
    page = current_page()
    return render_page("tools/page.html", tools_page(page, page.done_toast("tools.said", SAID)))


@blueprint.get("/new")
def new() -> Response:
    page = current_page()
    draft = replace(draft_of(EXAMPLE), behaviour="fixed") if request.args.get("from") == "example" else ToolDraft()
    return render_page("tools/edit.html", tool_form(page, draft))


@blueprint.get("/<tool_id>")
def edit(tool_id: str) -> BaseResponse | Response:
    page = current_page()
    stored = page.tools.get(tool_id)
    if stored.definition.behaviour is Behaviour.MCP:
        return redirect(page_of(stored), 303)
    draft = draft_of(stored.definition, stored.updated_at)
    return render_page("tools/edit.html", tool_form(page, draft, tool_id, toasts=page.done_toast("tools.said", SAID)))


@blueprint.post("")
def create() -> BaseResponse | Response:
    return _save("", lambda page, definition: page.tools.create(definition).id)


@blueprint.post("/<tool_id>")
def save(tool_id: str) -> BaseResponse | Response:
    def change(page: PageContext, definition: ToolDefinition) -> str:
        _own(page, tool_id)
        return page.tools.update(tool_id, definition, request.form.get("updated_at", type=float)).id

    return _save(tool_id, change)


@blueprint.post("/form")
def form() -> Response:
    """The form after one of its own buttons: rows added, moved, removed, or its JSON taken over."""
    page, draft = current_page(), _draft()
    tool_id, error = _tool_id(), None
    command = request.form.get("do", "")[:100]
    try:
        if command == "json":
            draft = with_json(draft, request.form.get("json", "")[:MAX_IMPORT_CHARS])
        else:
            draft = replace(draft, rows=changed_rows(draft.rows, command))
    except ToolInvalid as exc:
        error = exc if exc.params.get("field") == "json" else exc.with_params(field="json")
    return render_page("tools/edit.html", tool_form(page, draft, tool_id, error), "tools/_form.html")


@blueprint.post("/preview")
def show_preview() -> Response:
    """What the form comes to as it stands, and the errors of its fields."""
    return render_page("tools/_preview.html", {"preview": preview(current_page(), _draft()), "is_update": True})


@blueprint.post("/try")
def try_out() -> Response:
    """Runs the tool as the form has it, saved or not."""
    page, draft = current_page(), _draft()
    try:
        definition = definition_in(draft)
        arguments = draft.arguments.strip() or json.dumps(sample_arguments(definition.parameters))
        found = try_call(definition, arguments, page.settings.tool_hosts)
    except ToolInvalid as exc:
        return render_page("tools/edit.html", tool_form(page, draft, _tool_id(), exc), "tools/_form.html")
    result = _trial(page, found) if found else {"result": page.t("tools.try.asks")}
    shown = tool_form(page, replace(draft, arguments=arguments), _tool_id(), trial=result)
    return render_page("tools/edit.html", shown, "tools/_form.html")


def _trial(page: PageContext, found: ToolResult) -> dict[str, Any]:
    """``result`` is what the model would read, ``reason`` why it is an error, in the reader's language."""
    reason = str(say(found.reason, page.locale)) if found.is_error else ""
    return {"result": found.text or page.t("tools.try.empty"), "is_error": found.is_error, "reason": reason}


@blueprint.post("/<tool_id>/delete")
def delete(tool_id: str) -> BaseResponse:
    page = current_page()
    name = _own(page, tool_id).definition.name
    page.tools.delete(tool_id)
    return redirect(url_for("tools.index", said="deleted", about=name, undo=tool_id), 303)


@blueprint.post("/do")
def do() -> BaseResponse:
    """The undo of a toast."""
    stored = current_page().tools.restore(undone_id())
    return redirect(url_for("tools.index", said="restored", about=stored.definition.name), 303)


@blueprint.post("/builtin")
def add_builtin() -> BaseResponse | Response:
    row = BUILTINS.get(request.form.get("name", ""))
    if row is None:
        return redirect(url_for("tools.index"), 303)
    try:
        current_page().tools.create(row.definition)
    except ToolInvalid as exc:
        page = current_page()
        return render_page("tools/page.html", tools_page(page, (page.error_toast(exc),)), status=422)
    return redirect(url_for("tools.index", said="added", about=row.definition.name), 303)


@blueprint.post("/import")
def import_() -> BaseResponse | Response:
    """A `tools` array, one of its entries, or a bare function object; pasted or as a file."""
    request.max_form_memory_size = FORM_BYTES
    page, text = current_page(), posted_text(MAX_IMPORT_CHARS)
    try:
        made = page.tools.create_all(definitions_in(text))
    except ToolInvalid as exc:
        shown = tools_page(page, import_error=page.sentences(exc), import_text=text[:20_000])
        return render_page("tools/page.html", shown, status=422)
    return redirect(url_for("tools.index", said="imported", about=len(made)), 303)


@blueprint.get("/export")
def export() -> Response:
    """All tools as an OpenAI `tools` array. What they do here stays here."""
    tools = [tool.definition.to_openai() for tool in current_page().tools.list()]
    return download(json.dumps(tools, ensure_ascii=False, indent=2), "application/json", "tools.json")


def _own(page: PageContext, tool_id: str) -> StoredTool:
    """Raises ToolInvalid for one an MCP server brought: that server's page decides about it."""
    stored = page.tools.get(tool_id)
    if stored.definition.behaviour is Behaviour.MCP:
        raise ToolInvalid(field="name", reason=Text("reason.web.tool_of_an_mcp_server"))
    return stored


def _save(tool_id: str, change: Any) -> BaseResponse | Response:
    page, draft = current_page(), _draft()
    try:
        saved = change(page, definition_in(draft))
    except ToolInvalid as exc:
        return render_page("tools/edit.html", tool_form(page, draft, tool_id, exc), status=422)
    return redirect(url_for("tools.edit", tool_id=saved, said="saved"), 303)


def _draft() -> ToolDraft:
    request.max_form_memory_size = FORM_BYTES
    request.max_form_parts = 3_000
    return read_draft(request.form)


def _tool_id() -> str:
    found = request.form.get("tool_id", "")
    return found if ROW_ID.fullmatch(found) else ""
