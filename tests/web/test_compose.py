"""Compose over HTTP: the stream equals the file, continuing from a bar, files in and out, and refusals."""

from __future__ import annotations

import contextlib
import json
import re
import shutil

import pytest

from tests.music.models import music_model
from tests.web.apps import open_app
from tests.web.owner import owner_client
from webapp.engine.state import ModelConfig
from webapp.music.events import notes_of, read_text
from webapp.music.midi_file import read_midi
from webapp.settings import Settings

LINES = {"Accept": "application/x-ndjson"}
JSON = {"Accept": "application/json"}
OWN = "http://127.0.0.1"
"""The address for which the owner's cookie is sent."""
LENGTH = {"midi": {"seconds": "3"}, "abc": {"bars": "2"}}


@pytest.fixture(scope="module")
def clients(pytestconfig, tmp_path_factory):
    made = {}
    with contextlib.ExitStack() as apps:
        for kind in ("midi", "abc"):
            folder = tmp_path_factory.mktemp(kind)
            shutil.copy(music_model(pytestconfig, kind), folder / f"tiny-{kind}.safetensors")
            settings = Settings(
                data_dir=folder, models_dir=folder, model=f"tiny-{kind}.safetensors", strategy="torch cpu f32"
            )
            made[kind] = owner_client(apps.enter_context(open_app(settings)))
        yield made


def written(client, **fields):
    answer = client.post("/compose/write", data=fields, headers=LINES)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.data.splitlines() if line.strip()]


def piece_of(lines, number=0):
    """Text and notes, combined as by the page."""
    text, notes = "", {}
    for line in lines:
        if line.get("piece") != number:
            continue
        text += line.get("head", "") + line.get("text", "")
        if "all" in line:
            notes = {}
        notes.update({row[0]: row[1:6] for row in (*line.get("notes", ()), *line.get("all", ()))})
    return text, sorted(notes.values())


def saved(client, text, ending):
    return client.post("/compose/file", data={"text": text, "ending": ending})


def test_notes_stream_while_a_piece_is_written_and_are_those_of_its_file(clients):
    lines = written(clients["midi"], seconds="6", seed="5", instruments=["piano", "bass"])
    text, notes = piece_of(lines)
    expected = notes_of(read_text(text))
    assert notes == sorted(
        [round(n.start_s, 3), round(n.duration_s, 3), n.pitch, n.velocity, n.instrument] for n in expected
    )
    assert {row[4] for row in notes} <= {"piano", "bass"} and len(notes) > 5
    first = next(at for at, line in enumerate(lines) if line.get("notes"))
    assert first < len(lines) / 2 and lines[first]["at"] > 0 and "figures" in lines[-1]
    answer = saved(clients["midi"], text, ".mid")
    assert answer.mimetype == "audio/midi" and notes_of(read_midi(answer.data)) == expected
    assert saved(clients["midi"], text, ".wav").data.startswith(b"RIFF")


def test_a_piece_continues_from_a_place_in_several_ways(clients):
    whole, _ = piece_of(written(clients["midi"], seconds="6", seed="5"))
    head = " ".join(whole.split()[:40])
    lines = written(clients["midi"], text=head, seconds="2", variations="3")
    pieces = [piece_of(lines, number)[0] for number in range(3)]
    assert all(piece.startswith(head) and len(piece) > len(head) for piece in pieces) and len(set(pieces)) > 1
    begun = [line for line in lines if "head" in line]
    assert [line["piece"] for line in begun] == [0, 1, 2] and all(line["notes"] for line in begun)


def test_a_tune_in_abc_streams_as_text_and_notes(clients):
    text, notes = piece_of(written(clients["abc"], bars="6", seed="2", temperature="0.7"))
    read = clients["abc"].post("/compose/read", data={"text": text}, headers=JSON).get_json()
    assert notes and notes == sorted(row[1:6] for row in read["notes"])
    assert saved(clients["abc"], text, ".abc").text.startswith("X:1")
    assert saved(clients["abc"], text, ".mid").data.startswith(b"MThd")


def test_notes_changed_by_hand_and_files_become_text(clients):
    rows = [[0, 0.5, 0.25, 60, 90, "piano", 0], [1, 1.0, 0.5, 64, 90, "bass", 1]]
    found = clients["midi"].post("/compose/read", data={"notes": json.dumps(rows)}, headers=JSON).get_json()
    assert [row[3] for row in found["notes"]] == [60, 64] and "pi:3c:" in found["text"]
    midi = saved(clients["midi"], found["text"], ".mid").data
    again = clients["midi"].post("/compose/read", data={"file": (_file(midi), "a.mid")}, headers=JSON).get_json()
    assert again == found


