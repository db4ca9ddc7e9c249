"""The network: kernels and the chunked form compared with float64 autograd of the plain definition."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from webapp.training import operations as module  # noqa: E402
from webapp.training.model import Rwkv7  # noqa: E402
from webapp.training.operations import ChunkedOperations, KernelOperations, PlainOperations, operations_for  # noqa: E402


def shaken(model: Rwkv7, seed: int = 0) -> Rwkv7:
    """Moves every parameter away from its initial value, so that no term is zero."""
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
    """The results of `gradients` with the given operations in float32, and with the plain ones in float64."""
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
        assert relative(fast[1][name], gradient) < 1e-4, name  # float32 sums of several thousand terms
    for a, b in zip(fast[2], exact[2], strict=True):
        assert relative(a, b) < 1e-4


@pytest.mark.checks  # compiling torch's headers takes half a minute
def test_kernels_have_the_gradients_of_the_plain_definition_in_float64():
    if module.compiled_kernels() is None:
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
    decay = torch.full_like(r, 0.5453)  # exp(-exp(-0.5)) is the minimum
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
    monkeypatch.setattr(module, "compiled_kernels", lambda: None)
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


def test_tokens_of_weight_zero_have_no_part_in_the_loss():
    model = shaken(Rwkv7(1, 64, 30, 30))
    rows, target = torch.randint(0, 30, (2, 2, 12))
    weight = torch.rand(2, 12) * (torch.rand(2, 12) < 0.5)
    loss, _ = model.loss(rows, target, weight)
    logits, _ = model(rows)
    losses = torch.nn.functional.cross_entropy(logits.view(-1, 30), target.view(-1), reduction="none")
    assert loss.item() == pytest.approx(((losses * weight.view(-1)).sum() / weight.sum()).item(), abs=1e-5)
