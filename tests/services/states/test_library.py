"""The library of states: listed with the models that they fit, imported after checks, created, deleted and restored."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from tests.errors import raises_code
from tests.manager.conftest import last_output, request
from tests.manager.thread_engine import start_engine_in_thread
from tests.weights.make_checkpoints import make_time_state, write_checkpoint, write_state, write_tensors
from webapp.errors import FileMissing
from webapp.manager.library import ModelLibrary
from webapp.manager.manager import ModelManager
from webapp.services.states import StateLibrary
from webapp.settings import Settings
from webapp.weights.state_file import open_state

SIZES = {"n_layer": 2, "n_embd": 32, "head_size": 16}


@pytest.fixture
def states(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for name, architecture in (("seven.pth", "7"), ("six.pth", "6")):
        write_checkpoint(folder / name, architecture, **SIZES)
    write_checkpoint(folder / "four.pth", "4", n_layer=2, n_embd=64)
    write_checkpoint(folder / "own.pth", "7", **SIZES, time_state=True)
    settings = Settings(data_dir=tmp_path, models_dir=folder, model="seven.pth", strategy="fake")
    manager = ModelManager(settings, start_engine_in_thread, ModelLibrary(folder, tmp_path))
    (folder / "states").mkdir()
    write_state(folder / "states" / "poet.pth", 2, 2, 16)
    library = StateLibrary(manager)
    yield library
    manager.close()
    library.jobs.close()


def file_of(library: StateLibrary, name: str) -> Path:
    return library.folder / name


def test_each_state_is_listed_with_its_sizes_and_what_it_fits(states):
    write_state(file_of(states, "rwkv7-large.st"), 3, 4, 16)
    write_tensors(file_of(states, "rwkv-x060-a.st"), make_time_state(2, 2, 16))
    file_of(states, "torn.pth").write_bytes(b"PK\3\4")
    (states.folder / "deep").mkdir()
    write_state(file_of(states, "deep/b.state.pth"), 2, 2, 16)
    found = {entry.name: entry for entry in states.list()}
    assert list(found) == ["deep/b.state.pth", "poet.pth", "rwkv-x060-a.st", "rwkv7-large.st", "torn.pth"]
    poet = found["poet.pth"]
    assert poet.sheet.sizes == (2, 2, 16) and poet.sheet.n_embd == 32 and len(poet.sheet.norms) == 2
    assert poet.has_unknown_version and poet.fits == ("own.pth", "seven.pth", "six.pth")
    assert found["rwkv-x060-a.st"].fits == ("six.pth",) and not found["rwkv-x060-a.st"].has_unknown_version
    assert found["rwkv7-large.st"].fits == ()
    assert found["torn.pth"].error.code == "file_truncated" and found["torn.pth"].sheet is None
    assert states.names() == tuple(found)
    assert [entry.name for entry in states.merged()] == ["own.pth"]


def test_a_file_that_changed_is_read_again(states):
    before = states.entry("poet.pth").sheet.digest
    write_state(file_of(states, "poet.pth"), 2, 2, 16, seed=9)
    assert states.entry("poet.pth").sheet.digest != before


def test_the_digest_shown_is_the_one_answers_are_logged_with(states):
    states.use("poet.pth")
    output = last_output(states.manager.submit(request()))
    assert output.stats.initial_state_digest == states.entry("poet.pth").sheet.digest


@pytest.mark.parametrize(
    "name", ["", "-", "nothing.pth", "../seven.pth", "/etc/passwd", "poet.txt", "a\0b.pth", "x" * 999]
)
def test_a_name_that_is_no_states_finds_nothing(states, name):
    for action in (states.entry, states.delete):
        with raises_code("state_not_found"):
            action(name)
    with raises_code("state_not_found"):
        states.rename(name, "b")


def upload(states, name: str, source: Path) -> str:
    with source.open("rb") as stream:
        return states.add(name, stream)


def test_an_upload_is_checked_before_it_has_a_place(states, tmp_path):
    write_state(tmp_path / "good.st", 2, 2, 16, seed=4)
    assert upload(states, "C:\\Downloads\\good.st", tmp_path / "good.st") == "good.st"
    before = sorted(path.name for path in states.folder.iterdir())
    write_checkpoint(tmp_path / "model.pth", "7", **SIZES)
    write_tensors(tmp_path / "nan.pth", {"blocks.0.att.time_state": np.full((2, 8, 8), np.nan, np.float32)})
    refused = (
        ("model.pth", tmp_path / "model.pth", "state_mismatch"),
        ("nan.pth", tmp_path / "nan.pth", "state_mismatch"),
        ("good.st", tmp_path / "good.st", "file_name_taken"),
        ("good.exe", tmp_path / "good.st", "file_name_unusable"),
    )
    for name, source, error in refused:
        with raises_code(error):
            upload(states, name, source)
    with raises_code("file_truncated"):
        states.add("cut.st", io.BytesIO((tmp_path / "good.st").read_bytes()[:-9]))
    assert sorted(path.name for path in states.folder.iterdir()) == before


def test_a_path_on_this_machine_is_copied(states, tmp_path):
    write_state(tmp_path / "there.pth", 2, 2, 16, seed=4)
    assert states.import_path(f' "{tmp_path / "there.pth"}" ') == "there.pth"
    assert (tmp_path / "there.pth").is_file() and file_of(states, "there.pth").is_file()
    for wrong in (str(tmp_path / "gone.pth"), "~nobody-at-all/x.pth"):
        with pytest.raises(FileMissing):
            states.import_path(wrong)
    for wrong in ("there.pth", ""):
        with raises_code("library_error", key="reason.services.path_not_absolute"):
            states.import_path(wrong)
    write_checkpoint(tmp_path / "model.pth", "7", **SIZES)
    with raises_code("state_mismatch"):
        states.import_path(str(tmp_path / "model.pth"))


def test_a_deleted_state_is_restored(states):
    trashed = states.delete("poet.pth")
    assert states.names() == ()
    assert states.restore(trashed.id) == "poet.pth" and states.names() == ("poet.pth",)
    with raises_code("trash_missing"):
        states.restore(trashed.id)


def test_a_state_in_use_keeps_its_file_and_its_name(states):
    states.use("poet.pth")
    with raises_code("state_in_use"):
        states.delete("poet.pth")
    with raises_code("state_in_use"):
        states.rename("poet.pth", "b")
    states.use("")
    assert states.rename("poet.pth", "../bard") == "bard.pth"
    assert states.names() == ("bard.pth",)


def test_a_blend_is_a_new_file_that_can_be_used(states):
    write_state(file_of(states, "rwkv7-other.pth"), 2, 2, 16, seed=5)
    name = states.blend([("poet.pth", 1.0), ("rwkv7-other.pth", 1.0), ("-", 2.0)], "half and half")
    assert name == "half and half.safetensors"
    parts = [open_state(file_of(states, part)).layers for part in ("poet.pth", "rwkv7-other.pth")]
    np.testing.assert_allclose(open_state(file_of(states, name)).layers, sum(parts) / 4, atol=1e-7)
    assert states.entry(name).sheet.architecture == "7"
    assert states.use(name).name == name
    with raises_code("file_name_taken"):
        states.blend([("poet.pth", 1.0), ("-", 1.0)], "half and half")
    with pytest.raises(FileMissing):
        states.blend([("poet.pth", 1.0), ("gone.pth", 1.0)], "b")


def test_a_merged_state_is_copied_out_and_is_what_the_model_begins_with(states):
    name = states.copy_out("own.pth", "mine")
    assert states.entry(name).sheet.architecture == "7"
    with raises_code("state_mismatch"):
        states.copy_out("seven.pth", "b")


def test_a_text_becomes_a_state(states):
    job = states.make("Anna has a cat called Tom.", "anna")
    job = states.jobs.wait(job.id, 20)
    assert (job.status, job.title, job.details["model"]) == ("done", "anna.safetensors", "seven.pth")
    assert job.details["name"] == job.title
    expected = states.manager.read_state(states.manager.tokenizer().encode("Anna has a cat called Tom."))
    np.testing.assert_array_equal(open_state(file_of(states, job.title)).layers, expected.arrays["att_kv"])
    assert states.entry(job.title).sheet.architecture == "7"


def test_a_text_that_cannot_be_read_is_refused_at_once(states, monkeypatch):
    with raises_code("prompt_empty"):
        states.make("  \n ", "a")
    with raises_code("file_name_taken"):
        write_state(file_of(states, "taken.safetensors"), 2, 2, 16)
        states.make("text", "taken")
    with raises_code("file_name_unusable"):
        states.make("text", "...")
    monkeypatch.setattr("webapp.services.states.MAX_TOKENS", 3)
    with raises_code("prompt_too_long"):
        states.make("a long text", "a")
    states.manager.load("four.pth")
    states.manager.wait_ready(60)
    with raises_code("state_mismatch"):
        states.make("abc", "a")


def test_a_reading_that_fails_says_why(states):
    states.manager.load(strategy="fake nan_at=2")
    states.manager.wait_ready(60)
    job = states.jobs.wait(states.make("abcdef", "a").id, 20)
    assert job.status == "failed" and job.error is not None
    assert states.names() == ("poet.pth",)
