"""Text in the columns of a terminal, where a Chinese character takes two and may end a line."""

from __future__ import annotations

import re
import unicodedata

OPENING, CLOSING = "（“《", "，。、；：！？）”》…"
# What a line is not broken inside of: a word or one Chinese character, with the punctuation that clings to it.
PIECE = re.compile(rf"\s+|[{OPENING}]*(?:[^\s{OPENING}{CLOSING}\u2e80-\uffef]+|\S)[{CLOSING}]*")


def columns_of(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def pad(text: str, columns: int) -> str:
    """``text`` and spaces up to that many columns."""
    return text + " " * (columns - columns_of(text))


def wrap(text: str, columns: int) -> list[str]:
    """Lines of at most ``columns``, where no single piece is longer."""
    lines = [""]
    for piece in PIECE.findall(" ".join(text.split())):
        if columns_of(lines[-1]) + columns_of(piece) > columns and lines[-1]:
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    return [line.rstrip() for line in lines]
