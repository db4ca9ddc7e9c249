"""Converts the words of the MIDI models (``<start> pi:3c:a t50 pi:3c:0 <end>``) to events and notes, and back.

An :class:`Event` is one word that sounds, with its time in steps of 8 ms; a :class:`Note` has a start and a length in
seconds, for display and playback. :class:`NoteDecoder` makes notes from streamed text. Text in canonical order is
reproduced exactly: within a step by instrument, then by pitch, with waits as long as possible
(briansemrau/MIDI-LLM-tokenizer, ``sort_token_data`` and ``delta_to_wait_ids``). :func:`bar_places` finds the bars of a
piece.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.tokenizer.music import MARKS, MIDI, STEP_S, WAITS, MidiVocabulary

MAX_SECONDS = 3600
MAX_NOTES = 100_000
MAX_CHARS = 4 << 20
"""Longest text that is read as music."""
HELD_S = 5.0
"""Length of a note without an end (``decode_end_held_note_delay`` in the author's vocab_config.json)."""
LAST_HELD_S = 3.0
"""The longest time that such a note lasts after the end of the text."""


class Event(NamedTuple):
    """``loudness`` 0 ends the note; ``instrument`` is its number in the vocabulary."""

    step: int
    instrument: int
    pitch: int
    loudness: int


class Note(Struct, frozen=True):
    """``pitch`` and ``velocity`` as in MIDI (60 is middle C; velocity 1 to 127). ``instrument`` is a name of
    :data:`webapp.music.midi_file.PROGRAMS`; ``track`` numbers the voices of the piece."""

    start_s: float
    duration_s: float
    pitch: int
    velocity: int
    instrument: str
    track: int


class NoteChange(Struct, frozen=True):
    """The current data of note ``number``. If ``is_sounding``, it continues and has its length so far. The last change
    of a number is final."""

    number: int
    note: Note
    is_sounding: bool


def unreadable(kind: str, reason: Text) -> RoostError:
    """``kind``: midi, text, abc or notes."""
    return RoostError("music_unreadable", kind=Text(f"reason.music.kind.{kind}"), reason=reason)


def too_long(unit: str, limit: int) -> RoostError:
    """``unit``: seconds, notes, bytes or characters."""
    return RoostError("music_too_long", limit=limit, unit=Text(f"reason.music.unit.{unit}"))


def check_step(step: float) -> None:
    if step * STEP_S > MAX_SECONDS:
        raise too_long("seconds", MAX_SECONDS)


# text


def read_text(text: str, vocabulary: MidiVocabulary = MIDI) -> list[Event]:
    """All events of one piece; a mark after the first event ends it. Raises ``music_unreadable`` with the first unknown
    word, ``music_too_long`` above an hour or 100,000 note events."""
    if len(text) > MAX_CHARS:
        raise too_long("characters", MAX_CHARS)
    events: list[Event] = []
    step = 0
    for number, word in enumerate(text.lower().split(), 1):
        token_id = vocabulary.ids.get(word)
        if token_id is None:
            raise unreadable("text", Text("reason.music.no_word", word=word[:40], number=number))
        if token_id < len(MARKS) and events:
            break
        step += vocabulary.steps_of(token_id)
        check_step(step)
        note = vocabulary.note_of(token_id)
        if note is not None:
            events.append(Event(step, *note))
            if len(events) > 2 * MAX_NOTES:
                raise too_long("notes", MAX_NOTES)
    return events


def write_text(events: Iterable[Event], vocabulary: MidiVocabulary = MIDI, is_marked: bool = True) -> str:
    """Removes silence before the first event. ``is_marked`` adds ``<start>`` and ``<end>``; a model's prompt has
    neither."""
    ordered = sorted(events, key=lambda event: event[:3])
    words = ["<start>"] if is_marked else []
    now = ordered[0].step if ordered else 0
    for step, instrument, pitch, loudness in ordered:
        words += _waits(step - now)
        now = step
        words.append(vocabulary.words[vocabulary.note_id(instrument, pitch, loudness)])
    return " ".join([*words, "<end>"] if is_marked else words)


def normalised(events: Iterable[Event]) -> list[Event]:
    """Orders events as in their text and gives every note an end: when it starts again, otherwise after :data:`HELD_S`,
    and at most :data:`LAST_HELD_S` after the last event. Removes ends without a note. Two channels of a file may start
    the same note at once; both are kept."""
    found: list[Event] = []
    sounding: dict[tuple[int, int], list[int]] = {}
    last = 0
    for event in sorted(events, key=lambda event: event[:3]):
        last = event.step
        begun = sounding.setdefault((event.instrument, event.pitch), [])
        if event.loudness and begun and begun[0] < event.step:
            found += [event._replace(loudness=0)] * len(begun)
            begun.clear()
        if event.loudness:
            begun.append(event.step)
        elif not begun:
            continue
        else:
            begun.pop()
        found.append(event)
    for (instrument, pitch), begun in sounding.items():
        for step in begun:
            end = min(step + round(HELD_S / STEP_S), last + round(LAST_HELD_S / STEP_S))
            found.append(Event(end, instrument, pitch, 0))
    return sorted(found, key=lambda event: event[:3])


def _waits(steps: int) -> Iterator[str]:
    while steps > 0:
        yield f"t{min(steps, WAITS)}"
        steps -= WAITS


# notes


def notes_of(events: Iterable[Event], vocabulary: MidiVocabulary = MIDI) -> list[Note]:
    """Ordered by start. A note ends when it starts again."""
    decoder = NoteDecoder(vocabulary)
    for event in sorted(events, key=lambda event: event.step):
        decoder.take(event)
    decoder.finish()
    return decoder.notes


def events_of(notes: Iterable[Note], vocabulary: MidiVocabulary = MIDI) -> list[Event]:
    """Raises ``music_unreadable`` for an invalid note: an unknown instrument, a pitch or velocity out of range, a time
    that is negative or NaN. If notes of the same pitch overlap, the earlier one ends when the later starts."""
    places: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}
    count = 0
    for count, note in enumerate(notes, 1):
        if count > MAX_NOTES:
            raise too_long("notes", MAX_NOTES)
        instrument, start, end = _checked(note, vocabulary)
        starts = places.setdefault((instrument, note.pitch), {})
        loudness, known_end = starts.get(start, (0, 0))
        starts[start] = (max(loudness, vocabulary.loudness_of(note.velocity)), max(end, known_end))
    events = []
    for (instrument, pitch), starts in places.items():
        ordered = sorted(starts)
        for start, following in zip(ordered, [*ordered[1:], None], strict=True):
            loudness, end = starts[start]
            events.append(Event(start, instrument, pitch, loudness))
            events.append(Event(end if following is None else min(end, following), instrument, pitch, 0))
    return sorted(events, key=lambda event: (*event[:3], event.loudness > 0))


