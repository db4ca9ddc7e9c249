"""Converts standard MIDI files to the events of :mod:`.events`, and back.

Writing uses one tick per millisecond (120 beats per minute) and one track per instrument, so that every step of 8 ms is
on a tick and reading gives the same events. Reading works as for the author's data (briansemrau/MIDI-LLM-tokenizer,
``convert_midi_to_str``): all tracks combined, velocity times volume and expression, notes sustained by the pedal,
programs as the 13 instruments of the vocabulary, silences of at most ten seconds.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any

from webapp.i18n import Text
from webapp.music.events import MAX_NOTES, Event, check_step, normalised, too_long, unreadable
from webapp.tokenizer.music import MIDI, STEP_S, MidiVocabulary

MAX_BYTES = 1 << 20
MAX_TRACKS = 1024
DRUM_CHANNEL = 9
SILENCE_STEPS = round(10 / STEP_S)
TICKS_PER_STEP = round(STEP_S * 1000)
TEMPO_US = 500_000

PROGRAMS = {
    "percussion": 0, "drum": 118, "tuba": 58, "marimba": 12, "bass": 32, "guitar": 25, "violin": 40, "trumpet": 56,
    "piano": 0, "sax": 66, "flute": 73, "lead": 80, "pad": 88,
}  # fmt: skip
"""The General MIDI program (from 0) for each instrument; percussion is channel 10."""

INSTRUMENT_RUNS = (
    "piano*8 marimba*9 piano*7 guitar*8 bass*8 violin*2 bass*2 violin*3 drum violin*7 - trumpet tuba*2 trumpet*5 sax*5 "
    "trumpet sax*2 flute*8 lead*5 violin lead*2 pad*3 violin pad*4 -*8 guitar*5 sax violin sax marimba*4 drum*3 -*9"
)
"""The instrument of each program; ``-`` for noises without one (``program_name_to_bin_name``, vocab_config.json)."""


def _instruments() -> tuple[str, ...]:
    runs = (run.partition("*") for run in INSTRUMENT_RUNS.split())
    return tuple(name.strip("-") for name, _, count in runs for _ in range(int(count or 1)))


INSTRUMENT_OF_PROGRAM = _instruments()


def write_midi(events: Iterable[Event], vocabulary: MidiVocabulary = MIDI) -> bytes:
    """A file of format 1, with the events ordered by :func:`~webapp.music.events.normalised`."""
    import mido

    file = mido.MidiFile(type=1, ticks_per_beat=TEMPO_US // 1000)
    file.tracks.append(mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=TEMPO_US)]))
    by_instrument = attrgetter("instrument")
    parts = groupby(sorted(normalised(events), key=by_instrument), by_instrument)
    channels = _channels(vocabulary)
    for instrument, own in parts:
        name, channel = vocabulary.instruments[instrument], channels[instrument]
        track = mido.MidiTrack([mido.MetaMessage("track_name", name=name)])
        track.append(mido.Message("program_change", channel=channel, program=PROGRAMS[name]))
        now = 0
        for step, _, pitch, loudness in own:
            kind, velocity = ("note_on", vocabulary.velocities[loudness]) if loudness else ("note_off", 0)
            ticks = (step - now) * TICKS_PER_STEP
            track.append(mido.Message(kind, channel=channel, note=pitch, velocity=velocity, time=ticks))
            now = step
        file.tracks.append(track)
    target = io.BytesIO()
    file.save(file=target)
    return target.getvalue()


def _channels(vocabulary: MidiVocabulary) -> list[int]:
    free = (channel for channel in range(16) if channel != DRUM_CHANNEL)
    return [DRUM_CHANNEL if name == "percussion" else next(free) for name in vocabulary.instruments]


def read_midi(data: bytes, vocabulary: MidiVocabulary = MIDI) -> list[Event]:
    """Raises ``music_unreadable`` if the file is not MIDI, damaged or without notes of the vocabulary;
    ``music_too_long`` above 1 MiB, an hour or 100,000 notes."""
    if len(data) > MAX_BYTES:
        raise too_long("bytes", MAX_BYTES)
    tracks, seconds_at = _parsed(data)
    player = _Player(vocabulary)
    last_s = 0.0
    for tick, message in tracks:
        last_s = seconds_at(tick, message)
        check_step(last_s / STEP_S)
        player.play(last_s / STEP_S, message)
    events = list(player.finished())
    if not any(event.loudness for event in events):
        raise unreadable("midi", Text("reason.music.no_notes"))
    return events


def _parsed(data: bytes) -> tuple[list[tuple[int, Any]], _Clock]:
    """All messages ordered by tick, then by track."""
    import mido
    from mido.midifiles.meta import KeySignatureError

    if not data.startswith(b"MThd"):
        raise unreadable("midi", Text("reason.music.not_midi"))
    if len(data) < 14:
        raise unreadable("midi", Text("reason.music.ends_early"))
    kind, count, division = struct.unpack(">HHh", data[8:14])
    if kind > 1 or count > MAX_TRACKS:
        raise unreadable("midi", Text("reason.music.midi_type", kind=kind, tracks=count))
    try:
        file = mido.MidiFile(file=io.BytesIO(data), clip=True)
        found = [(tick, message) for track in file.tracks for tick, message in _absolute(track)]
    except EOFError as exc:
        raise unreadable("midi", Text("reason.music.ends_early")) from exc
    except (OSError, ValueError, LookupError, TypeError, OverflowError, KeySignatureError) as exc:
        raise unreadable("midi", Text("reason.music.damaged", error=str(exc)[:120])) from exc
    return sorted(found, key=lambda pair: pair[0]), _Clock(division)


def _absolute(track: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    now = 0
    for message in track:
        now += message.time
        yield now, message


class _Clock:
    """Converts ticks to seconds, in ascending order. A tempo change applies from its tick."""

    def __init__(self, division: int) -> None:
        if division == 0:
            raise unreadable("midi", Text("reason.music.no_ticks"))
        self._frames = 0.0
        if division < 0:  # SMPTE: frames per second, ticks per frame
            frames, ticks = -(division >> 8), division & 0xFF
            self._frames = (30000 / 1001 if frames == 29 else frames) * ticks
            if self._frames <= 0:
                raise unreadable("midi", Text("reason.music.no_ticks"))
        self._per_beat = division
        self._tempo = TEMPO_US
        self._tick, self._seconds = 0, 0.0

    def __call__(self, tick: int, message: Any) -> float:
        ticks, self._tick = tick - self._tick, tick
        self._seconds += ticks / self._frames if self._frames else ticks * self._tempo / self._per_beat / 1e6
        if message.type == "set_tempo":
            if message.tempo == 0:
                raise unreadable("midi", Text("reason.music.no_tempo"))
            self._tempo = message.tempo
        return self._seconds


class _Player:
    """Collects the events of one file. A note keeps the program that its channel had at the note's start."""

    def __init__(self, vocabulary: MidiVocabulary) -> None:
        self._vocabulary = vocabulary
        self._events: list[Event] = []
        self._program = [0] * 16
        self._volume, self._expression = [127] * 16, [127] * 16
        self._pedal = [False] * 16
        self._sounding: dict[tuple[int, int], list[int]] = {}
        self._held: set[tuple[int, int]] = set()
        self._now = 0.0
        self._cut = 0.0

    def play(self, step: float, message: Any) -> None:
        self._now = step
        kind = message.type
        if kind == "note_on" and message.velocity:
            self._begin(message.channel, message.note, message.velocity)
        elif kind in ("note_on", "note_off"):
            self._release(message.channel, message.note)
        elif kind == "program_change":
            self._program[message.channel] = message.program
        elif kind == "control_change":
            self._control(message.channel, message.control, message.value)

    def finished(self) -> Iterator[Event]:
        """Adds ends for notes that still sound at the end of the file."""
        for channel, pitch in list(self._sounding):
            self._end(channel, pitch)
        return iter(self._events)

    def _control(self, channel: int, control: int, value: int) -> None:
        if control == 7:
            self._volume[channel] = value
        elif control == 11:
            self._expression[channel] = value
        elif control == 64:
            self._pedal[channel] = value >= 64
            if value < 64:
                for key in sorted(key for key in self._held if key[0] == channel):
                    self._end(*key)
        elif control in (120, 123):
            for key in sorted(key for key in self._sounding if key[0] == channel):
                self._end(*key)

    def _begin(self, channel: int, pitch: int, velocity: int) -> None:
        instrument = self._instrument(channel)
        mixed = velocity * self._volume[channel] * self._expression[channel] / 127**2
        loudness = self._vocabulary.loudness_of(mixed)
        if instrument is None or not loudness:
            return
        if (channel, pitch) in self._held:
            self._end(channel, pitch)
        self._sounding.setdefault((channel, pitch), []).append(instrument)
        self._add(instrument, pitch, loudness)

    def _release(self, channel: int, pitch: int) -> None:
        if (channel, pitch) not in self._sounding:
            return
        if self._pedal[channel]:
            self._held.add((channel, pitch))
            return
        instruments = self._sounding[channel, pitch]
        self._add(instruments.pop(), pitch, 0)
        if not instruments:
            del self._sounding[channel, pitch]

    def _end(self, channel: int, pitch: int) -> None:
        self._held.discard((channel, pitch))
        for instrument in self._sounding.pop((channel, pitch), ()):
            self._add(instrument, pitch, 0)

    def _instrument(self, channel: int) -> int | None:
        name = "percussion" if channel == DRUM_CHANNEL else INSTRUMENT_OF_PROGRAM[self._program[channel]]
        names = self._vocabulary.instruments
        return names.index(name) if name in names else None

    def _add(self, instrument: int, pitch: int, loudness: int) -> None:
        if len(self._events) >= 2 * MAX_NOTES:
            raise too_long("notes", MAX_NOTES)
        before = self._events[-1].step if self._events else round(self._now)
        silence = self._now - self._cut - before
        # the note that starts now
        if silence > SILENCE_STEPS and loudness and sum(map(len, self._sounding.values())) == 1:
            self._cut += silence - SILENCE_STEPS
        self._events.append(Event(round(self._now - self._cut), instrument, pitch, loudness))
