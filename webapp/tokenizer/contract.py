"""What every tokenizer offers, and text out of token ids that come one by one."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Protocol


class Tokenizer(Protocol):
    """Text <-> token ids, for a model with ``vocab_size`` logits. Immutable, so threads may share one."""

    @property
    def name(self) -> str:
        """``world``, ``byte``, or the name of the vocabulary file."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def is_byte_level(self) -> bool:
        """True where the text of many tokens is the concatenation of their :meth:`token_bytes`."""

    def encode(self, text: str) -> list[int]:
        """Never raises, whatever the text; what UTF-8 cannot hold (lone surrogates) comes back as U+FFFD or ``?``."""

    def decode(self, token_ids: Iterable[int]) -> str:
        """Never raises; ids without text give none, invalid UTF-8 gives U+FFFD."""

    def decode_bytes(self, token_ids: Iterable[int]) -> bytes: ...

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes of one token; None where it stands for no text (end of document, unused or out of range)."""

    def unassigned_ids(self) -> list[int]:
        """Ids below ``vocab_size`` that stand for no text, ascending. 0, the end of a document, is among them."""


LONGEST_CHARACTER = 4  # bytes of UTF-8, so as many tokens at most


class StreamDecoder:
    """Text of a growing sequence: what :meth:`feed` and :meth:`flush` return joins to the text of all its tokens.

    Bytes of a character that is not complete are held back; bytes that can no longer become one appear as U+FFFD at
    once, so a model that really writes U+FFFD does not stall.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._window: list[int] = []
        self._n_shown = 0

    def feed(self, token_ids: Iterable[int]) -> str:
        """The text that became certain with these tokens; often empty."""
        if self._tokenizer.is_byte_level:
            return self._utf8.decode(self._tokenizer.decode_bytes(token_ids))
        return "".join(self._feed_one(token_id) for token_id in token_ids)

    def flush(self) -> str:
        """What is held back, as far as it can be shown, at the end of a sequence. The decoder is as new afterwards."""
        if self._tokenizer.is_byte_level:
            return self._utf8.decode(b"", final=True)
        text = self._unshown()
        self._window, self._n_shown = [], 0
        return text

    def _feed_one(self, token_id: int) -> str:
        """For pieces that do not simply join: what the text of the window gains, the last piece shown being context."""
        self._window.append(token_id)
        text = self._unshown()
        n_held = len(self._window) - self._n_shown
        if text.endswith("\ufffd") and n_held < LONGEST_CHARACTER:
            return ""
        if text or n_held >= LONGEST_CHARACTER:
            self._window = self._window[self._n_shown :]
            self._n_shown = len(self._window)
        return text

    def _unshown(self) -> str:
        shown = self._tokenizer.decode(self._window[: self._n_shown])
        return self._tokenizer.decode(self._window)[len(shown) :]