def _checked(note: Note, vocabulary: MidiVocabulary) -> tuple[int, int, int]:
    """Instrument, start and end in steps; the end is at least one step later."""
    if note.instrument not in vocabulary.instruments:
        reason = Text("reason.music.no_instrument", name=str(note.instrument)[:40])
        raise unreadable("notes", reason)
    is_in_range = 0 <= note.pitch < 128 and 0 < note.velocity < 128
    if not is_in_range or not (note.start_s >= 0 and note.duration_s >= 0):  # also refuses NaN
        raise unreadable("notes", Text("reason.music.note_out_of_range"))
    check_step((note.start_s + note.duration_s) / STEP_S)
    start, end = round(note.start_s / STEP_S), round((note.start_s + note.duration_s) / STEP_S)
    return vocabulary.instruments.index(note.instrument), start, max(start + 1, end)


NOTE_WORD = re.compile(r"[a-z]+:[0-9a-f]{1,2}:[0-9a-f]")
"""Complete without a following space, because the loudness is one digit."""


class NoteDecoder:
    """Decodes notes from the streamed text of a MIDI model. Unknown words are skipped and counted, because one mistake
    should not end the piece. A note without an end lasts :data:`HELD_S`; if its end comes later, the note is reported
    again with its real length."""

    def __init__(self, vocabulary: MidiVocabulary = MIDI) -> None:
        self.notes: list[Note] = []
        """By number. Notes that are sounding have their length so far."""
        self.skipped = 0
        self._vocabulary = vocabulary
        self._step = 0
        self._rest = ""
        self._sounding: dict[tuple[int, int], int] = {}
        self._overdue: dict[tuple[int, int], int] = {}

    @property
    def time_s(self) -> float:
        return self._step * STEP_S

    def feed(self, text: str) -> list[NoteChange]:
        """``text`` may end anywhere. Raises ``music_too_long`` above an hour or 100,000 notes."""
        *words, self._rest = re.split(r"\s+", self._rest + text.lower())
        if NOTE_WORD.fullmatch(self._rest):
            words.append(self._rest)
            self._rest = ""
        if len(self._rest) > 40:
            self._rest, self.skipped = "", self.skipped + 1
        return [change for word in words if word for change in self._word(word)]

    def finish(self) -> list[NoteChange]:
        """Call it at the end of the text; ends the notes that are sounding."""
        changes = self.feed(" ")
        for number in self._sounding.values():
            length = min(HELD_S, self.time_s - self.notes[number].start_s + LAST_HELD_S)
            changes.append(self._changed(number, length))
        self._sounding.clear()
        return changes

    def take(self, event: Event) -> list[NoteChange]:
        """Like :meth:`feed`, for events, in order of their steps."""
        return [*self._wait(event.step - self._step), *self._play(*event[1:])]

    def _word(self, word: str) -> list[NoteChange]:
        token_id = self._vocabulary.ids.get(word)
        if token_id is None:
            self.skipped += 1
            return []
        if steps := self._vocabulary.steps_of(token_id):
            return self._wait(steps)
        note = self._vocabulary.note_of(token_id)
        return [] if note is None else self._play(*note)

    def _wait(self, steps: int) -> list[NoteChange]:
        self._step += steps
        check_step(self._step)
        late = self.time_s - HELD_S
        overdue = {key: number for key, number in self._sounding.items() if self.notes[number].start_s < late}
        for key in overdue:
            del self._sounding[key]
        self._overdue.update(overdue)
        return [self._changed(number, HELD_S) for number in overdue.values()]

    def _play(self, instrument: int, pitch: int, loudness: int) -> list[NoteChange]:
        key = (instrument, pitch)
        begun = self._sounding.get(key)
        if begun is not None and loudness and self.notes[begun].start_s == self.time_s:
            return []  # two channels of a file play the same note
        number = self._sounding.pop(key, self._overdue.pop(key, None) if not loudness else None)
        changes = [] if number is None else [self._changed(number, self.time_s - self.notes[number].start_s)]
        if loudness:
            self._overdue.pop(key, None)
            if len(self.notes) == MAX_NOTES:
                raise too_long("notes", MAX_NOTES)
            name, velocity = self._vocabulary.instruments[instrument], self._vocabulary.velocities[loudness]
            self._sounding[key] = len(self.notes)
            self.notes.append(Note(self.time_s, 0.0, pitch, velocity, name, instrument))
            changes.append(NoteChange(len(self.notes) - 1, self.notes[-1], True))
        return changes

    def _changed(self, number: int, length_s: float) -> NoteChange:
        self.notes[number] = replace(self.notes[number], duration_s=round(length_s, 6))
        return NoteChange(number, self.notes[number], False)


