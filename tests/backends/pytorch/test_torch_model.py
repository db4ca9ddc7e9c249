"""The torch engine compared with the numpy reference, and with itself: sequences in one step affect only the last bits
of each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.backends.parity import ARCHITECTURES, difference, random_steps, state_difference
from tests.engine.driving import forward, load_backend
from tests.reference.numpy_rwkv import NumpyRwkv
from tests.weights.make_checkpoints import Arrays, write_checkpoint, write_tensors
from webapp.backends.pytorch import linear, recurrence
from webapp.backends.pytorch.backend import FORMATS, Place, TorchBackend
from webapp.backends.pytorch.loader import load_model
from webapp.backends.pytorch.model import DecodeGraphs
from webapp.engine.backend import Row
from webapp.engine.state import RecurrentState
from webapp.errors import OutOfMemory, WeightsError
from webapp.weights.inspection import inspect

EXACT = 1e-4
"""float32 against a float64 reference over 40 tokens: measured 2e-6, and 2e-5 in states."""
NOISE = {"bf16": 0.05, "f16": 0.01, "q8": 0.08, "q4": 0.35}
"""Root mean square of the difference, divided by that of the logits, for random nets; a trained one loses much less."""


def backend_of(
    folder: Path, architecture: str, strategy: str = "torch cpu f32", **made: object
) -> tuple[TorchBackend, Arrays]:
    weights = write_checkpoint(path := folder / "model.safetensors", architecture, **made)
    backend = load_backend(path, strategy)
    assert isinstance(backend, TorchBackend)
    return backend, weights


def ids_of(count: int, seed: int = 0, vocab_size: int = 256) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab_size, count).tolist()


KERNELS = [(format, kernels) for format in FORMATS for kernels in ((True, False) if format[0] == "q" else (True,))]


@pytest.mark.parametrize(("format", "kernels"), KERNELS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_version_and_format_computes_what_the_reference_computes(
    architecture: str, format: str, kernels: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(linear, "has_int8_kernel", lambda: False)
        monkeypatch.setattr(linear, "has_int4_kernel", lambda: False)
    dtype = {"bf16": "bfloat16", "f16": "float16"}.get(format, "float32")
    backend, weights = backend_of(tmp_path, architecture, f"torch cpu {format}", dtype=dtype)
    expected, state = NumpyRwkv(backend.config, weights).forward(ids := ids_of(40))
    for rows in ([[token] for token in ids], [ids]):
        slot = backend.new_slot()
        found = np.concatenate([backend.step([Row(slot, row, "all")]).to_numpy(range(len(row))) for row in rows])
        if format in NOISE:
            assert np.sqrt(np.mean((found - expected) ** 2)) <= NOISE[format] * expected.std()
        else:
            assert difference(found, expected) <= EXACT
            assert state_difference(backend.read_state(slot), state) <= EXACT


SIZES = (
    {"n_embd": 72, "head_size": 24, "vocab_size": 101, "n_layer": 3},
    {"n_embd": 40, "head_size": 8, "vocab_size": 77, "n_layer": 1},
)


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"width {sizes['n_embd']}")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_that_fit_no_group_of_weights_are_run(architecture: str, sizes: dict[str, int], tmp_path: Path) -> None:
    for strategy, most in (("torch cpu f32", EXACT), ("torch cpu q4", NOISE["q4"])):
        backend, weights = backend_of(tmp_path, architecture, strategy, dtype="float32", **sizes)
        ids = ids_of(12, vocab_size=sizes["vocab_size"])
        expected, _ = NumpyRwkv(backend.config, weights).forward(ids)
        found = backend.step([Row(backend.new_slot(), ids, "all")]).to_numpy(range(12))
        assert np.sqrt(np.mean((found - expected) ** 2)) <= most * expected.std()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_of_any_length_travel_together(architecture: str, tmp_path: Path) -> None:
    """Prompts of several chunks and single tokens, in the batch's order, with slots in any order."""
    backend, weights = backend_of(tmp_path, architecture, dtype="float32")
    reference = NumpyRwkv(backend.config, weights)
    slots = [backend.new_slot() for _ in range(7)]
    prompts = [ids_of(length, seed) for seed, length in enumerate((35, 1, 16, 1, 2, 17, 1))]
    wants = ("all", "last", "nothing", "nothing", "last", "all", "last")
    order = [4, 0, 6, 3, 5, 2, 1]
    lines = backend.step([Row(slots[i], prompts[i], wants[i]) for i in order])
    found = lines.to_numpy(range(len(lines)))
    expected, states = [], {}
    for i in order:
        logits, states[i] = reference.forward(prompts[i])
        expected += {"all": list(logits), "last": [logits[-1]], "nothing": []}[wants[i]]
    assert difference(found, np.stack(expected)) <= EXACT
    for i in order:
        assert state_difference(backend.read_state(slots[i]), states[i]) <= EXACT


