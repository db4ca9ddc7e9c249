"""A text as passages of about one length, cut where a reader would: between paragraphs, lines, sentences, words."""

from __future__ import annotations

PASSAGE_CHARS = 700
CUTS = (("\n\n",), ("\n",), ("。", "！", "？", ". ", "! ", "? "), ("；", "，", "; ", ", "), (" ",))
"""From the best place to cut to the worst."""

Span = tuple[int, int]


def spans(text: str) -> list[Span]:
    """(start, end) of each, in order and without a gap: together they are the text."""
    found: list[Span] = []
    start = 0
    while start < len(text):
        end = _end(text, start)
        found.append((start, end))
        start = end
    return found


def lines_of(text: str, span: Span) -> tuple[int, int]:
    """The first and the last line of a span, counted from 1; blank ones at its ends left out."""
    part = text[span[0] : span[1]]
    lead, trail = len(part) - len(part.lstrip()), len(part.rstrip())
    first = text.count("\n", 0, span[0] + lead) + 1
    return first, first + part.count("\n", lead, trail)


def _end(text: str, start: int) -> int:
    limit = start + PASSAGE_CHARS
    if limit >= len(text):
        return len(text)
    least = start + PASSAGE_CHARS // 2
    for marks in CUTS:
        ends = [place + len(mark) for mark in marks if (place := text.rfind(mark, least, limit)) >= 0]
        if ends:
            return max(ends)
    return limit
