"""The endpoints of RWKV-Runner, with its requests and responses: the model, the state cache, ``/file-to-text``, credit
grants, and music (backend-python/routes/midi.py).

Some change the model for everyone, or end the server; :mod:`webapp.web.roles` says who may do that. Runner accepted
"true" for true, and the deployment scripts linked in its manual send that.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

from flask import Response, current_app, request
from msgspec import Struct
from werkzeug.datastructures import FileStorage

from webapp.engine.options import EngineOptions
from webapp.engine.registry import resolve_strategy
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import FileMissing, ModelError, RoostError, StrategyError
from webapp.i18n import Text
from webapp.music.events import MAX_CHARS, write_text
from webapp.music.midi_file import MAX_BYTES, read_midi
from webapp.services.attachments import decode_text
from webapp.services.compose import MIDI_TEXT, saved, vocabulary_of
from webapp.tokenizer.music import MIDI, MidiVocabulary
from webapp.web.api import answering as api

SUCCESS = "success"
OFFLINE, LOADING, WORKING = 0, 2, 3
STATUS = {"loading": LOADING, "unloading": LOADING, "ready": WORKING, "answering": WORKING}
CREDIT = 10_000
EXIT_AFTER_S = 0.2
"""Delay, so that the response is sent before the server ends."""


class SwitchModel(Struct, kw_only=True, rename={"custom_cuda": "customCuda"}):
    """``model`` "" unloads. ``deploy`` is ignored: in Runner it decides who may use the server."""

    model: str
    strategy: str
    tokenizer: str | None = None
    custom_cuda: bool = False
    deploy: bool = False


class RunnerConfig(api.RunnerSampling, kw_only=True):
    """Null leaves a value unchanged."""

    state: str | None = None


class RunnerStatus(Struct):
    """``status``: 0 offline, 2 loading, 3 working."""

    status: int
    pid: int
    device_name: str


class Pages(Struct):
    pages: list[dict[str, Any]]


class RunnerError(Struct):
    detail: str


def switch_model() -> Response:
    """Responds when the model is loaded, as Runner does; 304 while another load is running."""
    asked = api.read_body(SwitchModel, is_strict=False)
    manager = api.the_manager()
    if manager.status().phase in ("loading", "unloading"):
        return Response(status=304)
    if not asked.model:
        manager.unload()
        return api.answer(SUCCESS)
    options = EngineOptions(custom_cuda=asked.custom_cuda, tokenizer=asked.tokenizer or "")
    manager.load(model=library_name(asked.model), strategy=asked.strategy, options=options)
    manager.wait_ready()
    return api.answer(SUCCESS)


def library_name(path: str) -> str:
    """Runner's clients send paths: a path into the models folder, or one that begins with Runner's own ``models/``, is
    converted to the name there."""
    folder = os.path.abspath(api.the_manager().library.models_dir)
    below = path.replace("\\", "/").removeprefix("./").removeprefix("models/")
    for candidate in (os.path.abspath(path), os.path.join(folder, path), os.path.join(folder, below)):
        found = os.path.normpath(candidate)
        if found.startswith(folder + os.sep) and os.path.isfile(found):
            return os.path.relpath(found, folder).replace(os.sep, "/")
    return path


def state_name(path: str) -> str:
    """The same for states, which Runner stored next to its models."""
    found = library_name(path)
    return found if found != path else path.replace("\\", "/").removeprefix("./").removeprefix("models/")


def update_config() -> Response:
    """Defaults for later requests, until the server ends; ``state``: the initial state of later answers."""
    asked = api.read_body(RunnerConfig, is_strict=False)
    given, state = api.asked_sampling(asked, "runner"), asked.state
    SamplingParams.from_dict(given)
    if state is not None:
        api.the_manager().apply_state(state_name(state))
    completions = api.the_completions()
    completions.overrides = {**completions.overrides, **given}
    return api.answer(SUCCESS)


def status() -> Response:
    found = api.the_manager().status()
    return api.answer(RunnerStatus(STATUS.get(found.phase, OFFLINE), os.getpid(), device_of(found.strategy)))


def device_of(strategy: str) -> str:
    """CPU also if nothing is chosen yet, or if the choice cannot run."""
    try:
        backend, options = resolve_strategy(strategy)
    except StrategyError:
        return "CPU"
    return backend.device_of(options)


def reset_states() -> Response:
    """``/reset-state``, and also ``/enable-`` and ``/disable-state-cache``, because Runner clears its cache for each.
    Roost's cache has its own limit, and fills again."""
    api.the_manager().clear_snapshots()
    return api.answer(SUCCESS)


