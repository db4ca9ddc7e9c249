"""Every pair of text and background colours is readable (WCAG AA), in both themes."""

import re

import pytest

from webapp.resources import resource_dir

TOKEN = re.compile(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)")
GROUNDS = ("paper", "side", "raised", "bubble", "hover")
PAIRS = [
    *((ink, ground) for ink in ("ink", "ink-soft") for ground in GROUNDS),
    *(("ink-faint", ground) for ground in ("paper", "side", "raised")),
    *(("accent-ink", ground) for ground in ("paper", "raised", "accent-soft")),
    *((ink, f"{ink}-soft") for ink in ("red", "amber")),
    *((ink, ground) for ink in ("red", "amber") for ground in ("paper", "raised")),
    ("on-accent", "accent"),
    ("on-accent", "accent-hover"),
    ("ink", "mark"),
    ("ink-soft", "red-soft"),
    ("ink-soft", "amber-soft"),
]


def tokens():
    css = (resource_dir("static") / "css" / "tokens.css").read_text(encoding="utf-8")
    return {name: pair for name, *pair in TOKEN.findall(css)}


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(theme):
    found = {name: pair[theme == "dark"] for name, pair in tokens().items()}
    ratios = {pair: round(contrast(found[pair[0]], found[pair[1]]), 2) for pair in PAIRS}
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}
