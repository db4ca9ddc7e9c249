"""`roost convert`: result, exit codes, progress for programs, and cancelling."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.weights.make_checkpoints import write_checkpoint, write_tensors
from tests.wording import pattern
from webapp.cli import main
from webapp.weights.inspection import inspect

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "raw.pth", "7")
    return tmp_path / "raw.pth"


def test_it_makes_a_file_next_to_the_model(raw: Path, capsys) -> None:
    assert main(["convert", str(raw), "--to", "fast", "--strategy", "cpu bf16"]) == 0
    assert inspect(raw.with_name("raw.cpu-bf16.fast.pth")).converted_strategy == "cpu bf16"
    assert re.match(pattern("cli.convert.done"), capsys.readouterr().out)


def test_a_name_is_looked_up_in_the_models_folder(raw: Path, tmp_path: Path) -> None:
    places = ["--models", str(raw.parent), "--data", str(tmp_path)]
    assert main(["convert", "raw.pth", str(tmp_path / "new.st"), "--to", "st", *places]) == 0
    assert (tmp_path / "new.st").is_file()


def test_progress_goes_out_a_json_line_each(raw: Path, capsys) -> None:
    assert main(["convert", str(raw), "--to", "st", "--progress-json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["event"] for line in lines} == {"progress", "done"}
    assert [line["phase"] for line in lines if line["event"] == "progress"][-1] == "verify"
    assert lines[-1]["size_bytes"] == raw.with_name("raw.st").stat().st_size


@pytest.mark.parametrize("style", [[], ["--json"], ["--progress-json"]])
def test_a_failure_has_an_exit_code_and_a_reason(style: list[str], raw: Path, capsys) -> None:
    weights = write_checkpoint(raw, "7")
    weights["head.weight"][0, 0] = np.nan
    write_tensors(raw, weights)
    assert main(["convert", str(raw), "--to", "st", *style]) == 2
    shown = capsys.readouterr()
    if style:
        assert json.loads(shown.out.splitlines()[-1])["error"]["code"] == "conversion_failed"
    else:
        assert "head.weight" in shown.err and shown.out == ""
    assert [path.name for path in raw.parent.iterdir()] == ["raw.pth"]


def test_the_end_of_its_input_cancels(raw: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "webapp.cli", "convert", str(raw), "--to", "st", "--progress-json", "--cancel-on-eof"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == "conversion_cancelled"
    assert done.returncode == 130
    assert [path.name for path in raw.parent.iterdir()] == ["raw.pth"]
