"""Sound: its content, and a cost proportional to its length."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest

from models.music.tunes import midi_tune
from tests.errors import raises_code
from webapp.music.events import Note, notes_of
from webapp.music.midi_file import PROGRAMS
from webapp.music.synthesiser import MAX_SECONDS, RATE, SOUNDS, wav_of, wav_pieces


def heard(notes) -> np.ndarray:
    with wave.open(io.BytesIO(wav_of(notes))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float) / 32767


def strongest_hertz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * RATE / len(samples))


def test_every_instrument_sounds_and_has_its_pitch():
    assert {*SOUNDS, "percussion"} == set(PROGRAMS)
    for name in SOUNDS:
        samples = heard([Note(0.0, 0.8, 69, 100, name, 0)])
        assert 0.05 < np.abs(samples).max() <= 1
        assert strongest_hertz(samples[: RATE // 2]) == pytest.approx(440, abs=4), name


def test_a_note_sounds_while_it_lasts_and_then_no_more():
    samples = heard([Note(1.25, 0.5, 60, 100, "flute", 0)])
    assert np.abs(samples[: round(1.25 * RATE)]).max() == 0
    assert np.abs(samples[round(1.35 * RATE) : round(1.7 * RATE)]).max() > 0.05
    assert np.abs(samples[round(2.0 * RATE) :]).max() == 0


def test_a_note_continues_without_a_step_from_one_second_into_the_next():
    samples = heard([Note(0.5, 2.0, 60, 100, "violin", 0)])
    steps = np.abs(np.diff(samples))
    assert steps[RATE - 2 : RATE + 2].max() <= steps[round(0.8 * RATE) : round(0.9 * RATE)].max() * 1.05


def test_drums_are_the_same_each_time():
    notes = [Note(0.0, 0.01, pitch, 100, "percussion", 0) for pitch in (36, 38, 42, 49)]
    assert np.array_equal(heard(notes), heard(notes))
    assert all(np.abs(heard([note])).max() > 0.05 for note in notes)


def test_a_piece_is_made_a_second_at_a_time():
    pieces = list(wav_pieces(notes_of(midi_tune(4, bars=4))))
    assert len(pieces[0]) == 44
    assert {len(piece) for piece in pieces[1:]} == {2 * RATE}


def test_a_cluster_is_not_cut_off_and_nothing_is_a_file_too():
    samples = heard([Note(0.0, 0.5, pitch, 127, "trumpet", 0) for pitch in range(128)])
    assert np.abs(samples).max() <= 1 and (np.abs(samples) > 0.999).mean() < 0.2
    assert np.abs(heard([])).max() == 0


def test_more_than_ten_minutes_are_refused():
    with raises_code("music_too_long"):
        wav_pieces([Note(MAX_SECONDS, 1.0, 60, 100, "piano", 0)])