def file_to_text() -> Response:
    """The text of a ``.txt`` as one page, in langchain's form; without ``file_encoding``, the encoding is detected from
    the bytes. A PDF is refused, because its text needs a separate process."""
    given = uploaded(api.the_settings().api_max_body_bytes)
    name = given.filename or request.args.get("file_name", "")
    if os.path.splitext(name)[1].lower() != ".txt":
        raise RoostError("attachment_not_text", name=name, reason=Text("reason.api.only_text_files"))
    page = {"page_content": decode_text(name, given.read()).text, "metadata": {"source": name}, "type": "Document"}
    return api.answer(Pages([page]))


def uploaded(limit: int) -> FileStorage:
    """The file of the request's form, which may have ``limit`` bytes."""
    request.max_content_length = limit
    given = request.files.get("file_data")
    if given is None:
        raise RoostError("invalid_parameter", param="file_data", reason=Text("reason.common.is_missing"))
    return given


def credit_grants() -> Response:
    """Clients of OpenAI's older API request it before they show anything; there is nothing to pay."""
    grant = {
        "object": "credit_grant",
        "grant_amount": CREDIT,
        "used_amount": 0,
        "effective_at": 1672531200,
        "expires_at": 33229440000,
    }
    return api.answer(
        {
            "object": "credit_summary",
            "total_granted": CREDIT,
            "total_used": 0,
            "total_available": CREDIT,
            "grants": {"object": "list", "data": [grant]},
        }
    )


def greet() -> Response:
    return api.answer({"Hello": "World!"})


def leave() -> Response:
    stop: Any = current_app.extensions.get("stop")
    if stop is None:
        raise ModelError(reason=Text("reason.api.was_not_started_by_serve"))
    threading.Timer(EXIT_AFTER_S, stop).start()
    return api.answer(SUCCESS)


# Music. Three endpoints work with files on the server, only in ``midi/`` in the data folder; Runner accepted any path.
# Audio is made by our own synthesiser; a given SoundFont is ignored.

FOLDER = "midi/"
NAME = re.compile(r"[\w][\w .-]{0,79}", re.ASCII)
SOUND_FONT = "assets/default_sound_font.sf2"
MAX_FORM_BYTES = MAX_BYTES + (64 << 10)


class MidiText(Struct):
    text: str


class TxtToMidi(Struct):
    txt_path: str
    midi_path: str


class MidiToWav(Struct):
    midi_path: str
    wav_path: str
    sound_font_path: str = SOUND_FONT


class TextToWav(Struct):
    text: str
    wav_name: str
    sound_font_path: str = SOUND_FONT


def text_to_midi() -> Response:
    """``music_unreadable`` contains the first word that is not in the model's vocabulary."""
    return Response(saved(MIDI_TEXT, api.read_body(MidiText).text, ".mid", the_vocabulary()), mimetype="audio/midi")


def midi_to_text() -> Response:
    given = uploaded(min(api.the_settings().api_max_body_bytes, MAX_FORM_BYTES))
    return api.answer(MidiText(text_of(given.read(MAX_BYTES + 1))))


def txt_to_midi() -> Response:
    asked = api.read_body(TxtToMidi)
    source, target = file_of(asked.txt_path, ".txt", "txt_path"), file_of(asked.midi_path, ".mid", "midi_path")
    text = content_of(source, MAX_CHARS).decode("utf-8", "replace")
    target.write_bytes(saved(MIDI_TEXT, text, ".mid", the_vocabulary()))
    return api.answer(SUCCESS)


def midi_to_wav() -> Response:
    asked = api.read_body(MidiToWav)
    source, target = file_of(asked.midi_path, ".mid", "midi_path"), file_of(asked.wav_path, ".wav", "wav_path")
    text = text_of(content_of(source, MAX_BYTES))
    target.write_bytes(saved(MIDI_TEXT, text, ".wav", the_vocabulary()))
    return api.answer(SUCCESS)


def text_to_wav() -> Response:
    """Writes three files with that name: ``.txt``, ``.mid`` and ``.wav``."""
    asked = api.read_body(TextToWav)
    made = {ending: saved(MIDI_TEXT, asked.text, ending, the_vocabulary()) for ending in (".txt", ".mid", ".wav")}
    for ending, content in made.items():
        file_of(f"{FOLDER}{asked.wav_name}{ending}", ending, "wav_name").write_bytes(content)
    return api.answer(SUCCESS)


def the_vocabulary() -> MidiVocabulary:
    """The vocabulary of the model in use; the larger one if it is not a MIDI model, or none is chosen."""
    try:
        return vocabulary_of(api.the_manager().model_info())
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
    folder = api.the_settings().data_dir / "midi"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def content_of(path: Path, limit: int) -> bytes:
    """Reads at most one byte beyond the limit, so that the reader refuses it."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as exc:
        raise FileMissing(path=FOLDER + path.name) from exc
