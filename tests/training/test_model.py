"""The network: kernels against float64 autograd of the plain definition, logits against the rwkv package."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")

from webapp.training import kernels  # noqa: E402
from webapp.training.checkpoint import RunConfig, save_checkpoint  # noqa: E402
from webapp.training.export import export  # noqa: E402
from webapp.training.model import Rwkv7  # noqa: E402
from webapp.training.operations import KernelOperations, PlainOperations  # noqa: E402
from webapp.training.optimizer import adamw, learning_rate_at  # noqa: E402
from webapp.training.vocabulary import CompactVocabulary, ids_from_bitmap  # noqa: E402


def shaken(model: Rwkv7, seed: int = 0) -> Rwkv7:
    """Every parameter away from its initial value, so that no term is zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (0.3 if p.dim() == 3 or "ln" in name else 0.5 / p.shape[-1] ** 0.5))
    return model


def gradients(model: Rwkv7, rows, target, weight, state):
    """(loss, gradients by name, gradients of the initial state); the final state is part of the objective."""
    model.zero_grad()
    leaves = [t.detach().clone().requires_grad_() for layer in state for t in layer]
    layers = [tuple(leaves[n : n + 3]) for n in range(0, len(leaves), 3)]
    loss, final = model.loss(rows, target, weight, layers, chunk=17)
    (loss + 1e-2 * sum(t.sin().sum() for layer in final for t in layer)).backward()
    named = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), named, [t.grad.double() for t in leaves]


def relative(a, b) -> float:
    return ((a - b).norm() / (b.norm() + 1e-30)).item()


@pytest.mark.slow
def test_kernels_have_the_gradients_of_the_plain_definition_in_float64():
    if kernels.compiled_kernels() is None:
        pytest.skip("needs a C++ compiler and ninja")
    n_rows, batch, steps = 67, 2, 37  # not a multiple of the 16 steps between snapshots
    model = shaken(Rwkv7(2, 128, n_rows, full_vocabulary=500))
    rows, target = torch.randint(0, n_rows, (2, batch, steps))
    weight = torch.rand(batch, steps)
    state = [tuple(torch.randn_like(t) * 0.3 for t in layer) for layer in model.zero_state(batch)]
    model.ops = KernelOperations()
    fast = gradients(model, rows, target, weight, state)
    model.double().ops = PlainOperations()
    exact = gradients(model, rows, target, weight.double(), [tuple(t.double() for t in layer) for layer in state])
    assert abs(fast[0] - exact[0]) < 1e-5
    for name, gradient in exact[1].items():
        assert relative(fast[1][name], gradient) < 1e-4, name  # float32 sums of some thousand terms
    for a, b in zip(fast[2], exact[2], strict=True):
        assert relative(a, b) < 1e-4


def test_a_state_carried_over_a_split_changes_nothing():
    model = shaken(Rwkv7(2, 64, 50, 50))
    rows = torch.randint(0, 50, (2, 20))
    with torch.no_grad():
        whole, _ = model(rows)
        first, state = model(rows[:, :9])
        second, _ = model(rows[:, 9:], state)
    assert (whole - torch.cat([first, second], 1)).abs().max() < 1e-5


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
