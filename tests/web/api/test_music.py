"""RWKV-Runner's endpoints for music, and chats, which a music model cannot answer."""

from __future__ import annotations

import io
import json
import urllib.request
import wave

import mido
import pytest

from models.music.tunes import midi_tune
from webapp.music.events import write_text
from webapp.music.midi_file import MAX_BYTES, read_midi, write_midi

TUNE = write_text(midi_tune(1, bars=2))


def posted_file(server, data: bytes):
    head = b'--xx\r\nContent-Disposition: form-data; name="file_data"; filename="a.mid"\r\n\r\n'
    body = head + data + b"\r\n--xx--\r\n"
    return server.post("/midi-to-text", body, Content_Type="multipart/form-data; boundary=xx")


def test_text_becomes_a_midi_file_and_the_file_the_text(server):
    asked = urllib.request.Request(
        server.url + "/text-to-midi", json.dumps({"text": TUNE}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        data = answer.read()
        assert answer.headers["Content-Type"] == "audio/midi"
    assert mido.MidiFile(file=io.BytesIO(data)).length > 3
    assert posted_file(server, data) == (200, {"text": TUNE})


def test_what_is_no_music_is_refused_in_runners_form(server):
    status, found = server.post("/text-to-midi", {"text": "pi:3c:a la la"})
    assert status == 400 and "la" in found["detail"]
    assert posted_file(server, b"MThd and nothing")[0] == 400
    assert posted_file(server, write_midi(midi_tune(1)) + b"\0" * MAX_BYTES)[0] == 413
    assert server.post("/midi-to-text", b"")[0] == 400


def test_files_of_the_server_become_others(server):
    folder = server.settings.data_dir / "midi"
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text(TUNE)
    assert server.post("/txt-to-midi", {"txt_path": "midi/a.txt", "midi_path": "midi/a.mid"}) == (200, "success")
    assert write_text(read_midi((folder / "a.mid").read_bytes())) == TUNE
    asked = {"midi_path": "midi/a.mid", "wav_path": "midi/a.wav", "sound_font_path": "anything.sf2"}
    assert server.post("/midi-to-wav", asked) == (200, "success")
    assert server.post("/text-to-wav", {"text": TUNE, "wav_name": "b"}) == (200, "success")
    assert {path.name for path in folder.iterdir()} >= {"a.mid", "a.wav", "b.mid", "b.txt", "b.wav"}
    with wave.open(str(folder / "b.wav")) as file:
        assert file.getnframes() > 3 * file.getframerate()
    assert (folder / "b.wav").read_bytes() == (folder / "a.wav").read_bytes()
    assert server.post("/txt-to-midi", {"txt_path": "midi/none.txt", "midi_path": "midi/a.mid"})[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "a.mid",
        "/etc/a.mid",
        "midi/../a.mid",
        "midi//a.mid",
        "midi/b/a.mid",
        "midi/.mid",
        "midi/a.exe",
        "midi/a\0.mid",
        "",
        "midi/",
    ],
)
def test_no_path_leads_out_of_the_folder(server, path):
    folder = server.settings.data_dir / "midi"
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text(TUNE)

    def files() -> list[str]:
        return sorted(
            path.name for path in folder.parent.parent.rglob("*.*") if path.suffix in (".mid", ".wav", ".exe")
        )

    before = files()
    assert server.post("/txt-to-midi", {"txt_path": "midi/a.txt", "midi_path": path})[0] == 400
    assert server.post("/midi-to-wav", {"midi_path": path, "wav_path": "midi/a.wav"})[0] == 400
    assert server.post("/text-to-wav", {"text": TUNE, "wav_name": "../" + path})[0] == 400
    assert files() == before
