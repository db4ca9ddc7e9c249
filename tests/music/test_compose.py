"""Pieces by the tiny trained models, from the service and `roost compose`."""

from __future__ import annotations

import io
import json
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.music.tunes import abc_tune, midi_tune
from tests.errors import raises_code
from tests.manager.thread_engine import start_engine_in_thread
from tests.music.models import music_model
from tests.music.test_abc import bars_in
from tests.weights.make_checkpoints import write_checkpoint
from webapp.chat.messages import ContentDelta, Message, Role
from webapp.cli import main
from webapp.manager.manager import ModelManager
from webapp.music.abc import read_abc
from webapp.music.events import Note, NoteDecoder, bar_places, events_of, notes_of, read_text, write_text
from webapp.music.midi_file import read_midi, write_midi
from webapp.services.compose import RULES, CompositionRequest, bar_s, compose, read_seed, saved, text_of_notes
from webapp.services.generation.completions import Completions
from webapp.services.generation.request import AnswerRequest, ChatPrompt, TextPrompt
from webapp.services.presets.presets import Presets
from webapp.settings import Settings
from webapp.structured.music_rules import LIMITS
from webapp.tokenizer.music import MIDI

NAMES = {"midi": "tiny-midi.safetensors", "abc": "tiny-abc.safetensors"}


@pytest.fixture(scope="module")
def folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    for kind, name in NAMES.items():
        shutil.copy(music_model(pytestconfig, kind), made / name)
    write_checkpoint(made / "text.safetensors", "7", n_layer=1, n_embd=64)
    return made


@pytest.fixture(scope="module")
def managers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ModelManager]]:
    made = {}
    for kind, name in {**NAMES, "text": "text.safetensors"}.items():
        settings = Settings(
            data_dir=tmp_path_factory.mktemp(kind), models_dir=folder, model=name, strategy="torch cpu f32"
        )
        made[kind] = ModelManager(settings, start_engine=start_engine_in_thread)
    yield made
    for manager in made.values():
        manager.close()


def written(manager: ModelManager, asked: CompositionRequest) -> list[str]:
    generations = compose(manager, asked)
    for generation in generations:
        generation.start()
        generation.finish()
    return [generation.text.content for generation in generations]


def test_a_midi_model_writes_music_and_its_notes_stream(managers):
    asked = CompositionRequest(rules={"seconds": 8, "instruments": ["piano", "bass"]}, sampling={"seed": 5})
    (generation,) = compose(managers["midi"], asked)
    generation.start()
    decoder, streamed = NoteDecoder(), 0
    for event in generation.events():
        if isinstance(event, ContentDelta):
            streamed += len(decoder.feed(event.text))
    decoder.finish()
    text = generation.text.content
    whole = NoteDecoder()
    whole.feed(text)
    whole.finish()
    assert decoder.notes == whole.notes and decoder.skipped == 0 and streamed > 20
    assert len(notes_of(read_text(text))) == len(decoder.notes)
    assert len(decoder.notes) > 10 and {note.instrument for note in decoder.notes} <= {"piano", "bass"}
    assert 8 <= decoder.time_s < 9
    assert len(notes_of(read_midi(saved("midi", text, ".mid")))) == len(decoder.notes)
    with wave.open(io.BytesIO(saved("midi", text, ".wav"))) as file:
        assert file.getnframes() >= 8 * file.getframerate()


def test_an_abc_model_writes_a_tune_of_the_wanted_bars(managers):
    (text,) = written(managers["abc"], CompositionRequest("S:2\nB:4\nE:5\nB:4\nL:1/8\nM:4/4\nK:G\n", rules={"bars": 6}))
    assert bars_in(text) == 6
    assert len(read_abc(text)) > 10
    assert saved("abc", text, ".abc").startswith(b"X:1\n") and read_midi(saved("abc", text, ".mid"))


def test_variations_differ_and_a_seed_gives_the_same_again(managers):
    asked = CompositionRequest(rules={"seconds": 3}, sampling={"seed": 9}, variations=3)
    first, again = written(managers["midi"], asked), written(managers["midi"], asked)
    assert first == again and len(set(first)) == 3


def read_again(manager: ModelManager, ids: tuple[int, ...]) -> int:
    """Number of tokens prefilled when continuing from there."""
    (fork,) = compose(manager, CompositionRequest(token_ids=ids, max_tokens=2))
    fork.start()
    return fork.finish().stats["prefilled_tokens"]


@pytest.mark.parametrize(
    "kind, asked",
    [
        ("midi", CompositionRequest(rules={"seconds": 12, "most_bpm": 100}, sampling={"seed": 2})),
        ("midi", CompositionRequest("pi:3c:9 t125 t125 pi:3c:0 t30", rules={"seconds": 9}, sampling={"seed": 3})),
        ("abc", CompositionRequest(rules={"bars": 6}, sampling={"seed": 4})),
        ("abc", CompositionRequest("L:1/8\nM:4/4\nK:G\n|: GABc dedB |", rules={"bars": 4}, sampling={"seed": 4})),
    ],
)
def test_a_fork_at_any_bar_prefills_nothing_again(managers, kind, asked):
    """In the generated part, and in the part before it."""
    (generation,) = compose(managers[kind], asked)
    generation.start()
    generation.finish()
    ids = (*generation.prompt.token_ids, *generation.text.token_ids)
    vocabulary = MIDI if kind == "midi" else None
    places, _ = bar_places(vocabulary, ids, bar_s(asked.rules.get("most_bpm", 0)))
    assert len(places) >= 5
    assert [read_again(managers[kind], ids[:place]) for place in places] == [0] * len(places)
    assert 0 < read_again(managers[kind], ids[: places[-1] - 2]) < 256


