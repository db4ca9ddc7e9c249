"""The pieces of a prompt as token ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from webapp.chat.prompt_rendering import RenderedPrompt
from webapp.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodedPrompt:
    """``boundaries`` are prefix lengths at which a message ends, ascending. ``beginning`` are the last ids, those of
    the answer that is being continued; empty for a new one."""

    token_ids: tuple[int, ...]
    boundaries: tuple[int, ...] = ()
    beginning: tuple[int, ...] = ()


def encode_prompt(rendered: RenderedPrompt, tokenizer: Tokenizer) -> EncodedPrompt:
    """Piece by piece: no token spans two, so a conversation that grows keeps the ids it had."""
    token_ids: list[int] = []
    boundaries: list[int] = []
    beginning: tuple[int, ...] = ()
    for piece in rendered.pieces:
        piece_ids = piece.token_ids or tuple(tokenizer.encode(piece.text))
        token_ids += piece_ids
        if piece is rendered.continued:
            beginning = piece_ids
        if piece.is_boundary and piece_ids:
            boundaries.append(len(token_ids))
    return EncodedPrompt(tuple(token_ids), tuple(boundaries), beginning)


def stop_sequences(stop_strings: Iterable[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """The usual spelling of each stop, so that the engine ends there by itself.

    A model may spell one otherwise (World has "。\\n" as one token); the text router sees those.
    """
    spelled = (tuple(tokenizer.encode(stop)) for stop in stop_strings)
    return tuple(sequence for sequence in spelled if sequence)
