"""A Markdown text that grows, rendered as it does: finished blocks once, only the open one again.

    stream.feed("some text")
    final, tail = stream.update()     # append final to what is shown, replace the tail
    final, tail = stream.finish()     # the rest; tail is empty

An update costs about the same however long the text is. The joined finals are what rendering the whole would give, with
one exception: a reference link (``[text][name]``) defined after its use. Then ``uses_references`` is true, and whoever
shows the text renders the whole once at its end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from markdown_it.token import Token

from webapp.web.markdown import COPY_LABEL, MAX_RENDER_US, PARSER, render_plain, sanitised
from webapp.web.markdown_rules import estimated_us

MAX_UPDATE_US = 40_000  # above it an update may append plain text to the last rendering of the tail, until the block
MAX_EAGER_US = 150_000  # seems to have ended, or (always, above this) until the tail has grown by a quarter: together
GROWTH = 1.25  # all renderings of a block stay linear in its length
MAX_TAIL_US = 250_000  # above it an open block is plain text until the stream is finished
OPEN_CODE_HIGHLIGHTED = 8_000  # characters; longer code gets its colours when its block ends


class Rendered(NamedTuple):
    """HTML of blocks that are final now, and of the one still open."""

    final: str
    tail: str


class MarkdownStream:
    def __init__(self, copy_label: str = COPY_LABEL) -> None:
        self.uses_references = False
        self._copy_label = copy_label
        self._open_text = ""  # what is not final
        self._pending: list[str] = []
        self._last_length = 0  # of the open text when it was last rendered
        self._last_tail = ""

    def feed(self, text: str) -> None:
        self._pending.append(text)

    def update(self, is_last: bool = False) -> Rendered:
        """With ``is_last`` the same as :meth:`finish`."""
        if is_last:
            return self.finish()
        self._open_text += "".join(self._pending)
        self._pending.clear()
        if self._is_costly():
            return Rendered("", self._last_tail + render_plain(self._open_text[self._last_length :]))
        return self._render()

    def finish(self) -> Rendered:
        text = self._open_text + "".join(self._pending)
        self._open_text, self._last_length, self._last_tail = "", 0, ""
        self._pending.clear()
        if estimated_us(text) > MAX_RENDER_US:
            return Rendered(render_plain(text), "")
        return Rendered(self._html(self._parse(text)), "")

    def _is_costly(self) -> bool:
        cost = update_us(self._open_text)
        if cost <= MAX_UPDATE_US:
            return False
        has_grown = len(self._open_text) > GROWTH * self._last_length
        may_have_ended = cost <= MAX_EAGER_US and has_block_end(self._open_text[max(0, self._last_length - 1) :])
        return cost > MAX_TAIL_US or not (has_grown or may_have_ended)

    def _render(self) -> Rendered:
        tokens = self._parse(self._open_text)
        split, line = settled(tokens, self._open_text.count("\n"))
        final = self._html(tokens[:split])
        self._open_text = after_line(self._open_text, line)
        self._last_length = len(self._open_text)
        self._last_tail = self._html(tokens[split:], OPEN_CODE_HIGHLIGHTED)
        return Rendered(final, self._last_tail)

    def _parse(self, text: str) -> list[Token]:
        env: dict[str, Any] = {}
        tokens = PARSER.parse(text, env)
        self.uses_references = self.uses_references or bool(env.get("references"))
        return tokens

    def _html(self, tokens: list[Token], highlight_limit: int | None = None) -> str:
        env = {"copy_label": self._copy_label, "highlight_limit": highlight_limit}
        html = PARSER.renderer.render(tokens, PARSER.options, env)
        return sanitised(html) if html else ""


def update_us(text: str) -> int:
    """About what rendering the open text costs; in code, marks cost nothing and only the beginning has colours."""
    if text.lstrip().startswith(("```", "~~~")):
        return len(text) // 4 + 3 * text.count("\n") + 2 * min(len(text), OPEN_CODE_HIGHLIGHTED)
    return estimated_us(text)


def has_block_end(text: str) -> bool:
    return any(end in text for end in ("\n\n", "\n```", "\n~~~"))


def settled(tokens: list[Token], complete_lines: int) -> tuple[int, int]:
    """(index, line) of the last block that begins with a complete line: all before it can no longer change.

    A block that begins in the line being written does not count: ``2`` after a list is a paragraph until ``. b`` makes
    it the list's next item.
    """
    index, line = 0, 0
    for position, token in enumerate(tokens):
        if token.level == 0 and token.nesting >= 0 and token.map and token.map[0] < complete_lines:
            index, line = position, token.map[0]
    return index, line


def after_line(text: str, line: int) -> str:
    position = 0
    for _ in range(line):
        position = text.index("\n", position) + 1
    return text[position:]
