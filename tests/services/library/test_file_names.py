"""Names from outside become names that are valid on every system, or are refused."""

import pytest

from tests.errors import raises_code
from webapp.services.library.placing import LONGEST_BYTES, safe_name

CLEANED = {
    "model.pth": "model.pth",
    "../../etc/model.pth": "model.pth",
    "..\\..\\windows\\model.PTH": "model.PTH",
    "C:\\fakepath\\m.st": "m.st",
    "a:b*c?.pth": "a_b_c_.pth",
    "  spaced .pth  ": "spaced.pth",
    "...dots.pth": "dots.pth",
    "nul.pth": "_nul.pth",
    "COM1.safetensors": "_COM1.safetensors",
    "new\nline\x00.gguf": "new_line_.gguf",
    "模型.safetensors": "模型.safetensors",
    "right\u202eto-left.pth": "right_to-left.pth",
    "e\u0301.pth": "é.pth",
}


@pytest.mark.parametrize("given", CLEANED, ids=ascii)
def test_names_are_cleaned(given):
    assert safe_name(given) == CLEANED[given]


@pytest.mark.parametrize(
    "given", ["", ".pth", "..", "/", "model", "model.exe", "a.pth/", "..pth", " .st", "???.bin", "\0.pth"]
)
def test_names_that_are_none_are_refused(given):
    with raises_code("file_name_unusable"):
        safe_name(given)


def test_long_names_keep_their_ending_and_whole_characters():
    name = safe_name("鸟" * 300 + ".safetensors")
    assert name.endswith("鸟.safetensors") and len(name.encode()) <= LONGEST_BYTES


def test_surrogates_do_no_harm():
    assert safe_name("bad\udc80name.pth") == "bad_name.pth"
