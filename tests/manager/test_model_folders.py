"""Additional folders, links, names and the revision that increases with every change."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from webapp.errors import ModelNotFound, RoostError
from webapp.manager import library as library_module
from webapp.manager.library import FolderIndex, FolderWatch, ModelLibrary, model_folders, walk_models
from webapp.weights.file_reader import FileReader

can_link = pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")


FILES = ("models/a.st", "models/both.st", "one/llm/b.st", "one/llm/sub/c.st", "one/llm/both.st", "two/llm/d.st")
OUTSIDE = ("llm:../../models/a.st", "llm:/etc/passwd", "llm:", ":a.st", "none:b.st", "llm-2:b.st")


@pytest.fixture
def disk(tmp_path: Path, models_dir: Path) -> Path:
    """models/a.st, models/both.st; one/llm/b.st, one/llm/sub/c.st, one/llm/both.st; two/llm/d.st."""
    content = (models_dir / "v7.safetensors").read_bytes()
    for name in (
        "models/a.st",
        "models/both.st",
        "one/llm/b.st",
        "one/llm/sub/c.st",
        "one/llm/both.st",
        "two/llm/d.st",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def library(disk: Path) -> ModelLibrary:
    return ModelLibrary(disk / "models", disk / "none", (disk / "one" / "llm", disk / "two" / "llm"))


def test_files_of_further_folders_bear_the_folders_name(library):
    names = [file.name for file in library.files()]
    assert names == ["a.st", "both.st", "llm-2:d.st", "llm:b.st", "llm:both.st", "llm:sub/c.st"]


def test_every_listed_name_finds_its_file_and_no_other(library):
    for file in library.files():
        assert library.find(file.name) == file.path
        assert library.name_of(file.path) == file.name


def test_a_name_without_its_folder_finds_the_file_too(library, disk):
    assert library.find("d.st") == disk / "two" / "llm" / "d.st"
    assert library.find("both.st") == disk / "models" / "both.st"
    assert library.find(str(disk / "one" / "llm" / "b.st")) == disk / "one" / "llm" / "b.st"


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_folders_name_leads_nowhere_else(library, name):
    with pytest.raises(ModelNotFound):
        library.find(name)


def test_one_folder_given_twice_is_one_folder(tmp_path):
    assert [f.prefix for f in model_folders(tmp_path, (tmp_path, tmp_path / "x", tmp_path / "x" / "." / ".."))] == [
        "",
        "x",
    ]


def test_a_further_folder_inside_the_models_folder_lists_nothing_twice(disk):
    library = ModelLibrary(disk, disk / "none", (disk / "one",))
    paths = [file.path for file in library.files()]
    assert len(paths) == len(set(paths)) == 6


@can_link
def test_links_to_folders_are_followed_once(disk):
    (disk / "models" / "far").symlink_to(disk / "one" / "llm")
    (disk / "models" / "loop").symlink_to(disk / "models")
    (disk / "one" / "llm" / "up").symlink_to(disk)
    found = sorted(path.relative_to(disk / "models").as_posix() for path in walk_models(disk / "models"))
    assert [name for name in found if name.endswith("b.st")] == ["far/b.st"]
    assert [name for name in found if name.endswith("/a.st") or name == "a.st"] == ["a.st"]


@can_link
def test_a_link_that_leads_to_itself_is_listed_with_its_error(library, disk):
    (disk / "models" / "self.pth").symlink_to(disk / "models" / "self.pth")
    (disk / "models" / "gone.pth").symlink_to(disk / "nowhere.pth")
    errors = {entry.name: entry.error for entry in library.list() if entry.error}
    assert set(errors) == {"self.pth", "gone.pth"} and all(isinstance(error, RoostError) for error in errors.values())
    assert errors["self.pth"].code == "file_unreadable"


def test_five_hundred_files_are_opened_once_each_and_none_to_list_their_names(tmp_path, models_dir, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(FileReader, "inspect", lambda _, path: opened.append(path.name) or RoostError(reason="x"))
    for number in range(500):
        (tmp_path / f"{number:03}.pth").write_bytes(b"x")
    library = ModelLibrary(tmp_path, tmp_path)
    assert len(library.files()) == 500 and opened == []
    library.revision()
    for _ in range(3):
        library.list()
    assert len(opened) == 500
    (tmp_path / "000.pth").write_bytes(b"changed")
    library.list()
    assert len(opened) == 501


def test_what_is_gone_is_forgotten(library, disk):
    library.list()
    (disk / "models" / "a.st").unlink()
    library.list()
    assert disk / "models" / "a.st" not in library._seen


def test_the_revision_grows_with_every_change(disk):
    library = ModelLibrary(disk / "models", disk / "none")
    library.watch = FolderWatch(library._picture, pace_s=0)
    seen = [library.revision()]
    assert library.revision() == seen[0]

    def changed() -> bool:
        seen.append(library.revision())
        return seen[-1] == seen[-2] + 1

    (disk / "models" / "new.pth").write_bytes(b"junk")
    assert changed()
    (disk / "models" / "new.pth").write_bytes(b"more junk")
    assert changed()
    (disk / "models" / "new.pth").rename(disk / "models" / "other.pth")
    assert changed()
    (disk / "models" / "notes.txt").write_text("no model")
    assert not changed()
    (disk / "models" / "states").mkdir()
    (disk / "models" / "states" / "s.pth").write_bytes(b"x")
    assert changed()


def test_the_disk_is_looked_at_once_for_many_pages():
    looks: list[int] = []
    watch = FolderWatch(lambda: looks.append(1) or len(looks), pace_s=60)
    assert {watch.revision() for _ in range(50)} == {1} and len(looks) == 1
    watch.look_again()
    assert watch.wait_change(1, timeout_s=0) == 2 and len(looks) == 2


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads of all later walks through a folder."""
    seen: list[str] = []

    def counting(folder, dates=None):
        seen.append(threading.current_thread().name)
        return walk_models(folder, dates)

    monkeypatch.setattr(library_module, "walk_models", counting)
    return seen


