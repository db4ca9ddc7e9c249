"""Draft tokens for speculative decoding without a draft model: the continuation of an earlier occurrence of the same
tokens in the prompt or answer (prompt lookup).

The engine feeds the draft together with the pending token and samples after each. Each draft token that equals the
sampled token saves a step. Drafts change neither the sampled tokens nor the text.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
"""The minimum number of equal tokens for a match,"""
LONGEST_MATCH = 24
"""and the maximum that is compared."""
PLACES = 16
"""How many of the latest occurrences are compared; the one with the longest match is used."""
REMEMBERED = 0.9
"""Decay of the counts of accepted draft tokens, per draft with the same match length."""
FORGIVEN = 0.01
"""Each time a draft is not worth its cost, the counts move by this fraction towards their initial values."""


class Drafter:
    """The drafter of one sequence. It counts, by match length, how likely a draft token is to be accepted if those
    before it were. A draft grows while the chance that its next token is reached and accepted exceeds the token's cost
    (as a fraction of a step)."""

    def __init__(self, token_ids: Sequence[int], most: int) -> None:
        self._most = most
        self._ids = list(token_ids)
        self._latest: dict[tuple[int, ...], int] = {}
        """Tokens -> position after their latest occurrence but the current one. ``_earlier``: by that position, the
        position after the occurrence before it, or 0."""
        self._earlier = [0] * NGRAM
        self._match = 0
        self._counts: dict[int, tuple[float, float]] = {}
        """By match length: accepted tokens, and drafts that ended with a rejected token."""

    def feed(self, token_ids: Sequence[int]) -> None:
        self._ids += token_ids

    def draft(self, room: int, least_chance: float) -> tuple[int, ...]:
        """At most ``room`` tokens, each correct with more than ``least_chance``; () without a match or such tokens."""
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
        """Records that ``held`` of ``drafted`` draft tokens were accepted."""
        before = self._counts.get(self._match) or self._expected()
        self._counts[self._match] = REMEMBERED * before[0] + held, REMEMBERED * before[1] + (held < drafted)

    def _expected(self) -> tuple[float, float]:
        """Initial counts: half the match length accepted for each rejection."""
        return self._match / 2, 1.0

    def _find(self) -> int:
        """The position after the longest match, whose length is stored (0: no match)."""
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
