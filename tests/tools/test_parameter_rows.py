"""A schema is unchanged after the form; parts that the form cannot show stay with it as JSON."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from webapp.errors import ToolInvalid
from webapp.tools.parameter_rows import MAX_DEPTH, ParameterRow, more_of, rows_of, schema_of


def nested(*names: str) -> dict[str, Any]:
    """Nested objects."""
    schema: dict[str, Any] = {"type": "string"}
    for name in reversed(names):
        schema = {"type": "object", "properties": {name: schema}}
    return schema


FULL = {
    "type": "object",
    "properties": {
        "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA", "minLength": 2},
        "unit": {"type": "string", "enum": ["celsius", "华氏", " spaced ", '"quoted"', ""]},
        "days": {"type": "integer", "minimum": 1, "default": 3, "enum": [1, 3, 7]},
        "exact": {"type": "boolean", "default": False},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "maxItems": 3},
        "at": {
            "type": "object",
            "properties": {
                "x": {"type": "number", "default": 1.5},
                "inner": {"type": "object", "properties": {"deep": {"type": "string"}}, "required": ["deep"]},
            },
            "required": ["x"],
            "additionalProperties": False,
        },
        "stops": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "grid": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        "point": {"$ref": "#/$defs/point"},
        "mixed": {"type": "string", "enum": ["a", 1]},
        "anything": True,
        "kinds": {"type": ["string", "null"]},
        "listed": {"type": "array", "items": {"type": "string", "maxLength": 3}},
        "text": {"type": "string", "default": "two\nlines"},
        "free": {"type": "object"},
        "none": {"type": "object", "properties": {}},
        "rows": {"type": "array", "items": {"type": "object"}},
        "always": {"type": "boolean", "enum": [True]},
        "unset": {"type": "string", "default": None},
        "count": {"type": "integer", "default": "5"},
        "level1": nested(*(f"level{depth}" for depth in range(2, 7))),
    },
    "required": ["location", "at"],
    "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}}},
}


def test_every_schema_survives_the_form() -> None:
    assert schema_of(rows_of(FULL), more_of(FULL)) == FULL


def test_rows_have_fields_for_what_people_use() -> None:
    rows = {row.name: row for row in rows_of(FULL)}
    assert rows["location"].is_required and rows["location"].more == '{"minLength": 2}'
    assert rows["unit"].enum.splitlines()[:2] == ["celsius", "华氏"]
    assert rows["at"].children[1].children[0].name == "deep"
    assert rows["stops"].item_kind == "object" and rows["stops"].children[0].name == "name"
    assert rows["either"].kind == rows["always"].kind == "other"
    assert rows["unset"].default == "" and rows["unset"].more == '{"default": null}'


def test_what_lies_deeper_than_the_form_goes_stays_json() -> None:
    row = next(row for row in rows_of(FULL) if row.name == "level1")
    for _ in range(MAX_DEPTH - 1):
        row = row.children[0]
    assert row.kind == "other" and "level6" in row.more


ROW = ParameterRow("city")


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ([replace(ROW, kind="number", default="NaN")], "0.default"),
        ([replace(ROW, more='{"maximum": 1e999}')], "0.more"),
        ([replace(ROW, name=" ")], "0.name"),
        ([ROW, ROW], "1.name"),
        ([ROW, replace(ROW, name="n", kind="integer", enum="1\ntwo")], "1.enum"),
        ([replace(ROW, kind="integer", default="1.5")], "0.default"),
        ([replace(ROW, kind="boolean", default="1")], "0.default"),
        ([replace(ROW, more="[")], "0.more"),
        ([replace(ROW, more="[]")], "0.more"),
        ([replace(ROW, kind="object", children=(replace(ROW, kind="number", default="x"),))], "0.0.default"),
        ([replace(ROW, kind="other", more="{")], "0.more"),
    ],
)
def test_what_cannot_be_read_names_its_field(rows: list[ParameterRow], field: str) -> None:
    with pytest.raises(ToolInvalid) as caught:
        schema_of(rows)
    assert caught.value.params["field"] == field
