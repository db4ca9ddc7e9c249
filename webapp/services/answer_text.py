"""One answer while it is written: token ids in, pieces of text out, and at the end the ids worth keeping."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from webapp.chat.events import ContentDelta
from webapp.chat.prompt_rendering import RenderedPrompt
from webapp.chat.stream_router import Delta, joined
from webapp.tokenizer import StreamDecoder, Tokenizer

SEPARATOR = "\n\n"


class AnswerText:
    """``content`` and ``reasoning`` are what the deltas so far add up to."""

    def __init__(self, rendered: RenderedPrompt, tokenizer: Tokenizer) -> None:
        self.token_ids: list[int] = []
        self._router = rendered.router()
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._raw: list[str] = []
        self._ends: list[int] = []  # per token: characters of raw text that are certain once it is read
        self._content: list[str] = []
        self._reasoning: list[str] = []

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

    def feed(self, token_ids: Iterable[int]) -> list[Delta]:
        deltas: list[Delta] = []
        for token_id in token_ids:
            if self.is_stopped:
                break
            deltas += self._feed_one(token_id)
        return joined(deltas)

    def finish(self, is_cut: bool) -> list[Delta]:
        """The rest. A ``cut`` answer could have gone on: half a character at its end is not shown, its ids are kept."""
        rest = "" if is_cut else self._decoder.flush()
        return self._taken(joined(self._router.feed(rest) + self._router.finish()))

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

    def _feed_one(self, token_id: int) -> list[Delta]:
        text = self._decoder.feed((token_id,))
        self.token_ids.append(token_id)
        self._raw.append(text)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(text))
        return self._taken(self._router.feed(text))

    def _taken(self, deltas: list[Delta]) -> list[Delta]:
        for delta in deltas:
            (self._content if isinstance(delta, ContentDelta) else self._reasoning).append(delta.text)
        return deltas
