"""`roost states` in a terminal."""

from __future__ import annotations

import json
import re

import pytest

from tests.weights.make_checkpoints import write_checkpoint, write_state
from tests.wording import error_text, pattern
from webapp.cli import main


@pytest.fixture
def places(tmp_path):
    folder = tmp_path / "models"
    (folder / "states").mkdir(parents=True)
    write_checkpoint(folder / "tiny.pth", "7", n_layer=2, n_embd=32, head_size=16)
    write_state(folder / "states" / "a.pth", 2, 2, 16)
    write_state(folder / "states" / "b.pth", 2, 2, 16, seed=1)
    return ["--models", str(folder), "--data", str(tmp_path)]


def test_list_names_each_with_what_it_fits(places, capsys):
    assert main(["states", "list", *places]) == 0
    out = capsys.readouterr().out
    assert "a.pth\n" in out and "2 layers of 2 x 16, width 32; fits tiny.pth" in out
    assert main(["states", "list", "--json", *places]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in found] == ["a.pth", "b.pth"] and found[0]["fits"] == ["tiny.pth"]


def test_inspect_takes_a_name_or_a_path(places, tmp_path, capsys):
    for name in ("a.pth", str(tmp_path / "models" / "states" / "a.pth")):
        assert main(["states", "inspect", name, "--json", *places]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["n_layer"], found["n_head"], found["head_size"]) == (2, 2, 16) and len(found["digest"]) == 64
    assert main(["states", "inspect", "a.pth", *places]) == 0
    assert "██" in capsys.readouterr().out
    assert main(["states", "inspect", "a.pth", "--with", "b.pth", *places]) == 0
    assert re.search(pattern("cli.states.apart", name="b.pth"), capsys.readouterr().out)
    assert main(["states", "inspect", "a.pth", "--with", "a.pth", "--json", *places]) == 0
    assert json.loads(capsys.readouterr().out)["with"]["cosine"] == pytest.approx(1.0)
    assert main(["states", "inspect", "gone.pth", *places]) == 2
    assert re.search(error_text("file_not_found", path=r".*gone\.pth"), capsys.readouterr().err)


def test_blend_makes_a_new_one(places, capsys):
    assert main(["states", "blend", "a.pth=0.5", "b.pth=0.5", "--name", "both", *places]) == 0
    assert "both.safetensors" in capsys.readouterr().out
    for wrong in ("a.pth", "a.pth=much", "gone.pth=1"):
        assert main(["states", "blend", "a.pth=1", wrong, "--name", "c", *places]) == 2


def test_bake_reads_a_document_into_a_state_and_again_by_its_name(places, tmp_path, capsys):
    (tmp_path / "cats.md").write_text("The cat is called Tom.")
    command = ["states", "bake", "--model", "tiny.pth", "--strategy", "fake", *places]
    assert main([*command, str(tmp_path / "cats.md")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"cats\.safetensors\n  Document cats\.md; \d+ tokens, processed by tiny\.pth", out)
    assert main([*command, str(tmp_path / "cats.md"), "--as", "prompt", "--name", "kind"]) == 0
    assert main([*command, "cats.safetensors"]) == 0
    capsys.readouterr()
    assert main([*command, str(tmp_path / "cats.md")]) == 2
    assert re.search(error_text("file_name_taken", name="cats.safetensors"), capsys.readouterr().err)
    assert main([*command, "nowhere.md"]) == 2
