"""`roost export` and `roost import` in a terminal."""

from __future__ import annotations

import json

import pytest

from tests.services.chat.test_imports import CHATGPT
from webapp.cli import main, options
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database


@pytest.fixture
def places(tmp_path):
    (tmp_path / "data").mkdir()
    return ["--data", str(tmp_path / "data"), "--models", str(tmp_path / "models")]


def test_chats_are_imported_and_exported_again(places, tmp_path, capsys):
    (tmp_path / "conversations.json").write_text(json.dumps([CHATGPT]))
    assert main(["import", str(tmp_path / "conversations.json"), *places]) == 0
    told = capsys.readouterr().out
    assert "Birds" in told and "1 picture" in told
    for name in ("birds.rwkvchat", "birds.json", "birds.md"):
        assert main(["export", "birds", str(tmp_path / name), *places]) == 0
        assert name in capsys.readouterr().out
    assert (tmp_path / "birds.md").read_text(encoding="utf-8").startswith("# Birds")
    for name in ("birds.rwkvchat", "birds.json"):
        assert main(["import", str(tmp_path / name), *places]) == 0
    database = Database(tmp_path / "data" / "roost.db")
    store = ChatStore(database)
    texts = [[stored.message.content for stored in store.branch(row.id)] for row in store.list()]
    assert len(texts) == 3 and texts[0] == texts[1] == texts[2]
    database.close()


@pytest.mark.parametrize("words", [["import", "good.txt"], ["export", "birds"], ["chat", "--list"]], ids=" ".join)
def test_a_missing_data_folder_is_named_and_not_created(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.txt").write_text("User: Hi\n\nAssistant: Hello")
    assert main([*words, "--data", str(tmp_path / "mistyped")]) == 2
    found = capsys.readouterr()
    assert found.out == "" and "mistyped" in found.err and [path.name for path in tmp_path.iterdir()] == ["good.txt"]


def test_the_usual_data_folder_is_made_for_the_first_chats(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(options, "default_data_dir", lambda: tmp_path / "data")
    (tmp_path / "good.txt").write_text("User: Hi\n\nAssistant: Hello")
    assert main(["import", str(tmp_path / "good.txt"), "--data", str(tmp_path / "data")]) == 0
    assert "Hi" in capsys.readouterr().out and (tmp_path / "data" / "roost.db").is_file()


def test_an_invalid_file_is_named_and_the_others_are_imported(places, tmp_path, capsys):
    (tmp_path / "good.txt").write_text("User: Hi\n\nAssistant: Hello")
    (tmp_path / "torn.rwkvchat").write_bytes(b"1234567")
    names = [str(tmp_path / name) for name in ("torn.rwkvchat", "gone.json", "good.txt")]
    assert main(["import", *names, *places]) == 2
    found = capsys.readouterr()
    assert "torn.rwkvchat" in found.err and "gone.json" in found.err and "Hi" in found.out