@pytest.mark.parametrize("strategy", ("torch cpu f32", "torch cpu q8"))
@pytest.mark.parametrize("architecture", ("4", "5.2", "6", "7"))
def test_random_steps_of_many_sequences_equal_single_runs(architecture: str, strategy: str, tmp_path: Path) -> None:
    """Sequences join, leave, fork, are saved and restored, in steps of any shape; each row equals that of a separate
    run, except for rounding."""
    most = 1e-3 if strategy.endswith("f32") else 0.5  # one kernel uses bfloat16 activations, the other float32
    backend, _ = backend_of(tmp_path, architecture, strategy, n_embd=64)
    rng = np.random.default_rng(7)
    checks: list[tuple[tuple[int, ...], np.ndarray]] = []
    for slots, fed, histories in random_steps(rng, backend, backend.fork):
        checks += zip(histories, forward(backend, slots, fed), strict=True)
    assert len(checks) > 50
    for history, line in checks[::5]:
        alone = backend.new_slot()
        assert difference(forward(backend, [alone], [list(history)])[0], line) <= most
        backend.free_slot(alone)


def test_a_step_that_fails_leaves_every_slot_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, _ = backend_of(tmp_path, "7", n_layer=3)
    slots = [backend.new_slot() for _ in range(3)]
    forward(backend, slots, [[1, 2, 3], [4], [5, 6]])
    before = [backend.read_state(slot).digest() for slot in slots]
    calls, real = [], recurrence.delta_token

    def failing(*args: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("not enough memory: you tried to allocate 12 bytes")
        return real(*args)

    monkeypatch.setattr(recurrence, "delta_token", failing)
    with pytest.raises(OutOfMemory):
        forward(backend, slots, [[7], [8, 9], [10]])
    assert [backend.read_state(slot).digest() for slot in slots] == before


@pytest.mark.parametrize("decay", (-1e-4, -0.6, -8.0, -200.0), ids=str)
def test_a_chunk_equals_its_tokens_whatever_the_decay(decay: float) -> None:
    """RWKV-6 may forget within a token, or never."""
    generator = torch.Generator().manual_seed(1)
    r, k, v, w = (torch.randn(2, 3, 45, 8, generator=generator) for _ in range(4))
    log_decay, bonus = decay * torch.exp(0.3 * w), torch.randn(3, 8, generator=generator)
    state = first = torch.randn(2, 3, 8, 8, generator=generator)
    outs = []
    for t in range(45):
        out, state = recurrence.linear_token([part[:, :, t] for part in (r, k, v, log_decay)], bonus, state)
        outs.append(out)
    found, after = recurrence.linear_chunks((r, k, v, log_decay), bonus, first)
    assert (found - torch.stack(outs, 2)).abs().max() < 1e-3 and (after - state).abs().max() < 1e-3


def test_a_chunk_of_one_key_again_and_again_is_exact() -> None:
    """RWKV-7's worst case: each token removes what the previous one wrote, and nothing decays."""
    shape = (1, 1, 64, 16)
    generator = torch.Generator().manual_seed(2)
    key = torch.nn.functional.normalize(torch.ones(shape), dim=-1)
    v, r = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    parts = (r, key, v, torch.zeros(shape), -key, key)
    state, outs = torch.zeros(1, 1, 16, 16), []
    for t in range(64):
        out, state = recurrence.delta_token([part[:, :, t] for part in parts], state)
        outs.append(out)
    found, after = recurrence.delta_chunks(parts, torch.zeros(1, 1, 16, 16))
    assert (found - torch.stack(outs, 2)).abs().max() < 1e-4 and (after - state).abs().max() < 1e-4


def test_rwkv_4_keeps_its_weights_where_exponentials_overflow() -> None:
    generator = torch.Generator().manual_seed(3)
    k, v = 60 * torch.randn(2, 40, 8, generator=generator), torch.randn(2, 40, 8, generator=generator)
    decay, bonus = -torch.rand(8, generator=generator), torch.randn(8, generator=generator)
    start = torch.zeros(2, 3, 8)
    start[:, 2] = -1e30
    lengths, outs, states = torch.tensor([40, 19]), [], [start]
    for t in range(40):
        mean, new = recurrence.mean_token(k[:, t], v[:, t], decay, bonus, states[-1])
        outs.append(mean)
        states.append(new)
    found, after = recurrence.mean_chunks(k, v, decay, bonus, start, lengths)
    assert (found[0] - torch.stack(outs, 1)[0]).abs().max() < 1e-4
    for i, length in enumerate(lengths.tolist()):
        assert torch.allclose(after[i], states[length][i], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", ("native f32", "cpu fp32"))
@pytest.mark.parametrize("architecture", ("4", "5.0", "6", "7"))
def test_a_state_continues_in_another_backend(architecture: str, target: str, tmp_path: Path) -> None:
    write_checkpoint(path := tmp_path / "model.pth", architecture)
    here = load_backend(path, "torch cpu f32")
    try:
        there = load_backend(path, target)
    except Exception as exc:  # no compiler
        pytest.skip(str(exc))
    slot, other = here.new_slot(), there.new_slot()
    forward(here, [slot], [[1, 2, 3]])
    there.write_state(other, here.read_state(slot))
    assert difference(forward(here, [slot], [[4]]), forward(there, [other], [[4]])) <= EXACT


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blocks.1.ffn.value.weight", (128, 500)),
        ("blocks.1.att.w0", (64,)),
        ("blocks.1.att.w2", (16, 128)),
        ("emb.weight", (200, 128)),
    ],
)
def test_a_tensor_of_another_shape_is_refused_by_name(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    weights = write_checkpoint(path := tmp_path / "7.safetensors", "7")
    config = inspect(path).config
    weights[name] = np.zeros(shape, np.float32)
    write_tensors(path, weights)
    with pytest.raises(WeightsError) as refused:
        load_backend(path, "torch cpu q8", config=config)
    assert name in str(refused.value)


@pytest.mark.parametrize("name", ("blocks.1.att.key.weight", "emb.weight", "head.weight", "blocks.0.ln1.bias"))
@pytest.mark.parametrize("value", (np.nan, np.inf))
def test_weights_that_are_no_numbers_are_refused_by_name(name: str, value: float, tmp_path: Path) -> None:
    weights = write_checkpoint(path := tmp_path / "7.safetensors", "7")
    weights[name].reshape(-1)[-1] = value
    write_tensors(path, weights)
    with pytest.raises(WeightsError) as refused:
        load_backend(path, "torch cpu f32")
    assert name in str(refused.value)


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    weights = write_checkpoint(path := tmp_path / "7.safetensors", "7")
    del weights["blocks.1.att.a2"]
    write_tensors(path, weights)
    with pytest.raises(WeightsError) as refused:
        load_backend(path, "torch cpu f32")
    assert "blocks.1.att.a2" in str(refused.value)


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    backend, _ = backend_of(tmp_path, "7")
    slot, freed = backend.new_slot(), backend.new_slot()
    backend.free_slot(freed)
    before = backend.read_state(slot).digest()
    for ids in ([1, -1], [256], [2**40], []):
        with pytest.raises(ValueError):
            backend.step([Row(slot, ids)])
    for slots in ([freed], [-1], [99], [slot, slot]):
        with pytest.raises(KeyError):
            backend.step([Row(each, [1]) for each in slots])
    assert backend.read_state(slot).digest() == before
    taken = [backend.new_slot() for _ in range(65)]
    assert len({slot, *taken}) == 66
    with pytest.raises(KeyError):
        backend.new_slot()
    assert backend.read_state(slot).digest() == before, "making room changed a state"
    backend.close()
    with pytest.raises(ValueError):
        backend.step([Row(slot, [1])])


MIXED = ("f32", "q8", "f16", "q4")


@pytest.mark.parametrize(
    ("architecture", "format"),
    [(architecture, MIXED[(n + m) % 4]) for n, architecture in enumerate(ARCHITECTURES) for m in (0, 1)],
)
def test_every_tensor_of_a_layer_is_on_its_device(architecture: str, format: str, tmp_path: Path) -> None:
    """``meta`` replaces a graphics card: its tensors have a device and shapes but no values, and cannot be mixed with
    others."""
    write_checkpoint(path := tmp_path / "model.pth", architecture)
    config = inspect(path).config
    assert config is not None
    for places in ([Place("meta", format)] * 3, [Place("cpu", "q8"), Place("meta", format), Place("meta", format)]):
        with torch.inference_mode():
            model = load_model(str(path), config, places, lambda progress: None)
            model.states.grow(4)
            for batch in (
                [Row(0, [1])],
                [Row(3, [1]), Row(0, [2])],
                [Row(2, [1]), Row(0, [2, 3]), Row(1, [4] * 20, "all")],
            ):
                hidden = model.run(model.plan(batch))
                assert hidden.device.type == "meta" and hidden.shape == (sum(batch_lines(batch)), config.n_embd)
                assert model.head(hidden).shape == (len(hidden), config.vocab_size)


def batch_lines(batch: list[Row]) -> list[int]:
    return [len(row.token_ids) if row.want == "all" else 1 for row in batch]


def test_what_is_recorded_once_is_replayed_for_any_rows(tmp_path: Path) -> None:
    """CUDA graphs, with a recorder that runs the operations again on a CPU."""
    backend, _ = backend_of(tmp_path, "7")
    other, _ = backend_of(tmp_path, "7")
    recorded: list[int] = []

    def record(work: Callable[[], torch.Tensor], device: str) -> tuple[Callable[[], object], torch.Tensor]:
        found = work()
        recorded.append(len(found))

        def replay() -> None:
            with torch.inference_mode():
                found.copy_(work())

        return replay, found

    backend._graphs = DecodeGraphs(backend._open, backend.new_slot(), record)
    mine, theirs = ([each.new_slot() for _ in range(7)] for each in (backend, other))
    rng = np.random.default_rng(0)
    for count in (1, 3, 2, 7, 3, 5, 1):
        chosen = rng.permutation(7)[:count].tolist()
        ids = rng.integers(0, 256, (count, 1)).tolist()
        found = forward(backend, [mine[i] for i in chosen], ids)
        expected = forward(other, [theirs[i] for i in chosen], ids)
        assert difference(found, expected) <= 1e-5
    assert sorted(recorded) == [1, 2, 4, 8]
    mine += [backend.new_slot() for _ in range(8)]  # moves the states
    assert difference(forward(backend, mine[:2], [[1], [2]]), forward(other, theirs[:2], [[1], [2]])) <= 1e-5
    forward(backend, mine[:1], [[1, 2, 3]])  # a prompt runs without a graph
    assert len(recorded) == 5


def test_a_card_that_records_nothing_decodes_all_the_same(tmp_path: Path) -> None:
    backend, _ = backend_of(tmp_path, "7")

    def record(work: object, device: str) -> tuple[Callable[[], object], torch.Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    expected = forward(backend, [backend.new_slot()], [[1]])
    backend._graphs = DecodeGraphs(backend._open, backend.new_slot(), record)
    assert (forward(backend, [backend.new_slot()], [[1]]) == expected).all()


def test_a_freed_slot_starts_again(tmp_path: Path) -> None:
    backend, _ = backend_of(tmp_path, "4")
    slot = backend.new_slot()
    forward(backend, [slot], [[1, 2]])
    backend.free_slot(slot)
    assert backend.new_slot() == slot
    assert backend.read_state(slot).digest() == RecurrentState.zeros(backend.config).digest()
