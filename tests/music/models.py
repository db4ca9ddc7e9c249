"""The two tiny music models of the tests: trained in seconds by `models/music/train.py` at first use, then kept in
pytest's cache under a digest of the recipe and its code. They are not in git or the wheel."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

from models.music.train import Recipe, write
from tests.sources import ROOT

RECIPES = {
    "midi": Recipe("midi", tunes=40, n_layer=1, n_embd=64, window=96, batch=8, steps=120, seconds=600, seed=3),
    "abc": Recipe("abc", tunes=100, n_layer=1, n_embd=64, window=64, batch=16, steps=90, seconds=600, seed=3),
}
"""Steps, not seconds, so that the model is the same on any machine."""
MADE_OF = (
    "models/music/train.py",
    "models/music/tunes.py",
    "webapp/training/model.py",
    "webapp/training/operations.py",
)


def music_model(config: pytest.Config, kind: str) -> Path:
    """Two processes may train it at the same time: each writes its own file and renames it."""
    source = b"".join((ROOT / name).read_bytes() for name in MADE_OF) + repr(RECIPES[kind]).encode()
    cache = getattr(config, "cache", None)  # missing with -p no:cacheprovider
    folder = Path(cache.mkdir("music")) if cache else Path(tempfile.gettempdir())
    path = folder / f"roost-test-{kind}-{hashlib.sha256(source).hexdigest()[:16]}.safetensors"
    if not path.exists():
        made = path.with_name(f"{path.name}.{os.getpid()}.safetensors")
        write(RECIPES[kind], made)
        made.replace(path)
    return path
