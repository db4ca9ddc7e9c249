"""Roost's built-in tools."""

from __future__ import annotations

import json

import pytest

from tests.errors import keys_in
from webapp.chat.messages import ToolCall
from webapp.tools.builtin import BUILTINS, current_time
from webapp.tools.builtin.attachment_search import NamedText
from webapp.tools.builtin.calculator import calculate, convert, value_of
from webapp.tools.definition import checked
from webapp.tools.runner import run_call


@pytest.mark.parametrize(
    ("expression", "value"),
    [("1 + 2 * 3", 7), ("(3+4)*2", 14), ("2^10", 1024), ("sqrt(16)", 4.0), ("7 // 2 + 7 % 2", 4), ("-3**2", -9)],
)
def test_arithmetic_is_worked_out(expression: str, value: float) -> None:
    assert value_of(expression.replace("^", "**")) == value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("min(1, 2)", 1),
        ("max(100,200)", 200),
        ("log(8,2)", 3.0),
        ("round(3.14159, 2)", 3.14),
        ("round(12345, -2)", 12300),
        ("1,234.5 * 2", 2469),
        ("max((1,000 + 2), 5)", 1002),
        ("（3＋4）×2", 14),
        ("max（1，2）", 2),
        ("5² − 1 =", 24),
        ("0.1 + 0.2", 0.3),
        ("1e16 + 1", 1e16),
    ],
)
def test_arithmetic_is_read_as_people_and_models_write_it(written: str, value: float) -> None:
    assert calculate({"expression": written}) == {"expression": written, "result": value}


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("exp(1000)", "result_not_finite"),
        ("round(5, -1000000000)", "no_arithmetic_expression"),
        ("1,23", "unknown_in_expression"),
        ("f(1,000)", "unknown_in_expression"),
    ],
)
def test_what_is_refused_is_refused_for_its_own_reason(written: str, key: str) -> None:
    with pytest.raises(ValueError) as caught:
        calculate({"expression": written})
    assert keys_in(caught.value) == [f"reason.tools.{key}"]


@pytest.mark.parametrize(
    "expression",
    ["9**9**9", "2**99999999", "__import__('os')", "x", "1/0", "(1).real", "[1]*9", "'a'*9", "10**400*1.5", "",
     "1e999", "(" * 300 + ")" * 300, "+".join("1" * 400), "True + 1", "max()", "sqrt(0-1)", "(0-8)**0.5"],
)  # fmt: skip
def test_what_is_no_bounded_arithmetic_is_refused_in_words(expression: str) -> None:
    with pytest.raises(ValueError) as caught:
        value_of(expression)
    assert keys_in(caught.value)


@pytest.mark.parametrize(
    ("value", "source", "target", "result"),
    [
        (1, "mile", "km", 1.609344),
        (100, "celsius", "F", 212),
        (2, "斤", "公斤", 1),
        (1, "kib", "b", 1024),
        (3, "feet", "inches", 36),
        (90, "km/h", "m/s", 25),
    ],
)
def test_units_are_converted(value: float, source: str, target: str, result: float) -> None:
    assert convert({"value": value, "from_unit": source, "to_unit": target})["value"] == pytest.approx(result)


def test_a_quantity_too_large_for_a_number_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        convert({"value": 1e308, "from_unit": "km", "to_unit": "mm"})
    assert keys_in(caught.value) == ["reason.tools.result_not_finite"]


@pytest.mark.parametrize("name", ["utc", " europe/paris ", "EUROPE/PARIS"])
def test_time_zones_are_found_whatever_their_capitals(name: str) -> None:
    assert current_time({"timezone": name})["utc_offset"] == current_time({"timezone": name.strip()})["utc_offset"]


@pytest.mark.parametrize("name", ["Mars/Phobos", "../../etc/passwd", "\0", "x" * 9000])
def test_an_unknown_time_zone_is_refused_briefly(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        current_time({"timezone": name})
    assert keys_in(caught.value) == ["reason.tools.unknown_time_zone"]
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("source", "key"),
    [("kg", "unit_mismatch"), ("celsius", "unit_mismatch"), ("parsnip", "unit_is_not_known")],
)
def test_units_that_do_not_fit_are_refused(source: str, key: str) -> None:
    with pytest.raises(ValueError) as caught:
        convert({"value": 1, "from_unit": source, "to_unit": "m"})
    assert keys_in(caught.value) == [f"reason.tools.{key}"]


ARGUMENTS = {
    "calculate": {"expression": "6*7"},
    "current_time": {"timezone": "Asia/Shanghai"},
    "convert_units": {"value": 1, "from_unit": "m", "to_unit": "cm"},
    "random_number": {"minimum": 3, "maximum": 3},
    "search_attachments": {"query": "heron"},
}
RESULTS = {"calculate": ("result", 42), "current_time": ("utc_offset", "+0800"), "convert_units": ("value", 100.0),
           "random_number": ("number", 3), "search_attachments": ("results", [
               {"file": "birds.txt", "lines": "1", "text": "A heron."}])}  # fmt: skip


@pytest.mark.parametrize("name", BUILTINS)
def test_every_builtin_has_a_good_definition_and_answers_a_call(name: str) -> None:
    definition = checked(BUILTINS[name].definition)
    result = run_call(
        ToolCall("1", name, json.dumps(ARGUMENTS[name])), definition, texts=lambda: [NamedText("birds.txt", "A heron.")]
    )
    assert result is not None and not result.is_error
    key, value = RESULTS[name]
    assert json.loads(result.text)[key] == value


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "\0"])
def test_an_unknown_time_zone_is_an_error_result_for_the_model(zone: str) -> None:
    call = ToolCall("1", "current_time", json.dumps({"timezone": zone}))
    result = run_call(call, BUILTINS["current_time"].definition)
    assert result is not None and result.is_error
    assert keys_in(result.reason) == ["reason.tools.unknown_time_zone"]
