"""Music for page, API and terminal: requests to a music model, and the conversion of its text.

A :class:`CompositionRequest` becomes one :class:`~.generation.generation.Generation` per variation. Its text streams
like any answer: from a MIDI model into a :class:`~webapp.music.events.NoteDecoder`, from an ABC model into a score.
:func:`saved` converts a complete text to a file, :func:`read_seed` a file to text.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.music.abc import read_abc, write_abc
from webapp.music.events import (
    BAR_S,
    BEFORE_CHARS,
    Note,
    bar_places,
    events_of,
    notes_of,
    read_text,
    unreadable,
    write_text,
)
from webapp.music.midi_file import read_midi, write_midi
from webapp.services.generation.generation import AnswerText, Generation
from webapp.services.generation.request import PromptModel, prepare, raw_prompt
from webapp.services.presets.presets import published_sampling
from webapp.tokenizer.music import (
    ABC_BEGIN,
    MARKS,
    MIDI,
    MIDI_VOCABULARIES,
    AbcTokenizer,
    MidiTokenizer,
    MidiVocabulary,
)
from webapp.weights.inspection import Inspection

MIDI_TEXT, ABC_TEXT = "midi", "abc"
PIECE_TOKENS = 4096
"""The author trained the models on pieces of this many tokens."""
ENDINGS = {MIDI_TEXT: (".mid", ".txt", ".wav", ".abc"), ABC_TEXT: (".abc", ".txt", ".mid", ".wav")}
RULES = ("most_at_once", "most_per_s", "most_bpm", "seconds", "bars")
"""The numeric rules; the list ``instruments`` is another rule."""
GATHER_S = 0.016
"""Output within one frame of a page is sent together."""
PROMPT_BARS = 32
"""Limit for a piece that is prefilled: not every bar of a longer one has a snapshot."""
SEED_ENDINGS = (".mid", ".midi", ".txt", ".abc")


class CompositionRequest(Struct, frozen=True):
    """``prompt``: text of the model's kind that the music continues; ``token_ids`` instead continues from exactly these
    tokens. Only the part after the last snapshot is prefilled: the engine keeps snapshots at the beginnings of bars,
    within their memory limit (``PARTS_SHARE`` in :mod:`webapp.engine.snapshot_store`), every 256 tokens and at the
    end. ``rules`` as in :mod:`webapp.structured.music_rules`, without the kind and the time before; ``sampling``:
    SamplingParams that differ from the author's."""

    prompt: str = ""
    token_ids: tuple[int, ...] = ()
    rules: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = PIECE_TOKENS
    variations: int = 1
    state: str | None = None
    client: str = ""


def kind_of(info: Inspection) -> str:
    """:data:`MIDI_TEXT` or :data:`ABC_TEXT`; raises ``not_a_music_model`` for other models."""
    if info.kind != "music":
        raise RoostError("not_a_music_model", name=os.path.basename(info.path))
    return ABC_TEXT if info.tokenizer == "abc" else MIDI_TEXT


def vocabulary_of(info: Inspection) -> MidiVocabulary:
    """The vocabulary of a MIDI model; the larger one for others."""
    return MIDI_VOCABULARIES.get(info.config.vocab_size if info.config else 0, MIDI)


def prompt_ids(model: PromptModel, prompt: str) -> tuple[int, ...]:
    """Includes the token that begins a piece. Raises ``music_unreadable`` for MIDI text with an invalid word."""
    if kind_of(model.info) == ABC_TEXT:
        return (ABC_BEGIN, *model.tokenizer.encode(prompt))
    read_text(prompt, vocabulary_of(model.info))
    ids = model.tokenizer.encode(prompt)
    return (0, *(token_id for token_id in ids if token_id >= len(MARKS)))


