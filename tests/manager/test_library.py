"""Names find files in the folder, and nothing outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.weights.spellings import official, write_folder
from webapp.errors import FileMissing, ModelNotFound, WeightsError
from webapp.manager.library import ModelLibrary


@pytest.fixture
def folder(tmp_path: Path, models_dir: Path) -> Path:
    """m.safetensors, sub/n.st, sub/broken.pth, notes.txt, .hidden/x.pth, states/s.safetensors; outside.st beside it."""
    root = tmp_path / "models"
    model = (models_dir / "v7.safetensors").read_bytes()
    state = (models_dir / "states" / "fits.safetensors").read_bytes()
    files = {"m.safetensors": model, "sub/n.st": model, "states/s.safetensors": state, "../outside.st": model}
    for name, content in {**files, "sub/broken.pth": b"junk", "notes.txt": b"", ".hidden/x.pth": b""}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def library(folder: Path, tmp_path: Path) -> ModelLibrary:
    return ModelLibrary(folder, tmp_path / "bundled")


def test_every_model_below_the_folder_is_listed_a_broken_one_with_its_error(library):
    found = {entry.name: entry for entry in library.list()}
    assert list(found) == ["m.safetensors", "sub/broken.pth", "sub/n.st"]
    assert found["m.safetensors"].inspection.config.architecture == "7"
    assert isinstance(found["sub/broken.pth"].error, WeightsError)
    assert found["sub/broken.pth"].size_bytes == 4


def test_a_folder_of_hugging_face_is_one_model(library, folder):
    model = write_folder(folder / "team" / "rwkv7-g1", official("7"))
    found = {entry.name: entry for entry in library.list()}
    assert [name for name in found if name.startswith("team")] == ["team/rwkv7-g1"]
    entry = found["team/rwkv7-g1"]
    assert (entry.inspection.kind, entry.size_bytes) == ("model", sum(path.stat().st_size for path in model.iterdir()))
    assert library.find("team/rwkv7-g1") == entry.path and library.name_of(entry.path) == "team/rwkv7-g1"
    assert [file.name for file in library.known_files() if "team" in file.name] == ["team/rwkv7-g1"]


def test_a_folder_is_looked_into_again_when_a_file_of_it_changes(library, folder):
    model = write_folder(folder / "rwkv7", official("7"))
    whole = (model / "model-00002-of-00002.safetensors").read_bytes()
    (model / "model-00002-of-00002.safetensors").unlink()
    assert library.entry("rwkv7").error.code == "file_truncated"  # as during a copy
    (model / "model-00002-of-00002.safetensors").write_bytes(whole)
    assert library.entry("rwkv7").inspection.kind == "model"


def test_the_models_folder_itself_is_never_a_model(tmp_path):
    write_folder(tmp_path / "models", official("7"), shards=1)
    assert [file.name for file in ModelLibrary(tmp_path / "models", tmp_path).files()] == ["model.safetensors"]
    with pytest.raises(ModelNotFound):
        ModelLibrary(tmp_path / "models", tmp_path).find(".")


def test_a_folder_that_is_not_there_lists_nothing(tmp_path):
    assert ModelLibrary(tmp_path / "none", tmp_path).list() == []


def test_a_file_is_looked_into_once_until_it_changes(library, folder, monkeypatch):
    looked = []
    real = library.reader.inspect
    monkeypatch.setattr(library.reader, "inspect", lambda path: looked.append(path.name) or real(path))
    library.list()
    library.list()
    library.inspect(folder / "m.safetensors")
    assert sorted(looked) == ["broken.pth", "m.safetensors", "n.st"]
    os.utime(folder / "m.safetensors", (1, 1))
    library.list()
    assert sorted(looked) == ["broken.pth", "m.safetensors", "m.safetensors", "n.st"]
    for _ in range(2):
        with pytest.raises(WeightsError):
            library.inspect(folder / "sub" / "broken.pth")


def test_names_find_files(library, folder):
    assert library.find("m.safetensors") == folder / "m.safetensors"
    assert library.find("sub/n.st") == folder / "sub" / "n.st"
    assert library.find(str(folder / "sub" / "n.st")) == folder / "sub" / "n.st"
    assert library.find("sub/../m.safetensors") == folder / "m.safetensors"
    assert library.find_state("s.safetensors") == folder / "states" / "s.safetensors"
    assert library.find_state("states/s.safetensors") == folder / "states" / "s.safetensors"


UPWARDS = ["../outside.st", "sub/../../outside.st", "..", "/etc/passwd", "~root/x"]
HOSTILE = [*UPWARDS, ".", "sub", "a\0b", "x" * 5000, "none.st"]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: name[:12].replace("\0", "0"))
def test_no_name_leads_out_of_the_folder(library, name):
    with pytest.raises(ModelNotFound):
        library.find(name)
    with pytest.raises(FileMissing):
        library.find_state(name)


def test_an_absolute_path_outside_needs_permission(library, folder):
    outside = folder.parent / "outside.st"
    with pytest.raises(ModelNotFound):
        library.find(str(outside))
    assert library.find(str(outside), allow_outside=True) == outside
    with pytest.raises(ModelNotFound):
        library.find(str(folder.parent / "none.st"), allow_outside=True)


def test_no_name_is_the_starter_model_wherever_it_is(library, folder, tmp_path):
    with pytest.raises(ModelNotFound, match="roost-starter-v7"):
        library.find("")
    bundled = tmp_path / "bundled" / "roost-starter-v7.safetensors"
    bundled.parent.mkdir()
    bundled.write_bytes((folder / "m.safetensors").read_bytes())
    assert library.find("") == library.find("roost-starter-v7.safetensors") == bundled
    assert "roost-starter-v7.safetensors" in [entry.name for entry in library.list()]
    own = folder / "roost-starter-v7.safetensors"
    own.write_bytes(bundled.read_bytes())
    assert library.find("") == own
    assert [entry.name for entry in library.list()].count("roost-starter-v7.safetensors") == 1
