"""The contexts of ``docs/page.html``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from webapp.settings import Settings
from webapp.web.api.openapi import field_text
from webapp.web.api.operations import DOCUMENTED, GROUPS, Operation
from webapp.web.docs.examples import Example, examples

Translate = Callable[..., str]
REFERENCE = "{name}"
HIDDEN_FIELDS = frozenset(
    {"functions", "function_call", "audio", "web_search_options", "modalities", "best_of", "suffix"}
)
"""Only there to be refused with a reason."""


@dataclass(frozen=True)
class FieldRow:
    name: str
    kind: str
    text: str
    is_required: bool


@dataclass(frozen=True)
class OperationView:
    """``body`` is the example as it stands in the editor; "" for an address without a body."""

    key: str
    method: str
    path: str
    title: str
    text: str
    fields: tuple[FieldRow, ...]
    body: str
    is_risky: bool
    can_try: bool


@dataclass(frozen=True)
class GroupView:
    key: str
    title: str
    text: str
    operations: tuple[OperationView, ...]


@dataclass(frozen=True)
class DocsPage:
    page_title: str
    address: str
    model: str
    model_text: str
    key_text: str
    examples: tuple[Example, ...]
    groups: tuple[GroupView, ...]


def page_context(t: Translate, settings: Settings, address: str, model: str, has_token: bool) -> DocsPage:
    words = "model_strict" if settings.api_strict_models else "model_text"
    return DocsPage(
        page_title=t("api.title"),
        address=address,
        model=model,
        model_text=t("api.address.model_switch" if settings.api_switch_models else f"api.address.{words}"),
        key_text=t("api.address.key_needed" if has_token else "api.address.key_open"),
        examples=examples(address, model or "rwkv", has_token),
        groups=tuple(group_view(t, key, model) for key in GROUPS),
    )


def group_view(t: Translate, key: str, model: str) -> GroupView:
    found = tuple(operation_view(t, op, model) for op in DOCUMENTED if op.group == key)
    return GroupView(key, t(f"api.group.{key}"), t(f"api.group_text.{key}"), found)


def operation_view(t: Translate, op: Operation, model: str) -> OperationView:
    example = op.example_with(model)
    return OperationView(
        key=op.key,
        method=op.method,
        path=op.path,
        title=t(f"api.op.{op.key}.title"),
        text=t(f"api.op.{op.key}.text"),
        fields=field_rows(t, op.body_type) if op.body else (),
        body=json.dumps(example, ensure_ascii=False, indent=2) if example else "",
        is_risky=op.key in ("switch_model", "update_config", "exit"),
        can_try="{" not in op.path,
    )


def field_rows(t: Translate, kind: type) -> tuple[FieldRow, ...]:
    """Required ones first, then in the order of the type."""
    _, components = msgspec.json.schema_components([kind], ref_template=REFERENCE)
    schema = components[kind.__name__]
    required = schema.get("required", [])
    shown = [(name, found) for name, found in schema["properties"].items() if name not in HIDDEN_FIELDS]
    rows = [FieldRow(name, kind_words(t, found), field_text(t, name), name in required) for name, found in shown]
    return tuple(sorted(rows, key=lambda row: not row.is_required))


def kind_words(t: Translate, schema: dict[str, Any]) -> str:
    """A JSON Schema in a few words: "number, 0 to 2", "text or list"."""
    if "anyOf" in schema:
        parts = [kind_words(t, part) for part in schema["anyOf"] if part.get("type") != "null"]
        return t("api.kind.or").join(dict.fromkeys(part for part in parts if part)) or t("api.kind.any")
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if "$ref" in schema:
        return t("api.kind.object")
    kind = schema.get("type")
    if kind is None:
        return t("api.kind.any")
    words = t(f"api.kind.{kind}")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None or high is None or abs(low) > 2**53:
        return words
    return f"{words} ({t('api.kind.range', low=low, high=high)})"
