"""Conversion between MIDI text, .mid files and notes."""

from __future__ import annotations

import io
import random

import mido
import pytest

from models.music.tunes import midi_tune
from tests.errors import raises_code
from webapp.music.events import (
    HELD_S,
    MAX_SECONDS,
    Event,
    Note,
    NoteDecoder,
    events_of,
    normalised,
    notes_of,
    read_text,
    write_text,
)
from webapp.music.midi_file import read_midi, write_midi
from webapp.tokenizer import StreamDecoder, load_tokenizer
from webapp.tokenizer.music import MIDI, MIDI_PIANO, STEP_S, MidiVocabulary

PIECE = "<start> p:24:a pi:3c:a t50 p:24:0 pi:3c:0 t125 t125 t3 pi:3e:b t1 pi:3e:0 <end>"


def random_events(seed: int, vocabulary: MidiVocabulary) -> list[Event]:
    """Everything that a piece may contain: any pitch and instrument, two simultaneous notes, notes of one step and of
    minutes."""
    rng, step, found = random.Random(seed), 0, []
    for _ in range(rng.randrange(1, 60)):
        step += rng.choice((0, 0, 1, 3, 40, 125, 126, 600, 1250))
        place = rng.randrange(len(vocabulary.instruments)), rng.randrange(128)
        found.append(Event(step, *place, rng.randrange(1, vocabulary.loudnesses)))
        found.append(Event(step + rng.choice((0, 1, 20, 125, 700, 9000)), *place, 0))
    return normalised(found)


@pytest.mark.parametrize("vocabulary", [MIDI, MIDI_PIANO], ids=["midi", "piano"])
def test_500_pieces_are_equal_after_a_round_trip_through_a_file(vocabulary):
    for seed in range(125):  # two kinds, for two vocabularies
        for events in (midi_tune(seed, 4, vocabulary), random_events(seed, vocabulary)):
            first = events[0].step
            text = write_text(events, vocabulary)
            assert (
                write_text(read_midi(write_midi(read_text(text, vocabulary), vocabulary), vocabulary), vocabulary)
                == text
            )
            assert read_text(text, vocabulary) == [event._replace(step=event.step - first) for event in events]


def test_a_text_of_events_has_its_waits_and_order():
    events = read_text(PIECE)
    assert events[:2] == [Event(0, 0, 0x24, 10), Event(0, 8, 0x3C, 10)]
    assert write_text(events) == PIECE
    assert write_text(events, is_marked=False) == PIECE[len("<start> ") : -len(" <end>")]
    assert events[-1].step * STEP_S == pytest.approx((50 + 253 + 1) * 0.008)
    assert write_text(read_text("t9 " + PIECE[8:])) == PIECE  # silence before the first event is removed


def test_notes_and_back():
    notes = notes_of(read_text(PIECE))
    assert notes[0] == Note(0.0, 0.4, 0x24, 111, "percussion", 0)
    assert [note.pitch for note in notes] == [0x24, 0x3C, 0x3E]
    assert write_text(events_of(notes)) == PIECE
    for seed in range(20):
        notes = notes_of(midi_tune(seed))
        assert notes_of(events_of(notes)) == notes


def test_notes_of_one_pitch_that_overlap_end_where_the_next_begins():
    first, second = Note(0, 2, 60, 100, "piano", 0), Note(1, 1, 60, 100, "piano", 0)
    assert [(note.start_s, note.duration_s) for note in notes_of(events_of([first, second]))] == [(0, 1), (1, 1)]
    assert [note.duration_s for note in notes_of(events_of([first, first]))] == [2]


@pytest.mark.parametrize(
    "note",
    [
        Note(0, 1, 60, 100, "kazoo", 0),
        Note(0, 1, 128, 100, "piano", 0),
        Note(0, 1, 60, 0, "piano", 0),
        Note(-1, 1, 60, 9, "piano", 0),
        Note(float("nan"), 1, 60, 9, "piano", 0),
    ],
)
def test_a_note_that_cannot_be_is_refused(note):
    with raises_code("music_unreadable"):
        events_of([note])


def test_a_stream_in_pieces_of_any_size_gives_the_notes_of_the_whole():
    for seed in range(20):
        text, rng, decoder = write_text(midi_tune(seed)), random.Random(seed), NoteDecoder()
        final, at = {}, 0
        while at < len(text):
            size = rng.randrange(1, 9)
            for change in decoder.feed(text[at : at + size]):
                final[change.number] = change
            at += size
        final |= {change.number: change for change in decoder.finish()}
        assert [final[number].note for number in range(len(final))] == decoder.notes == notes_of(read_text(text))
        assert not any(change.is_sounding for change in final.values())


