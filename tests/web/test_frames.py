"""A frame is a JSON object or a typed error."""

import json

import pytest

from tests.errors import raises_code
from webapp.web.chat.commands import FrameFields, parse_frame


def test_a_form_of_htmx():
    fields = parse_frame(
        '{"message": "hi", "top_k": "40", "temperature": "0.5", "think": "on", "HEADERS": {"a": null}}'
    )
    assert fields.text("message", 10) == "hi"
    assert fields.number("temperature", 0, 2) == 0.5 and fields.flag("think") and not fields.flag("other")
    assert "HEADERS" in fields and "x" not in fields
    assert parse_frame(b'{"a": "\xc3\xa9"}').text("a", 1) == "é"


@pytest.mark.parametrize(
    "data",
    [
        None, "", "hi", "[]", "1", "null", '"text"', "{", '{"a": NaN}', '{"a": -Infinity}', "{'a': 1}", b"\xff{}",
        '{"a":' * 20 + "1" + "}" * 20, '{"a":' + "[" * 20 + "]" * 20 + "}", "[" * 500_000, '{"a":' * 150_000,
        '{"a": ' + "9" * 5000 + "}", "\ufeff{}",
    ],
)  # fmt: skip
def test_malformed_frames(data):
    with raises_code("bad_frame"):
        parse_frame(data)


def test_too_long():
    with raises_code("too_large") as caught:
        parse_frame("x" * 101, limit_bytes=100)
    assert caught.value.code == "too_large" and caught.value.params == {"found": 101, "limit": 100}


@pytest.mark.parametrize("value", [None, 5, [], {}, "four", True])
def test_text_must_be_text_within_its_limit(value):
    with raises_code("bad_frame", match="message"):
        FrameFields({"message": value}).text("message", 3)


@pytest.mark.parametrize("value", [None, True, "x", [], "nan", "inf", 3, 10**400])
def test_numbers(value):
    with raises_code("bad_frame", match="n "):
        FrameFields({"n": value}).number("n", 0, 2)


def test_choice_and_defaults():
    fields = FrameFields({"command": "send", "odd": []})
    assert fields.choice("command", ("send", "stop")) == "send"
    assert fields.choice("other", ("a", "b"), "b") == "b"
    assert fields.text("x", 5, "") == "" and fields.number("y", 0, 1, 0.5) == 0.5
    for name in ("odd", "missing"):
        with raises_code("bad_frame"):
            fields.choice(name, ("a",))


@pytest.mark.parametrize(
    "value, flag", [("on", True), ("", False), ("off", False), ("0", False), (True, True), (0, False)]
)
def test_flags(value, flag):
    assert FrameFields({"x": value}).flag("x") is flag


def test_half_an_emoji_can_be_stored():
    text = parse_frame(json.dumps({"m": "a\ud83d b \ud83d\ude00"})).text("m", 20)
    assert text == "a\ufffd b 😀" and text.encode("utf-8")
