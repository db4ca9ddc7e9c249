"""Content as it comes -> text and whole calls, with nothing lost and nothing shown twice.

Text that cannot become a call passes at once; the rest is held back until it can be told. What turns out to be no call
of a known tool is text, exactly as the model wrote it. However the text is cut into pieces, the result is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from enum import Enum

from webapp.chat.events import ContentDelta, ToolCallReady
from webapp.chat.messages import ToolCall
from webapp.chat.tool_syntax import CallSyntax, Opening, ReadCall, body_length

Piece = ContentDelta | ToolCallReady


class _Part(Enum):
    TEXT = "outside of calls"
    BODY = "inside a call"
    TAIL = "behind a call: another one, or what closes it"


class ToolCallParser:
    """For one answer. ``new_id`` makes a call's id; ``names`` are the tools that may be called, None is any."""

    def __init__(self, syntax: CallSyntax, names: Collection[str] | None, new_id: Callable[[], str]) -> None:
        self._syntax = syntax
        self._names = None if names is None else frozenset(names)
        self._new_id = new_id
        self._held = ""
        self._part = _Part.TEXT
        self._opening = Opening(0)
        self._is_start = True
        self.has_called = False

    def feed(self, text: str) -> list[Piece]:
        self._held += text
        return self._parse(is_end=False)

    def finish(self) -> list[Piece]:
        return self._parse(is_end=True)

    def _parse(self, is_end: bool) -> list[Piece]:
        pieces: list[Piece] = []
        steps = {_Part.TEXT: self._pass_text, _Part.BODY: self._pass_body, _Part.TAIL: self._pass_tail}
        while self._held and steps[self._part](pieces, is_end):
            pass
        return _joined(pieces)

    def _pass_text(self, pieces: list[Piece], is_end: bool) -> bool:
        """False when more text must come first. Blank space before an opening is held back with it."""
        self._opening = self._syntax.find(self._held, self._is_start, is_end)
        text = self._held[: self._opening.begin]
        keep = len(text.rstrip()) if not is_end or self._opening.body is not None else len(text)
        self._release(pieces, keep)
        if self._opening.body is None:
            return False
        self._opening = Opening(0, self._opening.body - keep, self._opening.name)
        self._part = _Part.BODY
        return True

    def _pass_body(self, pieces: list[Piece], is_end: bool) -> bool:
        begin = self._opening.body or 0
        length = body_length(self._held[begin:])
        if length is None and not is_end:
            return False
        calls = self._syntax.read(self._opening.name, self._held[begin : begin + length]) if length else None
        if not calls or (self._names is not None and any(call.name not in self._names for call in calls)):
            self._part = _Part.TEXT
            return self._give_up(pieces, begin + (length or 1), is_end)
        pieces += [ToolCallReady(self._made(call)) for call in calls]
        self._held = self._held[begin + (length or 0) :]
        self._part, self._is_start, self.has_called = _Part.TAIL, False, True
        return True

    def _give_up(self, pieces: list[Piece], length: int, is_end: bool) -> bool:
        """It was text after all."""
        self._release(pieces, len(self._held) if is_end and length >= len(self._held) else length)
        return bool(self._held)

    def _pass_tail(self, pieces: list[Piece], is_end: bool) -> bool:
        rest = self._held.lstrip()
        if self._syntax.repeats and rest[:1] in ("{", ",") and rest.lstrip(", \n")[:1] in ("{", ""):
            body = len(self._held) - len(rest.lstrip(", \n"))
            if body == len(self._held) and not is_end:
                return False
            self._opening, self._part = Opening(0, body, self._opening.name), _Part.BODY
            return body < len(self._held)
        if not is_end and self._syntax.closer.startswith(rest) and rest != self._syntax.closer:
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

    def _made(self, call: ReadCall) -> ToolCall:
        arguments = json.dumps(call.arguments, ensure_ascii=False, separators=(",", ":"))
        return ToolCall(self._new_id(), call.name, arguments)


def _joined(pieces: list[Piece]) -> list[Piece]:
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if isinstance(piece, ContentDelta) and isinstance(last, ContentDelta):
            joined[-1] = ContentDelta(last.text + piece.text)
        else:
            joined.append(piece)
    return joined
