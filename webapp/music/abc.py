"""Converts ABC notation to notes, so that a tune can be saved as .mid and .wav.

Supported (abcnotation.com, standard 2.1): the fields L, M, Q, K and V, in the header and inside a tune; notes, rests,
chords, accidentals for the bar, ties, tuplets, broken rhythm, repeats and numbered endings. Ignored: grace notes,
ornaments, chord symbols, lyrics. Models make mistakes in tunes, so invalid text is skipped; a text without any note is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

from msgspec import Struct, field

from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.music.events import MAX_NOTES, Note, check_step, too_long, unreadable
from webapp.tokenizer.music import STEP_S

MAX_CHARS = 1 << 18
QUARTERS_A_MINUTE = 120
VELOCITY, STRESSED = 80, 96
"""Of a note, and of the first note in a bar."""
STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
ACCIDENTALS = {"^^": 2, "^": 1, "=": 0, "_": -1, "__": -2}
MODES = {"": 0, "maj": 0, "ion": 0, "m": -3, "min": -3, "aeo": -3, "mix": -1, "dor": -2, "phr": -4, "lyd": 1, "loc": -5}
"""How many fifths the mode is above the major key of the same tonic."""
FIFTHS = "FCGDAEB"
LONGEST = Fraction(64)
"""In whole notes; a larger number is a mistake."""

TOKEN = re.compile(
    r"""(?P<field>\[[A-Za-z]:[^\]\n]{0,200}\])
      |(?P<quoted>"[^"\n]{0,200}"|![^!\n]{0,80}!|\+[^+\n]{0,80}\+|\{[^}\n]{0,200}\})
      |(?P<tuplet>\((?P<p>\d)(?::(?P<q>\d?)(?::(?P<r>\d?))?)?)
      |(?P<bar>:{0,4}\|{0,4}[\[\]]?\|{1,4}[\]:]{0,4}(?:\[?(?P<ending>\d)(?:[,-]\d){0,8})?
        |::|\[(?P<ending2>\d)(?:[,-]\d){0,8})
      |(?P<chord>\[[^\]\n]{1,200}\])(?P<chord_length>\d*/*\d*)(?P<chord_tie>-?)
      |(?P<accidental>\^\^|\^|__|_|=)?(?P<letter>[A-Ga-g])(?P<octave>[,']*)(?P<length>\d*/*\d*)(?P<tie>-?)
      |(?P<rest>[zxZX])(?P<rest_length>\d*/*\d*)
      |(?P<broken><+|>+)""",
    re.VERBOSE,
)
"""The text between marks has a limited length, so that a line of opening marks does not take quadratic time."""
NOTE = re.compile(r"(?P<accidental>\^\^|\^|__|_|=)?(?P<letter>[A-Ga-g])(?P<octave>[,']*)(?P<length>\d*/*\d*)")
FIELD = re.compile(r"^([A-Za-z]):(?![|:])(.*)$")


class _Sound(Struct, frozen=True):
    """Pitches that sound at once; none for a rest. ``length`` is in whole notes."""

    pitches: tuple[int, ...]
    length: Fraction
    is_tied: bool = False
    seconds: float = 2.0
    """Of a whole note."""


class _Bar(Struct, frozen=True):
    starts: bool = False
    ends: bool = False
    ending: int = 0


class _Voice(Struct):
    """The state of reading one voice."""

    key: dict[str, int] = field(default_factory=dict)
    unit: Fraction = Fraction(1, 8)
    meter: Fraction = Fraction(1)
    whole_s: float = 4 * 60 / QUARTERS_A_MINUTE
    accidentals: dict[tuple[str, int], int] = field(default_factory=dict)
    items: list[_Sound | _Bar] = field(default_factory=list)
    broken: Fraction | None = None
    tuplet: tuple[Fraction, int] = (Fraction(1), 0)


def read_abc(text: str) -> list[Note]:
    """The notes of one tune, ordered by start; each voice is a track. Raises ``music_unreadable`` if there are none,
    ``music_too_long`` above 256 KiB, an hour or 100,000 notes."""
    if len(text) > MAX_CHARS:
        raise too_long("characters", MAX_CHARS)
    notes: list[Note] = []
    for track, voice in enumerate(_voices(text)):
        for note in _played(_unrolled(voice.items), track):
            notes.append(note)
            if len(notes) > MAX_NOTES:
                raise too_long("notes", MAX_NOTES)
    if not notes:
        raise unreadable("abc", Text("reason.music.no_abc_notes"))
    return sorted(notes, key=lambda note: (note.start_s, note.pitch))


def _voices(text: str) -> list[_Voice]:
    first = _Voice()
    voices, current, is_unit_set = {"": first}, first, False
    for line in text.splitlines():
        line = line.partition("%")[0]
        found = FIELD.match(line)
        if found is None:
            _read_line(line, current)
            continue
        name, value = found[1], found[2].strip()
        if name == "V":
            current = _voice(voices, value, first)
        elif name in "LMQK":
            for voice in voices.values() if name != "K" else (current,):
                _apply(voice, name, value, is_unit_set)
            is_unit_set = is_unit_set or name == "L"
    return list(voices.values())


def _voice(voices: dict[str, _Voice], value: str, first: _Voice) -> _Voice:
    name = value.split()[0] if value.split() else ""
    if name not in voices and len(voices) == 1 and not first.items:
        voices[name] = voices.pop("")
    if name not in voices and len(voices) < 32:
        voices[name] = _Voice(dict(first.key), first.unit, first.meter, first.whole_s)
    return voices.get(name, first)


def _apply(voice: _Voice, name: str, value: str, is_unit_set: bool = True) -> None:
    if name == "L" and (unit := _fraction(value)):
        voice.unit = unit
    elif name == "M":
        meter = {"C": Fraction(1), "C|": Fraction(1)}.get(value) or _fraction(value)
        if meter:
            voice.meter = meter
            if not is_unit_set:
                voice.unit = Fraction(1, 16) if meter < Fraction(3, 4) else Fraction(1, 8)
    elif name == "Q":
        beat = _fraction(value) or Fraction(1, 4)
        number = re.search(r"(?:=|^)\s*(\d{1,4})\s*$", value.partition('"')[0] or value)
        if number and int(number[1]):
            voice.whole_s = float(60 / (int(number[1]) * beat))
    elif name == "K":
        voice.key = _key(value)


def _fraction(text: str) -> Fraction | None:
    found = re.match(r"\s*(\d{1,3})/(\d{1,3})", text)
    return Fraction(int(found[1]), int(found[2])) if found and int(found[1]) and int(found[2]) else None


def _key(value: str) -> dict[str, int]:
    """Maps letters to 1 (sharp) or -1 (flat)."""
    found = re.match(r"\s*([A-G])([#b]?)\s*([A-Za-z]{0,3})", value)
    if found is None:
        return {}
    mode = found[3].lower()
    shift = MODES.get(mode, MODES.get(mode[:3], MODES["m"] if mode[:1] == "m" and mode[:3] not in MODES else 0))
    fifths = FIFTHS.index(found[1]) - 1 + {"#": 7, "b": -7}.get(found[2], 0) + shift
    return _scale(max(-7, min(fifths, 7)))


def _read_line(line: str, voice: _Voice) -> None:
    for found in TOKEN.finditer(line):
        if found["field"]:
            _apply(voice, found["field"][1], found["field"][3:-1].strip())
        elif found["tuplet"]:
            voice.tuplet = _tuplet(found)
        elif found["bar"]:
            _add_bar(voice, found["bar"], int(found["ending"] or found["ending2"] or 0))
        elif found["chord"]:
            inside = list(NOTE.finditer(found["chord"]))
            if inside:
                pitches = tuple(_pitch(voice, note) for note in inside)
                length = _length(inside[0]["length"]) * _length(found["chord_length"])
                _add(voice, pitches, length, bool(found["chord_tie"]))
        elif found["letter"]:
            _add(voice, (_pitch(voice, found),), _length(found["length"]), bool(found["tie"]))
        elif found["rest"]:
            length = _length(found["rest_length"])
            bars = voice.meter / voice.unit if found["rest"] in "ZX" else 1
            _add(voice, (), length * bars, False)
        elif found["broken"]:
            _break(voice, found["broken"])


def _tuplet(found: re.Match[str]) -> tuple[Fraction, int]:
    """The factor for the length of the next notes, and their number."""
    p = int(found["p"])
    usual = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}.get(p, 2)
    q, r = int(found["q"] or usual), int(found["r"] or p)
    return (Fraction(q, p), r) if p and q else (Fraction(1), 0)


