"""Calls are parsed with any text around them, in pieces or at once; text that is not a call stays text."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from webapp.chat.messages import CallDelta, ContentDelta, ToolCall
from webapp.chat.tool_dialects import G1X_JSON, HERMES, RUNNER_LEGACY, ToolDialect, all_dialects, default_dialect
from webapp.chat.tool_parser import Piece, ToolCallParser

NAMES = ("weather", "get-weather", "get_current_weather", "f")


def parse(dialect: ToolDialect, pieces: list[str]) -> tuple[str, list[tuple[str, dict]]]:
    ids = itertools.count()
    parser = ToolCallParser(dialect.syntax, NAMES, lambda: f"call_{next(ids)}")
    found: list[Piece] = []
    for piece in pieces:
        found += parser.feed(piece)
    found += parser.finish()
    text = "".join(piece.text for piece in found if isinstance(piece, ContentDelta))
    calls = [piece for piece in found if isinstance(piece, CallDelta)]
    assert [call.call_id for call in calls] == [f"call_{index}" for index in range(len(calls))]
    return text, [(call.name, json.loads(call.arguments)) for call in calls]


def parse_every_way(dialect: ToolDialect, text: str) -> tuple[str, list[tuple[str, dict]]]:
    """At once, character by character and in random pieces: the results must be equal."""
    whole = parse(dialect, [text])
    assert parse(dialect, list(text)) == whole
    rng = random.Random(text)
    for _ in range(5):
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(4))
        assert parse(dialect, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]) == whole
    return whole


def legacy(arguments: str, name: str = "weather", before: str = "") -> str:
    return f"{before}{name}\n```python\ntool_call({arguments})\n```"


# Arguments as a model writes them, and their values. RWKV-Runner loses or breaks most of these in one of its modes.
LEGACY_ROWS = {
    "two strings": ('"location"= "Paris", "unit"= "celsius"', {"location": "Paris", "unit": "celsius"}),
    "single quotes": ("'location'='Paris'", {"location": "Paris"}),
    "unquoted keys": ('location="Paris"', {"location": "Paris"}),
    "numbers and booleans": ('"n"= 5, "ok"= True', {"n": 5, "ok": True}),
    "no arguments": ("", {}),
    "apostrophe": ('"note"= "it\'s fine"', {"note": "it's fine"}),
    "equals signs": ('"url"= "http://a/?b=c", "x"= "f(x) = 2"', {"url": "http://a/?b=c", "x": "f(x) = 2"}),
    "nested": ('"a"= [1, {"b": "c"}], "d"= {"e": null}', {"a": [1, {"b": "c"}], "d": {"e": None}}),
    "empty string": ('"q"= ""', {"q": ""}),
    "escaped newline": (r'"q"= "a\nb"', {"q": "a\nb"}),
}


@pytest.mark.parametrize("row", LEGACY_ROWS, ids=str)
def test_the_rows_runner_gets_wrong_in_its_own_dialect(row: str) -> None:
    written, arguments = LEGACY_ROWS[row]
    assert parse_every_way(RUNNER_LEGACY, " " + legacy(written)) == ("", [("weather", arguments)])


def as_json(row: str) -> str:
    return json.dumps({"name": "weather", "arguments": LEGACY_ROWS[row][1]})


@pytest.mark.parametrize("row", LEGACY_ROWS, ids=str)
def test_the_same_rows_in_the_json_dialects(row: str) -> None:
    expected = ("", [("weather", LEGACY_ROWS[row][1])])
    assert parse_every_way(G1X_JSON, f" ```json\n{as_json(row)}\n```") == expected
    assert parse_every_way(HERMES, f" <tool_call>\n{as_json(row)}\n</tool_call>") == expected


def test_json_written_as_python_or_javascript_would_is_read_too() -> None:
    for arguments, expected in {
        "{'city': 'Paris', 'ok': True, 'none': None}": {"city": "Paris", "ok": True, "none": None},
        "{city: 'it's fine', n: 5,}": {"city": "it's fine", "n": 5},
        "{'note': 'it's fine', 'list': ['a', (1, 2)]}": {"note": "it's fine", "list": ["a", [1, 2]]},
        '{"n": NaN, "m": 1e999, "k": 01}': {"n": "NaN", "m": "1e999", "k": 1},
        '{"half": "\\ud83d", "pair": \'\\ud83d\\ude00\'}': {"half": "\ud83d", "pair": "😀"},
    }.items():
        call = f'{{"name": "f", "arguments": {arguments}}}'
        for dialect, written in ((G1X_JSON, f"```json\n{call}\n```"), (HERMES, f"<tool_call>{call}</tool_call>")):
            assert parse_every_way(dialect, written) == ("", [("f", expected)])


def test_half_a_character_in_a_call_can_still_be_written_as_utf8() -> None:
    parser = ToolCallParser(G1X_JSON.syntax, NAMES, lambda: "id")
    [ready] = parser.feed('{"name": "f", "arguments": {"a": "\\ud83d", "二": 1}}')
    assert isinstance(ready, CallDelta) and ready.arguments.encode() == b'{"a":"\\ud83d","\\u4e8c":1}'


def test_a_call_is_found_wherever_its_opening_is() -> None:
    fenced = '```json\n{"name": "f", "arguments": {}}\n```'
    for before in ("See:", "`", "``` and ", "a\n", "x\n```python\n1\n```\n"):
        assert parse_every_way(G1X_JSON, before + fenced) == (before.rstrip(), [("f", {})])
    for before in ("I call ", "x y (", "at 5 o'clock:\n"):
        assert parse_every_way(RUNNER_LEGACY, legacy("", "f", before)) == (before.rstrip(), [("f", {})])
    many = "<tool_call>no " * 3_000
    assert parse(HERMES, [many]) == (many, [])


PREAMBLE = "First I look at a map, then at the sky, and only then do I ask the weather service.\n\n"


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
def test_names_preambles_several_calls_and_plain_answers(dialect: ToolDialect) -> None:
    one = dialect.calls([ToolCall("", "get-weather", '{"a":1}')])
    assert parse_every_way(dialect, one) == ("", [("get-weather", {"a": 1})])
    assert parse_every_way(dialect, PREAMBLE + one) == (PREAMBLE.rstrip(), [("get-weather", {"a": 1})])
    two = dialect.calls([ToolCall("", "weather", '{"a":1}'), ToolCall("", "f", '{"b":"二 😀"}')])
    assert parse_every_way(dialect, two) == ("", [("weather", {"a": 1}), ("f", {"b": "二 😀"})])
    plain = "It is 22 degrees.\n\nAnything else?\n\n"
    assert parse_every_way(dialect, plain) == (plain, [])


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
def test_marks_inside_an_argument_end_nothing(dialect: ToolDialect) -> None:
    hostile = {"code": '```\n</tool_call> }])\n```json\n{"name": "f"}', "quote": "\\\"'\\"}
    written = dialect.calls([ToolCall("", "f", json.dumps(hostile))])
    assert parse_every_way(dialect, f"Look: \n{written}\nDone.") == ("Look:\nDone.", [("f", hostile)])


NOT_CALLS = [
    'Use this:\n```json\n{"name": "unknown_tool", "arguments": {}}\n```\nas it is.',
    '```json\n{"key": [1, 2]}\n```',
    "```python\nprint({'a': 1})\n```\n",
    '```json\n{"name": "weather", "arguments": {"a": ',
    "a `b` and ``c`` and ```",
    "weather\n```python\ntool_call(",
    "weather\n```python\nprint(1)\n```",
    "<tool_call>nothing</tool_call> <tool_call",
    "{not json at all}",
    "[1, 2, 3] are numbers",
    '{"name": "weather"',
    "A word\n\nweather",
    "",
]


@pytest.mark.parametrize("text", NOT_CALLS, ids=lambda text: repr(text)[:40])
@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
def test_what_is_no_call_of_a_known_tool_stays_as_it_was_written(dialect: ToolDialect, text: str) -> None:
    assert parse_every_way(dialect, text) == (text, [])


def test_models_that_leave_out_the_fence_or_wrap_the_call_are_understood() -> None:
    call = ("weather", {"city": "Paris"})
    bare = '{"name": "weather", "arguments": {"city": "Paris"}}'
    wrapped = '{"type":"function","function":{"name":"weather","arguments":"{\\"city\\": \\"Paris\\"}"}}'
    for text in (
        bare,
        f"```\n{bare}\n```",
        f"```json\n{bare}",
        f"```json\n{wrapped}\n```",
        f"[{bare}]",
        f"```json {bare}```",
    ):
        assert parse_every_way(G1X_JSON, text) == ("", [call])


def test_mobius_models_speak_the_dialect_they_were_trained_on() -> None:
    assert default_dialect("Mobius-r6-chat-12b.pth") is RUNNER_LEGACY
    assert default_dialect("rwkv7-g1a-1.5b.pth") is G1X_JSON


def test_an_offer_shows_what_the_official_templates_show() -> None:
    definition = {
        "name": "get_weather",
        "description": "Weather now",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string"},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
            },
            "required": ["location"],
        },
    }
    compact = all_dialects()[0].offer([definition])
    assert compact == (
        "Tools:\n"
        '- get_weather(location: string, unit?: "celsius" | "fahrenheit", days?: {n?: integer}[]): Weather now\n'
        "Return only a JSON function call."
    )
    assert "\\u" not in RUNNER_LEGACY.offer([{"name": "天气", "description": "查询天气"}])
