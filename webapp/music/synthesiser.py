"""Converts notes to sound: a small synthesiser for .wav files, without a SoundFont or another program.

Every sample depends only on a note and the time since its start, so a piece is computed one second at a time, and
memory does not grow with its length. A plucked sound is a few partials that decay, higher ones faster; a blown or bowed
one sustains them between attack and release; drums are noise and falling sines.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from webapp.music.events import Note, too_long

RATE = 32_000
MAX_SECONDS = 600
MAX_VOICES = 64
"""Per second; if there are more, the loudest are played."""
DRUM_S = 0.6
LEVEL = 0.35
Samples = NDArray[np.float32]


class Sound(Struct, frozen=True):
    """``partials``: the loudness of each harmonic. ``fade_s``: time in which a plucked middle C falls to half; 0
    sustains it. ``attack_s`` and ``release_s`` as in any synthesiser."""

    partials: tuple[float, ...]
    fade_s: float = 0.0
    attack_s: float = 0.005
    release_s: float = 0.08


TRIANGLE = (1.0, 0.0, 0.11, 0.0, 0.04)
SOUNDS = {
    "piano": Sound((1.0, 0.5, 0.25, 0.12, 0.06), fade_s=0.5, release_s=0.15),
    "guitar": Sound((1.0, 0.6, 0.4, 0.2, 0.1), fade_s=0.35, release_s=0.1),
    "marimba": Sound((1.0, 0.0, 0.0, 0.3), fade_s=0.15, release_s=0.1),
    "bass": Sound(TRIANGLE, fade_s=0.6),
    "violin": Sound((1.0, 0.5, 0.33, 0.25, 0.2), attack_s=0.06, release_s=0.12),
    "trumpet": Sound((1.0, 0.8, 0.6, 0.4, 0.2), attack_s=0.03),
    "tuba": Sound((1.0, 0.6, 0.3), attack_s=0.04),
    "sax": Sound((1.0, 0.4, 0.5, 0.2, 0.2), attack_s=0.03),
    "flute": Sound((1.0, 0.15, 0.05), attack_s=0.05, release_s=0.1),
    "lead": Sound((1.0, 0.0, 0.33, 0.0, 0.2)),
    "pad": Sound((1.0, 0.3, 0.2, 0.1), attack_s=0.3, release_s=0.5),
    "drum": Sound((1.0, 0.2), fade_s=0.12),
}
DRUMS = (
    (36, 55.0, 0.08, 0.1),
    (40, 180.0, 0.08, 0.7),
    (46, 0.0, 0.03, 1.0),
    (50, 110.0, 0.15, 0.2),
    (128, 0.0, 0.25, 1.0),
)
"""For percussion up to a pitch: frequency in hertz, seconds in which the sound falls to half, part of noise. Kick,
snare, hi-hat, toms, cymbals, roughly as in General MIDI."""


def wav_of(notes: Iterable[Note]) -> bytes:
    """The whole file: 16 bits, mono, 32,000 samples per second; at most ten minutes (38 MB)."""
    return b"".join(wav_pieces(notes))


def wav_pieces(notes: Iterable[Note]) -> Iterator[bytes]:
    """Yields the header, then one second at a time. Raises ``music_too_long`` above ten minutes, before the first
    piece."""
    ordered = sorted(notes, key=lambda note: note.start_s)
    length_s = max((note.start_s + note.duration_s for note in ordered), default=0.0) + 1.0
    if length_s > MAX_SECONDS + 1:
        raise too_long("seconds", MAX_SECONDS)
    return _pieces(ordered, math.ceil(length_s))


def _pieces(notes: Sequence[Note], seconds: int) -> Iterator[bytes]:
    size = 2 * RATE * seconds
    form = struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    yield b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + form + b"data" + struct.pack("<I", size)
    upcoming, sounding = 0, []
    for second in range(seconds):
        while upcoming < len(notes) and notes[upcoming].start_s < second + 1:
            sounding.append(notes[upcoming])
            upcoming += 1
        sounding = [note for note in sounding if _end(note) > second]
        heard = sorted(sounding, key=lambda note: (-note.velocity, note.start_s))[:MAX_VOICES]
        mixed = np.zeros(RATE, np.float32)
        for note in heard:
            _mix(mixed, note, second)
        yield (np.tanh(mixed * LEVEL) * 32767).astype("<i2").tobytes()


def _end(note: Note) -> float:
    if note.instrument == "percussion":
        return note.start_s + DRUM_S
    return note.start_s + note.duration_s + SOUNDS[note.instrument].release_s


def _mix(mixed: Samples, note: Note, second: int) -> None:
    """Adds the part of the note that sounds in this second."""
    first = max(0, round((note.start_s - second) * RATE))
    last = min(RATE, round((_end(note) - second) * RATE))
    if first >= last:
        return
    loudness = (note.velocity / 127) ** 1.5
    since = (np.arange(first, last, dtype=np.float32) + np.float32((second - note.start_s) * RATE)) / np.float32(RATE)
    since = np.maximum(since, 0)
    if note.instrument == "percussion":
        begin = round((second - note.start_s) * RATE) + first
        drum = _drum(note.pitch)[max(begin, 0) : begin + last - first]
        mixed[first : first + len(drum)] += loudness * drum
        return
    sound, hertz = SOUNDS[note.instrument], 440 * 2 ** ((note.pitch - 69) / 12)
    wave = np.zeros(last - first, np.float32)
    for number, level in enumerate(sound.partials, 1):
        if level and number * hertz < RATE / 2:
            partial = np.sin(since * np.float32(2 * math.pi * number * hertz))
            if sound.fade_s:
                half = sound.fade_s * (261.6 / hertz) ** 0.4 / number**0.5
                partial *= np.exp2(-since / np.float32(half))
            wave += np.float32(level) * partial
    shape = np.minimum(1, since / np.float32(sound.attack_s))
    shape *= np.clip(1 - (since - np.float32(note.duration_s)) / np.float32(sound.release_s), 0, 1)
    mixed[first:last] += loudness * wave * shape


@cache
def _drum(pitch: int) -> Samples:
    _, hertz, half, noise = next(row for row in DRUMS if pitch <= row[0])
    since = np.arange(round(DRUM_S * RATE), dtype=np.float32) / RATE
    hiss = np.random.default_rng(pitch).uniform(-1, 1, len(since)).astype(np.float32)
    tone = np.sin(2 * math.pi * hertz * since * np.exp2(-since * 4)) if hertz else np.zeros_like(since)
    made: Samples = ((noise * hiss + (1 - noise) * 2 * tone) * np.exp2(-since / half)).astype(np.float32)
    return made
