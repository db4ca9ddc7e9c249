"""The vocabularies of RWKV's music models: events of a MIDI file as words, and the characters of ABC notation.

The words of the MIDI models are those in the author's ``tokenizer-midi.json`` (ChatRWKV, music/) and
``tokenizer-midipiano.json``, which briansemrau/MIDI-LLM-tokenizer (MIT) describes: three marks, 125 waits, then each
note of each instrument at each loudness. They are computed from a few numbers, so no list is stored. ``p:24:a`` is
percussion, note 0x24, loudness 0xa; loudness 0 ends the note; ``t125`` waits 125 steps of 8 ms.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from functools import cached_property

from msgspec import Struct

MARKS = ("<pad>", "<start>", "<end>")
"""0 separates the pieces that a model was trained on; the other two are only for text files."""
WAITS = 125
STEP_S = 0.008
PITCHES = 128
LOUDEST = 127


class MidiVocabulary(Struct, frozen=True, dict=True):
    """``instruments``: long names in id order; words use the shortest unique prefix. ``loudnesses``: number of levels;
    0 is silence. ``curve``: base of the exponential that maps velocities to levels (below 1: finer at the loud end)."""

    name: str
    instruments: tuple[str, ...]
    loudnesses: int
    curve: float

    @property
    def size(self) -> int:
        return len(MARKS) + WAITS + len(self.instruments) * PITCHES * self.loudnesses

    @cached_property
    def short_names(self) -> tuple[str, ...]:
        found: list[str] = []
        for name in self.instruments:
            found.append(next(name[:end] for end in range(1, len(name) + 1) if name[:end] not in found))
        return tuple(found)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """By id."""
        notes = (
            f"{short}:{pitch:x}:{loudness:x}"
            for short in self.short_names
            for pitch in range(PITCHES)
            for loudness in range(self.loudnesses)
        )
        return (*MARKS, *(f"t{steps}" for steps in range(1, WAITS + 1)), *notes)

    @cached_property
    def ids(self) -> dict[str, int]:
        return {word: token_id for token_id, word in enumerate(self.words)}

    def note_id(self, instrument: int, pitch: int, loudness: int) -> int:
        return len(MARKS) + WAITS + (instrument * PITCHES + pitch) * self.loudnesses + loudness

    def note_of(self, token_id: int) -> tuple[int, int, int] | None:
        """``(instrument, pitch, loudness)``; None for marks and waits."""
        rest = token_id - len(MARKS) - WAITS
        if rest < 0:
            return None
        place, loudness = divmod(rest, self.loudnesses)
        return *divmod(place, PITCHES), loudness

    def steps_of(self, token_id: int) -> int:
        """The number of steps that a word waits; 0 for other words."""
        steps = token_id - len(MARKS) + 1
        return steps if 0 < steps <= WAITS else 0

    @cached_property
    def velocities(self) -> tuple[int, ...]:
        """By loudness; :meth:`loudness_of` maps each back. 0, then 1 to 127."""
        last = self.loudnesses - 1
        exact = (128 * math.log((self.curve - 1) * n / last + 1, self.curve) - 1 for n in range(self.loudnesses))
        return (0, *(min(LOUDEST, max(1, math.ceil(value))) for value in list(exact)[1:]))

    def loudness_of(self, velocity: float) -> int:
        """0 only for velocity 0."""
        velocity = max(0.0, min(velocity, float(LOUDEST)))
        share = (math.pow(self.curve, velocity / 128) - 1) / (self.curve - 1)
        return min(self.loudnesses - 1, math.ceil(share * (self.loudnesses - 1) - 1e-9))


MIDI = MidiVocabulary(
    "midi",
    (
        "percussion", "drum", "tuba", "marimba", "bass", "guitar", "violin", "trumpet", "piano", "sax", "flute",
        "lead", "pad",
    ),
    12, 0.5,
)  # fmt: skip
MIDI_PIANO = MidiVocabulary("midi-piano", ("piano",), 16, 0.33)
MIDI_VOCABULARIES = {each.size: each for each in (MIDI, MIDI_PIANO)}


class MidiTokenizer:
    """The text of each word begins with a space, so that texts join (as in RWKV-Runner).

    Unknown words are skipped; with the author's file they become ``<pad>``, which ends the piece.
    """

    is_byte_level = True

    def __init__(self, vocabulary: MidiVocabulary) -> None:
        self.vocabulary = vocabulary
        self.name = vocabulary.name
        self.vocab_size = vocabulary.size

    def encode(self, text: str) -> list[int]:
        ids = self.vocabulary.ids
        return [ids[word] for word in text.lower().split() if word in ids]

    def encode_bytes(self, data: bytes) -> list[int]:
        return self.encode(data.decode("utf-8", "replace"))

    def decode(self, token_ids: Iterable[int]) -> str:
        return self.decode_bytes(token_ids).decode()

    def decode_bytes(self, token_ids: Iterable[int]) -> bytes:
        return b"".join(self.token_bytes(token_id) or b"" for token_id in token_ids)

    def token_bytes(self, token_id: int) -> bytes | None:
        if not len(MARKS) <= token_id < self.vocabulary.size:
            return None
        return b" " + self.vocabulary.words[token_id].encode()

    def unassigned_ids(self) -> list[int]:
        """Includes the marks: ``<start>`` and ``<end>`` are not in the training data, so no model writes them."""
        return [*range(len(MARKS))]


ABC_SIZE = 128
ABC_BEGIN, ABC_END = 2, 3


class AbcTokenizer:
    """The id is the character's code, as in the author's ``ABCTokenizer`` (ChatRWKV, music/run.py): 0 pads, 2 begins a
    tune and 3 ends it. Accents are removed from characters outside ASCII; others are skipped."""

    name = "abc"
    vocab_size = ABC_SIZE
    is_byte_level = True

    def encode(self, text: str) -> list[int]:
        plain = text if text.isascii() else unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        return [ord(character) for character in plain]

    def encode_bytes(self, data: bytes) -> list[int]:
        return self.encode(data.decode("utf-8", "replace"))

    def decode(self, token_ids: Iterable[int]) -> str:
        return self.decode_bytes(token_ids).decode("ascii")

    def decode_bytes(self, token_ids: Iterable[int]) -> bytes:
        return bytes(token_id for token_id in token_ids if ABC_END < token_id < ABC_SIZE)

    def token_bytes(self, token_id: int) -> bytes | None:
        return bytes([token_id]) if ABC_END < token_id < ABC_SIZE else None

    def unassigned_ids(self) -> list[int]:
        """Without 3, which has no text either: a model writes it at the end of a tune."""
        return [*range(ABC_BEGIN + 1)]
