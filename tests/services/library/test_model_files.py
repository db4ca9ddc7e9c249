"""Actions on the library's files: done completely, or refused without a change."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from tests.errors import raises_code
from tests.services.library.library_folder import can_link, good_bytes, torn_bytes, tree
from tests.waiting import wait_until
from tests.weights.spellings import official, write_folder
from webapp.errors import FileMissing, ModelNotFound
from webapp.manager.library import ModelLibrary
from webapp.manager.target import ModelStatus
from webapp.resources import STARTER_MODEL
from webapp.services.library import model_files, placing
from webapp.services.library.model_files import ModelFiles


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """models/a, models/sub/b, extra/c, bundled/ with the starter, away/new: all safetensors."""
    names = ("models/a", "models/sub/b", "extra/c", "bundled/roost-starter-v7", "away/new")
    for name in names:
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(good_bytes())
    return tmp_path


@pytest.fixture
def manager(disk):
    library = ModelLibrary(disk / "models", disk / "bundled", (disk / "extra",))
    held = SimpleNamespace(library=library, now=ModelStatus())
    held.status = lambda: held.now
    return held


@pytest.fixture
def files(manager):
    made = ModelFiles(manager)
    yield made
    made.jobs.close()


def names(files) -> list[str]:
    return [file.name for file in files.library.files()]


def test_deleted_and_restored(files, disk):
    before = tree(disk)
    for name in ("sub/b.safetensors", "extra:c.safetensors"):
        trashed = files.delete(name)
        assert name not in names(files) and files.trashed() == (trashed,)
        assert files.restore(trashed.id) == name
    assert tree(disk) == before


@pytest.mark.parametrize("phase", ["loading", "ready", "answering", "unloading"])
def test_a_model_that_is_loaded_or_loading_is_neither_deleted_nor_renamed(files, manager, disk, phase):
    manager.now = replace(manager.now, phase=phase, model_path=str(disk / "models" / "a.safetensors"))
    before = tree(disk)
    with raises_code("model_in_use"):
        files.delete("a.safetensors")
    with raises_code("model_in_use"):
        files.rename("a.safetensors", "z.safetensors")
    assert tree(disk) == before
    files.delete("sub/b.safetensors")


@pytest.mark.parametrize("phase", ["empty", "failed"])
def test_a_model_that_was_unloaded_may_be_deleted(files, manager, disk, phase):
    manager.now = replace(manager.now, phase=phase, model_path=str(disk / "models" / "a.safetensors"))
    files.delete("a.safetensors")


def test_the_bundled_model_cannot_be_deleted(files, disk):
    before = tree(disk)
    with raises_code("model_kept"):
        files.delete(STARTER_MODEL)
    with raises_code("model_kept"):
        files.rename(STARTER_MODEL, "mine.safetensors")
    assert tree(disk) == before


@pytest.mark.parametrize(
    "name", ["", "none.pth", "../away/new.safetensors", "/etc/passwd", ".", "sub", "a\0b", "x" * 5000]
)
def test_names_of_nothing(files, disk, name):
    before = tree(disk)
    with pytest.raises(ModelNotFound):
        files.delete(name)
    with pytest.raises(ModelNotFound):
        files.rename(name, "z.safetensors")
    assert tree(disk) == before


def test_of_many_simultaneous_deletions_of_a_model_one_succeeds(files):
    def delete(_):
        try:
            return files.delete("a.safetensors")
        except ModelNotFound:
            return None

    with ThreadPoolExecutor(8) as pool:
        assert sum(item is not None for item in pool.map(delete, range(8))) == 1
    assert len(files.trashed()) == 1


def test_the_trash_is_emptied_for_good(files):
    trashed = files.delete("a.safetensors")
    assert files.empty_trash() == len(good_bytes()) and files.trashed() == ()
    with raises_code("trash_missing"):
        files.restore(trashed.id)


def test_renamed_in_its_own_folder(files, disk):
    assert files.rename("sub/b.safetensors", "../../up/new name.safetensors") == "sub/new name.safetensors"
    assert (disk / "models" / "sub" / "new name.safetensors").read_bytes() == good_bytes()
    assert files.rename("extra:c.safetensors", "d.safetensors") == "extra:d.safetensors"


def test_a_rename_replaces_nothing_and_keeps_the_ending(files, disk):
    (disk / "models" / "taken.safetensors").write_bytes(b"mine")
    with raises_code("file_name_taken"):
        files.rename("a.safetensors", "taken.safetensors")
    for bad in ("a.pth", "", ".safetensors", "a"):
        with raises_code("file_name_unusable"):
            files.rename("a.safetensors", bad)
    assert (disk / "models" / "taken.safetensors").read_bytes() == b"mine"
    assert files.rename("a.safetensors", "a.safetensors") == "a.safetensors"


def imported(files, source, mode="copy"):
    return files.jobs.wait(files.start_import(str(source), mode).id, 20)


def test_copied_linked_or_moved(files, disk):
    source = disk / "away" / "new.safetensors"
    assert imported(files, source).status == "done"
    target = disk / "models" / "new.safetensors"
    assert target.read_bytes() == good_bytes() and not target.is_symlink() and source.exists()
    target.unlink()
    assert imported(files, source, "move").status == "done"
    assert target.read_bytes() == good_bytes() and not source.exists()
    assert "new.safetensors" in names(files)


@can_link
def test_a_link_takes_no_room(files, disk):
    assert imported(files, disk / "away" / "new.safetensors", "link").status == "done"
    assert (disk / "models" / "new.safetensors").is_symlink()


def test_a_move_to_another_disk_copies_and_then_deletes(files, disk, monkeypatch):
    import errno

    def refuse(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(model_files, "_rename", refuse)
    assert imported(files, disk / "away" / "new.safetensors", "move").status == "done"
    assert tree(disk / "away") == [] and (disk / "models" / "new.safetensors").read_bytes() == good_bytes()


def test_a_state_is_imported_to_the_states(files, disk):
    (disk / "away" / "mood.safetensors").write_bytes(good_bytes("state"))
    assert imported(files, disk / "away" / "mood.safetensors").status == "done"
    assert (disk / "models" / "states" / "mood.safetensors").is_file()


def test_imports_that_are_refused_change_nothing(files, disk):
    (disk / "away" / "torn.safetensors").write_bytes(torn_bytes())
    (disk / "away" / "a.safetensors").write_bytes(good_bytes())
    (disk / "away" / "notes.txt").write_bytes(good_bytes())
    before = tree(disk)
    for source, error in [
        (disk / "away" / "torn.safetensors", "file_truncated"),
        (disk / "away" / "a.safetensors", "file_name_taken"),
        (disk / "away" / "notes.txt", "file_name_unusable"),
        (disk / "away" / "none.pth", "file_not_found"),
        (disk / "away", "file_is_directory"),
        (disk / "models" / "a.safetensors", "library_error"),
        (disk / "extra" / "c.safetensors", "library_error"),
        ("relative.pth", "library_error"),
        ("", "library_error"),
        ("~nobody-here/x.pth", "file_not_found"),
        ("/tmp/\0.pth", "file_not_found"),
    ]:
        for mode in model_files.IMPORT_MODES:
            with raises_code(error):
                files.start_import(str(source), mode)
    with pytest.raises(FileMissing):
        files.start_import(str(disk / "away" / "new.safetensors"), "steal")
    assert tree(disk) == before and files.jobs.jobs() == []


def test_no_room_is_said_before_anything_is_written(files, disk, monkeypatch):
    monkeypatch.setattr(placing, "free_bytes", lambda folder: placing.RESERVE_BYTES + 10)
    with raises_code("disk_full"):
        files.start_import(str(disk / "away" / "new.safetensors"), "copy")
    assert files.jobs.jobs() == []


def test_a_copy_that_is_cancelled_leaves_nothing(files, disk, monkeypatch):
    monkeypatch.setattr(model_files, "COPY_BYTES", 100)
    written = threading.Event()
    real = placing.write_all

    def slowly(file, piece):
        real(file, piece)
        written.set()
        cancelled.wait(60)

    cancelled = threading.Event()
    monkeypatch.setattr(placing, "write_all", slowly)
    before = tree(disk)
    started = files.start_import(str(disk / "away" / "new.safetensors"), "copy")
    wait_until(written.is_set)
    files.jobs.cancel(started.id)
    cancelled.set()
    assert files.jobs.wait(started.id, 30).status == "cancelled" and tree(disk) == before


def test_a_disk_that_fills_up_during_a_copy_leaves_nothing(files, disk, monkeypatch):
    import errno

    def full(file, piece):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(placing, "write_all", full)
    before = tree(disk)
    job = imported(files, disk / "away" / "new.safetensors")
    assert job.status == "failed" and job.error.code == "disk_full"
    assert tree(disk) == before


def test_a_file_that_changes_during_the_copy_is_not_taken(files, disk, monkeypatch):
    source = disk / "away" / "new.safetensors"
    real = placing.write_all

    def meanwhile(file, piece):
        real(file, piece)
        source.write_bytes(good_bytes() + b"more")

    monkeypatch.setattr(placing, "write_all", meanwhile)
    job = imported(files, source)
    assert job.status == "failed" and job.error.code == "file_outdated"
    assert not (disk / "models" / "new.safetensors").exists()


def test_the_list_has_another_number_after_every_action(files, manager):
    seen = {files.revision()}
    for action in (
        lambda: files.delete("a.safetensors"),
        lambda: files.restore(files.trashed()[0].id),
        lambda: files.rename("a.safetensors", "z.safetensors"),
        lambda: setattr(manager, "now", replace(manager.now, phase="loading", model="z.safetensors")),
    ):
        action()
        assert files.revision() not in seen
        seen.add(files.revision())


def test_a_folder_is_deleted_restored_and_renamed_as_one(files, disk):
    write_folder(disk / "models" / "hf", official("7"))
    before = tree(disk)
    trashed = files.delete("hf")
    assert "hf" not in names(files) and trashed.size_bytes > 100_000
    assert files.restore(trashed.id) == "hf" and tree(disk) == before
    assert files.rename("hf", "rwkv7 g1.5") == "rwkv7 g1.5"
    assert files.library.entry("rwkv7 g1.5").inspection.kind == "model"


@pytest.mark.parametrize("mode", ["copy", "move", pytest.param("link", marks=can_link)])
def test_a_folder_is_imported_as_one(files, disk, mode):
    source = write_folder(disk / "away" / "hf", official("7"))
    assert imported(files, source, mode).status == "done"
    assert files.library.entry("hf").inspection.kind == "model"
    assert source.exists() is (mode != "move")
    assert (disk / "models" / "hf").is_symlink() is (mode == "link")
