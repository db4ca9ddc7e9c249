"""The memory of a conversion does not grow with the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.weights.make_checkpoints import Maker, make_tensors, write_tensors

ROOT = Path(__file__).resolve().parents[3]
MAX_GROWTH_BYTES = 170e6  # 120 MB measured; more than the model's size when the check of the result kept its pages


class Constant(Maker):
    """Random numbers for this many weights take 4 s."""

    def normal(self, name: str, shape: tuple[int, ...], scale: float) -> np.ndarray:
        return np.full(shape, scale, np.float32)


def write_model(path: Path, layers: int, width: int, vocab_size: int) -> None:
    write_tensors(path, make_tensors("7", layers, width, 64, vocab_size, maker=Constant(0)), "bfloat16")


CONVERT = """
import sys
from webapp.cli import main
for raw in sys.argv[1:]:
    assert main(["convert", raw, "--to", "st", "--json", "--overwrite"]) == 0
"""


def peaks_bytes(*raws: Path) -> list[int]:
    """Peak memory after each conversion, in one process that runs them in turn."""
    command = [sys.executable, "-c", CONVERT, *map(str, raws)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=True)
    return [json.loads(line)["peak_rss_bytes"] for line in done.stdout.splitlines()]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells no peak")
def test_a_larger_model_takes_no_more(tmp_path: Path) -> None:
    """230 MB of tensors compared with almost none; blocks have 32 MB."""
    write_model(tmp_path / "small.pth", 1, 64, 256)
    write_model(tmp_path / "large.pth", 8, 1024, 8192)
    assert (tmp_path / "large.pth").stat().st_size > 200e6
    small, large = peaks_bytes(tmp_path / "small.pth", tmp_path / "large.pth")
    print(small, large)
    assert large < small + MAX_GROWTH_BYTES
