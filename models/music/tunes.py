"""Generates tunes from a seed: as events for several instruments, and as ABC for one voice.

A tune has a key, a repeated progression of four chords, its own rhythm for the melody, chords, a bass on the roots, and
drums. It is simple, but has what a model can learn in minutes: bars of equal length, notes of the key, chords under the
melody, ends of notes in time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from webapp.music.events import Event, normalised
from webapp.tokenizer.music import MIDI, MidiVocabulary

MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 4), (5, 3, 0, 4), (0, 2, 3, 4))
RHYTHMS = ((4, 4, 4, 4), (4, 2, 2, 4, 4), (2, 2, 4, 2, 2, 4), (6, 2, 4, 4), (8, 4, 4), (2, 2, 2, 2, 4, 4), (4, 4, 8))
"""In a bar of sixteen sixteenths."""
SIXTEENTH = 16
"""In steps of 8 ms: 117 beats per minute."""
KICK, SNARE, HAT = 36, 38, 42


def midi_tune(seed: int, bars: int = 8, vocabulary: MidiVocabulary = MIDI) -> list[Event]:
    """Uses the vocabulary's instruments; with the piano's vocabulary, only the piano."""
    rng = random.Random(seed)
    root, scale = 48 + rng.randrange(12), rng.choice((MAJOR, MINOR))
    chords, rhythms = rng.choice(PROGRESSIONS), rng.sample(RHYTHMS, 2)
    names = vocabulary.instruments
    lead = rng.choice([name for name in ("piano", "flute", "violin") if name in names])
    has_drums, has_bass = "percussion" in names and rng.random() < 0.6, "bass" in names and rng.random() < 0.8
    found: list[Event] = []

    def play(name: str, at: int, length: int, pitch: int, loudness: int) -> None:
        instrument, begin = names.index(name), at * SIXTEENTH
        found.append(Event(begin, instrument, pitch, loudness))
        found.append(Event(begin + length * SIXTEENTH - 1, instrument, pitch, 0))

    degree = rng.randrange(7)
    for bar in range(bars):
        start, chord = bar * 16, chords[bar % 4]
        for third in (0, 2, 4):
            play("piano", start, 16, pitch_of(root, scale, chord + third), 6)
        if has_bass:
            for half in (0, 8):
                play("bass", start + half, 8, pitch_of(root - 12, scale, chord), 8)
        if has_drums:
            for eighth in range(8):
                play("percussion", start + 2 * eighth, 1, HAT, 5)
            for beat, drum in ((0, KICK), (4, SNARE), (8, KICK), (12, SNARE)):
                play("percussion", start + beat, 1, drum, 9)
        at = start
        for length in rhythms[bar % 2]:
            near_chord = at == start
            degree = chord + rng.choice((0, 2, 4)) if near_chord else degree + rng.choice((-2, -1, -1, 0, 1, 1, 2))
            degree = max(-3, min(degree, 12))
            play(lead, at, length, pitch_of(root + 12, scale, degree), 9)
            at += length
    return normalised(found)


def pitch_of(root: int, scale: Sequence[int], degree: int) -> int:
    octave, step = divmod(degree, len(scale))
    return root + 12 * octave + scale[step]


KEYS = {"C": 0, "G": 7, "D": 2, "F": 5, "A": 9}
LETTERS = "CDEFGAB"
METRES = {"4/4": 8, "3/4": 6, "6/8": 6}
"""Eighths per bar."""


def abc_tune(seed: int) -> str:
    """Two parts of four bars, each repeated, in the format of the author's ABC models (the control codes of
    sander-wood/massive_abcnotation_dataset: sections, bars of each, their similarity)."""
    rng = random.Random(seed)
    key, metre = rng.choice(list(KEYS)), rng.choice(list(METRES))
    tonic = LETTERS.index(key)
    parts = [abc_part(rng, tonic, METRES[metre]) for _ in range(2)]
    head = f"S:2\nB:4\nE:{rng.randrange(4, 8)}\nB:4\nL:1/8\nM:{metre}\nK:{key}\n"
    return head + "\n".join(f"|: {' | '.join(bars)} :|" for bars in parts) + "\n"


def abc_part(rng: random.Random, tonic: int, eighths: int) -> list[str]:
    shapes = [abc_rhythm(rng, eighths) for _ in range(2)]
    bars, degree = [], tonic + rng.choice((0, 2, 4))
    for bar in range(3):
        notes = []
        for length in shapes[bar % 2]:
            notes.append(abc_note(degree, length))
            degree = max(tonic - 3, min(degree + rng.choice((-2, -1, -1, 1, 1, 2)), tonic + 9))
        bars.append(" ".join(notes))
    return [*bars, abc_note(tonic, eighths)]


def abc_rhythm(rng: random.Random, eighths: int) -> list[int]:
    lengths: list[int] = []
    while sum(lengths) < eighths:
        lengths.append(min(rng.choice((1, 1, 2, 2, 3)), eighths - sum(lengths)))
    return lengths


def abc_note(degree: int, length: int) -> str:
    octave, step = divmod(degree, 7)
    letter = LETTERS[step] if octave <= 0 else LETTERS[step].lower()
    marks = "," * -octave if octave < 0 else "'" * max(0, octave - 1)
    return f"{letter}{marks}{length if length > 1 else ''}"