def _add_bar(voice: _Voice, text: str, ending: int) -> None:
    signs = re.sub(r"\d.*$", "", text)
    is_double = "::" in signs
    starts, ends = signs.endswith(":") or is_double, signs.startswith(":") or is_double
    voice.items.append(_Bar(starts, ends, ending))
    voice.accidentals.clear()


def _length(text: str) -> Fraction:
    number, slashes, divisor = re.match(r"(\d*)(/*)(\d*)", text).groups()  # type: ignore[union-attr]
    if len(number) > 4 or len(divisor) > 4 or len(slashes) > 6:
        return Fraction(1)
    below = (int(divisor) or 1) if divisor else 2 ** len(slashes)
    return Fraction(int(number or 1), below)


def _pitch(voice: _Voice, found: re.Match[str]) -> int:
    letter, marks = found["letter"], found["octave"][:8]
    octave = marks.count("'") - marks.count(",") + (1 if letter.islower() else 0)
    place = (letter.upper(), octave)
    if found["accidental"]:
        voice.accidentals[place] = ACCIDENTALS[found["accidental"]]
    shift = voice.accidentals.get(place, voice.key.get(place[0], 0))
    return max(0, min(127, 60 + 12 * octave + STEPS[place[0]] + shift))


def _add(voice: _Voice, pitches: tuple[int, ...], length: Fraction, is_tied: bool) -> None:
    ratio, left = voice.tuplet
    if left:
        length, voice.tuplet = length * ratio, (ratio, left - 1)
    if voice.broken is not None:
        length, voice.broken = length * voice.broken, None
    length = min(length * voice.unit, LONGEST)
    if length:
        voice.items.append(_Sound(pitches, length, is_tied, voice.whole_s))