def test_a_music_model_completes_and_does_not_chat(managers, database):
    settings = Settings()
    completions = Completions(managers["midi"], Presets(managers["midi"], database, settings))
    hello = AnswerRequest((ChatPrompt((Message(Role.USER, "Hello"),)),))
    with raises_code("model_writes_music", name=NAMES["midi"]):
        completions.start(hello)
    completion = completions.start(AnswerRequest((TextPrompt("<pad> pi:3c:9"),), {"max_tokens": 5}))
    assert [item for item in completion.events(0.01) if item is not None]
    assert len(completion.answers[0].text.token_ids) == 5


def test_what_is_no_music_model_is_refused(managers):
    with raises_code("not_a_music_model", name="text.safetensors"):
        compose(managers["text"], CompositionRequest())
    with raises_code("music_unreadable", key="reason.music.no_word", word="oops"):
        compose(managers["midi"], CompositionRequest("pi:3c:a oops"))
    with raises_code("sampling_invalid"):
        compose(managers["midi"], CompositionRequest(sampling={"top_p": 2}))


def test_seeds_of_every_kind():
    events = midi_tune(3)
    text = write_text(events, is_marked=False)
    assert read_seed("midi", "a.MID", write_midi(events)) == text
    assert read_seed("midi", "a.txt", write_text(events).encode()) == text
    assert len(notes_of(read_text(read_seed("midi", "a.abc", abc_tune(1).encode())))) == len(read_abc(abc_tune(1)))
    tune = "X:7\nT:A title\nM:4/4\nL:1/8\nK:D\nd2 fa |: b a :|"
    assert read_seed("abc", "a.abc", tune.encode()) == "M:4/4\nL:1/8\nK:D\nd2 fa |: b a :|"
    for kind, name in (("abc", "a.mp3"), ("midi", "a.mp3"), ("midi", "noname")):
        with raises_code("music_ending"):
            read_seed(kind, name, b"")
    with raises_code("music_unreadable"):
        read_seed("abc", "a.abc", b"\xff\xfe")
    with raises_code("music_ending"):
        saved("midi", text, ".exe")


def test_one_voice_becomes_abc_and_more_are_refused():
    melody = write_midi(events_of(read_abc("L:1/8\nM:4/4\nQ:1/4=96\nK:D\nd2 fa [df]4 | ^g>a z2 D,4 |]")))
    seed = read_seed("abc", "a.mid", melody)
    assert seed.splitlines() == ["L:1/8", "M:4/4", "Q:1/4=96", "K:A", "d2 f a [df]4|g3/2 a/2 z2 D,4|]"]
    text = read_seed("midi", "a.mid", melody)
    assert read_abc(saved("midi", text, ".abc").decode()) == read_abc(seed)
    for two in (midi_tune(3), read_text("pi:3c:9 t50 pi:48:9 t50 pi:3c:0 t50 pi:48:0")):
        with raises_code("music_many_voices"):
            read_seed("abc", "a.mid", write_midi(two))
        with raises_code("music_many_voices"):
            saved("midi", write_text(two), ".abc")
    assert {*RULES, "bar_s", "before_s", "from_s"} == set(LIMITS)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(
    "start_s, pitch", [(float("nan"), 60), (float("inf"), 60), (1e12, 60), (1.0, 10**9), (1.0, -1)]
)
def test_invalid_notes_are_refused_before_conversion(kind, start_s, pitch):
    """Otherwise a tune would get a rest for each empty bar, and a mark for each octave."""
    with raises_code("music_unreadable", "music_too_long"):
        text_of_notes(kind, [Note(0.0, 0.5, 60, 80, "piano", 0), Note(start_s, 0.5, pitch, 80, "piano", 0)])


@pytest.fixture
def run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(kind: str, out: str, *more: str) -> tuple[int, str, Path]:
        places = ["--models", str(folder), "--data", str(tmp_path / "data"), "--strategy", "torch cpu f32"]
        code = main(["compose", "-m", NAMES.get(kind, kind), "--out", str(tmp_path / out), *more, *places])
        found = capsys.readouterr()
        return code, found.out + found.err, tmp_path / out

    return run


def test_the_command_writes_a_file(run, tmp_path):
    """The tests above cover the other files and kinds."""
    seed = tmp_path / "seed.mid"
    seed.write_bytes(write_midi(midi_tune(8, bars=2)))
    code, told, out = run("midi", "song.mid", "--seed-file", str(seed), "--seconds", "3", "--seed", "4", "--json")
    found = json.loads(told.splitlines()[0])
    assert code == 0 and found["seed"] == 4
    notes = notes_of(read_midi(out.read_bytes()))
    assert len(notes) == found["notes"] > len(notes_of(midi_tune(8, bars=2)))
    assert found["seconds"] == pytest.approx(max(note.start_s + note.duration_s for note in notes))


def test_the_command_refuses_before_it_works(run, tmp_path):
    missing = ("midi", "a.mid", "--seed-file", "none.mid")
    for arguments in (("midi", "song.abc"), ("text.safetensors", "a.mid"), missing):
        code, told, out = run(*arguments)
        assert code != 0 and told and not out.exists()