def test_a_note_is_reported_with_its_token_and_again_at_its_end():
    tokenizer, decoder = load_tokenizer(MIDI.size), NoteDecoder()
    stream = StreamDecoder(tokenizer)
    told = [decoder.feed(stream.feed([token_id])) for token_id in tokenizer.encode("pi:3c:a t125 pi:3c:0")]
    assert [[(change.note.duration_s, change.is_sounding) for change in changes] for changes in told] == [
        [(0, True)],
        [],
        [(1.0, False)],
    ]


def test_a_note_that_nothing_ends_lasts_five_seconds_unless_its_end_comes_late():
    decoder = NoteDecoder()
    decoder.feed("pi:3c:a pi:40:a" + " t125" * 7)
    assert [note.duration_s for note in decoder.notes] == [HELD_S, HELD_S]
    decoder.feed(" pi:3c:0 pi:43:a pi:40:a pi:40:0 ")
    assert [note.duration_s for note in decoder.notes] == [7.0, HELD_S, 0.0, 0.0]
    decoder.finish()
    assert decoder.notes[2].duration_s == 3.0


def test_a_models_slips_are_skipped_and_counted():
    decoder = NoteDecoder()
    decoder.feed("pi:3c:a t5 oops pi:zz:1 p:24:c t200 pi:3c:0")
    assert (len(decoder.notes), decoder.skipped, decoder.time_s) == (1, 4, 0.04)
    decoder.feed(" " + "x" * 1_000_000)
    assert decoder.skipped == 5


@pytest.mark.parametrize(
    "text, word",
    [
        ("pi:3c:a t5 oops", "oops"),
        ("kz:3c:a", "kz:3c:a"),
        ("pi:80:a", "pi:80:a"),
        ("pi:3c:c", "pi:3c:c"),
        ("t126", "t126"),
    ],
)
def test_text_with_a_word_that_is_none_is_refused(text, word):
    with raises_code("music_unreadable", key="reason.music.no_word", word=word):
        read_text(text)


def test_texts_that_never_end_are_refused():
    for text in ("t125 " * (MAX_SECONDS + 1), "pi:3c:a pi:3c:0 " * 100_001, "x" * (5 << 20)):
        with raises_code("music_too_long"):
            read_text(text)
    decoder = NoteDecoder()
    with raises_code("music_too_long"):
        decoder.feed("t125 " * (MAX_SECONDS + 1))


def made(*messages: mido.Message | mido.MetaMessage, ticks_per_beat: int = 480, kind: int = 1) -> bytes:
    file, target = mido.MidiFile(type=kind, ticks_per_beat=ticks_per_beat), io.BytesIO()
    file.tracks.append(mido.MidiTrack(messages))
    file.save(file=target)
    return target.getvalue()


def on(pitch: int, time: int = 0, velocity: int = 100, channel: int = 0) -> mido.Message:
    return mido.Message("note_on", note=pitch, velocity=velocity, time=time, channel=channel)


def off(pitch: int, time: int = 0, channel: int = 0) -> mido.Message:
    return mido.Message("note_off", note=pitch, time=time, channel=channel)


def control(number: int, value: int, time: int = 0) -> mido.Message:
    return mido.Message("control_change", control=number, value=value, time=time)


def test_a_files_tempo_program_volume_and_pedal_count():
    data = made(
        mido.MetaMessage("set_tempo", tempo=1_000_000),
        mido.Message("program_change", program=41),
        control(7, 64),
        control(64, 127),
        on(60),
        off(60, 480),
        control(64, 0, 480),
        mido.Message("program_change", program=127),
        on(61, 480),
        on(62, 0, channel=9),
        off(62, 240, channel=9),
    )
    low, full = MIDI.loudness_of(100 * 64 / 127), MIDI.loudness_of(100)
    assert write_text(read_midi(data)) == (f"<start> v:3c:{low:x} t125 t125 v:3c:0 t125 p:3e:{full:x} t63 p:3e:0 <end>")


def test_a_note_keeps_the_program_it_began_with_and_all_end_with_the_file():
    data = made(on(60), mido.Message("program_change", program=40), off(60, 960), on(64, 0), control(1, 1, 960))
    assert write_text(read_midi(data)) == "<start> pi:3c:a t125 v:40:a pi:3c:0 t125 v:40:0 <end>"


def test_a_silence_is_cut_to_ten_seconds_and_a_held_note_is_not():
    data = made(on(60), off(60, 960), on(60, 960 * 100), off(60, 960), on(62), off(62, 960 * 20))
    notes = notes_of(read_midi(data))
    assert [(note.start_s, note.duration_s) for note in notes] == [(0, 1), (11, 1), (12, 20)]


def test_frames_are_a_division_too():
    data = bytearray(made(on(60), off(60, 1000)))
    data[12:14] = bytes([256 - 25, 40])  # 25 frames of 40 ticks: a tick is a millisecond
    assert notes_of(read_midi(bytes(data)))[0].duration_s == 1.0
