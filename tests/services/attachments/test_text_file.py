"""Text is recognised by its bytes; other files are refused with a reason and a hint."""

import random

import pytest

from tests.errors import keys_in, raises_code
from webapp.services.attachments import decode_text

ENGLISH = "The heron stands in the shallow water.\r\nIt waits.\n"
CHINESE = "苍鹭站在浅水里。\n它在等待，“一动不动”。\n"


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, "naïve café – 100 €\n", "emoji 🪶\n", "a"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_is_read_as_it_is(text, encoding):
    assert decode_text("a", text.encode(encoding)).text == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_is_recognised_by_its_zeros(encoding):
    found = decode_text("a", ENGLISH.encode(encoding))
    assert (found.text, found.encoding) == (ENGLISH, encoding)


@pytest.mark.parametrize("encoding", ["gb18030", "gbk", "gb2312"])
def test_chinese_of_older_systems_is_read(encoding):
    found = decode_text("a", (CHINESE * 3 + ENGLISH).encode(encoding))
    assert (found.text, found.encoding) == (CHINESE * 3 + ENGLISH, "gb18030")


@pytest.mark.parametrize("name", ["a.png", "notes.txt", "../../x", ""])
def test_the_name_says_nothing(name):
    assert decode_text(name, b"plain").text == "plain"


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"%PDF-1.7\nall of it is ASCII\n",
        b"PK\x03\x04" + b"a" * 50,
        b"\x7fELF" + bytes(60),
        bytes(1000),
        b"text with a \x00 in it",
        bytes(range(1, 32)) * 20,
        "naïve café, déjà vu, à la carte, Zürich".encode("latin-1"),
        "こんにちは世界".encode("shift-jis"),
        b"\xff\xfe\x00\xd8\x00\xd8",
        b"\xef\xbb\xbf\xff\xff",
    ],
)
def test_what_is_no_text_is_refused_with_a_reason(data):
    with raises_code("attachment_not_text") as refused:
        decode_text("file.txt", data)
    assert refused.value.params["name"] == "file.txt" and keys_in(refused.value)


def test_random_bytes_are_never_taken_for_text():
    source = random.Random(5)
    for size in (16, 200, 5000):
        for _ in range(30):
            with raises_code("attachment_not_text"):
                decode_text("x", source.randbytes(size) + b"\xff")


def test_a_log_with_colours_is_text():
    assert "red" in decode_text("log", b"\x1b[31mred\x1b[0m\n" * 50).text