def known_names(library: ModelLibrary) -> set[str]:
    return {file.name for file in library.known_files()}


def test_the_known_files_are_walked_once_and_never_by_who_asks(library, disk, walks):
    for path in library_folders(disk):
        os.utime(path, ns=(0, 0))  # not changed recently
    library._index = FolderIndex(library._walk, library.watch, pace_s=0)
    for _ in range(50):
        assert "llm:sub/c.st" in known_names(library)
    assert walks == ["roost-library"] * 3  # one walk through each of three folders


def library_folders(disk: Path) -> list[Path]:
    return [disk / "models", disk / "one" / "llm", disk / "one" / "llm" / "sub", disk / "two" / "llm"]


def test_a_changed_folder_is_walked_again_and_only_who_misses_a_file_waits(library, disk, walks):
    library._index = FolderIndex(library._walk, library.watch, pace_s=0)
    assert "new.st" not in known_names(library)
    for step, change in enumerate(
        (
            lambda: (disk / "one" / "llm" / "sub" / "new.st").write_bytes(b"x"),
            lambda: (disk / "models" / "more").mkdir(),
            lambda: (disk / "models" / "more" / "new.st").write_bytes(b"x"),
            lambda: (disk / "two" / "llm" / "d.st").unlink(),
        )
    ):
        change()
        names = known_names(library)
        assert ("llm:sub/new.st" in names, "more/new.st" in names) == (True, step >= 2)
    assert "llm-2:d.st" not in names
    assert set(walks) == {"roost-library"}


def test_a_known_file_is_found_at_once_while_the_folders_are_walked(library, disk, walks):
    library._index = FolderIndex(library._walk, library.watch, pace_s=0)
    known_names(library)
    may_walk = threading.Event()
    library._index._walk = lambda: may_walk.wait(60) and library._walk()
    (disk / "models" / "new.st").write_bytes(b"x")
    found = library.known_files(lambda files: any(file.name == "a.st" for file in files))
    assert "new.st" not in {file.name for file in found}
    may_walk.set()
    assert "new.st" in known_names(library)


def test_news_of_our_own_are_known_at_once(library, disk):
    known_names(library)
    (disk / "models" / "new.st").write_bytes(b"x")
    library.watch.look_again()
    assert "new.st" in known_names(library)


def test_a_walk_that_fails_leaves_what_was_known(library, monkeypatch):
    before = known_names(library)
    monkeypatch.setattr(library_module, "walk_models", None)
    library.watch.look_again()
    assert known_names(library) == before != set()
