"""Content as it comes -> text and calls, with nothing lost and nothing shown twice.

Text that cannot become a call passes at once; the rest is held back until it can be told. What turns out to be no call
of a known tool is text, exactly as the model wrote it. However the text is cut into pieces, the result is the same.

Calls come whole, because only then is it sure that they are calls; where a grammar holds the model to the dialect's
form that is sure from the beginning, and their arguments come as they are written (:mod:`webapp.chat.tool_streaming`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from enum import Enum

from webapp.chat.events import CallDelta, ContentDelta
from webapp.chat.tool_body import BodyFollower
from webapp.chat.tool_streaming import JSON_HEAD, HeldBody
from webapp.chat.tool_syntax import CallSyntax, Opening, ReadCall

Piece = ContentDelta | CallDelta


class _Part(Enum):
    TEXT = "outside of calls"
    BODY = "inside what may be calls"
    HELD = "inside calls whose arguments come as they are written"
    TAIL = "behind a call: another one, or what closes it"


class ToolCallParser:
    """For one answer. ``new_id`` makes a call's id; ``names`` are the tools that may be called, None is any.
    ``is_held``: a grammar of the dialect's holds the model, and arguments are to come in pieces."""

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
        self._body: HeldBody | None = None
        self._is_start = True
        self.has_called = False

    @property
    def is_inside(self) -> bool:
        """What comes now may be a call, and is shown by nobody yet."""
        return self._part in (_Part.BODY, _Part.HELD)

    def feed(self, text: str) -> list[Piece]:
        self._held += text
        return self._parse(is_end=False)

    def finish(self) -> list[Piece]:
        return self._parse(is_end=True)

    def _parse(self, is_end: bool) -> list[Piece]:
        pieces: list[Piece] = []
        steps = {
            _Part.TEXT: self._pass_text, _Part.BODY: self._pass_body,
            _Part.HELD: self._pass_held, _Part.TAIL: self._pass_tail,
        }  # fmt: skip
        while (self._held or self._body) and steps[self._part](pieces, is_end):
            pass
        return _joined(pieces)

    def _pass_text(self, pieces: list[Piece], is_end: bool) -> bool:
        """False when more text must come first. Blank space before an opening is held back with it."""
        self._opening = self._syntax.find(self._held, self._is_start, is_end)
        text = self._held[: self._opening.begin]
        keep = len(text.rstrip()) if not is_end or self._opening.body is not None else len(text)
        if self._opening.body is not None:
            opened = self._held[self._opening.begin : self._opening.body]
            self._is_exact = self._is_held and opened == self._syntax.opening.format(name=self._opening.name)
        self._release(pieces, keep)
        if self._opening.body is None:
            return False
        self._follow(self._opening.body - keep)
        return True

    def _follow(self, body: int) -> None:
        self._opening = Opening(0, body, self._opening.name)
        self._follower = BodyFollower()
        self._part = _Part.BODY

    def _pass_body(self, pieces: list[Piece], is_end: bool) -> bool:
        begin = self._opening.body or 0
        if self._is_exact and self._begin_held(begin):
            return True
        self._follower.feed(self._held[begin + self._follower.length :])
        is_whole = self._follower.is_closed
        if not is_whole and not self._follower.is_broken and not is_end:
            return False
        end = begin + self._follower.length
        calls = self._syntax.read(self._opening.name, self._held[begin:end]) if is_whole else None
        if not calls or not all(self._may_be_called(call.name) for call in calls):
            self._part = _Part.TEXT
            return self._give_up(pieces, end if is_whole else begin + 1, is_end)
        pieces += [self._made(call) for call in calls]
        self._called(self._held[end:])
        return True

    def _may_be_called(self, name: str) -> bool:
        return self._names is None or name in self._names

    def _begin_held(self, begin: int) -> bool:
        """True when a call is sure to stand at ``begin`` and its arguments come next."""
        if self._syntax.is_keyword:
            name, is_list, arguments = self._opening.name, False, begin
        else:
            head = JSON_HEAD.match(self._held, begin)
            if head is None:
                return False
            name, is_list, arguments = json.loads(head[2]), bool(head[1]), head.end()
        if not self._may_be_called(name):
            return False
        self._body = HeldBody(name, self._new_id, is_keyword=self._syntax.is_keyword, is_list=is_list)
        self._held = self._held[arguments:]
        self._part, self._is_start, self.has_called = _Part.HELD, False, True
        return True

    def _pass_held(self, pieces: list[Piece], is_end: bool) -> bool:
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
        """It was text after all."""
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
        if self._syntax.closer.startswith(rest) and rest != self._syntax.closer:
            self._held = "" if is_end else self._held
            return False
        if rest.startswith(self._syntax.closer):
            rest = rest[len(self._syntax.closer) :]
            self._held = rest
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
    """Compact, characters as they are; escaped only where half a character could not be written otherwise."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    is_whole = not any("\ud800" <= character <= "\udfff" for character in text)
    return text if is_whole else json.dumps(value, separators=(",", ":"))


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of one kind as one; empty ones are left out."""
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
