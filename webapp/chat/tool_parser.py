"""Splits streamed content into text and calls; no text is lost or shown twice.

Text that cannot become a call is passed on at once; other text is held back until that is decided. If it is not a call
of a known tool, it becomes text, exactly as the model wrote it. The result does not depend on the chunks.

Calls are returned complete, because only then it is certain that they are calls. With a grammar that enforces the
dialect's own form (:class:`ConstrainedBody`), it is certain from the beginning: whatever begins in that form is a call
of an offered tool with valid arguments. So arguments are streamed, and an answer that is cut off contains the partial
call.

Bodies are parsed by brackets and strings, so that fences, tags and brackets inside an argument do not end them. Each
character is processed once, whatever the length of the body and of the chunks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from enum import Enum

from msgspec.structs import replace

from webapp.chat.messages import CallDelta, ContentDelta
from webapp.chat.tool_dialects import CLOSERS, CallSyntax, Opening, ReadCall, read_calls

BRACKETS = {"{": "}", "[": "]", "(": ")"}
OPENS_STRING = "([{,=:"
"""After any other character, an apostrophe is part of a word."""


class BodyFollower:
    """Follows one value in brackets, as any model may write it."""

    def __init__(self) -> None:
        self.length = 0
        """Characters read; when :attr:`is_closed`, the length of the value."""
        self.is_closed = False
        self.is_broken = False
        """The brackets do not match."""
        self.elements_length = 0
        """For a list: characters up to the end of its last complete object; 0 if there is none."""
        self._closers: list[str] = []
        self._quote = ""
        self._is_escaped = False
        self._before = ""

    @property
    def missing(self) -> str:
        """The brackets that would close it; "" if it ends inside a string, is closed or broken."""
        return "" if self._quote or self.is_broken else "".join(reversed(self._closers))

    def feed(self, text: str) -> None:
        """Ignores text after the end."""
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
            if character == "}" and self._closers == ["]"]:
                self.elements_length = self.length


class ArgumentText:
    """The arguments of a constrained call as JSON text, while they are written.

    ``is_keyword``: the model writes ``("key"= value)``; the result is ``{"key": value}``. Otherwise the text is
    unchanged, except that line breaks inside strings are escaped.
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
        """(JSON text, number of characters of ``text`` that were used)."""
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


JSON_HEAD = re.compile(r'(\[?)\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')
NEXT_HEAD = re.compile(r', ?\{"name": ?("(?:[^"\\]|\\.)*"), ?"arguments": ?(?=\{)')
UNFINISHED_HEAD = re.compile(r"\}(?:, ?(?:\{[^\[\]{}]*)?)?")
"""The text after a call's arguments, up to the arguments of the next call, incomplete."""


class ConstrainedBody:
    """Starts at the arguments of the first call. ``is_list``: more calls may follow in the same body."""

    def __init__(
        self, name: str, new_id: Callable[[], str], *, is_keyword: bool = False, is_list: bool = False
    ) -> None:
        self.is_over = False
        self.rest = ""
        """The text after the body, when :attr:`is_over`."""
        self._new_id = new_id
        self._is_keyword = is_keyword
        self._is_list = is_list
        self._held = ""
        self._call_id = ""
        self._arguments: ArgumentText | None = None
        self._begun: list[CallDelta] = []
        self._begin(name)

    def feed(self, text: str) -> list[CallDelta]:
        self._held += text
        pieces, self._begun = self._begun, []
        while self._held and not self.is_over and self._step(pieces):
            pieces, self._begun = [*pieces, *self._begun], []
        return pieces

    def finish(self) -> list[CallDelta]:
        """Call it if the answer ends inside the body. A next call without arguments so far is dropped."""
        pieces = self.feed("")
        is_next_begun = self._is_list and UNFINISHED_HEAD.fullmatch(self._held)
        self._end(len(self._held) if is_next_begun else 0)
        return pieces

    def _begin(self, name: str) -> None:
        self._call_id = self._new_id()
        self._arguments = ArgumentText(self._is_keyword)
        self._begun.append(CallDelta(self._call_id, name))

    def _step(self, pieces: list[CallDelta]) -> bool:
        """False if more text is needed."""
        if self._arguments is not None:
            written, length = self._arguments.feed(self._held)
            self._held = self._held[length:]
            pieces.append(CallDelta(self._call_id, arguments=written))
            self._arguments = None if self._arguments.is_closed else self._arguments
            if self._arguments is None and self._is_keyword:
                self._end(0)
            return True
        return self._pass_on()

    def _pass_on(self) -> bool:
        """Moves from the end of a call's arguments to the next call, or to the end of the body."""
        self._held = self._held.lstrip()
        if not self._held:
            return False
        if not self._is_list:
            self._end(int(self._held.startswith("}")))
        elif self._held.startswith("}]"):
            self._end(2)
        elif found := NEXT_HEAD.match(self._held, 1):
            self._held = self._held[found.end() :]
            self._begin(json.loads(found[1]))
        elif self._held == "}" or self._held.startswith("},"):
            return False
        else:
            self._end(0)
        return True

    def _end(self, taken: int) -> None:
        self.is_over, self.rest = True, self._held[taken:]


