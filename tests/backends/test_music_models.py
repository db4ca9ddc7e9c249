"""Music models on every backend: the trained ones over a piece, and the published versions' shapes.

The vocabularies are of no usual size, and RWKV-4 and 5 are what the author published. No engine but the rwkv package
scales activations down; that one leaves it for music models (``RWKV_RESCALE_LAYER=999``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.music.train import document
from tests.backends.parity import STRATEGIES, difference, every_backend, load_or_skip, make_pair, measure
from tests.engine.driving import forward
from tests.music.models import music_model
from tests.reference.numpy_rwkv import NumpyRwkv
from webapp.backends.rwkv_pip.layout import rescale_layer
from webapp.engine.registry import BackendEntry

TOLERANCE = 2e-3
"""That of test_parity is for logits with standard deviation 1; those of a trained model are several times larger."""


@pytest.mark.parametrize("kind", ["midi", "abc"])
@every_backend
def test_a_trained_model_writes_the_same_everywhere(
    entry: BackendEntry, kind: str, pytestconfig: pytest.Config
) -> None:
    from safetensors.numpy import load_file

    path = music_model(pytestconfig, kind)
    backend = load_or_skip(entry, path, STRATEGIES[entry.name])
    reference = NumpyRwkv(backend.config, {name: value.astype(np.float32) for name, value in load_file(path).items()})
    ids = document(kind, 77)[:60]
    expected, _ = reference.forward(ids)
    slot = backend.new_slot()
    found = [forward(backend, [slot], [ids[:40]])[0], *(forward(backend, [slot], [[one]])[0] for one in ids[40:])]
    backend.close()
    for logits, wanted in zip(found, expected[39:], strict=True):
        assert difference(logits, wanted) <= TOLERANCE * max(1.0, float(np.std(wanted)))
        assert logits.argmax() == wanted.argmax()


@pytest.mark.parametrize(("architecture", "vocab_size"), [("4", 20096), ("5.2", 128)])
@every_backend
def test_the_published_shapes_run(entry: BackendEntry, architecture: str, vocab_size: int, tmp_path: Path) -> None:
    sizes = {"n_layer": 1, "n_embd": 64, "vocab_size": vocab_size}
    backend, reference = make_pair(entry, tmp_path, architecture, STRATEGIES[entry.name], "model.safetensors", **sizes)
    found = measure(backend, reference, lengths=(6, 1, 3))
    backend.close()
    assert found.largest() <= TOLERANCE


def test_the_package_rescales_no_music_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RWKV_RESCALE_LAYER", raising=False)
    assert rescale_layer("cuda fp16", is_music=True) == 999
    assert rescale_layer("cuda fp16", is_music=False) == 6
