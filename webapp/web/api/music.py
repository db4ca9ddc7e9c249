"""``/text-to-midi``, ``/midi-to-text``, ``/txt-to-midi``, ``/midi-to-wav`` and ``/text-to-wav``, with the requests and
responses of RWKV-Runner (backend-python/routes/midi.py).

The last three work with files on the server, only in ``midi/`` in the data folder; Runner accepted any path. Audio is
made by our own synthesiser; a given SoundFont is ignored.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from flask import Response, request

from webapp.errors import FileMissing, RoostError
from webapp.i18n import Text
from webapp.music.events import MOST_CHARS, write_text
from webapp.music.midi_file import MOST_BYTES, read_midi
from webapp.services.compose import MIDI_TEXT, saved, vocabulary_of
from webapp.tokenizer.music import MIDI, MidiVocabulary
from webapp.web.api.answering import answer, read_body, the_manager, the_settings
from webapp.web.api.runner import SUCCESS

FOLDER = "midi/"
NAME = re.compile(r"[\w][\w .-]{0,79}", re.ASCII)
SOUND_FONT = "assets/default_sound_font.sf2"
MOST_FORM_BYTES = MOST_BYTES + (64 << 10)


class MidiText(msgspec.Struct):
    text: str


class TxtToMidi(msgspec.Struct):
    txt_path: str
    midi_path: str


class MidiToWav(msgspec.Struct):
    midi_path: str
    wav_path: str
    sound_font_path: str = SOUND_FONT


class TextToWav(msgspec.Struct):
    text: str
    wav_name: str
    sound_font_path: str = SOUND_FONT


def text_to_midi() -> Response:
    """``music_unreadable`` contains the first word that is not in the model's vocabulary."""
    return Response(saved(MIDI_TEXT, read_body(MidiText).text, ".mid", the_vocabulary()), mimetype="audio/midi")


def midi_to_text() -> Response:
    request.max_content_length = min(the_settings().api_max_body_bytes, MOST_FORM_BYTES)
    given = request.files.get("file_data")
    if given is None:
        raise RoostError("invalid_parameter", param="file_data", reason=Text("reason.common.is_missing"))
    return answer(MidiText(text_of(given.read(MOST_BYTES + 1))))


def txt_to_midi() -> Response:
    asked = read_body(TxtToMidi)
    source, target = file_of(asked.txt_path, ".txt", "txt_path"), file_of(asked.midi_path, ".mid", "midi_path")
    text = content_of(source, MOST_CHARS).decode("utf-8", "replace")
    target.write_bytes(saved(MIDI_TEXT, text, ".mid", the_vocabulary()))
    return answer(SUCCESS)


def midi_to_wav() -> Response:
    asked = read_body(MidiToWav)
    source, target = file_of(asked.midi_path, ".mid", "midi_path"), file_of(asked.wav_path, ".wav", "wav_path")
    text = text_of(content_of(source, MOST_BYTES))
    target.write_bytes(saved(MIDI_TEXT, text, ".wav", the_vocabulary()))
    return answer(SUCCESS)


def text_to_wav() -> Response:
    """Writes three files with that name: ``.txt``, ``.mid`` and ``.wav``."""
    asked = read_body(TextToWav)
    made = {ending: saved(MIDI_TEXT, asked.text, ending, the_vocabulary()) for ending in (".txt", ".mid", ".wav")}
    for ending, content in made.items():
        file_of(f"{FOLDER}{asked.wav_name}{ending}", ending, "wav_name").write_bytes(content)
    return answer(SUCCESS)


def the_vocabulary() -> MidiVocabulary:
    """The vocabulary of the model in use; the larger one if it is not a MIDI model, or none is chosen."""
    try:
        return vocabulary_of(the_manager().model_info())
    except RoostError:
        return MIDI


def text_of(data: bytes) -> str:
    vocabulary = the_vocabulary()
    return write_text(read_midi(data, vocabulary), vocabulary)


def file_of(path: str, ending: str, param: str) -> Path:
    """``midi/<name>`` with that extension, in the data folder; raises ``invalid_parameter`` for others."""
    name = path.removeprefix(FOLDER)
    if not path.startswith(FOLDER) or not NAME.fullmatch(name) or not name.lower().endswith(ending):
        raise RoostError("invalid_parameter", param=param, reason=Text("reason.api.music_path", ending=ending))
    folder = the_settings().data_dir / "midi"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def content_of(path: Path, limit: int) -> bytes:
    """Reads at most one byte beyond the limit, so that the reader refuses it."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as exc:
        raise FileMissing(path=FOLDER + path.name) from exc
