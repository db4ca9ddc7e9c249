"""ABC as notes."""

from __future__ import annotations

import random
import re
import time

import pytest

from models.music.tunes import abc_tune
from tests.errors import raises_code
from webapp.errors import RoostError
from webapp.music.abc import read_abc
from webapp.music.events import MAX_NOTES, events_of, notes_of


def pitches(text: str) -> list[int]:
    return [note.pitch for note in read_abc(text)]


def starts(text: str) -> list[float]:
    """In eighths at the default tempo."""
    return [round(note.start_s / 0.25, 3) for note in read_abc(text)]


def lengths(text: str) -> list[float]:
    return [round(note.duration_s / 0.25, 3) for note in read_abc(text)]


def test_letters_octaves_and_accidentals():
    assert pitches("K:C\nC, C B c c' ^c =c _B, __B") == [48, 60, 71, 72, 84, 73, 72, 58, 69]
    assert pitches("K:C\n^F F | F f ^f f") == [66, 66, 65, 77, 78, 78]


@pytest.mark.parametrize(
    "key, sharp_or_flat",
    [
        ("D", (66, 73)),
        ("Bm", (66, 73)),
        ("Ador", (66, 72)),
        ("F", (65, 72)),
        ("Cm", (65, 72)),
        ("C#", (66, 73)),
        ("", (65, 72)),
    ],
)
def test_the_key_counts(key, sharp_or_flat):
    assert pitches(f"K:{key}\nF c") == list(sharp_or_flat)


def test_lengths_rests_ties_tuplets_and_broken_rhythm():
    assert lengths("K:C\nC C2 C3 C/ C/4 C3/2 C//") == [1, 2, 3, 0.5, 0.25, 1.5, 0.25]
    assert starts("K:C\nC z2 C x C") == [0, 3, 5]
    assert lengths("K:C\nC-|C D") == [2, 1]
    assert lengths("K:C\n(3CDE F") == [0.667, 0.667, 0.667, 1]
    assert lengths("K:C\nC>D C<D") == [1.5, 0.5, 0.5, 1.5]
    assert starts("M:3/4\nL:1/8\nK:C\nC Z D") == [0, 7]
    assert lengths("L:1/4\nQ:1/4=60\nK:C\nC") == [4]
    assert lengths("M:2/4\nK:C\nC") == [0.5]


def test_chords_symbols_ornaments_and_graces():
    text = """K:C\n"Am"[CEG]2 !trill!~.D {fg}E % a comment C D\nw: la la"""
    assert pitches(text) == [60, 64, 67, 62, 64]
    assert lengths(text)[:3] == [2, 2, 2]


def test_repeats_and_endings():
    assert pitches("K:C\nC |: D :| E") == [60, 62, 62, 64]
    assert pitches("K:C\nC D :| E") == [60, 62, 60, 62, 64]
    assert pitches("K:C\n|: C |1 D :|2 E |] F") == [60, 62, 60, 64, 65]
    assert pitches("K:C\n|: C [1 D :| [2 E |] F") == [60, 62, 60, 64, 65]
    assert pitches("K:C\n|: C :: D :|") == [60, 60, 62, 62]


def test_voices_are_tracks():
    notes = read_abc("X:1\nL:1/4\nK:C\nV:1\nC D\nV:2\nE2\nV:1\nF")
    assert [(note.pitch, note.start_s, note.track) for note in notes] == [
        (60, 0, 0),
        (64, 0, 1),
        (62, 0.5, 0),
        (65, 1.0, 0),
    ]


def bars_in(text):
    """How many bars of a tune have notes."""
    tune = re.sub(r"^[A-Z]:.*$", "", text, flags=re.MULTILINE)  # without its header
    return sum(bool(re.search("[A-Ga-g]", bar)) for bar in tune.split("|"))


def test_the_authors_example_and_generated_tunes():
    """The prompt in ChatRWKV's music/run.py: three bars of 3/4, the first a pickup."""
    example = 'S:3\nB:9\nE:4\nB:9\nE:4\nE:4\nB:9\nL:1/8\nM:3/4\nK:D\n Bc |"G" d2 cB"A" A2 FE |"Bm" F2 B4 F^G |'
    assert starts(example)[-1] == 17
    for seed in range(50):
        text = abc_tune(seed)
        assert bars_in(text) == 8
        assert len(notes_of(events_of(read_abc(text)))) == len(read_abc(text))


HOSTILE = {
    "nothing": "",
    "a header alone": "X:1\nT:Nothing\nK:C\n",
    "zeros": "\0" * 1000,
    "rests alone": "K:C\nz4 z4 |",
    "too much": "C" * (1 << 19),
    "an hour of rest": "L:1/1\nQ:1/4=1\nK:C\n" + "C64 " * 60,
}
BOUNDED = {
    "opening marks": "K:C\nC" + "[{!\"+(" * 30_000,
    "colons and bars": "K:C\nC" + ":" * 100_000 + "|" * 100_000,
    "repeats in repeats": "K:C\n" + "|: C " * 2000 + ":| " * 20_000,
    "endings without ends": "K:C\nC" + "|1 D |2 E" * 5_000,
    "broken rhythm for ever": "K:C\n" + "C>" * 5_000 + "D",
    "signs of broken rhythm": "K:C\nC" + "><" * 100_000 + "D",
    "lengths beyond reason": "K:C\nC9999999999999999999999 C/99999999999 C/0 C0 C///////////// D",
    "octaves beyond reason": "K:C\nC" + "," * 100_000 + " c" + "'" * 100_000,
    "tuplets of nothing": "K:C\n(0 (1 (9 (3:0:0 C D E F",
    "voices": "K:C\n" + "".join(f"V:{number}\nC\n" for number in range(5000)),
    "keys": "K:H###\nK:Cbbbb\nK:\n[K:]C[K:zzz]D[L:0/0]E[M:0/9]F[Q:0]G[L:1/0]A",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_abc_is_refused(name):
    with pytest.raises(RoostError) as caught:
        read_abc(HOSTILE[name])
    assert caught.value.code in ("music_unreadable", "music_too_long")


@pytest.mark.parametrize("name", BOUNDED)
def test_odd_abc_is_read_within_bounds(name):
    """Linear time is at most a second or two of CPU time; quadratic time would be minutes."""
    began = time.process_time()
    notes = read_abc(BOUNDED[name])
    assert 0 < len(notes) <= MAX_NOTES
    assert all(0 <= note.pitch < 128 and note.duration_s > 0 for note in notes)
    assert time.process_time() - began < 20


def test_characters_by_chance_never_break_it():
    rng = random.Random(5)
    for _ in range(300):
        text = "".join(rng.choice("ABCabcz|:[]()<>^_=,'/0123456789-\"!{}% \nKLMQV") for _ in range(300))
        try:
            read_abc(text)
        except RoostError as exc:
            assert exc.code in ("music_unreadable", "music_too_long")


def test_too_many_notes_are_refused():
    with raises_code("music_too_long"):
        read_abc("L:1/512\nK:C\n" + "C" * (MAX_NOTES + 1))
