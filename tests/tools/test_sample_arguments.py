"""The example of a call in the tool form follows the schema."""

from __future__ import annotations

import pytest

from tests.tools.test_parameter_rows import FULL
from webapp.tools.parameter_rows import sample_arguments
from webapp.tools.schema_check import argument_problems


def test_a_sample_call_has_a_value_for_every_parameter() -> None:
    sample = sample_arguments(FULL)
    assert sample["unit"] == "celsius" and sample["days"] == 3 and sample["at"] == {"x": 1.5, "inner": {"deep": "text"}}
    assert set(sample) == set(FULL["properties"])


NODE = {"type": "object", "properties": {"name": {"type": "string"}, "next": {"$ref": "#/$defs/node"}}}


@pytest.mark.parametrize(
    "part",
    [
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        {"oneOf": [{"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}, {"type": "null"}]},
        {"type": ["integer", "null"]},
        {"type": "null"},
        {"$ref": "#/$defs/point"},
        {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 2},
        {"allOf": [{"$ref": "#/$defs/point"}]},
    ],
)
def test_a_sample_fits_what_programs_write(part: dict) -> None:
    point = {"type": "object", "properties": {"x": {"type": "number", "minimum": 3}}, "required": ["x"]}
    schema = {"type": "object", "properties": {"a": part}, "required": ["a"], "$defs": {"point": point}}
    assert argument_problems(sample_arguments(schema), schema) == ()


def test_a_schema_inside_itself_has_a_sample() -> None:
    schema = {"type": "object", "properties": {"head": {"$ref": "#/$defs/node"}}, "$defs": {"node": NODE}}
    assert sample_arguments(schema)["head"]["next"]["name"] == "text"
