"""Limits for a music model's output: instruments, density, tempo and length.

A description is a plain dict, as in :mod:`.grammar`; a missing key means no limit:

    {"kind": "midi", "instruments": ["piano"],    only these play (the author's piano-only mode)
     "most_at_once": 6,                           notes that sound together
     "most_per_s": 12,                            note starts within a second
     "most_bpm": 120,                             note starts are simultaneous or at least a sixteenth apart
     "seconds": 30,                               exact length of the new part, from "from_s" on
     "bar_s": 2, "before_s": 7.5,                 length of a bar; length of the piece before the new part
     "from_s": 8}                                 no note before this time: the last wait may have passed the bar
    {"kind": "abc", "bars": 16,                   exact number of bars
     "before": "K:D\\nd2 fa|"}                     the end of the tune so far

At the beginning of each bar the engine keeps the state before it
(:class:`~webapp.engine.sampler.PartedConstraint`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.engine.sampler import Constraint, Words
from webapp.errors import GrammarInvalid
from webapp.i18n import Text
from webapp.music.events import BAR_S, BEFORE_CHARS, AbcBars, MidiBars
from webapp.tokenizer import Tokenizer
from webapp.tokenizer.music import ABC_END, STEP_S, AbcTokenizer, MidiTokenizer, MidiVocabulary

MIDI_KIND, ABC_KIND = "midi", "abc"
MIDI_END = 0
SECOND = round(1 / STEP_S)
HELD = 5 * SECOND
"""A note without an end is counted no longer than this (``webapp.music.events``)."""
LIMITS = {
    "most_at_once": 128,
    "most_per_s": 1000,
    "most_bpm": 1000,
    "seconds": 3600,
    "bar_s": 3600,
    "before_s": 3600,
    "from_s": 3600,
    "bars": 10_000,
}


def is_music(description: Mapping[str, Any]) -> bool:
    return description.get("kind") in (MIDI_KIND, ABC_KIND)


def music_constraint(description: Mapping[str, Any], tokenizer: Tokenizer) -> Constraint:
    """Raises GrammarInvalid if the rules are for another vocabulary, or a value is invalid."""
    values = {name: _number(description, name) for name in LIMITS}
    if description["kind"] == ABC_KIND and isinstance(tokenizer, AbcTokenizer):
        return AbcRules(int(values["bars"] or 0), str(description.get("before", "")))
    if description["kind"] == MIDI_KIND and isinstance(tokenizer, MidiTokenizer):
        names, known = description.get("instruments") or (), tokenizer.vocabulary.instruments
        for name in names:
            if name not in known:
                reason = Text("reason.api.is_not_one_of", name=repr(name)[:40], names=", ".join(known))
                raise GrammarInvalid(reason=reason)
        return MidiRules(tokenizer.vocabulary, names or known, **{k: v for k, v in values.items() if k != "bars"})
    raise GrammarInvalid(reason=Text("reason.structured.other_music", kind=repr(description["kind"])))


def _number(description: Mapping[str, Any], name: str) -> float | None:
    value = description.get(name)
    if value is None:
        return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value <= LIMITS[name]:
        raise GrammarInvalid(reason=Text("reason.structured.music_limit", name=name, limit=LIMITS[name]))
    return float(value)


def _packed(allowed: NDArray[np.bool_], like: Words) -> Words:
    bits = np.zeros(32 * len(like), np.uint8)
    bits[: len(allowed)] = allowed[: len(bits)]
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)


def _only(token_id: int, like: Words) -> Words:
    only = np.zeros_like(like)
    only[token_id // 32] = 1 << token_id % 32
    return only


class MidiRules:
    """For one sequence. Waits and ends of notes are always allowed, so some token always is."""

    def __init__(
        self,
        vocabulary: MidiVocabulary,
        instruments: Any,
        most_at_once: float | None,
        most_per_s: float | None,
        most_bpm: float | None,
        seconds: float | None,
        bar_s: float | None,
        before_s: float | None,
        from_s: float | None,
    ) -> None:
        self._from = (from_s or 0.0) / STEP_S - 0.5
        self.begins_part = False
        self._bars = MidiBars(vocabulary, bar_s or BAR_S, before_s or 0.0)
        self._vocabulary = vocabulary
        self._at_once, self._per_s = most_at_once or np.inf, most_per_s or np.inf
        self._apart = 60 / most_bpm / 4 / STEP_S if most_bpm else 0.0
        self._end = (seconds + max(0.0, (from_s or 0.0) - (before_s or 0.0))) / STEP_S if seconds else None
        self._step = 0
        self._begun: deque[int] = deque()
        self._sounding: dict[tuple[int, int], int] = {}
        notes = [vocabulary.note_of(token_id) for token_id in range(vocabulary.size)]
        places = {vocabulary.instruments.index(name) for name in instruments}
        self._allowed = np.array([note is None or note[0] in places for note in notes])
        if self._end is not None:
            self._allowed[MIDI_END] = False
        self._beginnings = np.array([note is not None and note[2] > 0 for note in notes])
        self._words: tuple[Words, Words] | None = None

    def mask(self, usable: Words) -> Words:
        if self._end is not None and self._step >= self._end:
            return _only(MIDI_END, usable)
        if self._words is None:
            self._words = (
                _packed(self._allowed, usable),
                _packed(self._allowed & ~self._beginnings, usable),
            )
        return self._words[self._is_full()]

    def accept(self, token_id: int) -> None:
        self.begins_part = self._bars.begins(token_id)
        self._step += self._vocabulary.steps_of(token_id)
        note = self._vocabulary.note_of(token_id)
        if note is None:
            return
        instrument, pitch, loudness = note
        if loudness:
            self._sounding[instrument, pitch] = self._step
            self._begun.append(self._step)
        else:
            self._sounding.pop((instrument, pitch), None)
        while self._begun and self._begun[0] <= self._step - SECOND:
            self._begun.popleft()

    def _is_full(self) -> bool:
        """Whether no note may start now."""
        if self._bars.step < self._from:
            return True
        sounding = sum(1 for step in self._sounding.values() if step > self._step - HELD)
        recent = sum(1 for step in self._begun if step > self._step - SECOND)
        too_soon = bool(self._begun) and 0 < self._step - self._begun[-1] < self._apart
        return sounding >= self._at_once or recent >= self._per_s or too_soon


BAR_LINE = re.compile(r"[^|:\[\]\s][^|\n]*\|")
"""The content of a bar and the line that ends it."""


class AbcRules:
    """For one sequence: a tune with this many bars; 0 means no limit. Bars are counted after the header, whose lines
    begin with a letter and a colon."""

    def __init__(self, bars: int, before: str) -> None:
        self.begins_part = False
        self._parts = AbcBars()
        for character in before[-BEFORE_CHARS:]:
            self._parts.begins(ord(character))
        self._bars = bars
        self._text = ""
        self._count = 0

    def mask(self, usable: Words) -> Words:
        if not self._bars:
            return usable
        if self._count >= self._bars:
            return _only(ABC_END, usable)
        allowed: Words = usable & ~_only(ABC_END, usable) & ~_only(MIDI_END, usable)
        return allowed

    def accept(self, token_id: int) -> None:
        self.begins_part = self._parts.begins(token_id)
        character = chr(token_id)
        if character == "\n":
            self._text = ""
            return
        self._text += character
        is_header = len(self._text) > 1 and self._text[1] == ":" and self._text[0].isalpha()
        if character == "|" and not is_header and BAR_LINE.search(self._text):
            self._count += 1
            self._text = "|"