def test_played_notes_become_abc_after_the_existing_tune(clients):
    rows = json.dumps([[0, 2.0, 0.24, 62, 90, "piano", 0], [1, 2.25, 0.24, 66, 90, "piano", 0]])
    tune = "L:1/8\nM:4/4\nK:D\nd2 fa d4|"
    for text in ("", tune):
        found = clients["abc"].post("/compose/read", data={"text": text, "notes": rows}, headers=JSON).get_json()
        assert found["text"].startswith(text or "L:1/8") and [row[3] for row in found["notes"]][-2:] == [62, 66]
    midi = saved(clients["abc"], tune, ".mid").data
    again = clients["abc"].post("/compose/read", data={"file": (_file(midi), "a.mid")}, headers=JSON).get_json()
    assert [row[1:4] for row in again["notes"]] == [[0.0, 0.5, 74], [0.5, 0.25, 78], [0.75, 0.25, 81], [1.0, 1.0, 74]]
    rows = json.dumps([[0, start, 1.0, pitch, 90, "piano", 0] for start, pitch in ((0, 60), (0.5, 72))])
    found = clients["abc"].post("/compose/read", data={"notes": rows}, headers=JSON)
    assert found.status_code == 422 and found.get_json()["error"]["code"] == "music_many_voices"


def test_many_notes_and_a_long_text_fit_in_one_form(clients):
    """More than Flask's default limit of 500 kB."""
    rows = [[number, number / 8, 0.1, 40 + number % 40, 90, "piano", 0] for number in range(12_000)]
    data = json.dumps(rows)
    assert len(data) > 420_000
    found = clients["midi"].post("/compose/read", data={"notes": data + " " * 100_000}, headers=JSON).get_json()
    assert len(found["notes"]) == 12_000
    whole = saved(clients["midi"], found["text"] + " " * 600_000, ".mid")
    assert len(notes_of(read_midi(whole.data))) == 12_000


def _file(data):
    import io

    return io.BytesIO(data)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"text": "pi:3c:a hello"}, "music_unreadable"),
        ({"seconds": "-1"}, "option_invalid"),
        ({"seconds": "nan"}, "option_invalid"),
        ({"variations": "1000"}, "option_invalid"),
        ({"instruments": "kazoo"}, "option_invalid"),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(clients, fields, code):
    answer = clients["midi"].post("/compose/write", data=fields, headers=LINES)
    error = answer.get_json()["error"]
    assert (error["code"], bool(error["hint"])) == (code, True) and 400 <= answer.status_code < 500
    page = clients["midi"].post("/compose/write", data=fields)
    assert page.status_code == answer.status_code and code in page.text  # the same without scripts


@pytest.mark.parametrize(
    "notes", ["[", "[[1]]", '[[0, "a", 1, 2, 3, "piano", 0]]', "[[0, 1e400, 1, 60, 90, 0, 0]]", "null"]
)
def test_damaged_notes_and_files_are_refused(clients, notes):
    answer = clients["midi"].post("/compose/read", data={"notes": notes}, headers=JSON)
    assert answer.get_json()["error"]["code"] == "music_unreadable"
    answer = clients["midi"].post("/compose/read", data={"file": (_file(b"MThd"), "a.mid")}, headers=JSON)
    assert answer.get_json()["error"]["code"] == "music_unreadable"
    assert saved(clients["midi"], "", ".exe").status_code == 415


def test_without_scripts_the_page_is_shown_again_with_the_piece(clients):
    page = clients["abc"].post("/compose/write", data={"bars": "2", "seed": "2"})
    assert page.status_code == 200 and "K:" in page.text and 'formaction="/compose/file"' in page.text


@pytest.mark.parametrize("kind", ["midi", "abc"])
def test_the_state_of_a_piece_is_kept_and_another_begins_with_it(clients, kind):
    client = clients[kind]
    text, _ = piece_of(written(client, seed="3", **LENGTH[kind]))
    page = client.post("/compose/write", data={"text": text, "seed": "4", **LENGTH[kind]}, base_url=OWN).text
    name = re.search(r'name="name" value="([^"]+)" formaction="/states/make"', page)[1]
    form = {"text": text, "name": name, "temperature": "1"}
    assert client.post("/states/make", data=form, base_url=OWN).status_code == 303
    jobs = client.application.extensions["jobs"]
    made = jobs.wait(jobs.jobs("state")[0].id, 60)
    assert made.status == "done"
    assert f'<option value="{name}.safetensors">' in client.get("/compose", base_url=OWN).text
    begun, _ = piece_of(written(client, state=f"{name}.safetensors", seed="3", **LENGTH[kind]))
    assert begun and begun != text


def test_a_model_without_state_files_offers_none(clients, monkeypatch):
    assert "/states/make" in clients["midi"].get("/compose", base_url=OWN).text
    monkeypatch.setattr(ModelConfig, "major", 4)
    assert "/states/make" not in clients["midi"].get("/compose", base_url=OWN).text


def test_the_rail_names_compose_where_there_is_a_music_model(clients, tmp_path):
    assert 'href="/compose"' in clients["midi"].get("/models").text
    settings = Settings(data_dir=tmp_path, models_dir=tmp_path, strategy="fake")
    with open_app(settings) as app:
        other = owner_client(app)
        assert 'class="rail-item" href="/compose"' not in other.get("/").text
        assert other.get("/compose").status_code == 200
        refused = other.post("/compose/write", data={}, headers=LINES)
        assert refused.get_json()["error"]["code"] == "not_a_music_model"
