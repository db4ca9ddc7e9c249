"""Following the body of a call through pieces of text: where its brackets close, and its arguments while they come.

Bodies are followed bracket by bracket with their strings, so that fences, tags and brackets inside an argument end
nothing. Each character is looked at once, however long the body and however small the pieces.
"""

from __future__ import annotations

import re

BRACKETS = {"{": "}", "[": "]", "(": ")"}
OPENS_STRING = "([{,=:"
"""An apostrophe behind anything else is inside a word."""


class BodyFollower:
    """Of one bracketed value, as any model may write it."""

    def __init__(self) -> None:
        self.length = 0
        """Characters looked at; those of the value once it :attr:`is_closed`."""
        self.is_closed = False
        self.is_broken = False
        """The brackets do not match."""
        self._closers: list[str] = []
        self._quote = ""
        self._is_escaped = False
        self._before = ""

    def feed(self, text: str) -> None:
        """Looks at nothing behind the end."""
        for character in text:
            if self.is_closed or self.is_broken:
                return
            self.length += 1
            self._look_at(character)
            if not character.isspace():
                self._before = character

    def _look_at(self, character: str) -> None:
        if self._quote:
            if character == self._quote and not self._is_escaped:
                self._quote = ""
            self._is_escaped = character == "\\" and not self._is_escaped
        elif character == '"' or (character == "'" and (not self._before or self._before in OPENS_STRING)):
            self._quote = character
        elif character in BRACKETS:
            self._closers.append(BRACKETS[character])
        elif character in BRACKETS.values():
            self.is_broken = not self._closers or self._closers.pop() != character
            self.is_closed = not self.is_broken and not self._closers


class ArgumentText:
    """The arguments of a call that a grammar holds to its form, as JSON text while they are written.

    ``is_keyword``: they stand as ``("key"= value)`` and come out as ``{"key": value}``. Otherwise what comes out is
    what was written, line breaks inside strings escaped.
    """

    STOPS = re.compile(r'["{}\[\]()=]')
    STOPS_IN_STRING = re.compile(r'["\\\x00-\x1f]')

    def __init__(self, is_keyword: bool = False) -> None:
        self.is_closed = False
        self._is_keyword = is_keyword
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def feed(self, text: str) -> tuple[str, int]:
        """(JSON text, how many characters of ``text`` it is)."""
        parts: list[str] = []
        place = 0
        while place < len(text) and not self.is_closed:
            if self._is_escaped:
                parts.append(text[place])
                place, self._is_escaped = place + 1, False
                continue
            found = (self.STOPS_IN_STRING if self._in_string else self.STOPS).search(text, place)
            end = found.start() if found else len(text)
            parts.append(text[place:end])
            if found:
                parts.append(self._in_a_string(found[0]) if self._in_string else self._outside(found[0]))
            place = found.end() if found else end
        return "".join(parts), place

    def _in_a_string(self, character: str) -> str:
        self._in_string = character != '"'
        self._is_escaped = character == "\\"
        return f"\\u{ord(character):04x}" if character < " " else character

    def _outside(self, character: str) -> str:
        if character == '"':
            self._in_string = True
        elif character in BRACKETS:
            self._depth += 1
            return "{" if character == "(" and self._is_keyword else character
        elif character == "=":
            return ":" if self._is_keyword and self._depth == 1 else character
        else:
            self._depth -= 1
            self.is_closed = self._depth == 0
            return "}" if character == ")" and self._is_keyword else character
        return character
