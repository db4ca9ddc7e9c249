"""Slices over HTTP: files of any size in bodies of a few MiB, and all errors."""

from __future__ import annotations

import json

from tests.services.library.library_folder import good_bytes, torn_bytes, tree
from tests.wording import says


def test_a_file_in_slices(browser):
    content = good_bytes()
    state = browser.upload("up.safetensors", len(content)).json
    while not state.get("is_done"):
        assert state["offset"] < len(content)
        state = browser.slice(state["id"], state["offset"], content[state["offset"] :][:4000]).json
    assert (browser.folder / "up.safetensors").read_bytes() == content
    assert state["name"] == "up.safetensors" and "up.safetensors uploaded." in state["text"]
    assert "up.safetensors" in browser.get("/models")[1]


def test_a_folder_in_slices(browser):
    content = b"{}" + good_bytes()
    parts = json.dumps([["config.json", 2], ["model.safetensors", len(good_bytes())]])
    state = browser.upload("tiny", len(content), parts=parts).json
    while not state.get("is_done"):
        state = browser.slice(state["id"], state["offset"], content[state["offset"] :][:9000]).json
    assert state["name"] == "tiny" and tree(browser.folder / "tiny") == ["config.json", "model.safetensors"]
    for wrong in ("[", "5", '["a"]', '[["a"]]', '[["a", "5"]]', '[["config.json", true]]', "[" * 9999, '[["../x", 2]]'):
        assert browser.upload("other", 5, parts=wrong).json["error"]["code"] == "file_name_unusable", wrong
    assert not any(path.startswith(".uploads") for path in tree(browser.folder))


def test_a_slice_sent_again_gets_the_place_to_continue(browser):
    state = browser.upload("up.safetensors", len(good_bytes())).json
    browser.slice(state["id"], 0, good_bytes()[:100])
    again = browser.slice(state["id"], 0, good_bytes()[:100])
    assert again.status_code == 409 and again.json["error"]["code"] == "upload_offset"
    assert again.json["error"]["offset"] == 100
    assert browser.upload("up.safetensors", len(good_bytes())).json["offset"] == 100


def test_what_is_wrong_is_said_in_the_readers_language(browser):
    answer = browser.client.post(
        "/models/uploads",
        base_url="http://127.0.0.1",
        headers={"Origin": "http://127.0.0.1", "Accept-Language": "zh"},
        data={"name": "good.safetensors", "size": "5"},
    )
    assert answer.status_code == 409 and answer.json["error"]["message"] == "已经有名为 good.safetensors 的文件。"


def test_refusals_leave_nothing(browser):
    before = tree(browser.folder)
    for name, size, code in [
        ("good.safetensors", 5, "file_name_taken"),
        ("../../x.exe", 5, "file_name_unusable"),
        ("x.pth", 0, "file_empty"),
        ("x.pth", -1, "file_empty"),
        ("x.pth", "9" * 18, "disk_full"),
        ("x.pth", "9" * 400, "file_empty"),
        ("x.pth", "NaN", "file_empty"),
        ("", 5, "file_name_unusable"),
    ]:
        assert browser.upload(name, size).json["error"]["code"] == code, name
    assert tree(browser.folder) == before


def test_a_torn_file_is_refused_at_its_end(browser):
    before = tree(browser.folder)
    state = browser.upload("half.safetensors", len(torn_bytes())).json
    answer = browser.slice(state["id"], 0, torn_bytes())
    assert answer.status_code == 400 and answer.json["error"]["code"] == "file_truncated"
    assert str(browser.folder) not in answer.json["error"]["message"] and tree(browser.folder) == before


def test_more_than_announced(browser):
    before = tree(browser.folder)
    state = browser.upload("lie.safetensors", 50).json
    assert browser.slice(state["id"], 0, good_bytes()[:51]).json["error"]["code"] == "upload_refused"
    assert tree(browser.folder) == before


def test_offsets_that_are_none(browser):
    state = browser.upload("up.safetensors", len(good_bytes())).json
    for offset in ("", "-1", "x", "1e3", "9" * 40, "%00"):
        assert browser.slice(state["id"], offset, b"abc").status_code == 409
    assert browser.slice(state["id"], 0, b"").status_code == 400
    assert browser.slice("a" * 32, 0, b"abc").status_code == 404


def test_cancelled(browser):
    before = tree(browser.folder)
    state = browser.upload("up.safetensors", len(good_bytes())).json
    browser.slice(state["id"], 0, good_bytes()[:100])
    assert says(browser.get("/models")[1], "models.upload.unfinished", name="up.safetensors")
    url = f"/models/uploads/{state['id']}"
    for _ in range(2):
        gone = browser.client.delete(url, base_url="http://127.0.0.1", headers={"Origin": "http://127.0.0.1"})
        assert gone.status_code == 200
    assert tree(browser.folder) == before


def test_one_that_stopped_halfway_can_be_discarded_from_the_page(browser):
    state = browser.upload("up.safetensors", len(good_bytes())).json
    browser.slice(state["id"], 0, good_bytes()[:100])
    assert "data-upload=" in browser.get("/models")[1]
    assert "data-upload=" not in browser.act("/models/uploads/discard", id=state["id"])[1]


def test_slices_are_no_larger_than_the_server_takes(open_browser):
    assert 'data-slice="1000"' in open_browser(max_body_bytes=2000).get("/models")[1]


def test_slices_are_8_mib_otherwise(browser):
    assert 'data-slice="8388608"' in browser.get("/models")[1]


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(open_browser):
    browser = open_browser(max_body_bytes=2000)
    state = browser.upload("up.safetensors", len(good_bytes())).json
    assert browser.slice(state["id"], 0, good_bytes()[:2001]).status_code == 413
    assert browser.slice(state["id"], 0, good_bytes()[:2000]).json["offset"] == 2000
