"""The memory of a conversion does not grow with the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.weights.make_checkpoints import write_checkpoint

ROOT = Path(__file__).resolve().parents[3]
MOST_GROWTH_BYTES = 300e6  # 120 MB measured; 590 MB when the check of the result kept its pages


def peak_bytes(raw: Path) -> int:
    command = [sys.executable, "-m", "webapp.cli", "convert", str(raw), "--to", "st", "--json", "--overwrite"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    return int(json.loads(done.stdout)["peak_rss_bytes"])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells no peak")
def test_a_larger_model_takes_no_more(tmp_path: Path) -> None:
    """230 MB of tensors against almost none; the blocks are of 32 MB."""
    write_checkpoint(tmp_path / "small.pth", "7", n_layer=1, n_embd=64)
    write_checkpoint(tmp_path / "large.pth", "7", n_layer=8, n_embd=1024, vocab_size=8192)
    assert (tmp_path / "large.pth").stat().st_size > 200e6
    assert peak_bytes(tmp_path / "large.pth") < peak_bytes(tmp_path / "small.pth") + MOST_GROWTH_BYTES
