"""Compose: a music model generates a piece, which is heard and seen meanwhile. A piece is its text, which the page
stores and sends with each request, so the server stores nothing. The page's scripts read lines of JSON; without
scripts, a button posts the form, and the page returns with the text and its files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from flask import Blueprint, Response, jsonify, request

from webapp.chat.messages import ContentDelta, Finished, Waiting
from webapp.errors import InvalidOption, RoostError
from webapp.i18n import Text
from webapp.music.events import MAX_CHARS, MAX_SECONDS, Note, NoteChange, NoteDecoder, unreadable
from webapp.services.compose import (
    ABC_TEXT,
    ENDINGS,
    GATHER_S,
    MIDI_TEXT,
    SEED_ENDINGS,
    CompositionRequest,
    compose,
    kind_of,
    notes_of_text,
    read_seed,
    saved,
    text_of_notes,
    vocabulary_of,
)
from webapp.services.generation.completions import Completion
from webapp.services.presets.fields import NAME_CHARS
from webapp.storage.records import storable
from webapp.tokenizer.music import MidiVocabulary
from webapp.web.chat.views import waiting_text, written_text
from webapp.web.guard import asker, current_role
from webapp.web.kit import page as kit
from webapp.web.presets.pages import state_choices
from webapp.web.roles import least_role
from webapp.web.status import music_models
from webapp.weights.inspection import Inspection

FORM_BYTES = 16 << 20
MAX_VARIATIONS = 4
POLL_S = 1.0
ABC_EVERY_S = 0.25
"""How often the notes of an ABC tune are sent; they must be parsed from its beginning each time."""
TYPES = {".mid": "audio/midi", ".wav": "audio/wav", ".abc": "text/vnd.abc", ".txt": "text/plain"}
RULES = {
    MIDI_TEXT: {
        "seconds": (1, 600, 30),
        "most_bpm": (0, 400, 0),
        "most_per_s": (0, 100, 0),
        "most_at_once": (0, 64, 0),
    },
    ABC_TEXT: {"bars": (1, 256, 16)},
}
"""By kind: each rule's minimum, maximum and default; 0 means no rule."""
TEMPERATURE = (0.0, 3.0, 1.0)

blueprint = Blueprint("compose", __name__, url_prefix="/compose")


# pages


@blueprint.get("")
def index() -> Response:
    page = kit.current_page()
    return kit.render_page("compose/page.html", compose_page(page, request.args.get("text", "")))


def compose_page(page: kit.PageContext, text: str = "", error: RoostError | None = None) -> kit.Values:
    """``compose/page.html``. ``kind`` is "" if no music model is chosen."""
    model = page.model if page.model is not None and page.model.kind == "music" else None
    shown: kit.Values = {
        "page_title": page.t("nav.compose"),
        "toasts": (page.error_toast(error),) if error else (),
        "kind": kind_of(model) if model else "",
        "models": [entry.name for entry in music_models(page)],
        "text": text,
    }
    if model is None:
        return shown
    kind, form = kind_of(model), request.form
    return shown | {
        "rules": [
            {"name": name, "least": least, "most": most, "value": form.get(name, str(usual))}
            for name, (least, most, usual) in RULES[kind].items()
        ],
        "temperature": form.get("temperature", str(TEMPERATURE[2])),
        "instruments": [
            kit.Choice(name, page.t(f"compose.instrument.{name}")) for name in vocabulary_of(model).instruments
        ]
        if kind == MIDI_TEXT
        else [],
        "chosen_instruments": form.getlist("instruments"),
        "variations": [kit.Choice(str(count), str(count)) for count in range(1, MAX_VARIATIONS + 1)],
        "endings": ENDINGS[kind],
        "accepts": ",".join(SEED_ENDINGS),
        "states": state_choices(page, model, form.get("state", "")),
        "chosen_state": form.get("state", ""),
        "state_name": state_name(model),
    }


def state_name(model: Inspection) -> str:
    """Name of the file with the model's state after a piece; "" if it is not possible: for a guest, or RWKV-4."""
    can_be = model.config is not None and model.config.major > 4 and current_role() >= least_role("states.make")
    return time.strftime("piece-%Y%m%d-%H%M%S") if can_be else ""


# generation


