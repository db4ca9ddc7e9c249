"""The network: kernels against float64 autograd of the plain definition, logits against the rwkv package."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")

from webapp.training import kernels  # noqa: E402
from webapp.training.checkpoint import RunConfig, save_checkpoint  # noqa: E402
from webapp.training.export import export  # noqa: E402
from webapp.training.model import Rwkv7  # noqa: E402
from webapp.training.operations import (  # noqa: E402
    ChunkedOperations,
    KernelOperations,
    PlainOperations,
    operations_for,
)
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


def both_gradients(fast_operations, steps: int):
    """What `gradients` says with the given operations in float32, and with the plain ones in float64."""
    n_rows, batch = 67, 2
    model = shaken(Rwkv7(2, 128, n_rows, full_vocabulary=500))
    rows, target = torch.randint(0, n_rows, (2, batch, steps))
    weight = torch.rand(batch, steps)
    state = [tuple(torch.randn_like(t) * 0.3 for t in layer) for layer in model.zero_state(batch)]
    model.ops = fast_operations
    fast = gradients(model, rows, target, weight, state)
    model.double().ops = PlainOperations()
    exact = gradients(model, rows, target, weight.double(), [tuple(t.double() for t in layer) for layer in state])
    return fast, exact


def assert_close_gradients(fast, exact) -> None:
    assert abs(fast[0] - exact[0]) < 1e-5
    for name, gradient in exact[1].items():
        assert relative(fast[1][name], gradient) < 1e-4, name  # float32 sums of some thousand terms
    for a, b in zip(fast[2], exact[2], strict=True):
        assert relative(a, b) < 1e-4


@pytest.mark.slow
def test_kernels_have_the_gradients_of_the_plain_definition_in_float64():
    if kernels.compiled_kernels() is None:
        pytest.skip("needs a C++ compiler and ninja")
    assert_close_gradients(*both_gradients(KernelOperations(), 37))  # not a multiple of the 16 steps between snapshots


@pytest.mark.parametrize("steps", [1, 16, 37])
def test_the_chunked_form_has_the_gradients_of_the_plain_definition_in_float64(steps):
    assert_close_gradients(*both_gradients(ChunkedOperations(), steps))


def test_the_chunked_form_in_float64_is_the_plain_recurrence_even_at_the_strongest_decay():
    torch.manual_seed(1)
    r, k, v, b, a = (torch.randn(2, 50, 3, 64, dtype=torch.float64) for _ in range(5))
    a = -torch.nn.functional.normalize(a, dim=-1)
    b = -a * torch.rand_like(b)
    decay = torch.full_like(r, 0.5453)  # exp(-exp(-0.5)) is the least there is
    state = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected, expected_state = PlainOperations().wkv(r, decay, k, v, a, b, state)
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        reads, final = ChunkedOperations().wkv(*(t.to(dtype) for t in (r, decay, k, v, a, b, state)))
        assert relative(reads.double(), expected) < bound
        assert relative(final.double(), expected_state) < bound


def test_products_in_bf16_keep_master_weights_and_come_close():
    model = shaken(Rwkv7(2, 64, 50, 50))
    rows = torch.randint(0, 50, (2, 21))
    losses, grown = [], []
    for operations in (ChunkedOperations(), ChunkedOperations(bf16=True)):
        model.ops = operations
        model.zero_grad()
        loss, _ = model.loss(rows[:, :-1], rows[:, 1:])
        loss.backward()
        losses.append(loss.item())
        grown.append(model.blocks[1].att.key.weight.grad.clone())
    assert grown[1].dtype == torch.float32
    assert 0 < abs(losses[0] - losses[1]) < 0.02
    assert 0 < relative(grown[1], grown[0]) < 0.1


def test_a_machine_without_a_compiler_trains_in_chunks(monkeypatch):
    monkeypatch.setattr(kernels, "compiled_kernels", lambda: None)
    operations = operations_for(torch.device("cpu"))
    assert isinstance(operations, ChunkedOperations) and not operations.bf16


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


def test_tokens_of_weight_zero_have_no_part_in_the_loss():
    model = shaken(Rwkv7(1, 64, 30, 30))
    rows, target = torch.randint(0, 30, (2, 2, 12))
    weight = torch.rand(2, 12) * (torch.rand(2, 12) < 0.5)
    loss, _ = model.loss(rows, target, weight)
    logits, _ = model(rows)
    losses = torch.nn.functional.cross_entropy(logits.view(-1, 30), target.view(-1), reduction="none")
    assert loss.item() == pytest.approx(((losses * weight.view(-1)).sum() / weight.sum()).item(), abs=1e-5)


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
