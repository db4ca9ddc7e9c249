"""Finds passages of a chat's attachments that match a query, ranked by BM25
(Robertson and Zaragoza 2009, k1 = 1.2, b = 0.75).

A pure function of the texts, without an index: searching 8 MB takes seconds at most, and no index has to be updated.
The length of a passage is measured in characters.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from webapp.i18n import Text

NAME = "search_attachments"
MAX_RESULTS = 10
USUAL_RESULTS = 4
MAX_CHARS = 12_000
"""Limit of the whole result; less than the part of a tool's result that a model reads."""
MAX_QUERY_CHARS = 500
K1, B = 1.2, 0.75
PARAMETERS = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "description": "Words to look for, in the language of the files"},
        "max_results": {"type": "integer", "minimum": 1, "maximum": MAX_RESULTS},
    },
    "required": ["query"],
}
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class NamedText(NamedTuple):
    name: str
    text: str


Texts = Callable[[], Sequence[NamedText]]
"""Loads the chat's attachments, in the order of their upload; called only by a tool that reads them."""


class Hit(Struct, frozen=True):
    file: NamedText
    span: Span

    def to_dict(self) -> dict[str, str]:
        """``lines`` are counted from 1."""
        first, last = lines_of(self.file.text, self.span)
        text = CONTROLS.sub(" ", self.file.text[self.span[0] : self.span[1]]).strip()
        lines = str(first) if first == last else f"{first}-{last}"
        return {"file": self.file.name, "lines": lines, "text": re.sub(r"\n\s*\n", "\n", text)}


def search_attachments(arguments: Mapping[str, Any], texts: Texts | None = None) -> dict[str, Any]:
    """Raises ValueError with a sentence for the model if there are no texts or no search terms."""
    if texts is None:
        raise ValueError(Text("reason.tools.only_in_a_chat"))
    files = texts()
    if not files:
        raise ValueError(Text("reason.tools.no_attached_files"))
    wanted = terms(str(arguments["query"])[:MAX_QUERY_CHARS])
    if not wanted:
        raise ValueError(Text("reason.tools.query_without_words"))
    hits = ranked(files, wanted)
    return _answer(files, hits[: int(arguments.get("max_results", USUAL_RESULTS))])


def ranked(files: Sequence[NamedText], wanted: Sequence[str]) -> list[Hit]:
    """Passages with at least one of the terms, best first; equal ones in the order of the files."""
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
    """Counts the term in each passage that contains it. Keys are passage numbers over all files."""
    found: Counter[int] = Counter()
    before = -1
    for text, parts in cut:
        starts = [start for start, _ in parts]
        found.update(before + bisect_right(starts, place) for place in places(term, text))
        before += len(starts)
    return found


def _answer(files: Sequence[NamedText], hits: Sequence[Hit]) -> dict[str, Any]:
    """As many hits as fit; without a hit, the names of the searched files."""
    if not hits:
        names = [file.name for file in files][:MAX_RESULTS]
        return {"results": [], "note": "nothing has these words; try others", "files": names}
    shown: list[dict[str, str]] = []
    room = MAX_CHARS
    for hit in hits:
        row = hit.to_dict()
        room -= len(json.dumps(row, ensure_ascii=False)) + 2
        if room < 0 and shown:
            break
        shown.append(row)
    return {"results": shown}


PASSAGE_CHARS = 700
CUTS = (("\n\n",), ("\n",), ("。", "！", "？", ". ", "! ", "? "), ("；", "，", "; ", ", "), (" ",))
"""Places to cut, best first."""

Span = tuple[int, int]


def spans(text: str) -> list[Span]:
    """(start, end) of each passage, in order; together they cover the whole text."""
    found: list[Span] = []
    start = 0
    while start < len(text):
        end = _end(text, start)
        found.append((start, end))
        start = end
    return found


def lines_of(text: str, span: Span) -> tuple[int, int]:
    """The first and last line of a span, counted from 1, without blank lines at its ends."""
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


CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003134f"
RUNS = rf"([{CJK}]+)|([^\W_{CJK}]+)"  # compiled at the first search: it takes 2 ms
CJK_BEGINS = "\u3040"
SUFFIX = rf"(?:s|es|d|ed|ing|'s)?(?![^\W_{CJK}])"
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can did do does for from has have how i in is it me my of on or that the this to was "
        "were what when where which who why will with you your file document text tell find",
    )
)
MAX_TERMS = 32


def terms(query: str) -> list[str]:
    """The terms of a query in lower case, without repetition, in order. Stop words are removed unless there are only
    stop words."""
    found: list[str] = []
    for chinese, word in re.findall(RUNS, folded(unicodedata.normalize("NFKC", query))):
        found += _pairs(chinese) if chinese else [word]
    telling = [term for term in found if term not in STOP_WORDS]
    return list(dict.fromkeys(telling or found))[:MAX_TERMS]


def folded(text: str) -> str:
    """Lower case; every character keeps its position."""
    return text.replace("\u0130", "I").lower()


def places(term: str, text: str) -> Iterator[int]:
    """Positions of ``term`` in a folded text; a word is also found with the endings in SUFFIX."""
    if re.match(f"[{CJK}]", term):
        yield from _literal(term, text)
        return
    for base in _bases(term):
        for match in re.finditer(re.escape(base) + SUFFIX, text):
            if _begins_word(text, match.start()):
                yield match.start()


def _begins_word(text: str, place: int) -> bool:
    before = text[place - 1 : place]
    return not before.isalnum() or before >= CJK_BEGINS


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(len(run) - 1)] or [run]


def _literal(part: str, text: str) -> Iterator[int]:
    place = text.find(part)
    while place >= 0:
        yield place
        place = text.find(part, place + len(part))


def _bases(word: str) -> tuple[str, ...]:
    """The beginnings that a word's forms share. None is the beginning of another one, so that SUFFIX finds each place
    once."""
    if len(word) > 4 and word.endswith("ies"):
        return (f"{word[:-3]}y", word)
    for ending in ("ing", "ed"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            return (word[: -len(ending)],)
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return (word[:-1],)
    return (word, f"{word[:-1]}ies") if len(word) > 3 and word.endswith("y") else (word,)
