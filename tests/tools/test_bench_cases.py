"""Cases of the tool bench: as lines of JSON, and generated from schemas."""

import pytest

from tests.errors import raises_code
from webapp.errors import BenchCaseInvalid
from webapp.structured.grammar import matches
from webapp.tools.bench import (
    BenchCase,
    ExpectedCall,
    arguments_from_text,
    calls_from_text,
    cases_from_lines,
    cases_to_lines,
    make_cases,
)
from webapp.tools.builtin import BUILTINS
from webapp.tools.schema_check import argument_problems

SHIPPED = [row.definition.function for row in BUILTINS.values()]
HARD = {
    "name": "book",
    "parameters": {
        "type": "object",
        "properties": {
            "when": {"$ref": "#/$defs/moment"},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2},
            "size": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 5, "maximum": 6}]},
            "is_paid": {"type": ["boolean", "null"]},
            "ratio": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.25, "maximum": 1},
            "code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]$"},
        },
        "required": ["when", "tags", "size", "is_paid", "ratio"],
        "$defs": {
            "moment": {
                "type": "object",
                "properties": {"day": {"type": "string", "format": "date"}, "hour": {"type": "integer", "maximum": 23}},
                "required": ["day", "hour"],
            }
        },
    },
}


def test_lines_are_read_as_they_were_written():
    cases = (
        BenchCase("Weather in “Paris”?\nNow.", (ExpectedCall("get_weather", {"city": "巴黎", "days": 3}),)),
        BenchCase("Hi", is_generated=True),
    )
    assert cases_from_lines(cases_to_lines(cases)) == cases
    assert cases_from_lines('\n{"prompt": "Hi"}\n') == (BenchCase("Hi"),)


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '{"prompt": ""}',
        '{"calls": []}',
        '{"prompt": 3}',
        '{"prompt": "x", "calls": {}}',
        '{"prompt": "x", "calls": ["get_time"]}',
        '{"prompt": "x", "calls": [{"arguments": {}}]}',
        '{"prompt": "x", "calls": [{"name": "a", "arguments": "{}"}]}',
        '{"prompt": "' + "x" * 8001 + '"}',
        '{"prompt": "x", "calls": [' + ",".join(['{"name": "a"}'] * 9) + "]}",
    ],
)
def test_a_line_that_is_no_case_is_named(line):
    with raises_code("bench_line_invalid") as found:
        cases_from_lines('{"prompt": "fine"}\n' + line)
    assert found.value.params["line"] == 2


def test_nothing_and_too_much_are_refused():
    for text in (" \n ", '{"prompt": "x"}\n' * 501):
        with pytest.raises(BenchCaseInvalid):
            cases_from_lines(text)


def test_what_is_typed_is_read():
    assert arguments_from_text(" ") == {} and arguments_from_text('{"a": 1}') == {"a": 1}
    assert calls_from_text('[{"name": "a"}, {"name": "b"}]') == (ExpectedCall("a"), ExpectedCall("b"))
    for text in ("{", "3"):
        with pytest.raises(BenchCaseInvalid):
            arguments_from_text(text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_generated_arguments_fit_their_schema_and_are_in_the_prompt(language):
    made = make_cases([*SHIPPED, HARD], language, per_tool=4, matches=matches)
    schemas = {definition["name"]: definition["parameters"] for definition in [*SHIPPED, HARD]}
    called = [(case, call) for case in made.cases for call in case.calls]
    assert {call.name for _, call in called} == set(schemas) and made.left_out == ()
    for case, call in called:
        assert argument_problems(call.arguments, schemas[call.name], matches) == ()
        scalars = [value for value in call.arguments.values() if isinstance(value, (str, int, float))]
        assert all(str(value) in case.prompt for value in scalars if not isinstance(value, bool)), case
    assert sum(not case.calls for case in made.cases) >= 4 and all(case.is_generated for case in made.cases)


def test_the_same_seed_makes_the_same_cases_whatever_other_tools_there_are():
    alone = make_cases([HARD], seed=7).cases[:3]
    beside = make_cases([*SHIPPED, HARD], seed=7).cases
    assert tuple(case for case in beside if any(call.name == HARD["name"] for call in case.calls)) == alone
    assert make_cases([HARD], seed=8).cases[:3] != alone


def test_optional_arguments_come_by_turns():
    unit = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "unit": unit}, "required": ["city"]}
    cases = make_cases([{"name": "weather", "parameters": schema}], per_tool=2).cases
    assert [sorted(case.calls[0].arguments) for case in cases[:2]] == [["city"], ["city", "unit"]]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "string", "pattern": "^[A-Z]{3}-[0-9]$"},
        {"$ref": "#/$defs/loop"},
        {"type": "integer", "minimum": 1.2, "maximum": 1.8},
        {"type": "string", "minLength": 400},
        {"allOf": [{"type": "object", "required": ["x"]}]},
    ],
)
def test_a_tool_no_value_is_known_for_is_left_out_and_named(part):
    loop = {"type": "object", "properties": {"inner": {"$ref": "#/$defs/loop"}}, "required": ["inner"]}
    schema = {"type": "object", "properties": {"x": part}, "required": ["x"], "$defs": {"loop": loop}}
    made = make_cases([{"name": "odd", "parameters": schema}, SHIPPED[0]], matches=matches)
    assert made.left_out == ("odd",) and {call.name for case in made.cases for call in case.calls} == {"calculate"}
