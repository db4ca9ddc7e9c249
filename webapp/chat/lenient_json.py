"""Parses values as models write them: JSON, Python literals, mixtures (unquoted keys, either quote, ``=`` for ``:``, an
extra comma), and JSON that the token limit has cut off.

Strict JSON is parsed as such. Nothing is evaluated, and the depth is limited for any text.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

MAX_DEPTH = 64
WORDS = {"true": True, "false": False, "null": None, "none": None}
CLOSERS = {"{": "}", "[": "]", "(": ")"}
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}
KEY = re.compile(r"[\w.-]+")
TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+)', re.DOTALL)
BEHIND_STRING = re.compile(r"\s*(?:[,}\])=:]|\Z)")


def read_value(text: str) -> Any:
    """Parses JSON, otherwise leniently; returns the text itself if both fail. Numbers that JSON cannot express (NaN,
    1e999) stay text."""
    try:
        return json.loads(text, strict=False, parse_constant=refused, parse_float=finite)
    except (ValueError, RecursionError):
        pass
    try:
        return _Reader(text).whole()
    except ValueError:
        return text


def read_members(text: str) -> dict[str, Any]:
    """``("key"= value, key: value)``, in any brackets, as a dict. Raises ValueError if it cannot be parsed."""
    reader = _Reader(text)
    found = reader.members(0)
    reader.end()
    return found


def read_arguments(text: str) -> dict[str, Any]:
    """All arguments; if the token limit has cut the text off, those that are complete. Half surrogate pairs, which no
    response can contain, become "?"."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = json.loads(completed(text))
    whole = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    found: dict[str, Any] = json.loads(whole)
    return found


def completed(text: str) -> str:
    """The beginning of a JSON object up to its last complete value, with all open brackets closed.

    A number or word at the very end may be incomplete, so it does not count.
    """
    closers: list[str] = []
    best, place, before = "{}", 0, ""
    while token := TOKEN.match(text, place):
        written, place = token[1], token.end()
        if written in CLOSERS:
            closers.append(CLOSERS[written])
        elif written in ("}", "]"):
            closers.pop()
        is_key = written[0] == '"' and before in ("{", ",") and closers[-1] == "}"
        is_whole = place < len(text) or written[-1] in '"{}[]'
        if written not in (",", ":") and not is_key and is_whole:
            best = text[:place] + "".join(reversed(closers))
        before = written
    return best


class _Reader:
    """A recursive descent parser for one text; raises ValueError."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def whole(self) -> Any:
        value = self._value(0)
        self.end()
        return value

    def end(self) -> None:
        if self._next():
            raise ValueError("there is more behind the value")

    def members(self, depth: int) -> dict[str, Any]:
        closer = self._opened(depth)
        found: dict[str, Any] = {}
        while not self._takes(closer):
            key = self._key()
            if not (self._takes("=") or self._takes(":")):
                raise ValueError("a name without a value")
            found[key] = self._value(depth + 1)
            self._separated(closer)
        return found

    def _items(self, depth: int) -> list[Any]:
        closer = self._opened(depth)
        found: list[Any] = []
        while not self._takes(closer):
            found.append(self._value(depth + 1))
            self._separated(closer)
        return found

    def _value(self, depth: int) -> Any:
        first = self._next()
        if first == "{":
            return self.members(depth)
        if first and first in "[(":
            return self._items(depth)
        return self._string() if first and first in "\"'" else self._bare()

    def _opened(self, depth: int) -> str:
        opener = self._next()
        if opener not in CLOSERS or depth > MAX_DEPTH:
            raise ValueError("no brackets, or too many")
        self._place += 1
        return CLOSERS[opener]

    def _separated(self, closer: str) -> None:
        if not self._takes(",") and self._next() != closer:
            raise ValueError("values without a comma between them")

    def _key(self) -> str:
        if self._next() in ('"', "'"):
            return self._string()
        found = KEY.match(self._text, self._place)
        if found is None:
            raise ValueError("no name")
        self._place = found.end()
        return found[0]

    def _string(self) -> str:
        """A string ends at a quote followed by a comma, bracket or colon, so an apostrophe inside a word does not end
        it."""
        quote, begin = self._text[self._place], self._place + 1
        parts: list[str] = []
        for found in re.compile(rf"\\(?:u([0-9a-fA-F]{{4}})|(.))|{quote}", re.DOTALL).finditer(self._text, begin):
            if found[0] == quote and not BEHIND_STRING.match(self._text, found.end()):
                continue
            parts.append(self._text[begin : found.start()])
            begin = self._place = found.end()
            if found[0] == quote:
                return _paired("".join(parts))
            parts.append(chr(int(found[1], 16)) if found[1] else ESCAPES.get(found[2], found[2]))
        raise ValueError("a string without an end")

    def _bare(self) -> Any:
        """A number, a word, or text without quotes, up to the next comma or bracket."""
        begin, depth = self._place, 0
        while self._place < len(self._text):
            character = self._text[self._place]
            if depth == 0 and character in ",)]}":
                break
            depth += (character in "([{") - (character in ")]}")
            self._place += 1
        written = self._text[begin : self._place].strip()
        if not written:
            raise ValueError("no value")
        return _number_or_word(written)

    def _next(self) -> str:
        """The next character that is not blank; "" at the end."""
        while self._place < len(self._text) and self._text[self._place].isspace():
            self._place += 1
        return self._text[self._place : self._place + 1]

    def _takes(self, character: str) -> bool:
        is_next = self._next() == character
        self._place += is_next
        return is_next


def _number_or_word(written: str) -> Any:
    if written.lower() in WORDS:
        return WORDS[written.lower()]
    for kind in (int, float):
        try:
            number = kind(written)
        except ValueError:
            continue
        return number if math.isfinite(number) else written
    return written


def _paired(text: str) -> str:
    """Combines surrogates that were escaped separately."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


class NotInJson(ValueError):
    """A number, or a word such as NaN, that Python accepts but JSON does not."""


def finite(written: str) -> float:
    """For ``json.loads``; refuses a number that becomes infinite."""
    number = float(written)
    return number if math.isfinite(number) else refused(written)


def refused(written: str) -> NoReturn:
    raise NotInJson(written)