@blueprint.post("/write")
def write() -> Any:
    """Continues the piece, with ``variations`` at once."""
    page, is_gone = kit.current_page(), request.environ.get("waitress.client_disconnected", lambda: False)
    text = ""
    try:
        text = _text()
        page.manager.model_info()  # before a request to an invalid model
        completion = Completion([compose(page.manager, _composition_request(text))])
    except RoostError as exc:
        return _refused(page, exc, text)
    if kit.wants_json():
        return kit.json_lines(_lines(page, text, completion, is_gone))
    try:
        for _ in completion.events(POLL_S):
            if is_gone():
                completion.close()
    except RoostError as exc:
        return _refused(page, exc, text)
    return kit.render_page("compose/page.html", compose_page(page, text + completion.answers[0].text.content))


def _composition_request(text: str) -> CompositionRequest:
    info = kit.current_page().manager.model_info()
    kind, form = kind_of(info), request.form
    rules: kit.Values = {}
    for name, (least, most, usual) in RULES[kind].items():
        value = _number(name, least, most, usual)
        rules[name] = value if kind == MIDI_TEXT else int(value)
    rules["from_s"] = _number("from_s", 0, MAX_SECONDS, 0) if kind == MIDI_TEXT else 0
    rules["instruments"] = [name for name in form.getlist("instruments") if name]
    known = vocabulary_of(info).instruments
    for name in rules["instruments"]:
        if name not in known:
            allowed = Text("reason.engine.one_of", names=", ".join(known))
            raise InvalidOption(name="instruments", value=name[:40], allowed=allowed)
    sampling = {"temperature": _number("temperature", *TEMPERATURE)}
    if form.get("seed", "").strip():
        sampling["seed"] = int(_number("seed", 0, 2**53, 0))
    variations = int(_number("variations", 1, MAX_VARIATIONS, 1))
    state = form.get("state", "")[:NAME_CHARS] or None
    return CompositionRequest(text, rules=rules, sampling=sampling, variations=variations, state=state, client=asker())


def _number(name: str, least: float, most: float, usual: float) -> float:
    given = request.form.get(name, "").strip()
    try:
        value = float(given) if given else usual
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        allowed = Text("reason.engine.number_between", least=f"{least:g}", most=f"{most:g}")
        raise InvalidOption(name=name, value=given[:40], allowed=allowed)
    return value


def _text() -> str:
    request.max_form_memory_size = FORM_BYTES
    text = storable(request.form.get("text", "").replace("\r\n", "\n"))
    if len(text) > MAX_CHARS:
        raise RoostError("too_large", found=len(text), limit=MAX_CHARS)
    return text


def _refused(page: kit.PageContext, error: RoostError, text: str) -> Any:
    if kit.wants_json():
        return jsonify(error=page.error_values(error)), error.status
    status = kit.refused_status(error)
    return kit.render_page("compose/page.html", compose_page(page, text, error), status=status)


class _Piece:
    """One variation during generation: ``line`` is the update for the page, None for nothing."""

    def __init__(self, kind: str, head: str, vocabulary: MidiVocabulary) -> None:
        self._kind = kind
        self._text = head
        self._vocabulary = vocabulary
        self._decoder = NoteDecoder(vocabulary)
        self._sent_at = 0.0
        if kind == MIDI_TEXT and head.strip():
            self._decoder.feed(f"{head} ")

    def head(self) -> kit.Values:
        if self._kind == ABC_TEXT:
            return {"all": self._whole()}
        notes, now = self._decoder.notes, self._decoder.time_s
        return {"notes": [_row(number, note, note.duration_s == 0) for number, note in enumerate(notes)], "time": now}

    def take(self, text: str) -> kit.Values:
        self._text += text
        if self._kind == MIDI_TEXT:
            return {"text": text, **self._changes(self._decoder.feed(text))}
        if "|" not in text or time.monotonic() - self._sent_at < ABC_EVERY_S:
            return {"text": text}
        self._sent_at = time.monotonic()
        return {"text": text, "all": self._whole()}

    def end(self) -> kit.Values:
        """In the form of its file."""
        return {"all": self._whole()}

    def _changes(self, changes: list[NoteChange]) -> kit.Values:
        last = {change.number: change for change in changes}
        rows = [_row(one.number, one.note, one.is_sounding) for one in last.values()]
        return {"notes": rows, "time": self._decoder.time_s}

    def _whole(self) -> list[list[Any]]:
        try:
            return _rows(notes_of_text(self._kind, self._text, self._vocabulary))
        except RoostError:
            return []  # no note yet