def _break(voice: _Voice, signs: str) -> None:
    """``a>b``: the first note is longer by half, the second shorter by half."""
    last = voice.items[-1] if voice.items else None
    if not isinstance(last, _Sound) or voice.broken is not None:
        return
    short = Fraction(1, 2 ** min(len(signs), 3))
    first, second = (2 - short, short) if signs[0] == ">" else (short, 2 - short)
    voice.items[-1] = _Sound(last.pitches, last.length * first, last.is_tied, last.seconds)
    voice.broken = second


def _unrolled(items: Sequence[_Sound | _Bar]) -> Iterator[_Sound | _Bar]:
    """Plays every repeat twice, each time with its numbered ending."""
    begin, place, time = 0, 0, 1
    while place < len(items):
        item = items[place]
        place += 1
        if not isinstance(item, _Bar):
            yield item
            continue
        yield item
        if item.ends:
            if time == 1:
                time, place = 2, begin
                continue
            time, begin = 1, place
        if item.starts:
            begin, time = place, 1 if place > begin else time
        if time == 2 and item.ending == 1:
            place = _next_ending(items, place)


def _next_ending(items: Sequence[_Sound | _Bar], place: int) -> int:
    for later in range(place, len(items)):
        item = items[later]
        if isinstance(item, _Bar) and item.ends:
            return later + (1 if item.ending else 0)
    return len(items)


def _played(items: Iterator[_Sound | _Bar], track: int) -> Iterator[Note]:
    now, is_first = 0.0, True
    tied: dict[int, Note] = {}
    for item in items:
        if isinstance(item, _Bar):
            is_first = True
            continue
        length = float(item.length) * item.seconds
        check_step((now + length) / STEP_S)
        held = {pitch: note for pitch, note in tied.items() if pitch in item.pitches}
        yield from (note for pitch, note in tied.items() if pitch not in held)
        tied = {}
        for pitch in dict.fromkeys(item.pitches):
            before = held.get(pitch)
            start = now if before is None else before.start_s
            velocity = before.velocity if before is not None else STRESSED if is_first else VELOCITY
            note = Note(round(start, 6), round(now + length - start, 6), pitch, velocity, "piano", track)
            if item.is_tied:
                tied[pitch] = note
            else:
                yield note
        now, is_first = now + length, False
    yield from tied.values()


# notes to a tune

UNIT = 16
"""Notes are rounded to sixteenths, in bars of four quarters."""
BARS_A_LINE = 4
TEMPOS = range(60, 161)
TEMPO_SAMPLE = 400
"""Number of note starts used to find the tempo."""
MAX_OVERLAP = 0.34
"""Part of a note's length. A larger overlap with the next note means a second voice, not a legato melody."""


def write_abc(notes: Iterable[Note]) -> str:
    """Writes one voice as a tune: rounded to sixteenths of the tempo that fits best, in the major key with the fewest
    accidentals, without silence at the start. Notes that start together become a chord. Raises ``music_many_voices``,
    with the place, for two simultaneous melodies or drums; ``music_unreadable`` without notes."""
    ordered = sorted(notes, key=lambda note: (note.start_s, note.pitch))
    if not ordered:
        raise unreadable("notes", Text("reason.music.no_notes"))
    drum = next((note for note in ordered if note.instrument in ("percussion", "drum")), None)
    if drum is not None:
        raise _many_voices(drum)
    tempo = _tempo_of([note.start_s - ordered[0].start_s for note in ordered])
    groups = _in_one_voice(ordered, 15 / tempo)
    fifths = max(range(-6, 7), key=lambda n: (_in_key(groups, n), -abs(n)))
    bars, marks = [""], dict[tuple[str, int], int]()
    now = 0
    for at, length, pitches in groups:
        for begin, end, sounds in ((now, at, ()), (at, at + length, pitches)):
            while begin < end:
                if begin and begin % UNIT == 0:
                    bars.append("")
                    marks.clear()
                stop = min(end, begin + UNIT - begin % UNIT)
                spelled = "".join(_spelled(pitch, fifths, marks) for pitch in sounds) or "z"
                head = f"[{spelled}]" if len(sounds) > 1 else spelled
                tie = "-" if sounds and stop < end else ""
                bars[-1] += f"{head}{_length_text(stop - begin)}{tie} "
                begin = stop
        now = at + length
    lines = (
        "|".join(bar.strip() for bar in bars[at : at + BARS_A_LINE]) + "|" for at in range(0, len(bars), BARS_A_LINE)
    )
    header = f"L:1/8\nM:4/4\nQ:1/4={round(tempo)}\nK:{_key_name(fifths)}\n"
    return header + "\n".join(lines) + "]\n"