STRAYS = re.compile(r"(?:[\s\]}]|```|</tool_calls?>)*")
"""Leftovers after the last call of an answer, which are dropped: extra brackets, and closers of wrappers that were
never opened."""
STRAYS_BEGUN = re.compile(STRAYS.pattern + r"(?:`{1,2}|</?[tol_cas]{0,10})?")

Piece = ContentDelta | CallDelta


class _Part(Enum):
    TEXT = "outside of calls"
    BODY = "inside what may be calls"
    CONSTRAINED = "inside calls whose arguments come as they are written"
    TAIL = "behind a call: another one, or what closes it"


class ToolCallParser:
    """For one answer. ``new_id`` makes a call's id; ``names`` are the tools that may be called, or None for all.
    ``is_held``: the answer is constrained by the dialect's grammar, and arguments are streamed."""

    def __init__(
        self, syntax: CallSyntax, names: Collection[str] | None, new_id: Callable[[], str], is_held: bool = False
    ) -> None:
        self._syntax = syntax
        self._names = None if names is None else frozenset(names)
        self._new_id = new_id
        self._is_held = is_held
        self._held = ""
        self._part = _Part.TEXT
        self._opening = Opening(0)
        self._is_exact = False
        self._follower = BodyFollower()
        self._body: ConstrainedBody | None = None
        self._is_start = True
        self.has_called = False

    @property
    def is_inside(self) -> bool:
        """The current text may be a call and is held back."""
        return self._part in (_Part.BODY, _Part.CONSTRAINED)

    def feed(self, text: str) -> list[Piece]:
        self._held += text
        return self._parse(is_end=False)

    def finish(self) -> list[Piece]:
        return self._parse(is_end=True)

    def _parse(self, is_end: bool) -> list[Piece]:
        pieces: list[Piece] = []
        steps = {
            _Part.TEXT: self._pass_text, _Part.BODY: self._pass_body,
            _Part.CONSTRAINED: self._pass_constrained, _Part.TAIL: self._pass_tail,
        }  # fmt: skip
        while (self._held or self._body) and steps[self._part](pieces, is_end):
            pass
        return _joined(pieces)

    def _pass_text(self, pieces: list[Piece], is_end: bool) -> bool:
        """False if more text is needed. Whitespace before an opening is held back too."""
        self._opening = self._syntax.find(self._held, self._is_start, is_end)
        text = self._held[: self._opening.begin]
        keep = len(text.rstrip()) if not is_end or self._opening.body is not None else len(text)
        if self._opening.body is not None:
            opened = self._held[self._opening.begin : self._opening.body]
            expected = self._syntax.opening.format(name=self._opening.name)
            self._is_exact = self._is_held and opened.rstrip() == expected.rstrip()
        self._release(pieces, keep)
        if self._opening.body is None:
            return False
        self._follow(self._opening.body - keep)
        return True

    def _follow(self, body: int) -> None:
        self._opening = replace(self._opening, begin=0, body=body)
        self._follower = BodyFollower()
        self._part = _Part.BODY

    def _pass_body(self, pieces: list[Piece], is_end: bool) -> bool:
        begin = self._opening.body or 0
        if self._is_exact and self._begin_constrained(begin):
            return True
        self._follower.feed(self._held[begin + self._follower.length :])
        is_whole = self._follower.is_closed
        if not is_whole and not self._follower.is_broken and not is_end:
            return False
        end = begin + self._follower.length
        calls = read_calls(self._opening.name, self._held[begin:end]) if is_whole else None
        if not is_whole and is_end:
            calls, end = self._mended(begin)
        if not calls or not all(self._may_be_called(call.name) for call in calls):
            self._part = _Part.TEXT
            return self._give_up(pieces, end if is_whole else begin + 1, is_end)
        pieces += [self._made(call) for call in calls]
        self._called(self._held[end:])
        return True

    def _mended(self, begin: int) -> tuple[list[ReadCall] | None, int]:
        """(calls, end of their body) for a body without its last brackets. A closer, even of another wrapper, shows
        that the model considered the body complete. Without one, it may have been cut off, so only complete calls of a
        list count, and an incomplete one is dropped."""
        for closer in (*self._opening.closers, *CLOSERS):
            end = self._held.find(closer, begin)
            if end < 0:
                continue
            follower = BodyFollower()
            follower.feed(self._held[begin:end])
            if follower.missing:
                body = self._held[begin:end].rstrip() + follower.missing
                return read_calls(self._opening.name, body), end
        if length := self._follower.elements_length:
            return read_calls(self._opening.name, self._held[begin : begin + length] + "]"), len(self._held)
        return None, begin

    def _may_be_called(self, name: str) -> bool:
        return self._names is None or name in self._names

    def _begin_constrained(self, begin: int) -> bool:
        """True if a call certainly begins at ``begin`` and its arguments come next."""
        if self._syntax.is_keyword:
            name, is_list, arguments = self._opening.name, False, begin
        else:
            head = JSON_HEAD.match(self._held, begin)
            if head is None:
                return False
            name, is_list, arguments = json.loads(head[2]), bool(head[1]), head.end()
        if not self._may_be_called(name):
            return False
        self._body = ConstrainedBody(name, self._new_id, is_keyword=self._syntax.is_keyword, is_list=is_list)
        self._held = self._held[arguments:]
        self._part, self._is_start, self.has_called = _Part.CONSTRAINED, False, True
        return True

    def _pass_constrained(self, pieces: list[Piece], is_end: bool) -> bool:
        assert self._body is not None, "a held part has its body"
        pieces += self._body.feed(self._held)
        if is_end:
            pieces += self._body.finish()
        self._held = ""
        if not self._body.is_over:
            return False
        rest, self._body = self._body.rest, None
        self._called(rest)
        return bool(rest)

    def _called(self, rest: str) -> None:
        self._held = rest
        self._part, self._is_start, self.has_called = _Part.TAIL, False, True

    def _give_up(self, pieces: list[Piece], length: int, is_end: bool) -> bool:
        """It is text, not a call."""
        self._release(pieces, len(self._held) if is_end and length >= len(self._held) else length)
        return bool(self._held)

    def _pass_tail(self, pieces: list[Piece], is_end: bool) -> bool:
        rest = self._held.lstrip()
        following = rest.lstrip(", \n")
        if self._syntax.repeats and rest[:1] in ("{", ","):
            if following.startswith("{"):
                self._is_exact = False
                self._follow(len(self._held) - len(following))
                return True
            if not following and not is_end:
                return False
        closers = self._opening.closers
        if any(closer.startswith(rest) and closer != rest for closer in closers) or not rest:
            self._held = "" if is_end else self._held
            return False
        if closer := next((closer for closer in closers if rest.startswith(closer)), ""):
            self._opening = replace(self._opening, closers=tuple(one for one in closers if one != closer))
            self._held = rest[len(closer) :]
            return bool(self._held)
        if STRAYS.fullmatch(rest) or (not is_end and STRAYS_BEGUN.fullmatch(rest)):
            self._held = "" if is_end else self._held
            return False
        self._part = _Part.TEXT
        return bool(self._held)

    def _release(self, pieces: list[Piece], count: int) -> None:
        text, self._held = self._held[:count], self._held[count:]
        if text:
            pieces.append(ContentDelta(text))
            self._is_start = self._is_start and not text.strip()

    def _made(self, call: ReadCall) -> CallDelta:
        return CallDelta(self._new_id(), call.name, json_text(call.arguments))


def json_text(value: object) -> str:
    """Compact JSON without escapes, except for lone surrogates."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    is_whole = not any("\ud800" <= character <= "\udfff" for character in text)
    return text if is_whole else json.dumps(value, separators=(",", ":"))


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Joins neighbours of the same type and removes empty ones."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if isinstance(piece, ContentDelta) and isinstance(last, ContentDelta):
            joined[-1] = ContentDelta(last.text + piece.text)
        elif isinstance(piece, CallDelta) and isinstance(last, CallDelta) and not (piece.name or last.name):
            joined[-1] = CallDelta(last.call_id, "", last.arguments + piece.arguments)
        elif isinstance(piece, ContentDelta) or piece.name or piece.arguments:
            joined.append(piece)
    return joined
