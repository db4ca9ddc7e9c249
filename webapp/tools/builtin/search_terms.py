"""What to look for, and where it stands: words of any alphabet in their common forms, Chinese by pairs of characters.

Chinese has no spaces; every two neighbouring characters of a query are a term, as search engines do it, and what is
common everywhere weighs little in the ranking anyway.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003134f"
RUNS = re.compile(rf"([{CJK}]+)|([^\W_{CJK}]+)")
CJK_BEGINS = "\u3040"
SUFFIX = rf"(?:s|es|d|ed|ing|'s)?(?![^\W_{CJK}])"
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can did do does for from has have how i in is it me my of on or that the this to was "
        "were what when where which who why will with you your file document text tell find",
    )
)
MOST_TERMS = 32


def terms(query: str) -> list[str]:
    """Lower case, each once, in order. Words that say nothing are left out unless there are no others."""
    found: list[str] = []
    for chinese, word in RUNS.findall(folded(unicodedata.normalize("NFKC", query))):
        found += _pairs(chinese) if chinese else [word]
    telling = [term for term in found if term not in STOP_WORDS]
    return list(dict.fromkeys(telling or found))[:MOST_TERMS]


def folded(text: str) -> str:
    """In lower case, every character at the place it had."""
    return text.replace("\u0130", "I").lower()


def places(term: str, text: str) -> Iterator[int]:
    """Where ``term`` begins in a folded text; a word also in its plural and other endings."""
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
    """What the word's forms begin with, none the beginning of another where SUFFIX would find both."""
    if len(word) > 4 and word.endswith("ies"):
        return (f"{word[:-3]}y", word)
    for ending in ("ing", "ed"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            return (word[: -len(ending)],)
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return (word[:-1],)
    return (word, f"{word[:-1]}ies") if len(word) > 3 and word.endswith("y") else (word,)