def _many_voices(note: Note) -> RoostError:
    minutes, seconds = divmod(int(note.start_s), 60)
    return RoostError("music_many_voices", time=f"{minutes}:{seconds:02d}")


def _tempo_of(starts: Sequence[float]) -> float:
    """In quarters per minute: first, integers are compared by the times between note starts; then the best is refined
    with the starts, because an error in the tempo adds up over the piece."""
    starts = starts[:TEMPO_SAMPLE]
    between = [later - earlier for earlier, later in pairwise(starts) if later - earlier > 0.03]

    def error(times: Sequence[float], tempo: float) -> float:
        beats = [time * tempo / 15 for time in times]
        return sum(abs(beat - round(beat)) for beat in beats) / max(1, len(beats))

    coarse = min(TEMPOS, key=lambda tempo: error(between, tempo) + abs(tempo - 110) / 2000)
    fine = [coarse + step / 50 for step in range(-50, 51)]
    return min(fine, key=lambda tempo: (round(error(starts, tempo), 3), abs(tempo - coarse)))


def _in_one_voice(notes: Sequence[Note], unit_s: float) -> list[tuple[int, int, tuple[int, ...]]]:
    """Start and length in sixteenths, and ascending pitches, of each note or chord."""
    first = notes[0].start_s
    by_start: dict[int, list[Note]] = {}
    for note in notes:
        by_start.setdefault(round((note.start_s - first) / unit_s), []).append(note)
    starts = sorted(by_start)
    found = []
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        chord = by_start[start]
        length_s = max(note.duration_s for note in chord)
        length = max(1, round(length_s / unit_s))
        if following is not None and start + length > following:
            overlap = start + length - following
            if overlap > 1 and overlap > MAX_OVERLAP * length:
                raise _many_voices(by_start[following][0])
            length = following - start
        found.append((start, length, tuple(sorted({note.pitch for note in chord}))))
    return found


def _scale(fifths: int) -> dict[str, int]:
    """The accidentals of the major key this many fifths above C: letters to 1 (sharp) or -1 (flat)."""
    return dict.fromkeys(FIFTHS[:fifths], 1) if fifths >= 0 else dict.fromkeys(FIFTHS[fifths:], -1)


def _in_key(groups: Iterable[tuple[int, int, tuple[int, ...]]], fifths: int) -> int:
    """Total length of the notes that need no accidental."""
    scale = _scale(fifths)
    inside = {(step + scale.get(letter, 0)) % 12 for letter, step in STEPS.items()}
    return sum(length for _, length, pitches in groups for pitch in pitches if pitch % 12 in inside)


def _key_name(fifths: int) -> str:
    sharps, place = divmod(fifths + 1, 7)
    return FIFTHS[place] + {-1: "b", 0: "", 1: "#"}[sharps]


def _spelled(pitch: int, fifths: int, marks: dict[tuple[str, int], int]) -> str:
    """The note with the accidental that it needs; ``marks`` are the accidentals so far in the bar."""
    scale, usual = _scale(fifths), 1 if fifths >= 0 else -1
    ways = [(letter, sign) for letter in STEPS for sign in (0, 1, -1) if (STEPS[letter] + sign - pitch) % 12 == 0]
    letter, sign = min(ways, key=lambda way: (scale.get(way[0], 0) != way[1], way[1] != 0, way[1] != usual))
    octave = (pitch - sign - STEPS[letter] - 60) // 12
    mark = ""
    if marks.get((letter, octave), scale.get(letter, 0)) != sign:
        marks[letter, octave] = sign
        mark = next(text for text, shift in ACCIDENTALS.items() if shift == sign)
    name = letter.lower() + "'" * (octave - 1) if octave > 0 else letter + "," * -octave
    return mark + name


def _length_text(sixteenths: int) -> str:
    """In eighths."""
    length = Fraction(sixteenths, 2)
    if length.denominator == 1:
        return "" if length == 1 else str(length)
    return f"{length.numerator if length.numerator > 1 else ''}/2"
