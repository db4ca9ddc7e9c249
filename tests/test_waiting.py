"""A wait that ran out is tried once more, a wrong value never: pyproject.toml says so to pytest-rerunfailures."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
import pytest
from tests.waiting import wait_until

asked = []

def second(name):
    asked.append(name)
    return asked.count(name) > 1

def times_out():
    if not second("timeout"):
        raise TimeoutError("timed out")

def test_wait():
    is_second = second("wait")
    wait_until(lambda: is_second, timeout_s=0)

def test_timeout():
    times_out()

def test_wrong():
    assert second("wrong"), "a Timeout: of nothing"

def test_wrong_after_a_timeout():
    try:
        times_out()
        raise TimeoutError
    except TimeoutError:
        assert second("wrong after")
"""


def test_only_a_wait_that_ran_out_is_tried_again(tmp_path):
    (tmp_path / "test_sample.py").write_text(TESTS)
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-n", "0"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment)
    assert re.search(r"\n2 failed, 2 passed, 2 rerun in ", done.stdout), done.stdout + done.stderr
    assert re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.M) == ["test_wrong", "test_wrong_after_a_timeout"]
