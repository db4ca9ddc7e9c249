"""Malicious files and texts: refused with a reason, or read within limits."""

from __future__ import annotations

import random

import pytest

from tests.music.test_events import control, made, off, on
from webapp.errors import RoostError
from webapp.music.events import MAX_NOTES, MAX_SECONDS, NoteDecoder, notes_of, read_text
from webapp.music.midi_file import read_midi
from webapp.tokenizer.music import STEP_S

GOOD = made(on(60), off(60, 480))


def head(kind: int = 1, tracks: int = 1, division: int = 480) -> bytes:
    return b"MThd\0\0\0\x06" + b"".join(number.to_bytes(2, "big") for number in (kind, tracks, division & 0xFFFF))


def track(body: bytes, length: int | None = None) -> bytes:
    return b"MTrk" + (len(body) if length is None else length).to_bytes(4, "big") + body


END = b"\0\xff\x2f\0"
NOTE = b"\0\x90\x3c\x40\x60\x80\x3c\x40"
LONGEST = b"\xff\xff\xff\x7f"
REFUSED = {
    "nothing": b"",
    "a text": b"<start> pi:3c:a <end>",
    "half a header": GOOD[:10],
    "a header alone": GOOD[:14],
    "half a track": GOOD[:30],
    "no tracks": head(tracks=0),
    "type 2": head(kind=2) + track(NOTE + END),
    "type 65535": head(kind=65535) + track(NOTE + END),
    "65535 tracks announced": head(tracks=65535) + track(NOTE + END),
    "1000 tracks announced": head(tracks=1000) + track(NOTE + END),
    "a division of 0": head(division=0) + track(NOTE + END),
    "0 frames": head(division=0x8000) + track(NOTE + END),
    "frames of 0 ticks": head(division=0xE700) + track(NOTE + END),
    "a tempo of 0": head() + track(b"\0\xff\x51\3\0\0\0" + NOTE + END),
    "a track of 4 GiB": head() + track(NOTE + END, 0xFFFFFFFF),
    "a sysex of 256 MiB": head() + track(b"\0\xf0" + LONGEST + b"\0" * 100),
    "a meta event of 256 MiB": head() + track(b"\0\xff\1" + LONGEST + b"\0" * 100),
    "a running status without one": head() + track(b"\0\x3c\x40" + END),
    "a data byte as status": head() + track(b"\0\xf4\0" + END),
    "a bad key signature": head() + track(b"\0\xff\x59\2\x7f\x7f" + NOTE + END),
    "a tempo of two bytes": head() + track(b"\0\xff\x51\2\0\1" + NOTE + END),
    "no notes": made(control(7, 1)),
    "silent notes": made(control(7, 0), on(60), off(60, 480)),
    "days of silence and a note": head() + track((LONGEST + b"\xb0\1\1") * 40 + NOTE + END),
    "more than a MiB": GOOD + b"\0" * (1 << 20),
    "bytes by chance": random.Random(7).randbytes(5000),
    "a header, then bytes by chance": head() + random.Random(8).randbytes(5000),
}
BOUNDED = {
    "a sysex": head() + track(b"\0\xf0\5\1\2\3\4\xf7" + NOTE + END),
    "a text of bad UTF-8": head() + track(b"\0\xff\3\4\xff\xfe\xfd\xfc" + NOTE + END),
    "unknown meta events": head() + track(b"\0\xff\x60\3abc\0\xff\x7f\3abc" + NOTE + END),
    "data bytes above 127": head() + track(b"\0\x90\x3c\xff\x60\x80\x3c\xff" + END),
    "no end of track": head() + track(NOTE),
    "30,000 notes begun and never ended": head() + track(b"\0\x90" + b"\x3c\x40\0" * 30_000 + b"\x3c\x40" + END),
    "the fastest tempo": head() + track(b"\0\xff\x51\3\0\0\1" + NOTE + END),
    "only ends of notes, and one note": head() + track(b"\0\x80\x3c\0" * 1000 + NOTE + END),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_refused(name):
    with pytest.raises(RoostError) as caught:
        read_midi(REFUSED[name])
    assert caught.value.code in ("music_unreadable", "music_too_long"), name
    assert caught.value.message and caught.value.hint


@pytest.mark.parametrize("name", BOUNDED)
def test_an_odd_file_is_read_within_bounds(name):
    events = read_midi(BOUNDED[name])
    notes = notes_of(events)
    assert 0 < len(notes) <= MAX_NOTES
    assert events[-1].step * STEP_S <= MAX_SECONDS


def test_every_beginning_of_a_file_and_every_changed_byte_is_refused_or_read():
    rng = random.Random(1)
    for length in range(len(GOOD)):
        with pytest.raises(RoostError):
            read_midi(GOOD[:length])
    for _ in range(3000):
        data = bytearray(GOOD)
        data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            notes_of(read_midi(bytes(data)))
        except RoostError as exc:
            assert exc.code in ("music_unreadable", "music_too_long")


@pytest.mark.parametrize(
    "text",
    [
        "\0" * 100,
        "pi:" * 10_000,
        "<start>" * 3,
        "🎵 pi:3c:a",
        "pi:3c:a\u2028t5",
        "T1 " * 5,
        "<end> <end>",
        "",
        "pi:-1:a",
    ],
)
def test_odd_texts_are_refused_or_read_and_never_break_a_stream(text):
    try:
        read_text(text)
    except RoostError as exc:
        assert exc.code == "music_unreadable"
    decoder = NoteDecoder()
    decoder.feed(text)
    decoder.finish()
    assert len(decoder.notes) <= 1
