"""`roost models` changes files like the Models page."""

from __future__ import annotations

import json
import re

import pytest

from tests.services.library.library_folder import good_bytes, torn_bytes, tree
from tests.wording import error_text, pattern, text
from webapp.cli import main


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.safetensors").write_bytes(good_bytes())
    (tmp_path / "models" / "torn.safetensors").write_bytes(torn_bytes())
    return tmp_path / "models"


@pytest.fixture
def models(folder, tmp_path, capsys):
    """models(*arguments) -> (exit code, output)."""

    def models(*arguments: str) -> tuple[int, str]:
        code = main(["models", "--models", str(folder), "--data", str(tmp_path / "data"), *arguments])
        said = capsys.readouterr()
        return code, said.out + said.err

    return models


def test_without_an_action_it_lists(models):
    assert models() == models("list")
    code, said = models()
    assert code == 0 and "RWKV-7" in said and error_text("file_truncated", path="torn.safetensors", reason="") in said
    assert {row["name"] for row in json.loads(models("list", "--json")[1])} >= {"a.safetensors", "torn.safetensors"}
    assert json.loads(models("--json", "list")[1]) == json.loads(models("--json")[1])


def test_flags_after_the_action(folder, tmp_path, capsys):
    assert main(["models", "list", "--models", str(folder), "--data", str(tmp_path)]) == 0
    assert "torn.safetensors" in capsys.readouterr().out


def test_shows_one(models):
    assert "RWKV-7" in models("show", "a.safetensors")[1]
    assert "emb.weight" in models("show", "a.safetensors", "--tensors")[1]
    assert "tensors" not in json.loads(models("show", "a.safetensors", "--json")[1])["inspection"]
    assert models("show", "torn.safetensors")[0] == 2
    code, said = models("show", "../../etc/passwd")
    assert code == 2 and error_text("model_not_found", name="../../etc/passwd") in said


def test_deletes_and_restores(models, folder):
    before = tree(folder)
    assert re.match(pattern("cli.models.deleted", name="a.safetensors"), models("delete", "a.safetensors")[1])
    assert "a.safetensors" in models("trash")[1]
    assert models("delete", "a.safetensors")[0] == 2
    assert models("restore", "a.safetensors") == (0, text("cli.models.restored", name="a.safetensors") + "\n")
    assert tree(folder) == before
    item = json.loads(models("delete", "a.safetensors", "--json")[1])
    assert models("restore", item["id"])[0] == 0 and models("restore", item["id"])[0] == 2


def test_renames(models, folder):
    assert models("rename", "a.safetensors", "b.safetensors") == (
        0,
        text("cli.models.renamed", name="b.safetensors") + "\n",
    )
    assert models("rename", "b.safetensors", "torn.safetensors")[0] == 2
    assert models("rename", "b.safetensors", "b.exe")[0] == 2
    assert (folder / "b.safetensors").read_bytes() == good_bytes()


def test_imports(models, folder, tmp_path, monkeypatch):
    (tmp_path / "far.safetensors").write_bytes(good_bytes())
    monkeypatch.chdir(tmp_path)
    assert models("import", "far.safetensors") == (0, text("cli.models.imported", name="far.safetensors") + "\n")
    assert models("import", "far.safetensors")[0] == 2
    assert models("import", "none.pth")[0] == 2
    assert (folder / "far.safetensors").read_bytes() == good_bytes()


def test_the_published_models_have_their_pages(models):
    assert "https://huggingface.co/BlinkDL/rwkv7-g1" in models("known")[1]
    assert len(json.loads(models("known", "--json")[1])) >= 25


def test_further_folders(models, tmp_path):
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "far.safetensors").write_bytes(good_bytes())
    assert "llm:far.safetensors" in models("list", "--extra-models-dirs", str(tmp_path / "llm"))[1]
