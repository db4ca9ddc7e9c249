"""Slices become a file, or nothing remains."""

from __future__ import annotations

import errno
import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tests.errors import raises_code
from tests.services.library.library_folder import good_bytes, torn_bytes, tree
from webapp.errors import UploadMissing
from webapp.manager.library import ModelLibrary
from webapp.services.library import model_files, placing
from webapp.services.library.model_files import Upload, Uploads


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def into(folder: Path) -> Uploads:
    return Uploads(folder)


def send(into: Uploads, upload: Upload, content: bytes, slice_bytes: int = 1000) -> Upload:
    for offset in range(upload.done_bytes, len(content), slice_bytes):
        upload = into.write(upload.id, offset, io.BytesIO(content[offset : offset + slice_bytes]))
    return upload


def test_slices_become_the_file(into, folder):
    content = good_bytes()
    upload = into.start("new.safetensors", len(content))
    send(into, upload, content)
    assert into.finish(upload.id) == folder / "new.safetensors"
    assert (folder / "new.safetensors").read_bytes() == content
    assert tree(folder) == ["new.safetensors"] and not into.folder.exists()


def test_a_cut_off_upload_continues_where_it_stopped_also_after_a_restart(into, folder):
    content = good_bytes()
    upload = into.start("new.safetensors", len(content), "date")
    into.write(upload.id, 0, io.BytesIO(content[:5000]))
    again = Uploads(folder).start("new.safetensors", len(content), "date")
    assert (again.id, again.done_bytes) == (upload.id, 5000)
    assert Uploads(folder).start("new.safetensors", len(content), "another date").done_bytes == 0
    send(into, again, content)
    assert into.finish(again.id).read_bytes() == content


def test_a_slice_at_the_wrong_place_gets_the_right_one(into):
    upload = into.start("new.pth", 100_000)
    into.write(upload.id, 0, io.BytesIO(good_bytes()[:50]))
    for offset in (0, 49, 51, -1, 10**18):
        with raises_code("upload_offset") as refused:
            into.write(upload.id, offset, io.BytesIO(b"x"))
        assert refused.value.params["expected"] == 50
    assert into.get(upload.id).done_bytes == 50


def folder_parts() -> tuple[tuple[tuple[str, int], ...], bytes]:
    files = {"config.json": b"{}", "notes.txt": b"", "model.safetensors": good_bytes(), "tokenizer.json": b"{}\n"}
    return tuple((name, len(content)) for name, content in files.items()), b"".join(files.values())


def test_a_folder_is_downloaded_as_one_model_also_after_a_restart(into, folder):
    parts, content = folder_parts()
    upload = into.start("RWKV7-0.1B", 0, "date", parts)
    into.write(upload.id, 0, io.BytesIO(content[:5000]))
    assert tree(folder / ".uploads" / f"{upload.id}.part") == sorted(name for name, _ in parts)
    again = Uploads(folder).start("RWKV7-0.1B", 0, "date", parts)
    assert (again.id, again.done_bytes, again.size_bytes) == (upload.id, 5000, len(content))
    assert into.start("RWKV7-0.1B", 0, "date", parts[:3]).id != again.id
    send(into, again, content, 3000)
    assert into.finish(again.id) == folder / "RWKV7-0.1B"
    assert {name: (folder / "RWKV7-0.1B" / name).stat().st_size for name, _ in parts} == dict(parts)
    assert (folder / "RWKV7-0.1B" / "model.safetensors").read_bytes() == good_bytes()
    assert ModelLibrary(folder).files()[-1].name == "RWKV7-0.1B"


def test_a_folder_that_breaks_off_or_is_torn_leaves_nothing(into, folder):
    parts, content = folder_parts()
    upload = into.start("m", 0, "", parts)
    send(into, upload, content[:900])
    assert [one.id for one in into.pending()] == [upload.id]
    into.discard(upload.id)
    torn = tuple((name, size // 2 if size > 100 else size) for name, size in parts)
    upload = into.start("m", 0, "", torn)
    send(into, upload, b"{}" + torn_bytes() + b"{}\n")
    with raises_code("file_truncated"):
        into.finish(upload.id)
    assert tree(folder) == []


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "/etc/x", "..", ".", "", ".git", "con", "x\0", "CONFIG.JSON", "a:b", " x", "x."]
)
def test_hostile_names_in_a_folder_are_refused(name, into, folder):
    parts, _ = folder_parts()
    with raises_code("file_name_unusable"):
        into.start("m", 0, "", (*parts, (name, 5)))
    assert tree(folder) == []


def test_a_folder_that_is_no_model_or_is_too_much_is_refused(into, folder):
    parts, _ = folder_parts()
    for wrong, code in (
        ((("x.pth", 5),), "file_is_directory"),
        ((*parts, ("x", -5)), "file_name_unusable"),
        ((*parts, *((f"{n}.txt", 1) for n in range(600))), "file_name_unusable"),
        ((*parts, ("x", 10**17)), "disk_full"),
    ):
        with raises_code(code):
            into.start("m", 0, "", wrong)
    with raises_code("file_name_unusable"):
        into.start("..", 0, "", parts)
    assert tree(folder) == []


def test_a_folder_of_an_adapter_is_downloaded_too(into, folder):
    lora = save({"blocks.0.att.key.lora_A": np.ones((4, 64), "f4"), "blocks.0.att.key.lora_B": np.ones((64, 4), "f4")})
    parts = (("adapter_config.json", 2), ("adapter_model.safetensors", len(lora)))
    upload = into.start("tuned", 0, "", parts)
    send(into, upload, b"{}" + lora)
    assert into.finish(upload.id) == folder / "tuned"
    (found,) = ModelLibrary(folder, bundled_dir=folder).list()
    assert found.name == "tuned/adapter_model.safetensors" and found.inspection.kind == "lora"


