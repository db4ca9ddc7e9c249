"""Packed weights on disk: mapped by the next load, and always checked."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.backends.native.models import ALL, ARCHITECTURES, FORMATS
from tests.weights.make_checkpoints import write_checkpoint
from webapp.backends import packed_file
from webapp.backends.native import building, library
from webapp.backends.native.model import Layout, NativeModel
from webapp.weights.inspection import inspect

IDS = np.random.default_rng(3).integers(0, 256, 20).tolist()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fast"
    monkeypatch.setattr(packed_file, "folder", lambda: folder)
    return folder


def load(path: Path, format: str = "q8", **more: object) -> NativeModel:
    config = inspect(path).config
    assert config is not None
    small = "q8" if format.startswith("q") else format
    layout = Layout(format, format, small, format.startswith("q"), 1, library.choose_isa(), 4, 24, (), True)
    return NativeModel.load(str(path), config, replace(layout, **more), lambda progress: None)


def answer(model: NativeModel) -> np.ndarray:
    found = model.step([model.new_slot()], [IDS], [ALL]).copy()
    model.close()
    return found


def is_mapped(model: NativeModel) -> bool:
    return model._mapped is not None


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_mapped_model_answers_as_the_one_that_was_read(architecture: str, format: str, tmp_path: Path) -> None:
    write_checkpoint(path := tmp_path / "m.safetensors", architecture, time_state=architecture != "4")
    first = load(path, format)
    assert not is_mapped(first)
    expected = answer(first)
    mapped = load(path, format)
    assert is_mapped(mapped)
    assert mapped.weight_bytes > 0 and (answer(mapped) == expected).all()
    threads = load(path, format, threads=2)  # blocks for another number of threads
    assert is_mapped(threads) and (answer(threads) == expected).all()


def test_instruction_sets_share_a_file(tmp_path: Path) -> None:
    write_checkpoint(path := tmp_path / "m.safetensors", "7")
    load(path, isa="portable").close()
    for isa in library.ISAS:
        if library.load().roost_self_test(library.ISAS[isa]) is None:
            mapped = load(path, isa=isa)
            assert is_mapped(mapped)
            mapped.close()


def test_another_model_under_the_same_name_is_read_again_and_replaces_the_file(
    tmp_path: Path, own_folder: Path
) -> None:
    write_checkpoint(path := tmp_path / "m.safetensors", "7", seed=1)
    first = answer(load(path))
    write_checkpoint(path, "7", seed=2)
    other = load(path)
    assert not is_mapped(other) and not (answer(other) == first).all()
    assert len(list(own_folder.iterdir())) == 1
    assert is_mapped(load(path))


def test_an_update_of_the_library_maps_nothing_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(path := tmp_path / "m.safetensors", "7")
    load(path).close()
    monkeypatch.setattr(building, "source_digest", lambda: "0" * 16)
    assert not is_mapped(load(path))


def test_formats_have_separate_files(tmp_path: Path, own_folder: Path) -> None:
    write_checkpoint(path := tmp_path / "m.safetensors", "7")
    load(path, "q8").close()
    assert not is_mapped(load(path, "q4"))
    assert is_mapped(load(path, "q8")) and len(list(own_folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ("empty", "cut", "longer", "words", "magic"))
def test_a_torn_or_damaged_file_is_read_again(damage: str, tmp_path: Path, own_folder: Path) -> None:
    write_checkpoint(path := tmp_path / "m.safetensors", "7")
    expected = answer(load(path))
    [kept] = own_folder.iterdir()
    whole = kept.read_bytes()
    words = np.frombuffer(whole[:4096], np.int64).copy()
    torn = {
        "empty": b"",
        "cut": whole[:-64],
        "longer": whole + bytes(64),
        "magic": b"\0" * 8 + whole[8:],
        "words": None,
    }[damage]
    for place in range(2, 200, 3) if torn is None else [0]:
        if torn is None:  # every number in the directory, one after another
            changed = words.copy()
            changed[place] += 1 << 20
            kept.write_bytes(changed.tobytes() + whole[4096:])
            if place >= words[2]:
                break
        else:
            kept.write_bytes(torn)
        model = load(path)
        assert not is_mapped(model)
        assert (answer(model) == expected).all()
    assert is_mapped(load(path))


def test_a_disk_without_room_costs_the_file_not_the_model(
    tmp_path: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(path := tmp_path / "m.safetensors", "7")
    monkeypatch.setattr(packed_file, "SPARE_BYTES", 1 << 60)
    assert not is_mapped(load(path))
    own_folder.rmdir()
    own_folder.write_text("in the way")
    load(path).close()


def test_their_total_is_limited_and_the_least_recently_used_is_removed(
    tmp_path: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for number, path in enumerate(paths):
        write_checkpoint(path, "7", seed=number)
    for path in paths[:2]:
        load(path).close()
    first, second = packed_file.all_files()
    os.utime(second.path, (1, 1))
    monkeypatch.setattr(packed_file, "MAX_BYTES", 5 * first.size_bytes // 2)
    load(paths[2]).close()
    assert is_mapped(load(paths[0])) and is_mapped(load(paths[2])) and not second.path.exists()
    assert packed_file.clear() == 2 * first.size_bytes and packed_file.all_files() == []


def test_none_is_made_unasked(tmp_path: Path, own_folder: Path) -> None:
    write_checkpoint(path := tmp_path / "m.safetensors", "7")
    load(path, has_packed_file=False).close()
    assert not own_folder.exists()
