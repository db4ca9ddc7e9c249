"""Finds the beginnings of bars in a piece, token by token, because users continue from there."""

from __future__ import annotations

import math
from collections.abc import Iterable

from webapp.tokenizer.music import STEP_S, MidiVocabulary

BAR_S = 2.0
"""Length of a bar if the piece has no fixed tempo."""
BAR_SIGNS = "|:]0123456789 \n"
"""Characters that continue a bar line: ``|:``, ``||``, ``|]``, ``|1``, and the end of a line."""
BEFORE_CHARS = 200
"""Enough characters to find the last bar line or key."""


def bar_places(
    vocabulary: MidiVocabulary | None, token_ids: Iterable[int], bar_s: float = BAR_S
) -> tuple[list[int], float]:
    """How many tokens of a piece come before each of its bars, and its length in seconds (0 for ABC). ``vocabulary`` is
    None for ABC."""
    bars = AbcBars() if vocabulary is None else MidiBars(vocabulary, bar_s)
    places = [place for place, token_id in enumerate(token_ids) if bars.begins(token_id)]
    return places, bars.step * STEP_S


class MidiBars:
    """Bars of equal length. A bar begins with the first word at its time, or with the wait that passes this time."""

    def __init__(self, vocabulary: MidiVocabulary, bar_s: float, before_s: float = 0.0) -> None:
        self._steps_of = vocabulary.steps_of
        self._bar = bar_s / STEP_S
        self.step = round(before_s / STEP_S)
        self._next = max(1, math.ceil((self.step - 0.5) / self._bar))

    def begins(self, token_id: int) -> bool:
        """Takes the next token; returns whether it is the first of a bar."""
        due, before = self._next * self._bar, self.step
        self.step += self._steps_of(token_id)
        if before < due - 0.5 and self.step <= due + 0.5:
            return False
        self._next = max(self._next + 1, math.ceil((self.step - 0.5) / self._bar))
        return True


class AbcBars:
    """A bar begins with the first character after a bar line and its signs, or after the key, which ends the header."""

    step = 0

    def __init__(self) -> None:
        self._line = ""
        self._is_due = False

    def begins(self, token_id: int) -> bool:
        """Takes the next token; returns whether it is the first of a bar."""
        character = chr(token_id)
        is_first = self._is_due and character not in BAR_SIGNS
        if character == "|" or (character == "\n" and self._line.startswith("K:")):
            self._is_due = True
        elif is_first:
            self._is_due = False
        self._line = "" if character == "\n" else (self._line + character)[:2]
        return is_first
