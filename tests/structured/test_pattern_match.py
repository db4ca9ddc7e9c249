from __future__ import annotations

import pytest

from webapp.structured.grammar import matches


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("^[A-Z]", "Paris", True),
        ("^[A-Z]", "paris", False),
        ("is", "Paris", True),
        ("^\\d{3}$", "123", True),
        ("^\\d{3}$", "1234", False),
        ("^北.京$", "北🏙京", True),
        ('^"\\\\$', '"\\', True),
        ("^(a+)+$", "a" * 5000 + "b", False),
        ("^(a|a)*$", "a" * 5000, True),
        ("(?=x)x", "anything", True),
        ("(", "anything", True),
    ],
)
def test_a_pattern_is_looked_for_in_linear_time(pattern: str, text: str, expected: bool) -> None:
    assert matches(pattern, text) is expected
