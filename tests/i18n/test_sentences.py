"""An error's sentence and hint in one line."""

import pytest

from webapp.i18n import sentences


@pytest.mark.parametrize(
    ("message", "hint", "line"),
    [
        ("It is too long.", "Make it shorter.", "It is too long. Make it shorter."),
        ("The limit is 9", "Make it shorter.", "The limit is 9. Make it shorter."),
        ("太长了。", "请缩短。", "太长了。请缩短。"),
        ("上限是 9", "请缩短。", "上限是 9。请缩短。"),
        ("No more", "", "No more"),
        ("", "Make it shorter.", "Make it shorter."),
    ],
)
def test_a_missing_full_stop_is_put_in(message, hint, line):
    assert sentences(message, hint) == line
