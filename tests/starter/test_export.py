"""The result of a run: the expanded vocabulary, and an ordinary checkpoint that the rwkv package reads with the same
logits."""

from __future__ import annotations

import os
import sys

import pytest

torch = pytest.importorskip("torch")

from models.starter.checkpoint import RunConfig, save_checkpoint  # noqa: E402
from models.starter.export import export  # noqa: E402
from models.starter.optimizer import adamw, learning_rate_at  # noqa: E402
from models.starter.vocabulary import CompactVocabulary, ids_from_bitmap  # noqa: E402
from tests.training.test_model import shaken  # noqa: E402
from webapp.training.model import Rwkv7  # noqa: E402


def test_the_shared_row_counts_for_every_unused_token():
    vocabulary = CompactVocabulary([0, 3, 5, 9], full=40)
    compact = shaken(Rwkv7(1, 64, vocabulary.n_rows, full_vocabulary=40))
    full = Rwkv7(1, 64, 40, full_vocabulary=40)
    weights = {
        n: vocabulary.expand(t) if n in ("emb.weight", "head.weight") else t for n, t in compact.state_dict().items()
    }
    full.load_state_dict(weights)
    ids = torch.tensor([[3, 9, 5, 0, 3, 9]])
    with torch.no_grad():
        small, _ = compact.loss(vocabulary.row_of[ids[:, :-1]], vocabulary.row_of[ids[:, 1:]])
        large, _ = full.loss(ids[:, :-1], ids[:, 1:])
    assert abs(small.item() - large.item()) < 1e-5


def test_only_matrices_decay_and_decay_rates_learn_twice_as_fast():
    model = Rwkv7(2, 64, 20, 20)
    names = {id(p): name for name, p in model.named_parameters()}
    plain, double, decayed = ({names[id(p)] for p in group["params"]} for group in adamw(model, 1e-3).param_groups)
    assert double == {"blocks.0.att.w0", "blocks.1.att.w0"}
    assert "blocks.1.att.key.weight" in decayed and "emb.weight" in decayed
    assert "blocks.1.att.v1" in plain and "blocks.0.ln1.weight" in plain
    assert not any(name.startswith("blocks.0.att.v0") for name in plain | double | decayed)


def test_the_learning_rate_warms_up_stays_and_falls():
    assert learning_rate_at(1.0, 0, 10, 0.0) == pytest.approx(0.1)
    assert learning_rate_at(1.0, 500, 10, 0.0) == 1.0
    assert learning_rate_at(1.0, 500, 10, 1.0) == pytest.approx(0.03)


@pytest.fixture
def exported(tmp_path):
    """(model, vocabulary, path of its safetensors export in float32, metadata)."""
    vocabulary = CompactVocabulary([*range(257), 24281, 59, 261])
    model = shaken(Rwkv7(2, 128, vocabulary.n_rows))
    counters = {"step": 3, "tokens": 99, "seconds": 1.0, "decay": None}
    content = {"average": model.state_dict(), "model": model.state_dict(), "vocabulary": vocabulary.ids}
    save_checkpoint(tmp_path, RunConfig(n_layer=2, n_embd=128), {**content, "counters": counters})
    metadata = export(tmp_path, tmp_path / "model.safetensors", dtype=torch.float32)
    return model, vocabulary, tmp_path / "model.safetensors", metadata


def test_an_export_has_the_official_names_and_says_which_ids_are_used(exported):
    from safetensors import safe_open

    _, vocabulary, path, _ = exported
    with safe_open(str(path), "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
        assert file.get_slice("emb.weight").get_shape() == [65536, 128]
    assert {"blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2", "blocks.0.ln0.weight", "ln_out.bias"} <= names
    assert "blocks.1.att.r_k" in names and "blocks.1.ffn.x_k" in names
    assert ids_from_bitmap(metadata["roost.used_token_bitmap"]) == vocabulary.ids.tolist()


@pytest.mark.slow
def test_the_rwkv_package_gives_the_same_logits(exported, tmp_path, monkeypatch):
    for name, value in {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}.items():
        monkeypatch.setitem(os.environ, name, value)
    sys.modules.pop("rwkv.model", None)  # it reads its settings at import, and another test may have imported it
    package = pytest.importorskip("rwkv.model")
    from safetensors.torch import load_file

    model, vocabulary, path, _ = exported
    torch.save(load_file(str(path)), tmp_path / "same.pth")
    reference = package.RWKV(model=str(tmp_path / "same"), strategy="cpu fp32")
    ids = vocabulary.ids[torch.randint(0, len(vocabulary.ids), (60,))]
    with torch.no_grad():
        logits, state = model(vocabulary.row_of[ids][None])
        expected, expected_state = reference.forward(ids.tolist(), None, full_output=True)
    assert (logits[0, :, :-1] - expected[:, vocabulary.ids]).abs().max() < 1e-4
    assert (state[1][1][0] - expected_state[4]).abs().max() < 1e-4
