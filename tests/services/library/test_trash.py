"""Deleted files are restored, or deleted permanently."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.errors import raises_code
from tests.services.library.library_folder import can_link, tree
from webapp.errors import FileMissing
from webapp.services.library.placing import Trash


@pytest.fixture
def trash(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.pth").write_bytes(b"weights")
    return Trash(tmp_path)


def test_a_file_is_restored_to_its_place_even_if_its_folder_is_gone(trash, tmp_path):
    item = trash.put(tmp_path / "sub" / "a.pth")
    assert (item.name, item.size_bytes) == ("sub/a.pth", 7)
    (tmp_path / "sub").rmdir()
    assert trash.list() == (item,)
    assert trash.restore(item.id).read_bytes() == b"weights"
    assert trash.list() == () and tree(tmp_path) == ["sub/a.pth"]


def test_of_two_simultaneous_deletions_of_a_file_one_gets_an_error(trash, tmp_path):
    def put(_):
        try:
            return trash.put(tmp_path / "sub" / "a.pth")
        except FileMissing as exc:
            return exc

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(put, range(8)))
    assert sum(not isinstance(item, FileMissing) for item in found) == 1
    assert len(trash.list()) == 1


def test_two_of_one_name_are_two_things_in_the_trash(trash, tmp_path):
    first = trash.put(tmp_path / "sub" / "a.pth")
    (tmp_path / "sub" / "a.pth").write_bytes(b"newer")
    trash.put(tmp_path / "sub" / "a.pth")
    assert [item.size_bytes for item in trash.list()] == [5, 7]
    assert trash.restore(first.id).read_bytes() == b"weights"


def test_nothing_is_replaced_by_what_comes_back(trash, tmp_path):
    item = trash.put(tmp_path / "sub" / "a.pth")
    (tmp_path / "sub" / "a.pth").write_bytes(b"newer")
    with raises_code("file_name_taken"):
        trash.restore(item.id)
    assert (tmp_path / "sub" / "a.pth").read_bytes() == b"newer" and trash.list() == (item,)


@pytest.mark.parametrize("item_id", ["", "..", "../sub", "a" * 32, "/etc"])
def test_what_is_not_in_the_trash(trash, item_id):
    with raises_code("trash_missing"):
        trash.restore(item_id)


def test_a_note_that_points_outside_is_not_followed(trash, tmp_path):
    item = trash.put(tmp_path / "sub" / "a.pth")
    about = tmp_path / ".trash" / item.id / "about.json"
    about.write_text(about.read_text().replace("sub/a.pth", "../../stolen.pth"))
    assert trash.list() == ()
    with raises_code("trash_missing"):
        trash.restore(item.id)


def test_emptying_is_for_good(trash, tmp_path):
    trash.put(tmp_path / "sub" / "a.pth")
    assert trash.empty() == 7
    assert trash.empty() == 0 and tree(tmp_path) == []


def test_a_file_on_another_disk_stays_where_it_is(trash, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", refuse)
    with raises_code("library_error", key="reason.services.on_another_disk"):
        trash.put(tmp_path / "sub" / "a.pth")
    assert tree(tmp_path) == ["sub/a.pth"] and trash.list() == ()


@can_link
def test_of_a_link_only_the_link_is_deleted(trash, tmp_path):
    (tmp_path / "link.pth").symlink_to(tmp_path / "sub" / "a.pth")
    item = trash.put(tmp_path / "link.pth")
    assert (tmp_path / "sub" / "a.pth").read_bytes() == b"weights"
    assert trash.restore(item.id).is_symlink()
