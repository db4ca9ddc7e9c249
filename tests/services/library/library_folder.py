"""A models folder with one good model, and bytes of all kinds to import."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from safetensors.numpy import save_file

from tests.weights.make_checkpoints import make_tensors, make_time_state

can_link = pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")


@cache
def good_bytes(kind: str = "model") -> bytes:
    """A complete safetensors file: a tiny RWKV-7, or a state of it."""
    tensors = make_tensors("7", 1, 64, 64, 256) if kind == "model" else make_time_state(1, 1, 64)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        save_file(tensors, str(path))
        return path.read_bytes()


def torn_bytes() -> bytes:
    return good_bytes()[: len(good_bytes()) // 2]


def tree(folder: Path) -> list[str]:
    """All files below, including hidden ones."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