# bars, at which users continue a piece

BAR_S = 2.0
"""Length of a bar if the piece has no fixed tempo."""
BAR_SIGNS = "|:]0123456789 \n"
"""Characters that continue a bar line: ``|:``, ``||``, ``|]``, ``|1``, and the end of a line."""
BEFORE_CHARS = 200
"""Enough characters to find the last bar line or key."""


def bar_places(
    vocabulary: MidiVocabulary | None, token_ids: Iterable[int], bar_s: float = BAR_S
) -> tuple[list[int], float]:
    """How many tokens of a piece come before each of its bars, and its length in seconds (0 for ABC). ``vocabulary`` is
    None for ABC."""
    bars = AbcBars() if vocabulary is None else MidiBars(vocabulary, bar_s)
    places = [place for place, token_id in enumerate(token_ids) if bars.begins(token_id)]
    return places, bars.step * STEP_S


class MidiBars:
    """Bars of equal length. A bar begins with the first word at its time, or with the wait that passes this time."""

    def __init__(self, vocabulary: MidiVocabulary, bar_s: float, before_s: float = 0.0) -> None:
        self._steps_of = vocabulary.steps_of
        self._bar = bar_s / STEP_S
        self.step = round(before_s / STEP_S)
        self._next = max(1, math.ceil((self.step - 0.5) / self._bar))

    def begins(self, token_id: int) -> bool:
        """Takes the next token; returns whether it is the first of a bar."""
        due, before = self._next * self._bar, self.step
        self.step += self._steps_of(token_id)
        if before < due - 0.5 and self.step <= due + 0.5:
            return False
        self._next = max(self._next + 1, math.ceil((self.step - 0.5) / self._bar))
        return True


class AbcBars:
    """A bar begins with the first character after a bar line and its signs, or after the key, which ends the header."""

    step = 0

    def __init__(self) -> None:
        self._line = ""
        self._is_due = False

    def begins(self, token_id: int) -> bool:
        """Takes the next token; returns whether it is the first of a bar."""
        character = chr(token_id)
        is_first = self._is_due and character not in BAR_SIGNS
        if character == "|" or (character == "\n" and self._line.startswith("K:")):
            self._is_due = True
        elif is_first:
            self._is_due = False
        self._line = "" if character == "\n" else (self._line + character)[:2]
        return is_first
