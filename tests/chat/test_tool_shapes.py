"""Calls as models write them without a constraint: four wrappers, each with ten kinds of damage. Those in
tool_shapes.json are written by hand; the bundled model wrote those in recorded_calls.json, at temperatures of 0.6 to
1.6 (tests/acceptance/record_calls.py). It never begins a tag or a bare call by itself, so those first words were given.

Each is parsed as the intended call, or stays text completely; never something in between.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from webapp.chat.messages import CallDelta, ContentDelta
from webapp.chat.tool_dialects import ToolDialect, all_dialects
from webapp.chat.tool_parser import ToolCallParser

RECORDED = json.loads(Path(__file__).with_name("recorded_calls.json").read_text(encoding="utf-8"))
SHAPES = json.loads(Path(__file__).with_name("tool_shapes.json").read_text(encoding="utf-8"))


def read(
    dialect: ToolDialect, pieces: list[str], is_held: bool = False, names: Sequence[str] = ("get_weather",)
) -> tuple[str, list]:
    ids = itertools.count()
    parser = ToolCallParser(dialect.syntax, names, lambda: str(next(ids)), is_held=is_held)
    events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    content = "".join(event.text for event in events if isinstance(event, ContentDelta))
    calls: dict[str, list[str]] = {}
    for event in events:
        if isinstance(event, CallDelta):
            calls.setdefault(event.call_id, []).extend([event.name, event.arguments])
    found = [["".join(parts[::2]), json.loads("".join(parts[1::2]))] for parts in calls.values()]
    return content.strip(), found


@pytest.mark.parametrize("rows", [SHAPES, RECORDED], ids=["by hand", "recorded"])
def test_there_are_forty_shapes_of_four_wrappers(rows: list[dict]):
    counted = {wrapper: sum(row["wrapper"] == wrapper for row in rows) for wrapper in {r["wrapper"] for r in rows}}
    assert counted == {"bare": 10, "fenced": 10, "tool_call": 10, "tool_calls": 10}
    assert len({(row["wrapper"], row["damage"]) for row in rows}) == 40


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
@pytest.mark.parametrize("shape", RECORDED, ids=lambda row: f"{row['wrapper']}: {row['damage']}")
def test_a_recorded_shape_is_the_call_that_was_meant_or_text(shape: dict, dialect: ToolDialect):
    expected = (shape["rest"], shape["calls"])
    assert read(dialect, [shape["text"]], names=shape["names"]) == expected
    assert read(dialect, list(shape["text"]), names=shape["names"]) == expected
    assert expected[1] or expected[0] == shape["text"].strip()


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda row: f"{row['wrapper']}: {row['damage']}")
def test_a_shape_is_the_call_that_was_meant_or_text(shape: dict, dialect: ToolDialect):
    expected = (shape["rest"], shape["calls"])
    assert read(dialect, [shape["text"]]) == expected
    assert read(dialect, list(shape["text"])) == expected
    if shape["damage"] == "none":  # no grammar allows the others
        assert read(dialect, list(shape["text"]), is_held=True) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Use `{x}` and **bold** words, or <b>tags</b>.",
        '{"temperature": 21}',
        'Like so:\n{"city": "Paris"}\nThat is all.',
        "**Tool Call:** is how one begins.",
        "```python\nprint({'name': 1})\n```",
        "[a link](http://x) and [1, 2]",
        "<tool_calls> is a tag.",
    ],
)
def test_what_only_resembles_a_call_stays_text(text: str):
    for dialect in all_dialects():
        assert read(dialect, list(text)) == (text.strip(), [])


def test_text_after_a_call_is_kept_if_it_has_content():
    call = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
    for behind, rest in (
        ("\n```", ""),
        ("]\n```\n</tool_call>\n", ""),
        ("\n```\nThere.", "```\nThere."),
        ("\n```python\nprint(1)\n```", "```python\nprint(1)\n```"),
        (" There.", "There."),
    ):
        for dialect in all_dialects():
            assert read(dialect, list(call + behind)) == (rest, [["get_weather", {"city": "Oslo"}]]), behind


def test_several_calls_in_the_wrappers_that_hold_several():
    one, two = (f'{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}' for city in ("Oslo", "Rome"))
    both = [["get_weather", {"city": "Oslo"}], ["get_weather", {"city": "Rome"}]]
    for text in (
        f"<tool_calls>[{one}, {two}]</tool_calls>",
        f"<tool_calls>\n<tool_call>\n{one}\n</tool_call>\n<tool_call>\n{two}\n</tool_call>\n</tool_calls>",
        f"**Tool Call:**\n```json\n{one}\n```\n**Tool Call:**\n```json\n{two}\n```",
        f"```json\n[{one}, {two}]\n```",
    ):
        for dialect in all_dialects():
            assert read(dialect, list(text)) == ("", both), (dialect.name, text)
