"""Splits streamed text from the model into reasoning and answer, without stops and tags.

Two stages, each of which holds back only undecided text, so that the result does not depend on the chunks:
:class:`StopFilter` ends the text at a stop string, then :class:`StreamRouter` separates the thinking. The parser of
tool calls (:mod:`webapp.chat.tool_parser`) reads the content from the second stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from webapp.chat.messages import ContentDelta, ReasoningDelta

Delta = ContentDelta | ReasoningDelta

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"


class StopFilter:
    """Passes text up to the first stop string; no part of the stop gets out.

    The stop that is completed first counts, as in a stream of single characters; of two completed together, the longer.
    """

    def __init__(self, stop_strings: Iterable[str]) -> None:
        self.stopped_by: str | None = None
        self.is_ignoring = False
        """While True, stops are ignored."""
        self.released_chars = 0
        """Number of characters released; after a stop, its position in the raw text."""
        self._stops = tuple(stop for stop in stop_strings if stop)
        self._firsts = {stop[0] for stop in self._stops}
        self._held = ""

    @property
    def held_chars(self) -> int:
        """Number of characters at the end that are held back."""
        return len(self._held)

    def feed(self, text: str) -> str:
        """The text that is certainly not part of a stop; "" after a stop."""
        if self.stopped_by is not None or not text:
            return ""
        self._held += text
        if self.is_ignoring or self._firsts.isdisjoint(self._held):
            return self._release(len(self._held))
        begin = self._stop_begin()
        if begin is not None:
            return self._release(begin)
        return self._release(len(self._held) - held_length(self._held, self._stops))

    def flush(self) -> str:
        """The held-back text at the end, if it did not become a stop."""
        return "" if self.stopped_by is not None else self._release(len(self._held))

    def _stop_begin(self) -> int | None:
        found = [(self._held.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in self._held]
        if not found:
            return None
        end, _, self.stopped_by = min(found)
        return end - len(self.stopped_by)

    def _release(self, count: int) -> str:
        released, self._held = self._held[:count], self._held[count:]
        self.released_chars += count
        return released


class _Section(Enum):
    TAG_END = "the > of a tag that the prompt left open"
    LEADING = "blank before the content"
    CONTENT = "content"
    REASONING_LEADING = "blank before the reasoning"
    REASONING = "reasoning"


class StreamRouter:
    """Converts text to ContentDelta and ReasoningDelta.

    ``starts_in_reasoning``: the prompt ended inside thinking. ``awaits_tag_end``: it ended with "<think" or "</think",
    and the model continues with ">". Without both, "<think>" counts only before any content, so that an answer may
    mention tags. Removes blank lines before reasoning and content, the one space with which models begin, and all
    whitespace at the end of both (held back until more text comes). ``is_raw`` removes nothing and ignores tags.
    """

    def __init__(
        self,
        stop_strings: Iterable[str] = (),
        starts_in_reasoning: bool = False,
        *,
        awaits_tag_end: bool = False,
        is_raw: bool = False,
    ) -> None:
        self._stops = StopFilter(stop_strings)
        self._held = ""
        self._is_raw = is_raw
        start = _Section.REASONING_LEADING if starts_in_reasoning else _Section.LEADING
        self._after_tag = start
        self._may_open = not starts_in_reasoning and not awaits_tag_end
        self._section = _Section.CONTENT if is_raw else _Section.TAG_END if awaits_tag_end else start
        self._content_begin = 0 if is_raw else None

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the text, or None."""
        return self._stops.stopped_by

    def ignore_stops(self, is_ignoring: bool) -> None:
        self._stops.is_ignoring = is_ignoring

    @property
    def released_chars(self) -> int:
        """Length of the raw text that passed the stop filter; after a stop, its position."""
        return self._stops.released_chars

    @property
    def held_chars(self) -> int:
        """Number of characters at the end of the raw text that no delta contains so far; they may be dropped."""
        return self._stops.held_chars + len(self._held)

    @property
    def content_begin(self) -> int | None:
        """Position of the content in the raw text; None before it begins."""
        return self._content_begin

    @property
    def is_thinking(self) -> bool:
        """The text so far ends inside thinking or one of its tags."""
        return self._section in (_Section.TAG_END, _Section.REASONING_LEADING, _Section.REASONING)

    def feed(self, text: str) -> list[Delta]:
        """Returns nothing after a stop; :meth:`finish` returns the text held back before it."""
        return self._route(self._stops.feed(text), is_end=False)

    def finish(self) -> list[Delta]:
        """Returns the rest at the end of the text."""
        return self._route(self._stops.flush(), is_end=True)

    def _route(self, text: str, is_end: bool) -> list[Delta]:
        self._held += text
        deltas: list[Delta] = []
        while self._step(deltas, is_end):
            pass
        return joined(deltas)

    def _step(self, deltas: list[Delta], is_end: bool) -> bool:
        """Processes one part of the held-back text; False if more text is needed."""
        if self._section is _Section.TAG_END:
            return self._pass_tag_end()
        if self._section in (_Section.LEADING, _Section.REASONING_LEADING):
            return self._pass_blank(is_end)
        if self._section is _Section.REASONING:
            return self._pass_reasoning(deltas, is_end)
        return self._pass_content(deltas)

    def _pass_tag_end(self) -> bool:
        if not self._held:
            return False
        self._held = self._held.removeprefix(">")
        self._section = self._after_tag
        return True

    def _pass_blank(self, is_end: bool) -> bool:
        body = self._held.lstrip()
        is_thinking = self._section is _Section.REASONING_LEADING
        if not is_thinking and self._may_open and body.startswith(OPEN_TAG):
            self._held, self._may_open = body[len(OPEN_TAG) :], False
            self._section = _Section.REASONING_LEADING
            return True
        may_become_tag = not is_thinking and self._may_open and OPEN_TAG.startswith(body)
        if not body or (may_become_tag and not is_end):
            return False
        self._held = _without_leading_blank(self._held, len(self._held) - len(body))
        self._section = _Section.REASONING if is_thinking else _Section.CONTENT
        if not is_thinking:
            self._content_begin = self._stops.released_chars - len(self._held)
        return True

    def _pass_reasoning(self, deltas: list[Delta], is_end: bool) -> bool:
        thought, tag, rest = self._held.partition(CLOSE_TAG)
        if not tag and not is_end:
            thought = thought[: len(thought) - held_length(thought, (CLOSE_TAG,))]
        thought = thought.rstrip()
        if not tag:
            rest = self._held[len(thought) :]
        if thought:
            deltas.append(ReasoningDelta(thought))
        self._held = rest
        if tag:
            self._section, self._may_open = _Section.LEADING, False
        return bool(tag)

    def _pass_content(self, deltas: list[Delta]) -> bool:
        shown = self._held if self._is_raw else self._held.rstrip()
        if shown:
            deltas.append(ContentDelta(shown))
            self._held = self._held[len(shown) :]
        return False


def held_length(text: str, marks: Iterable[str]) -> int:
    """Length of the longest end of ``text`` that begins one of the marks without completing it."""
    longest = 0
    for mark in marks:
        begin = text.find(mark[0], max(0, len(text) - len(mark) + 1))
        while begin >= 0 and not mark.startswith(text[begin:]):
            begin = text.find(mark[0], begin + 1)
        longest = max(longest, len(text) - begin if begin >= 0 else 0)
    return longest


def joined(deltas: list[Delta]) -> list[Delta]:
    """Joins neighbours of the same type."""
    if len(deltas) < 2:
        return deltas
    result: list[Delta] = []
    for delta in deltas:
        if result and type(result[-1]) is type(delta):
            result[-1] = type(delta)(result[-1].text + delta.text)
        else:
            result.append(delta)
    return result


def _without_leading_blank(text: str, blank: int) -> str:
    """Removes blank lines, or else one space, from the first ``blank`` characters; keeps indentation."""
    newline = text.rfind("\n", 0, blank)
    if newline >= 0:
        return text[newline + 1 :]
    return text.removeprefix(" ")
