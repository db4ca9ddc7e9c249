"""The torch engine as a backend: strategies, footprint, and sampling on the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from tests.backends.parity import told_and_loaded
from tests.engine.driving import load_backend
from tests.engine.test_sampler import batch_of, kinds_of_logits, many_lines, sequence
from tests.reference import plain_sampler
from tests.weights.make_checkpoints import write_checkpoint
from webapp.backends.pytorch.backend import FORMATS, TorchBackend, canonical, placed, placed_runs
from webapp.backends.pytorch.sampling import draw
from webapp.backends.rwkv_pip import requirements
from webapp.engine.backend import Row
from webapp.engine.registry import build, read_builder, resolve_strategy
from webapp.engine.sampler import NO_TOKEN, NOT_FINITE
from webapp.engine.state import ModelConfig
from webapp.errors import BackendUnavailable, StrategyError
from webapp.weights.inspection import inspect

V7 = ModelConfig("7", 24, 2048, 2048, 8192, 32, 64, 65536)


def backend_with(folder: Path, text: str = "torch cpu f32", **made: object) -> TorchBackend:
    write_checkpoint(path := folder / "model.safetensors", "7", **made)
    backend = load_backend(path, text)
    assert isinstance(backend, TorchBackend)
    return backend


@pytest.mark.parametrize("vocab_size", (7, 300, 5021))
def test_a_card_samples_what_the_definition_samples(vocab_size: int) -> None:
    """The same operations, on a CPU."""
    batch = many_lines(vocab_size)
    for kind, logits in kinds_of_logits(vocab_size).items():
        line = logits.astype(np.float32)
        found = draw(torch.from_numpy(np.tile(line, (len(batch), 1))), batch).token_ids.tolist()
        expected = [plain_sampler.sample(line, batch, i) for i in range(len(batch))]
        assert found == expected, (kind, [i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b])


def test_logprobs_computed_on_a_card_are_the_models_own_best_first() -> None:
    line = np.round(np.random.default_rng(3).normal(0, 3, 5021).astype(np.float32) * 4) / 4  # many equal values
    batch = batch_of(5021, *[sequence(seed, logprobs=count) for seed, count in enumerate((0, 20, 3))], sequence(9))
    found = draw(torch.from_numpy(np.tile(line, (4, 1))), batch)
    expected, best = plain_sampler.logprobs(line), np.lexsort((np.arange(len(line)), -line))
    assert found.logprobs is not None and found.best_ids is not None and found.best_logprobs is not None
    for i, count in enumerate((0, 20, 3)):
        assert found.logprobs[i] == pytest.approx(expected[found.token_ids[i]], abs=1e-5)
        assert found.best_ids[i, :count].tolist() == best[:count].tolist()
        assert found.best_logprobs[i, :count] == pytest.approx(expected[best[:count]], abs=1e-5)


def test_a_line_without_a_number_or_a_token_costs_the_others_nothing() -> None:
    lines = np.random.default_rng(0).normal(0, 2, (4, 256)).astype(np.float32)
    lines[1, 200], lines[3, 0] = np.nan, np.inf
    for params in ({"temperature": 0.0}, {"top_p": 0.9}):
        batch = batch_of(256, *[sequence(**params) for _ in range(4)], masks={2: np.zeros(8, np.uint32)})
        found = draw(torch.from_numpy(lines.copy()), batch).token_ids.tolist()
        assert found[1:] == [NOT_FINITE, NO_TOKEN, NOT_FINITE]
        assert found[0] == plain_sampler.sample(lines[0], batch, 0)


@pytest.mark.parametrize("format", ("f32", "q8", "q4"))
@pytest.mark.parametrize("banned_count", (0, 200, 299, 300))
def test_banned_tokens_need_no_logits(format: str, banned_count: int, tmp_path: Path) -> None:
    backend = backend_with(tmp_path, f"torch cpu {format}", vocab_size=300)
    rng = np.random.default_rng(banned_count)
    more = {"presence_penalty": 0.4, "frequency_penalty": 0.7, "logit_bias": {3: 2.5, 6: -100.0}}
    slots = [backend.new_slot() for _ in range(6)]
    params = [{}, {"temperature": 0.0}, {"top_p": 1.0}, {"top_k": 5, "top_p": 1.0}, {"min_p": 0.1}, {"top_p": 0.9}]
    sequences = [sequence(seed, **{**each, **more}) for seed, each in enumerate(params)]
    banned = sorted(rng.permutation(300)[:banned_count].tolist())
    batch = batch_of(300, *sequences, banned=banned, masks={5: np.frombuffer(rng.bytes(40), np.uint32)})
    for _ in range(10):
        rows = [Row(slot, rng.integers(0, 300, 2).tolist(), "all" if slot == slots[0] else "last") for slot in slots]
        logits = backend.step(rows)
        found = logits.sample(range(1, 7), batch).token_ids.tolist()
        lines = logits.to_numpy(range(1, 7)).copy()
        assert found == [plain_sampler.sample(line, batch, i) for i, line in enumerate(lines)]
        assert not {token for token in found if token >= 0} & set(banned)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("torch", "torch cpu q8"),
        (" torch   CUDA ", "torch cuda f16"),
        ("torch q4", "torch cpu q4"),
        ("torch cuda fp16 *20->cpu int8", "torch cuda f16 *20 -> cpu q8"),
        ("torch cuda:1 bf16 -> cuda:0 f16 *3", "torch cuda:1 bf16 -> cuda:0 f16 *3"),
    ],
)
def test_a_strategy_is_read_as_it_is_meant(text: str, meant: str) -> None:
    assert resolve_strategy(text)[1]["strategy"] == meant == canonical(meant)


@pytest.mark.parametrize(
    "text",
    [
        "torch banana",
        "torch cpu q9",
        "torch cpu q8 *0",
        "torch cpu q8 *-1",
        "torch cpu q8 *٣",
        "torch mps f16",
        "torch cuda:-1 f16",
        "torch " + "cpu q8 -> " * 200,
        "torch cpu q8 *" + "9" * 400,
        "torch cpu\x00q8",
    ],
)
def test_a_strategy_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(StrategyError) as refused:
        placed(text, 24)
    assert refused.value.hint


def test_layers_are_shared_out() -> None:
    def runs(text: str) -> list[tuple[str, str, int, bool]]:
        return [(run.device, run.precision, run.count, run.has_head) for run in placed_runs(text, 24)]

    assert runs("torch cuda f16 *20 -> cpu q8") == [("cuda:0", "f16", 20, False), ("cpu", "q8", 4, True)]
    assert runs("torch cuda:0 f16 -> cuda:1 f16") == [("cuda:0", "f16", 12, False), ("cuda:1", "f16", 12, True)]
    assert runs("torch cuda f16 *24 -> cpu q8") == [("cuda:0", "f16", 24, False), ("cpu", "q8", 0, True)]
    for text in ("torch cuda f16 *26", "torch cuda f16 *25 -> cpu q8"):
        with pytest.raises(StrategyError):
            placed(text, 24)


def test_a_strategy_on_a_card_says_that_it_was_never_measured_there():
    for text, is_told in (("torch cuda f16", True), ("torch cuda f16 *1 -> cpu q8", True), ("torch cpu q8", False)):
        cls, options = resolve_strategy(text)
        assert [remark.key for remark in cls.remarks(options)] == ["strategy.advice.torch_unmeasured"] * is_told


def test_the_builder_writes_and_reads_device_and_format() -> None:
    for device in ("cpu", "cuda"):
        for format in FORMATS:
            built = build("torch", {"device": device, "format": format}, V7).strategy
            assert read_builder(built, V7) == ("torch", {"device": device, "format": format})
    assert read_builder("torch cuda f16 *3 -> cpu q8", V7)[0] == "custom"


def test_a_card_that_is_not_there_is_said_before_a_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: False)
    write_checkpoint(path := tmp_path / "model.pth", "7")
    cls, options = resolve_strategy("torch cuda f16 *1 -> cpu q8")
    with pytest.raises(BackendUnavailable):
        cls.check(inspect(path), options)
    cls, options = resolve_strategy("torch")
    cls.check(inspect(path), options)
    odd = replace(inspect(path), converted_strategy="cpu fp32")
    with pytest.raises(StrategyError):
        cls.check(odd, options)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("architecture", ("4", "5.2", "6", "7"))
def test_the_footprint_is_what_the_tensors_take(architecture: str, format: str, tmp_path: Path) -> None:
    told, backend = told_and_loaded(tmp_path, architecture, f"torch cpu {format}")
    assert told.weights["ram"] == pytest.approx(backend.weight_bytes, rel=0.03)
    saved = backend.save(backend.new_slot())
    assert told.state["ram"] == saved.nbytes == told.snapshot


def test_layers_with_different_formats_run_as_one_model(tmp_path: Path) -> None:
    ids = [7, 8]  # few enough for a multiplication in bfloat16
    lines = {}
    for text in ("torch cpu f32", "torch cpu f32 *1 -> cpu bf16 *1 -> cpu f32"):
        backend = backend_with(tmp_path, text, dtype="bfloat16")
        lines[text] = backend.step([Row(backend.new_slot(), ids, "all")]).to_numpy(range(2))
    one, other = lines.values()
    assert 0 < np.abs(one - other).max() < 0.05


def test_nothing_but_a_load_imports_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from webapp.engine.registry import resolve_strategy, kinds, build\n"
        "resolve_strategy('torch cuda f16 *2 -> cpu q8'); kinds(); build('torch', {}, None)\n"
        "print('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr
