"""The native engine compared with the numpy reference, and with itself: sequences in one step do not affect each
other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.backends.native.models import (
    ALL,
    ARCHITECTURES,
    FORMATS,
    LAST,
    NOTHING,
    ids_of,
    load_model,
    make_model,
    one_by_one,
    usable_isas,
)
from tests.backends.parity import random_steps
from tests.reference.numpy_rwkv import NumpyRwkv
from tests.weights.make_checkpoints import write_checkpoint, write_tensors
from webapp.backends.native import library
from webapp.backends.native.model import Layout, NativeModel
from webapp.engine.state import ModelConfig
from webapp.errors import OutOfMemory, WeightsError

EXACT = 1e-4
"""float32 against a float64 reference over 40 tokens: measured 3e-6, and 2e-5 with 8 channels per head."""
NOISE = {"q8": 0.10, "q6": 0.16, "q4": 0.45}
"""Root mean square of the difference, divided by that of the logits. Measured at most: 0.05, 0.08 and 0.22, a large
part of it from 8-bit activations. These nets are random; a trained one loses much less."""


RUNS = [
    (architecture, format, isa)
    for i, isa in enumerate(library.ISAS)
    for f, format in enumerate(FORMATS)
    for a, architecture in enumerate(ARCHITECTURES)
    if (i + f + a) % 2 == 0
]
"""Every second combination: two instruction sets together cover each version with each format, and each set covers all
versions and formats."""


@pytest.mark.parametrize(("architecture", "format", "isa"), RUNS)
def test_every_version_format_and_instruction_set_computes_what_the_reference_computes(
    architecture: str, format: str, isa: str, tmp_path: Path
) -> None:
    if isa not in usable_isas():
        pytest.skip(f"{isa}: this processor cannot run it")
    dtype = {"bf16": "bfloat16", "f16": "float16"}.get(format, "float32")
    model, weights = make_model(tmp_path, architecture, format, isa, dtype=dtype)
    expected, state = NumpyRwkv(model.config, weights).forward(ids := ids_of(model, 40))
    found = one_by_one(model, slot := model.new_slot(), ids)
    assert model.isa.startswith(isa)
    if format in NOISE:
        assert np.sqrt(np.mean((found - expected) ** 2)) <= NOISE[format] * expected.std()
    else:
        assert np.abs(found - expected).max() <= EXACT
        read = model.read_state(slot)
        assert max(np.abs(read.arrays[name] - state.arrays[name]).max() for name in state.arrays) <= EXACT
    model.close()


SIZES = (
    {"n_embd": 72, "head_size": 24, "vocab_size": 101, "n_layer": 3},
    {"n_embd": 40, "head_size": 8, "vocab_size": 77, "n_layer": 1},
    {"n_embd": 80, "head_size": 80},
)


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"width {sizes['n_embd']}")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_that_fill_no_tile_are_padded(architecture: str, sizes: dict[str, int], tmp_path: Path) -> None:
    model, weights = make_model(tmp_path, architecture, dtype="float32", **sizes)
    expected, _ = NumpyRwkv(model.config, weights).forward(ids := ids_of(model, 12))
    assert np.abs(model.step([model.new_slot()], [ids], [ALL]) - expected).max() <= EXACT
    model.close()
    quantised = load_model(tmp_path / f"{architecture}.safetensors", "q8", threads=2)
    found = quantised.step([quantised.new_slot()], [ids], [ALL])
    assert np.sqrt(np.mean((found - expected) ** 2)) <= NOISE["q8"] * expected.std()
    quantised.close()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batched_equals_single_and_a_chunk_equals_its_tokens_bit_for_bit(
    architecture: str, format: str, tmp_path: Path
) -> None:
    model, _ = make_model(tmp_path, architecture, format, threads=2)
    ids = ids_of(model, 40)
    expected = one_by_one(model, alone := model.new_slot(), ids)
    chunk = model.step([together := model.new_slot()], [ids], [ALL]).copy()  # 40 tokens in rounds of 24
    assert (chunk == expected).all()
    one, other = model.read_state(alone), model.read_state(together)
    assert one.digest() == other.digest()

    slots = [model.new_slot() for _ in range(5)]
    prompts = [ids_of(model, count, seed) for seed, count in enumerate((1, 7, 0, 3, 30))]
    prompts[2] = ids[:-1]
    lines = model.step(slots, prompts, [NOTHING, LAST, ALL, NOTHING, LAST])
    assert lines.shape == (1 + 39 + 1, model.config.vocab_size)
    assert (lines[1:40] == expected[:-1]).all()
    last = model.step(slots, [[1], [2], [ids[-1]], [3], [4]], [LAST] * 5)[2]
    assert (last == expected[-1]).all()
    model.close()


@pytest.mark.parametrize(
    ("architecture", "format"), [("7", "q8"), ("7", "f32"), ("6", "q4"), ("5.2", "bf16"), ("4", "q8")]
)
def test_random_steps_of_many_sequences_equal_single_runs(architecture: str, format: str, tmp_path: Path) -> None:
    """Sequences join, leave, fork, are saved and restored, in steps of any shape; each row equals that of a separate
    run."""
    model, _ = make_model(tmp_path, architecture, format, threads=2, n_embd=64)
    alone = _Alone(load_model(tmp_path / f"{architecture}.safetensors", format))
    rng = np.random.default_rng(7)

    def fork(slot: int) -> int:
        model.copy_slot(slot, copy := model.new_slot())
        return copy

    for slots, fed, histories in random_steps(rng, model, fork, vocab_size=6):
        # threads start late for jobs of one row
        model.spread(library.ALL_JOBS if rng.random() < 0.7 else library.NO_JOBS)
        lines = model.step(slots, fed, [LAST] * len(slots))
        for line, history in zip(lines, histories, strict=True):
            assert (line == alone.logits(history)).all()
    model.close()
    alone.close()


class _Alone:
    """Logits after a history, one token at a time in one slot; stores every prefix."""

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self._slot = model.new_slot()
        self._known: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        self._fresh = model.save(self._slot)

    def logits(self, history: tuple[int, ...]) -> np.ndarray:
        known = next(n for n in range(len(history), -1, -1) if n == 0 or history[:n] in self._known)
        self._model.restore(self._slot, self._known[history[:known]][1] if known else self._fresh)
        for end in range(known + 1, len(history) + 1):
            line = self._model.step([self._slot], [[history[end - 1]]], [LAST])[0].copy()
            self._known[history[:end]] = (line, self._model.save(self._slot))
        return self._known[history][0]

    def close(self) -> None:
        self._model.close()


@pytest.mark.parametrize("format", ("q8", "q4"))
def test_skipping_hidden_units_that_are_zero_changes_nothing(format: str, tmp_path: Path) -> None:
    weights = write_checkpoint(path := tmp_path / "7.safetensors", "7", dtype="float32")
    is_alive = np.random.default_rng(0).random(512) < 0.08
    for layer in range(2):
        weights[f"blocks.{layer}.ffn.key.weight"][~is_alive] = 0
    write_tensors(path, weights)
    model = load_model(path, format)
    ids = ids_of(model, 20)
    alone = one_by_one(model, model.new_slot(), ids)  # one column: zeros are skipped
    assert (model.step([model.new_slot()], [ids], [ALL]) == alone).all()
    model.close()


@pytest.mark.parametrize("architecture", ("5.0", "5.2", "6", "7"))
def test_a_state_merged_in_the_file_is_where_a_slot_starts(architecture: str, tmp_path: Path) -> None:
    model, weights = make_model(tmp_path, architecture, dtype="float32", time_state=True)
    reference = NumpyRwkv(model.config, weights)
    start = model.read_state(slot := model.new_slot()).arrays["att_kv"]
    assert (start == reference.initial_state().arrays["att_kv"]).all() and start.any()
    model.step([slot], [[1, 2]], [NOTHING])
    model.free_slot(slot)
    assert (model.read_state(model.new_slot()).arrays["att_kv"] == start).all()
    model.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_state_survives_leaving_and_coming_back(architecture: str, tmp_path: Path) -> None:
    model, _ = make_model(tmp_path, architecture)
    first, second = model.new_slot(), model.new_slot()
    model.step([first], [[1, 2, 3]], [NOTHING])
    state = model.read_state(first)
    state.check(model.config)
    model.write_state(second, state)
    assert model.read_state(second).digest() == state.digest()
    assert (model.save(first) == model.save(second)).all()
    state.arrays["ffn_x_prev"][0, 0] = np.nan
    with pytest.raises(ValueError):
        model.write_state(second, state)
    assert (model.save(first) == model.save(second)).all(), "a refused state left its traces"
    model.close()


@pytest.mark.parametrize(
    "name", ("blocks.1.att.key.weight", "emb.weight", "head.weight", "blocks.0.ln1.bias", "blocks.1.att.w1")
)
@pytest.mark.parametrize("value", (np.nan, np.inf))
def test_weights_that_are_no_numbers_are_refused_by_name(name: str, value: float, tmp_path: Path) -> None:
    weights = write_checkpoint(path := tmp_path / "7.safetensors", "7", dtype="bfloat16")
    weights[name].reshape(-1)[-1] = value
    write_tensors(path, weights, "bfloat16")
    with pytest.raises(WeightsError) as refused:
        load_model(path)
    assert name in str(refused.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("blocks.1.ffn.value.weight", (128, 500)), ("blocks.1.att.w0", (64,)), ("blocks.1.att.w2", (16, 128))],
)
def test_a_tensor_of_another_shape_is_refused_by_name(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    weights = write_checkpoint(path := tmp_path / "7.safetensors", "7")
    weights[name] = np.zeros(shape, np.float32)
    write_tensors(path, weights)
    with pytest.raises(WeightsError):
        load_model(path)


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    weights = write_checkpoint(path := tmp_path / "7.safetensors", "7")
    del weights["blocks.1.att.a2"]
    write_tensors(path, weights)
    with pytest.raises(WeightsError) as refused:
        load_model(path)
    assert "blocks.1.att.a2" in str(refused.value)


def test_a_model_too_large_for_memory_is_reported_and_uses_none() -> None:
    """Its states alone would need 550 terabytes."""
    config = ModelConfig("7", 1024, 131072, 131072, 64, 128, 1024, 16)
    for _ in range(2):
        with pytest.raises(OutOfMemory):
            NativeModel(config, Layout(max_columns=8))


def test_what_does_not_fit_never_reaches_the_kernels(tmp_path: Path) -> None:
    model, _ = make_model(tmp_path, "7")
    slot, freed = model.new_slot(), model.new_slot()
    model.free_slot(freed)
    before = model.save(slot)
    for token in (-1, 256, 2**31 - 1, 2**40):
        with pytest.raises(ValueError):
            model.step([slot], [[1, token]], [LAST])
    with pytest.raises(ValueError):
        model.step([slot], [[]], [LAST])
    with pytest.raises(ValueError):
        model.step([slot], [[1]], [3])
    for slots in ([freed], [-1], [99], [slot, slot]):
        with pytest.raises(KeyError):
            model.step(slots, [[1]] * len(slots), [LAST] * len(slots))
    for slots in (freed, -1, 99):
        with pytest.raises(KeyError):
            model.free_slot(slots)
    with pytest.raises(ValueError):
        model.restore(slot, before[:-1])
    assert (model.save(slot) == before).all()
    taken = [model.new_slot() for _ in range(11)]
    assert len({slot, *taken}) == 12
    with pytest.raises(KeyError):
        model.new_slot()
    model.close()
    with pytest.raises(ValueError):
        model.step([slot], [[1]], [LAST])
