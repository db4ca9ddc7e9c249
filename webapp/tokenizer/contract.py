"""What every tokenizer offers."""

from __future__ import annotations

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
