"""A killed conversion leaves no incomplete file, and its leftovers are removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.weights.make_checkpoints import write_checkpoint
from webapp.manager.library import ModelLibrary
from webapp.weights.convert.conversion import convert
from webapp.weights.convert.writers import remove_abandoned
from webapp.weights.inspection import inspect

ROOT = Path(__file__).resolve().parents[3]


def start_until_midway(folder: Path, phase: str = "convert") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.weights.convert.slow_conversion"]
    paths = [str(folder / "raw.pth"), str(folder / "model.st"), phase]
    process = subprocess.Popen([*command, *paths], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "midway\n"
    return process


@pytest.mark.parametrize("phase", ["convert", "verify"])
def test_running_it_keeps_its_file_and_killed_midway_it_leaves_no_half_one(phase: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "raw.pth", "6")
    process = start_until_midway(tmp_path, phase)
    try:
        assert remove_abandoned(tmp_path) == 0  # on Windows an open file cannot be deleted anyway
        assert len(list(tmp_path.glob(".model.st.*"))) == 1
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "model.st").exists()
    assert [entry.name for entry in ModelLibrary(tmp_path, tmp_path / "none").list()] == ["raw.pth"]
    assert len(list(tmp_path.glob(".model.st.*"))) == 1

    if phase == "verify":  # otherwise the next conversion removes it
        assert remove_abandoned(tmp_path) == 1
    convert(tmp_path / "raw.pth", tmp_path / "model.st", "st")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.st", "raw.pth"]
    assert inspect(tmp_path / "model.st").naming == "web-rwkv"