def test_more_than_was_announced_leaves_nothing(into, folder):
    upload = into.start("new.safetensors", 60)
    with raises_code("upload_refused"):
        into.write(upload.id, 0, io.BytesIO(good_bytes()[:61]))
    assert tree(folder) == []


def test_less_than_was_announced_is_no_file(into, folder):
    upload = into.start("new.safetensors", len(good_bytes()) + 1)
    send(into, upload, good_bytes())
    with raises_code("upload_offset"):
        into.finish(upload.id)
    assert not (folder / "new.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("torn.safetensors", torn_bytes(), "file_truncated"),
        ("named.pth", good_bytes(), "wrong_extension"),
        ("short.pth", b"x", "file_truncated"),
    ],
)
def test_what_is_no_model_is_refused_in_the_end_and_leaves_nothing(into, folder, name, content, error):
    upload = send(into, into.start(name, len(content)), content)
    with raises_code(error) as refused:
        into.finish(upload.id)
    assert refused.value.params["path"] == name
    assert tree(folder) == []


def test_a_page_saved_as_a_model_is_refused_after_its_first_slice(into, folder):
    upload = into.start("page.pth", 10**10)
    with raises_code("unknown_format", match=r"page\.pth"):
        into.write(upload.id, 0, io.BytesIO(b"<!doctype html><html>"))
    assert tree(folder) == []


def test_a_first_slice_of_few_bytes_is_no_reason_to_refuse(into, folder):
    content = good_bytes()
    upload = send(into, into.start("new.safetensors", len(content)), content[:4], slice_bytes=1)
    send(into, upload, content)
    assert into.finish(upload.id).read_bytes() == content


def test_a_state_goes_to_the_states(into, folder):
    content = good_bytes("state")
    upload = send(into, into.start("mood.safetensors", len(content)), content)
    assert into.finish(upload.id) == folder / "states" / "mood.safetensors"


def test_cancelling_leaves_nothing(into, folder):
    upload = into.start("new.pth", 1000)
    into.write(upload.id, 0, io.BytesIO(good_bytes()[:100]))
    into.discard(upload.id)
    into.discard(upload.id)
    assert tree(folder) == []
    with pytest.raises(UploadMissing):
        into.write(upload.id, 100, io.BytesIO(b"x"))


@pytest.mark.parametrize("upload_id", ["", "..", "../../x", "a" * 32, "A" * 32, "a" * 31 + "/", "\0" * 32])
def test_ids_of_nothing(into, upload_id):
    for action in (into.get, into.finish, lambda i: into.write(i, 0, io.BytesIO(b"x"))):
        with pytest.raises(UploadMissing):
            action(upload_id)
    into.discard(upload_id)


def test_beginnings_that_are_refused(into, folder):
    (folder / "here.pth").write_bytes(b"mine")
    for name, size, error in [
        ("here.pth", 5, "file_name_taken"),
        ("../here.pth", 5, "file_name_taken"),
        ("x.exe", 5, "file_name_unusable"),
        ("x.pth", 0, "file_empty"),
        ("x.pth", -5, "file_empty"),
        ("x.pth", 10**18, "disk_full"),
    ]:
        with raises_code(error):
            into.start(name, size)
    assert tree(folder) == ["here.pth"] and (folder / "here.pth").read_bytes() == b"mine"


def test_a_file_that_took_the_name_meanwhile_is_not_replaced(into, folder):
    content = good_bytes()
    upload = send(into, into.start("new.safetensors", len(content)), content)
    (folder / "new.safetensors").write_bytes(b"mine")
    with raises_code("file_name_taken"):
        into.finish(upload.id)
    assert (folder / "new.safetensors").read_bytes() == b"mine"
    (folder / "new.safetensors").unlink()
    assert into.finish(upload.id).read_bytes() == content


def test_a_disk_that_fills_up_keeps_the_data_before_the_slice(into, monkeypatch):
    content = good_bytes()
    upload = into.start("new.safetensors", len(content))
    into.write(upload.id, 0, io.BytesIO(content[:3000]))
    real = placing.write_all
    pieces = []

    def until_full(file, piece):
        real(file, piece[: len(piece) // 2])
        pieces.append(piece)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(placing, "write_all", until_full)
    with raises_code("disk_full"):
        into.write(upload.id, 3000, io.BytesIO(content[3000:]))
    assert pieces and into.get(upload.id).done_bytes == 3000
    monkeypatch.undo()
    send(into, into.get(upload.id), content)
    assert into.finish(upload.id).read_bytes() == content


def test_room_is_asked_for_what_is_still_missing_only(into, monkeypatch):
    upload = into.start("new.safetensors", 10_000)
    into.write(upload.id, 0, io.BytesIO(good_bytes()[:9000]))
    monkeypatch.setattr(placing, "free_bytes", lambda folder: placing.RESERVE_BYTES + 1000)
    assert into.start("new.safetensors", 10_000).done_bytes == 9000
    with raises_code("disk_full"):
        into.start("other.safetensors", 1001)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_one_may_not_write_to(into, folder):
    folder.chmod(0o500)
    try:
        with raises_code("folder_not_writable"):
            into.start("new.pth", 10)
    finally:
        folder.chmod(0o700)


def test_uploads_not_resumed_for_a_day_are_removed(into, folder):
    old, new = into.start("old.pth", 10), into.start("new.pth", 10)
    day_ago = time.time() - model_files.KEPT_S - 1
    os.utime(into.folder / f"{old.id}.part", (day_ago, day_ago))
    assert [upload.id for upload in into.pending()] == [new.id]
    assert not any(old.id in name for name in tree(folder))