def _row(number: int, note: Note, is_sounding: bool = False) -> list[Any]:
    """Number, start and length in seconds, pitch, velocity, instrument, track, whether it still sounds."""
    found = [number, round(note.start_s, 3), round(note.duration_s, 3), note.pitch, note.velocity]
    return [*found, note.instrument, note.track, int(is_sounding)]


def _rows(notes: list[Note]) -> list[list[Any]]:
    return [_row(number, note) for number, note in enumerate(notes)]


def _lines(page: kit.PageContext, head: str, completion: Completion, is_gone: Callable[[], bool]) -> Iterator[bytes]:
    """The beginning of each variation, then its updates, with the time (``at``, seconds of this machine's clock) at
    which the text left the engine. Ends, and stops generation, when the client has disconnected."""
    model = completion.prompts[0].model
    kind, vocabulary = kind_of(model.info), vocabulary_of(model.info)
    pieces = [_Piece(kind, head, vocabulary) for _ in completion.answers]
    sent_at = dict.fromkeys(range(len(pieces)), 0.0)
    try:
        for number, piece in enumerate(pieces):
            yield kit.json_line({"piece": number, "head": head, **piece.head()})
        for numbered in completion.events(POLL_S):
            if is_gone():
                return
            if numbered is None:
                yield b"\n"  # detects a disconnected client
                continue
            number, event = numbered
            if isinstance(event, ContentDelta):
                came = time.time()
                time.sleep(max(0.0, sent_at[number] + GATHER_S - time.monotonic()))  # the rest of the frame gathers
                sent_at[number] = time.monotonic()
                yield kit.json_line({"piece": number, **pieces[number].take(event.text), "at": came})
            elif isinstance(event, Waiting):
                yield kit.json_line({"waiting": waiting_text(event, page.t)})
            elif isinstance(event, Finished):
                end_fields = {"figures": written_text(event, page.t), "read": event.stats.get("prefilled_tokens", 0)}
                yield kit.json_line({"piece": number, **pieces[number].end(), **end_fields})
    except RoostError as exc:
        yield kit.json_line({"error": page.error_values(exc)})
    finally:
        completion.close()


# files, and notes played or changed by hand


@blueprint.post("/read")
def read() -> Any:
    """Text and notes of a file, of ``notes`` (rows as this module sends them; for an ABC model after ``text``), or of
    ``text``."""
    page = kit.current_page()
    request.max_form_memory_size = FORM_BYTES  # before the form is read
    try:
        info = page.manager.model_info()
        kind, vocabulary = kind_of(info), vocabulary_of(info)
        file = request.files.get("file")
        if file is not None and file.filename:
            text = read_seed(kind, file.filename, file.read(), vocabulary)
        else:
            text = _text()
            if "notes" in request.form:
                played = text_of_notes(kind, _given_notes(request.form["notes"]), vocabulary)
                text = f"{text.rstrip()}\n{played}".lstrip() if kind == ABC_TEXT else played
        return jsonify(text=text, notes=_rows(notes_of_text(kind, text, vocabulary)) if text.strip() else [])
    except RoostError as exc:
        return jsonify(error=page.error_values(exc)), exc.status


def _given_notes(data: str) -> list[Note]:
    try:
        found = [
            Note(float(start), float(length), int(pitch), int(velocity), str(instrument), int(track))
            for _, start, length, pitch, velocity, instrument, track, *_ in json.loads(data)
        ]
    except (ValueError, TypeError, RecursionError) as exc:
        raise unreadable("notes", Text("reason.common.is_not_valid_json")) from exc
    return found


@blueprint.post("/file")
def file() -> Any:
    """The piece as a file with the extension of the button."""
    page, text = kit.current_page(), ""
    try:
        text = _text()
        info = page.manager.model_info()
        ending = request.form.get("ending", "")[:8]
        data = saved(kind_of(info), text, ending, vocabulary_of(info))
    except RoostError as exc:
        return _refused(page, exc, text)
    return kit.download(data, TYPES[ending], f"roost{ending}")
