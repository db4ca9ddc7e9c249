"""The calls of one body while they are written, where a grammar holds the model to the dialect's own form.

What has begun in that form is a call of an offered tool whose arguments fit, so its arguments need not wait for their
end. An answer that is cut off in the middle leaves the call as far as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from webapp.chat.events import CallDelta
from webapp.chat.tool_body import ArgumentText

JSON_HEAD = re.compile(r'(\[?)\{"name": ?("(?:[^"\\]|\\.)*"), ?"arguments": ?(?=\{)')
NEXT_HEAD = re.compile(r', ?\{"name": ?("(?:[^"\\]|\\.)*"), ?"arguments": ?(?=\{)')
UNFINISHED_HEAD = re.compile(r"\}(?:, ?(?:\{[^\[\]{}]*)?)?")
"""From the end of a call's arguments as far as a next call may have come before its own begin."""


class HeldBody:
    """Begins where the arguments of the first call do. ``is_list``: more calls may follow it in the same body."""

    def __init__(
        self, name: str, new_id: Callable[[], str], *, is_keyword: bool = False, is_list: bool = False
    ) -> None:
        self.is_over = False
        self.rest = ""
        """What the body has not taken, once it :attr:`is_over`."""
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
        """The answer has ended inside the body. A next call that has no arguments yet is neither a call nor text."""
        pieces = self.feed("")
        is_next_begun = self._is_list and UNFINISHED_HEAD.fullmatch(self._held)
        self._end(len(self._held) if is_next_begun else 0)
        return pieces

    def _begin(self, name: str) -> None:
        self._call_id = self._new_id()
        self._arguments = ArgumentText(self._is_keyword)
        self._begun.append(CallDelta(self._call_id, name))

    def _step(self, pieces: list[CallDelta]) -> bool:
        """False when more text must come first."""
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
        """From the end of a call's arguments to the next call, or to the end of the body."""
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
