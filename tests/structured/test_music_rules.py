"""The rules of a music model are followed, whatever it prefers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.errors import raises_code
from webapp.engine.sampler import Constraint
from webapp.music.events import HELD_S, NoteDecoder
from webapp.structured.grammar_constraint import GrammarConstraints
from webapp.tokenizer import load_tokenizer
from webapp.tokenizer.music import ABC_END, MIDI, MIDI_PIANO, MIDI_VOCABULARIES


def written(size: int, description: dict, seed: int = 0, most: int = 600) -> list[int]:
    """The text of a model without preferences under these rules, up to its end."""
    vocabulary = MIDI_VOCABULARIES[size]
    rng, tokenizer = np.random.default_rng(seed), load_tokenizer(size)
    constraint, found = constraint_of(size, description), []
    usable = np.full(-(-size // 32), 0xFFFFFFFF, np.uint32)
    for token_id in (*tokenizer.unassigned_ids(),):
        if token_id:
            usable[token_id // 32] &= ~np.uint32(1 << token_id % 32)
    sounding = set()
    for _ in range(most):
        mask = constraint.mask(usable) & usable
        allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[:size].nonzero()[0]
        notes = allowed[allowed >= 128]
        # with 20,000 words, random choice would never wait, or end a sounding note
        token_id = int(rng.choice(notes if len(notes) and rng.random() < 0.7 else allowed[allowed < 128]))
        if sounding and rng.random() < 0.3:
            token_id = sounding.pop()
        if token_id == 0:
            break
        note = vocabulary.note_of(token_id)
        if note is not None and note[2]:
            sounding.add(token_id - note[2])
        found.append(token_id)
        constraint.accept(token_id)
    return found


def constraint_of(size: int, description: dict) -> Constraint:
    made = GrammarConstraints(lambda: load_tokenizer(size))
    try:
        return made(description)
    finally:
        made.close()


def notes_in(token_ids: list[int], vocabulary=MIDI):
    decoder = NoteDecoder(vocabulary)
    decoder.feed(" ".join(vocabulary.words[token_id] for token_id in token_ids))
    decoder.finish()
    return decoder.notes


def test_only_the_wanted_instruments_play():
    """With only the piano, the words are exactly those of the author's piano-only mode (run.py: 12416 to 13951)."""
    ids = written(MIDI.size, {"kind": "midi", "instruments": ["piano"]})
    assert all(token_id < 128 or 12416 <= token_id < 13952 for token_id in ids)
    for wanted in (("piano", "bass"), MIDI.instruments):
        notes = notes_in(written(MIDI.size, {"kind": "midi", "instruments": list(wanted)}))
        assert {note.instrument for note in notes} == set(wanted)


def sounding_at_once(notes) -> int:
    return max(
        sum(
            1 for other in notes if other.start_s <= note.start_s < other.start_s + min(other.duration_s, HELD_S) - 1e-6
        )
        for note in notes
    )


def test_no_more_notes_sound_at_once_than_wanted():
    for most in (1, 3):
        notes = notes_in(written(MIDI_PIANO.size, {"kind": "midi", "most_at_once": most}, most=2000), MIDI_PIANO)
        assert len(notes) > 20 and sounding_at_once(notes) == most


def test_no_more_notes_begin_within_a_second_than_wanted():
    ids = written(MIDI.size, {"kind": "midi", "most_per_s": 5})
    starts = [note.start_s for note in notes_in(ids)]
    assert max(sum(1 for other in starts if start - 0.99 < other <= start) for start in starts) == 5


def test_beginnings_are_a_sixteenth_of_the_fastest_tempo_apart_or_together():
    starts = sorted({note.start_s for note in notes_in(written(MIDI.size, {"kind": "midi", "most_bpm": 100}))})
    assert len(starts) > 20 and np.diff(starts).min() >= 0.15 - 1e-9


@pytest.mark.parametrize("seconds", [1, 7.5])
def test_a_piece_is_as_long_as_wanted(seconds):
    ids = written(MIDI.size, {"kind": "midi", "seconds": seconds}, most=10_000)
    length = sum(MIDI.steps_of(token_id) for token_id in ids) * 0.008
    assert seconds <= length < seconds + 1.0


def test_no_note_begins_before_the_bar_that_is_generated_again():
    """The piece so far ends half a second earlier, because the wait that passed the bar is not part of it."""
    notes = notes_in(written(MIDI.size, {"kind": "midi", "before_s": 3.5, "from_s": 4}))
    assert len(notes) > 20 and 0.5 <= min(note.start_s for note in notes) < 3


def test_a_short_part_that_begins_behind_a_gap_has_its_whole_length_there():
    ids = written(MIDI.size, {"kind": "midi", "before_s": 3.5, "from_s": 5, "seconds": 1}, most=10_000)
    starts = [note.start_s for note in notes_in(ids)]
    assert min(starts) >= 1.5 - 0.01
    assert 2.5 - 0.01 <= sum(MIDI.steps_of(token_id) for token_id in ids) * 0.008 < 3.5


def test_a_tune_has_as_many_bars_as_wanted():
    constraint, usable = constraint_of(128, {"kind": "abc", "bars": 4}), np.full(4, 0xFFFFFFFF, np.uint32)

    def may_end() -> bool:
        return bool(constraint.mask(usable)[0] >> ABC_END & 1)

    for character in "S:2\nT:a|b|c|d|e\nK:C\n|: CD EF | G4 :|\n|: AB ":
        constraint.accept(ord(character))
        assert not may_end()
    for character in "cd | c4 ":
        constraint.accept(ord(character))
    assert not may_end()
    constraint.accept(ord(":"))
    constraint.accept(ord("|"))
    assert constraint.mask(usable).tolist() == [1 << ABC_END, 0, 0, 0]
    free = constraint_of(128, {"kind": "abc"})
    assert free.mask(usable) is usable


@pytest.mark.parametrize(
    "size, description",
    [
        (256, {"kind": "midi"}),
        (128, {"kind": "midi"}),
        (MIDI.size, {"kind": "abc"}),
        (MIDI_PIANO.size, {"kind": "midi", "instruments": ["flute"]}),
        (MIDI.size, {"kind": "midi", "seconds": 0}),
        (MIDI.size, {"kind": "midi", "seconds": float("nan")}),
        (MIDI.size, {"kind": "midi", "most_bpm": "fast"}),
        (128, {"kind": "abc", "bars": 10_001}),
    ],
)
def test_rules_of_another_model_or_that_cannot_be_are_refused(size, description):
    with raises_code("grammar_invalid"):
        constraint_of(size, description)
