"""Guesses how an answer goes on: as it went on after the same tokens, in prompt or answer (prompt lookup).

The engine feeds a guess along with the token that is due and draws after each of them; every guess that equals the
token drawn has saved a step. What is drawn does not depend on guesses, so neither does the text.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
"""So many tokens have to be the same,"""
LONGEST_MATCH = 24
"""and more are not looked at."""
PLACES = 16
"""The last ones where these tokens stood; the one with the longest match is taken."""
REMEMBERED = 0.9
"""How much of what guesses brought still counts after the next one of the same match."""
FORGIVEN = 0.01
"""Each time a guess is not worth it, so much of why is forgotten."""


class Drafter:
    """Of one sequence. A guess is as long as it pays: the chance that a token holds after those before it is counted,
    by how many tokens were the same, and a token is guessed while the chance that it is reached and holds is above the
    share of a step that it costs."""

    def __init__(self, token_ids: Sequence[int], most: int) -> None:
        self._most = most
        self._ids = list(token_ids)
        self._latest: dict[tuple[int, ...], int] = {}
        """Tokens -> where they went on the latest time but this one; and by that place, in _earlier, where the same
        tokens went on the time before, 0 for never."""
        self._earlier = [0] * NGRAM
        self._match = 0
        self._counts: dict[int, tuple[float, float]] = {}
        """By match: tokens that held, and guesses that ended with one that did not."""

    def feed(self, token_ids: Sequence[int]) -> None:
        self._ids += token_ids

    def draft(self, room: int, least_chance: float) -> tuple[int, ...]:
        """At most ``room`` tokens, each right with ``least_chance``; none where nothing is known or none is."""
        start = self._find()
        if not self._match:
            return ()
        held, ended = self._counts.get(self._match) or self._expected()
        chance = reached = held / (held + ended)
        length = 0
        while length < min(room, self._most) and reached > least_chance:
            length += 1
            reached *= chance
        if not length:
            expected = self._expected()
            held += FORGIVEN * (expected[0] - held)
            self._counts[self._match] = held, ended + FORGIVEN * (expected[1] - ended)
        return tuple(self._ids[start : start + length])

    def judge(self, drafted: int, held: int) -> None:
        """``held`` of ``drafted`` guesses came true."""
        before = self._counts.get(self._match) or self._expected()
        self._counts[self._match] = REMEMBERED * before[0] + held, REMEMBERED * before[1] + (held < drafted)

    def _expected(self) -> tuple[float, float]:
        """Before anything was counted: as often right as the match is long, halved."""
        return self._match / 2, 1.0

    def _find(self) -> int:
        """Where it went on after the longest match, which is noted (0: there is none)."""
        ids, self._match = self._ids, 0
        for end in range(len(self._earlier), len(ids)):  # all but the end itself
            key = tuple(ids[end - NGRAM : end])
            self._earlier.append(self._latest.get(key, 0))
            self._latest[key] = end
        best, place = 0, self._latest.get(tuple(ids[-NGRAM:]), 0) if len(ids) >= NGRAM else 0
        for _ in range(PLACES):
            if not place or self._match == LONGEST_MATCH:
                break
            match = NGRAM
            while match < min(LONGEST_MATCH, place) and ids[place - 1 - match] == ids[-1 - match]:
                match += 1
            if match > self._match:
                best, self._match = place, match
            place = self._earlier[place]
        return best
