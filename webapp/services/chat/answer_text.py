"""One answer while it is written: token ids in, pieces of text and calls out, and at the end the ids worth keeping."""

from __future__ import annotations

import uuid
from bisect import bisect_left
from collections.abc import Iterable

from webapp.chat.events import ContentDelta, ReasoningDelta, ToolCallReady
from webapp.chat.messages import ToolCall
from webapp.chat.prompt_rendering import RenderedPrompt
from webapp.chat.stream_router import Delta
from webapp.chat.tool_parser import Piece as ParsedPiece
from webapp.chat.tool_parser import ToolCallParser
from webapp.tokenizer import StreamDecoder, Tokenizer

SEPARATOR = "\n\n"

AnswerPiece = Delta | ToolCallReady


def new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


class AnswerText:
    """``content``, ``reasoning`` and ``tool_calls`` are what the pieces so far add up to.

    Calls are looked for where the prompt offers tools; their text is not content.
    """

    def __init__(self, rendered: RenderedPrompt, tokenizer: Tokenizer) -> None:
        self.token_ids: list[int] = []
        self._router = rendered.router()
        tools = rendered.tools
        self._calls = ToolCallParser(tools.dialect.syntax, tools.names, new_call_id) if tools else None
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._raw: list[str] = []
        self._ends: list[int] = []  # per token: characters of raw text that are certain once it is read
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self.tool_calls: list[ToolCall] = []

    @property
    def tokenizer_name(self) -> str:
        return self._tokenizer.name

    @property
    def content(self) -> str:
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def is_stopped(self) -> bool:
        """A stop string has come; further tokens are not part of the answer."""
        return self._router.stopped_by is not None

    @property
    def is_calling(self) -> bool:
        """A call, or what may become one, is being written."""
        return self._calls is not None and self._calls.is_inside

    def feed(self, token_ids: Iterable[int]) -> list[AnswerPiece]:
        pieces: list[AnswerPiece] = []
        for token_id in token_ids:
            if self.is_stopped:
                break
            pieces += self._feed_one(token_id)
        return joined(pieces)

    def finish(self, is_cut: bool) -> list[AnswerPiece]:
        """The rest. A ``cut`` answer could have gone on: half a character at its end is not shown, its ids are kept."""
        rest = "" if is_cut else self._decoder.flush()
        pieces = self._parsed(self._router.feed(rest) + self._router.finish())
        return self._taken(joined([*pieces, *(_whole(self._calls.finish()) if self._calls else ())]))

    def kept_token_ids(self) -> tuple[tuple[int, ...], bool]:
        """The answer's ids without its stop, and whether they already end with the blank line after a message.

        They are the sampled ids up to a token's end; only where a stop begins inside a token is the rest re-encoded.
        """
        if not self.is_stopped:
            return tuple(self.token_ids), "".join(self._raw).endswith(SEPARATOR)
        end = self._router.released_chars
        if (self._router.stopped_by or "").startswith(SEPARATOR):
            count = self._tokens_until(end + len(SEPARATOR))
            if self._end_of(count) == end + len(SEPARATOR):
                return tuple(self.token_ids[:count]), True
        count = self._tokens_until(end)
        begun = "".join(self._raw)[self._end_of(count) : end]
        return (*self.token_ids[:count], *self._tokenizer.encode(begun)), False

    def _tokens_until(self, end: int) -> int:
        """The fewest tokens whose text is ``end`` characters, else the most whose text is less."""
        count = bisect_left(self._ends, end)
        is_exact = end > 0 and count < len(self._ends) and self._ends[count] == end
        return count + 1 if is_exact else count

    def _end_of(self, count: int) -> int:
        return self._ends[count - 1] if count else 0

    def _feed_one(self, token_id: int) -> list[AnswerPiece]:
        text = self._decoder.feed((token_id,))
        self.token_ids.append(token_id)
        self._raw.append(text)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(text))
        return self._taken(self._parsed(self._router.feed(text)))

    def _parsed(self, deltas: list[Delta]) -> list[AnswerPiece]:
        pieces: list[AnswerPiece] = []
        for delta in deltas:
            is_content = self._calls is not None and isinstance(delta, ContentDelta)
            pieces += _whole(self._calls.feed(delta.text)) if self._calls and is_content else [delta]
        return pieces

    def _taken(self, pieces: list[AnswerPiece]) -> list[AnswerPiece]:
        for piece in pieces:
            if isinstance(piece, ToolCallReady):
                self.tool_calls.append(piece.call)
            else:
                (self._content if isinstance(piece, ContentDelta) else self._reasoning).append(piece.text)
        return pieces


def _whole(pieces: list[ParsedPiece]) -> list[ContentDelta | ToolCallReady]:
    """All of them: a parser that is not told to stream makes no others."""
    return [piece for piece in pieces if isinstance(piece, (ContentDelta, ToolCallReady))]


def joined(pieces: list[AnswerPiece]) -> list[AnswerPiece]:
    """Neighbouring text of one kind as one."""
    found: list[AnswerPiece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if isinstance(piece, ContentDelta) and isinstance(last, ContentDelta):
            found[-1] = ContentDelta(last.text + piece.text)
        elif isinstance(piece, ReasoningDelta) and isinstance(last, ReasoningDelta):
            found[-1] = ReasoningDelta(last.text + piece.text)
        else:
            found.append(piece)
    return found
