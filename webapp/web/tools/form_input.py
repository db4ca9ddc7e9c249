"""The submitted tool form: fields and parameter rows, and the changes that its buttons make to the rows.

Rows are named by position: ``0`` is the first, ``0.1`` the second property inside it. The form lists the positions of
its rows in order (``row``) and sends their fields as ``0.1:name``. So adding, moving or removing a row means parsing
the form, changing the tree and rendering it again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from werkzeug.datastructures import MultiDict

from webapp.errors import ToolInvalid
from webapp.i18n import Text
from webapp.tools.definition import Approval, Behaviour, HttpCall, ToolDefinition, from_openai, parse_json
from webapp.tools.parameter_rows import (
    ITEM_KINDS,
    KINDS,
    MAX_DEPTH,
    MAX_ROWS,
    ParameterRow,
    more_of,
    rows_of,
    schema_of,
)
from webapp.tools.runner import METHODS, marks
from webapp.tools.schema_check import MAX_NODES

PLACE = re.compile(r"\d{1,4}(\.\d{1,4})*")
FORM_BEHAVIOURS = tuple(choice for choice in Behaviour if choice is not Behaviour.MCP)
"""Without MCP: a server defines its own tools."""
SHORT, LONG = 4_000, 120_000
"""Long enough: a row's text is cut only if its schema would be too large anyway."""
LIMITS = {"description": LONG, "fixed_value": LONG, "more": LONG, "arguments": 2 * LONG, "json": 2 * LONG}
MAX_IMPORT_CHARS = 1_000_000
Rows = tuple[ParameterRow, ...]


class ToolDraft(Struct, frozen=True):
    """Unchecked input. ``more`` is JSON of further keywords of the schema; ``json`` the JSON text next to the form,
    which is shown again if the form has no valid definition."""

    name: str = ""
    description: str = ""
    rows: Rows = ()
    more: str = ""
    behaviour: str = Behaviour.FIXED.value
    fixed_value: str = ""
    url: str = ""
    method: str = "GET"
    headers: str = ""
    timeout_s: str = "10"
    builtin: str = ""
    approval: str = Approval.ALWAYS.value
    for_guests: str = ""
    dialect: str = ""
    updated_at: str = ""
    arguments: str = ""
    json: str = ""


def draft_of(definition: ToolDefinition, updated_at: float = 0.0) -> ToolDraft:
    more = more_of(definition.parameters)
    return ToolDraft(
        name=definition.name,
        description=definition.description,
        rows=rows_of(definition.parameters),
        more=json.dumps(more, ensure_ascii=False) if more else "",
        behaviour=definition.behaviour.value,
        fixed_value=definition.fixed_value,
        url=definition.http.url,
        method=definition.http.method,
        headers="\n".join(f"{name}: {value}" for name, value in definition.http.headers.items()),
        timeout_s=f"{definition.http.timeout_s:g}",
        builtin=definition.builtin,
        approval=definition.approval.value,
        for_guests="1" if definition.for_guests else "",
        updated_at=repr(updated_at) if updated_at else "",
    )


def read_draft(form: MultiDict[str, str]) -> ToolDraft:
    """Never raises: long text is cut, an invalid choice becomes the first one."""
    names = [row for row in ToolDraft.__struct_fields__ if row != "rows"]
    texts = {name: form.get(name, "").replace("\r\n", "\n")[: LIMITS.get(name, SHORT)] for name in names}
    texts["behaviour"] = _one_of(texts["behaviour"], tuple(choice.value for choice in FORM_BEHAVIOURS))
    texts["approval"] = _one_of(texts["approval"], tuple(choice.value for choice in Approval))
    return ToolDraft(rows=_read_rows(form), **texts)


def definition_of(draft: ToolDraft) -> ToolDefinition:
    """Raises ToolInvalid with the invalid field: a form field's name, or a row's (``0.1.enum``)."""
    parameters = schema_of(draft.rows, _more(draft))
    return ToolDefinition(
        name=draft.name.strip(),
        description=draft.description.strip(),
        parameters=parameters,
        behaviour=Behaviour(draft.behaviour),
        fixed_value=draft.fixed_value,
        http=_http(draft, parameters) if draft.behaviour == Behaviour.HTTP.value else HttpCall(),
        builtin=draft.builtin,
        approval=Approval(draft.approval),
        for_guests=draft.for_guests == "1",
    )


def changed_rows(rows: Rows, command: str) -> Rows:
    """``add:PLACE`` (a row inside it, "" at the top), ``remove:PLACE``, ``up:PLACE``, ``down:PLACE``; other commands
    and unknown places change nothing."""
    action, _, place = command.partition(":")
    path = [int(part) for part in place.split(".")] if PLACE.fullmatch(place) else []
    if action == "add" and _count(rows) < MAX_ROWS and len(path) < MAX_DEPTH:
        return _changed(rows, path, lambda inner: (*inner, ParameterRow())) if path or not place else rows
    if not path:
        return rows
    moves: dict[str, Callable[[Rows], Rows]] = {
        "remove": lambda inner: (*inner[: path[-1]], *inner[path[-1] + 1 :]),
        "up": lambda inner: _swapped(inner, path[-1] - 1),
        "down": lambda inner: _swapped(inner, path[-1]),
    }
    return _changed(rows, path[:-1], moves[action]) if action in moves else rows


