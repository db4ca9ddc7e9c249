"""Passages of a chat's attachments that fit a query, ranked by BM25 (Robertson and Zaragoza 2009, k1 = 1.2, b = 0.75).

A pure function of the texts, without an index: 8 MB are searched in seconds at worst, and no copy has to be kept
true. The length of a passage is its characters.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.tools.builtin.context import BuiltinContext, NamedText
from webapp.tools.builtin.passages import Span, lines_of, spans
from webapp.tools.builtin.search_terms import folded, places, terms

NAME = "search_attachments"
MOST_RESULTS = 10
USUAL_RESULTS = 4
MOST_CHARS = 12_000
"""Of the whole answer: below what a model gets to read of a tool's result."""
MOST_QUERY_CHARS = 500
K1, B = 1.2, 0.75
PARAMETERS = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "description": "Words to look for, in the language of the files"},
        "max_results": {"type": "integer", "minimum": 1, "maximum": MOST_RESULTS},
    },
    "required": ["query"],
}
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Hit:
    file: NamedText
    span: Span

    def to_dict(self) -> dict[str, str]:
        """``lines`` counted from 1."""
        first, last = lines_of(self.file.text, self.span)
        text = CONTROLS.sub(" ", self.file.text[self.span[0] : self.span[1]]).strip()
        lines = str(first) if first == last else f"{first}-{last}"
        return {"file": self.file.name, "lines": lines, "text": re.sub(r"\n\s*\n", "\n", text)}


def search_attachments(arguments: Mapping[str, Any], context: BuiltinContext | None = None) -> dict[str, Any]:
    """ValueError with a sentence for the model where there is nothing to search, or nothing to search for."""
    if context is None:
        raise ValueError("it searches the files of a chat, and this is none: attach text files in a chat")
    files = context.texts()
    if not files:
        raise ValueError("no files are attached to this chat, so there is nothing to search")
    wanted = terms(str(arguments["query"])[:MOST_QUERY_CHARS])
    if not wanted:
        raise ValueError("the query has no words to look for")
    hits = ranked(files, wanted)
    return _answer(files, hits[: int(arguments.get("max_results", USUAL_RESULTS))])


def ranked(files: Sequence[NamedText], wanted: Sequence[str]) -> list[Hit]:
    """Passages with any of the terms, best first; among equals in the order of the files."""
    cut = [(folded(file.text), spans(file.text)) for file in files]
    parts = [(file, span) for file, (_, found) in zip(files, cut, strict=True) for span in found]
    mean = sum(end - start for _, (start, end) in parts) / max(1, len(parts))
    scores: dict[int, float] = {}
    for term in wanted:
        counts = _counts(cut, term)
        rarity = math.log(1 + (len(parts) - len(counts) + 0.5) / (len(counts) + 0.5))
        for index, times in counts.items():
            start, end = parts[index][1]
            gain = rarity * times * (K1 + 1) / (times + K1 * (1 - B + B * (end - start) / mean))
            scores[index] = scores.get(index, 0.0) + gain
    return [Hit(*parts[index]) for index in sorted(scores, key=lambda index: (-scores[index], index))]


def _counts(cut: Sequence[tuple[str, list[Span]]], term: str) -> Counter[int]:
    """How often the term stands in each passage that has it, by the passage's number over all files."""
    found: Counter[int] = Counter()
    before = -1
    for text, parts in cut:
        starts = [start for start, _ in parts]
        found.update(before + bisect_right(starts, place) for place in places(term, text))
        before += len(starts)
    return found


def _answer(files: Sequence[NamedText], hits: Sequence[Hit]) -> dict[str, Any]:
    """As many as have room. Without any, the names of what was searched."""
    if not hits:
        names = [file.name for file in files][:MOST_RESULTS]
        return {"results": [], "note": "nothing has these words; try others", "files": names}
    shown: list[dict[str, str]] = []
    room = MOST_CHARS
    for hit in hits:
        told = hit.to_dict()
        room -= len(json.dumps(told, ensure_ascii=False)) + 2
        if room < 0 and shown:
            break
        shown.append(told)
    return {"results": shown}
