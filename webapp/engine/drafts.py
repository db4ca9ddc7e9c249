"""Guesses how an answer goes on: as it went on after the same few tokens, in prompt or answer (prompt lookup).

The engine feeds a guess along with the token that is due and draws after each of them; every guess that equals the
token drawn has saved a step. What is drawn does not depend on guesses, so neither does the text.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
"""So many tokens have to be the same."""
FIRST_LENGTH = 4
LONGEST_PAUSE = 64


class Drafter:
    """Of one sequence. Guesses get longer while they hold and stop for a while when they do not, for a wrong guess
    costs: it is computed, and the state has to be put back."""

    def __init__(self, token_ids: Sequence[int], most: int) -> None:
        self._most = most
        self._ids = list(token_ids)
        self._after: dict[tuple[int, ...], int] = {}
        """The last tokens -> where they went on, the latest time but this one."""
        self._indexed = NGRAM - 1
        self._length = min(FIRST_LENGTH, most)
        self._pause = 0
        self._resumes_at = 0

    def feed(self, token_ids: Sequence[int]) -> None:
        self._ids += token_ids

    def draft(self, room: int) -> tuple[int, ...]:
        """At most ``room`` tokens; none where nothing is known, or guessing has not paid lately."""
        ids = self._ids
        for end in range(self._indexed + 1, len(ids)):  # all but the end itself
            self._after[tuple(ids[end - NGRAM : end])] = end
        self._indexed = max(self._indexed, len(ids) - 1)
        if len(ids) < self._resumes_at or len(ids) < NGRAM:
            return ()
        start = self._after.get(tuple(ids[-NGRAM:]))
        return () if start is None else tuple(ids[start : start + min(room, self._length)])

    def judge(self, drafted: int, held: int) -> None:
        """``held`` of ``drafted`` guesses came true."""
        if held == drafted:
            self._length, self._pause = min(self._most, 2 * self._length), 0
        elif 2 * held < drafted:
            self._length = max(1, min(FIRST_LENGTH, self._length // 2))
            if held == 0:
                self._pause = min(LONGEST_PAUSE, 2 * self._pause + 2)
                self._resumes_at = len(self._ids) + self._pause