def with_json(draft: ToolDraft, text: str) -> ToolDraft:
    """The draft with name, description and parameters from this JSON. Raises ToolInvalid (field ``json``)."""
    found = draft_of(from_openai(parse_json(text, "json")))
    return replace(draft, name=found.name, description=found.description, rows=found.rows, more=found.more)


def _read_rows(form: MultiDict[str, str]) -> Rows:
    """Reads as many rows as a valid schema may have: imported tools have more than the form's buttons add."""
    inside: dict[str, list[str]] = {}
    for place in dict.fromkeys(form.getlist("row")[:MAX_NODES]):
        if PLACE.fullmatch(place) and place.count(".") < MAX_DEPTH:
            inside.setdefault(place.rpartition(".")[0], []).append(place)
    return _rows_below(form, inside, "")


def _rows_below(form: MultiDict[str, str], inside: Mapping[str, list[str]], parent: str) -> Rows:
    return tuple(_read_row(form, place, _rows_below(form, inside, place)) for place in inside.get(parent, ()))


def _read_row(form: MultiDict[str, str], place: str, children: Rows) -> ParameterRow:
    def text(name: str) -> str:
        return form.get(f"{place}:{name}", "")[:LONG].replace("\r\n", "\n")

    return ParameterRow(
        name=text("name").strip(),
        kind=_one_of(text("kind"), KINDS),
        item_kind=_one_of(text("item_kind"), ITEM_KINDS),
        description=text("description"),
        is_required=bool(text("required")),
        enum=text("enum"),
        default=text("default"),
        more=text("more"),
        children=children,
    )


def _changed(rows: Rows, path: list[int], change: Callable[[Rows], Rows]) -> Rows:
    """Applies ``change`` to the rows inside the row at ``path``."""
    if not path:
        return change(rows)
    if path[0] >= len(rows):
        return rows
    inner = replace(rows[path[0]], children=_changed(rows[path[0]].children, path[1:], change))
    return (*rows[: path[0]], inner, *rows[path[0] + 1 :])


def _swapped(rows: Rows, first: int) -> Rows:
    """Exchanges the rows ``first`` and ``first + 1``."""
    if not 0 <= first < len(rows) - 1:
        return rows
    return (*rows[:first], rows[first + 1], rows[first], *rows[first + 2 :])


def _count(rows: Rows) -> int:
    return sum(1 + _count(row.children) for row in rows)


def _more(draft: ToolDraft) -> dict[str, Any]:
    value = parse_json(draft.more, "more") if draft.more.strip() else {}
    if not isinstance(value, dict):
        raise ToolInvalid(field="more", reason=Text("reason.common.must_be_a_json_object"))
    return value


def _http(draft: ToolDraft, parameters: Mapping[str, Any]) -> HttpCall:
    if not draft.url.strip().startswith(("http://", "https://")):
        raise ToolInvalid(field="url", reason=Text("reason.web.not_http_url"))
    known = parameters.get("properties")
    unknown = next((mark for mark in marks(draft.url) if not isinstance(known, Mapping) or mark not in known), None)
    if unknown is not None:
        raise ToolInvalid(field="url", reason=Text("reason.web.no_parameter", name=unknown))
    if draft.method not in METHODS:
        raise ToolInvalid(field="method", reason=Text("reason.common.must_be_one_of", names=", ".join(METHODS)))
    return HttpCall(draft.url.strip(), draft.method, _headers(draft.headers), _seconds(draft.timeout_s))


def _headers(text: str) -> dict[str, str]:
    found = {}
    for line in filter(str.strip, text.splitlines()):
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[A-Za-z0-9-]{1,64}", name.strip()) or not value.strip().isprintable():
            raise ToolInvalid(field="headers", reason=Text("reason.common.header_line_form"))
        found[name.strip()] = value.strip()
    return found


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.5 <= seconds <= 120:
        raise ToolInvalid(field="timeout_s", reason=Text("reason.web.timeout_out_of_range"))
    return seconds


def _one_of(text: str, allowed: tuple[str, ...]) -> str:
    return text if text in allowed else allowed[0]


# imported tools


def definitions_in(text: str) -> list[ToolDefinition]:
    """A list, an object that contains one, or a single tool. Raises ToolInvalid for the first invalid one."""
    value = parse_json(text, "JSON")
    rows = value.get("tools", value.get("functions", [value])) if isinstance(value, dict) else value
    if not isinstance(rows, list) or not rows:
        raise ToolInvalid(field="JSON", reason=Text("reason.common.not_a_tool"))
    return [_definition(row, f"tools[{number}]" if len(rows) > 1 else "") for number, row in enumerate(rows)]


def _definition(row: object, place: str) -> ToolDefinition:
    """ToolInvalid names the invalid one if there are several."""
    try:
        return from_openai(row)
    except ToolInvalid as exc:
        field = ".".join(part for part in (place, str(exc.params.get("field", ""))) if part)
        raise exc.with_params(field=field) from exc
