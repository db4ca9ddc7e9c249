"""The form of one tool, with what it comes to beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from flask import url_for

from webapp.chat.messages import ToolCall
from webapp.chat.tool_dialects import all_dialects
from webapp.chat.tool_offers import plain
from webapp.errors import ToolInvalid
from webapp.services.tools.trial import usable
from webapp.tools.builtin import BUILTINS
from webapp.tools.definition import Approval, ToolDefinition
from webapp.tools.http_request import METHODS
from webapp.tools.parameter_rows import ITEM_KINDS, KINDS, MAX_DEPTH, ParameterRow
from webapp.tools.sample_arguments import sample_arguments
from webapp.web.kit.page import Toast
from webapp.web.tools.contexts import Choice, FormField, Preview, RowField, ToolForm, Trial
from webapp.web.tools.desk import Desk
from webapp.web.tools.form_input import FORM_BEHAVIOURS, ToolDraft, definition_of

FIELDS = ("name", "description", "more", "fixed_value", "url", "method", "headers", "timeout_s", "json")
ROW_FIELDS = ("name", "enum", "default", "more")


def tool_form(
    desk: Desk,
    draft: ToolDraft,
    tool_id: str = "",
    error: ToolInvalid | None = None,
    toasts: tuple[Toast, ...] = (),
    trial: Trial | None = None,
) -> ToolForm:
    errors = errors_of(desk, error)
    title = draft.name if tool_id else desk.t("tools.new")
    return ToolForm(
        page_title=title or desk.t("tools.new"),
        commands_url=url_for("tools.do"),
        tool_id=tool_id,
        title=title,
        action=url_for("tools.save", tool_id=tool_id) if tool_id else url_for("tools.create"),
        draft=draft,
        fields={name: _field(desk, name, errors.get(name, "")) for name in FIELDS},
        rows=_row_fields(draft.rows, errors, ""),
        behaviours=_choices(desk, "behaviour", [choice.value for choice in FORM_BEHAVIOURS]),
        approvals=_choices(desk, "approval", [choice.value for choice in Approval]),
        kinds=_choices(desk, "kind", KINDS),
        item_kinds=_choices(desk, "kind", ITEM_KINDS),
        methods=tuple(Choice(method, method) for method in METHODS),
        builtins=tuple(Choice(name, name) for name in BUILTINS),
        dialects=_choices(desk, "dialect", ["", *(dialect.name for dialect in all_dialects())]),
        preview=preview(desk, draft, error),
        toasts=toasts,
        trial=trial,
        hosts=", ".join(desk.hosts),
    )


def definition_in(draft: ToolDraft) -> ToolDefinition:
    """ToolInvalid for anything that could not be kept, offered or held to."""
    return usable(definition_of(draft))


def preview(desk: Desk, draft: ToolDraft, error: ToolInvalid | None = None) -> Preview:
    """What a definition comes to, or what is wrong with it, at each field."""
    if error is None:
        try:
            definition = definition_in(draft)
        except ToolInvalid as exc:
            error = exc
    if error is not None:
        reason = desk.t("tools.preview.problem", reason=desk.reason(error))
        return Preview(json=draft.json, problem=reason, errors=_all_errors(draft, errors_of(desk, error)))
    dialect = desk.dialect(draft.dialect)
    sample = json.dumps(sample_arguments(definition.parameters), ensure_ascii=False)
    offer = dialect.offer([definition.function])
    count = desk.token_count(offer)
    return Preview(
        json=json.dumps(plain(definition.function), ensure_ascii=False, indent=2),
        sample=dialect.calls([ToolCall("", definition.name, sample)]),
        prompt=offer,
        tokens=desk.t("unit.tokens", count=count) if count is not None else "",
        errors=_all_errors(draft, {}),
    )


def errors_of(desk: Desk, error: ToolInvalid | None) -> Mapping[str, str]:
    """The error at its form field: rows as ``0.1:enum``, what is about the schema as a whole at ``json``."""
    if error is None:
        return {}
    place, _, name = str(error.params.get("field", "")).rpartition(".")
    key = f"{place}:{name}" if place and place.replace(".", "").isdigit() else str(error.params.get("field", ""))
    known = key in FIELDS or ":" in key
    return {key if known else "json": desk.t("tools.problem", reason=desk.reason(error))}


def _all_errors(draft: ToolDraft, errors: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    names = [*FIELDS, *_row_error_names(draft.rows, "")]
    return tuple((name, errors.get(name, "")) for name in names)


def _row_error_names(rows: tuple[ParameterRow, ...], prefix: str) -> list[str]:
    names = []
    for number, row in enumerate(rows):
        names += [f"{prefix}{number}:{name}" for name in ROW_FIELDS]
        names += _row_error_names(row.children, f"{prefix}{number}.")
    return names


def _row_fields(rows: tuple[ParameterRow, ...], errors: Mapping[str, str], prefix: str) -> tuple[RowField, ...]:
    return tuple(
        RowField(
            place=f"{prefix}{number}",
            row=row,
            errors={name: errors.get(f"{prefix}{number}:{name}", "") for name in ROW_FIELDS},
            children=_row_fields(row.children, errors, f"{prefix}{number}."),
            can_nest=prefix.count(".") + 1 < MAX_DEPTH,
            is_first=number == 0,
            is_last=number == len(rows) - 1,
        )
        for number, row in enumerate(rows)
    )


def _field(desk: Desk, name: str, error: str) -> FormField:
    return FormField(name, desk.t(f"tools.field.{name}.label"), desk.t(f"tools.field.{name}.help"), error)


def _choices(desk: Desk, group: str, values: list[str] | tuple[str, ...]) -> tuple[Choice, ...]:
    return tuple(Choice(value, desk.t(f"tools.{group}.{value or 'auto'}")) for value in values)