def compose(manager: ModelManager, asked: CompositionRequest) -> list[Generation]:
    """One Generation per variation, not started yet; all share one prefill. Raises ``not_a_music_model``,
    ``music_unreadable``, ``sampling_invalid`` or ``grammar_invalid`` (impossible rules)."""
    model = PromptModel.chosen(manager)
    kind = kind_of(model.info)
    if not isinstance(model.tokenizer, (AbcTokenizer, MidiTokenizer)):
        raise RoostError("not_a_music_model", name=os.path.basename(model.info.path))
    values = {**published_sampling(model.info).values, **asked.sampling, "max_tokens": asked.max_tokens}
    params = SamplingParams.from_dict(values)
    rules: dict[str, Any] = {"kind": kind} | {name: value for name, value in asked.rules.items() if value}
    ids = asked.token_ids or prompt_ids(model, asked.prompt)
    if kind == MIDI_TEXT:
        rules["bar_s"] = bar_s(rules.get("most_bpm", 0))
    vocabulary = vocabulary_of(model.info) if kind == MIDI_TEXT else None
    places, before_s = bar_places(vocabulary, ids, rules.get("bar_s", BAR_S))
    if before_s:
        rules["before_s"] = before_s
    if kind == ABC_TEXT:
        rules["before"] = model.tokenizer.decode(ids[-BEFORE_CHARS:])
    rendered = raw_prompt("", ids)
    prepared = prepare(model, rendered, params, rules, asked.state)
    boundaries = (*places[:: 1 + len(places) // PROMPT_BARS], len(ids))
    prepared = replace(prepared, encoded=replace(prepared.encoded, boundaries=boundaries))
    made = []
    for number in range(asked.variations):
        own = params if params.seed is None else replace(params, seed=params.seed + number)
        text = AnswerText(rendered, model.tokenizer, (), params=own)
        prompt = replace(prepared, params=own)
        made.append(Generation(manager, prompt, asked.client, text, is_kept=True, gather_s=GATHER_S))
    return made


def bar_s(most_bpm: float) -> float:
    """Seconds per bar: four beats at the piece's tempo limit, or two seconds."""
    return min(240 / most_bpm, 3600.0) if most_bpm else BAR_S


def notes_of_text(kind: str, text: str, vocabulary: MidiVocabulary = MIDI) -> list[Note]:
    """Raises ``music_unreadable`` or ``music_too_long`` if the text has no notes or no end."""
    return read_abc(text) if kind == ABC_TEXT else notes_of(read_text(text, vocabulary), vocabulary)


def saved(kind: str, text: str, ending: str, vocabulary: MidiVocabulary = MIDI) -> bytes:
    """Converts a complete piece, with its prompt, to a file with this ending (:data:`ENDINGS`), or ``music_ending``."""
    if ending not in ENDINGS[kind]:
        raise RoostError("music_ending", ending=ending, names=", ".join(ENDINGS[kind]))
    if ending == ".wav":
        from webapp.music.synthesiser import wav_of  # imports numpy

        return wav_of(notes_of_text(kind, text, vocabulary))
    if kind == ABC_TEXT:
        if ending == ".mid":
            return write_midi(events_of(read_abc(text)))
        has_number = any(line.startswith("X:") for line in text.splitlines())
        return (text if has_number or ending == ".txt" else f"X:1\n{text}").encode()
    events = read_text(text, vocabulary)
    if ending == ".abc":
        return f"X:1\n{write_abc(notes_of(events, vocabulary))}".encode()
    return write_midi(events, vocabulary) if ending == ".mid" else write_text(events, vocabulary).encode()


ABC_FIELDS = "SBELMKQV"
"""The header fields in the training data of the ABC models; titles and similar fields are not among them."""


def read_seed(kind: str, name: str, data: bytes, vocabulary: MidiVocabulary = MIDI) -> str:
    """Converts a file to a text that a model of that kind can continue. A MIDI model takes an ABC tune as piano notes,
    an ABC model a ``.mid`` with one voice. Raises ``music_ending``, ``music_unreadable``, ``music_many_voices`` or
    ``music_too_long``."""
    ending = os.path.splitext(name)[1].lower()
    if ending not in SEED_ENDINGS:
        raise RoostError("music_ending", ending=ending or name, names=", ".join(SEED_ENDINGS))
    if ending in (".mid", ".midi"):
        events = read_midi(data, vocabulary)
        return text_of_notes(kind, notes_of(events)) if kind == ABC_TEXT else write_text(events, vocabulary, False)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise unreadable("abc" if ending == ".abc" else "text", Text("reason.tokenizer.not_utf_8")) from exc
    if kind == MIDI_TEXT:
        events = events_of(read_abc(text), vocabulary) if ending == ".abc" else read_text(text, vocabulary)
        return write_text(events, vocabulary, is_marked=False)
    read_abc(text)
    return _of_training(text)


def text_of_notes(kind: str, notes: Iterable[Note], vocabulary: MidiVocabulary = MIDI) -> str:
    """Converts notes that a person played or edited to text that a model of that kind can continue; for an ABC model
    only one voice (``music_many_voices``). Raises ``music_unreadable`` or ``music_too_long``."""
    events = events_of(notes, vocabulary)
    if kind == ABC_TEXT:
        return write_abc(notes_of(events, vocabulary))
    return write_text(events, vocabulary, is_marked=False)


def _of_training(text: str) -> str:
    lines = (line for line in text.splitlines() if line[1:2] != ":" or line[2:3] in ("|", ":") or line[0] in ABC_FIELDS)
    return "\n".join(lines)
