"""The native engine as a backend: options, footprint, sampling inside the engine, and no import of torch."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.backends.parity import told_and_loaded
from tests.engine.driving import load_backend
from tests.engine.test_sampler import batch_of, kinds_of_logits, many_lines, sequence
from tests.reference import plain_sampler
from tests.weights.make_checkpoints import write_checkpoint
from webapp.backends.native import library
from webapp.backends.native.backend import NativeBackend, default_threads
from webapp.engine.backend import Logits, Row
from webapp.engine.registry import resolve_strategy
from webapp.engine.sampler import NO_TOKEN, NOT_FINITE
from webapp.errors import BackendUnavailable, StrategyError
from webapp.weights.inspection import USED_TOKENS_KEY, inspect

ROOT = Path(__file__).resolve().parents[3]


def backend_with(folder: Path, strategy: str = "native f32 isa=portable", **options: object) -> NativeBackend:
    write_checkpoint(path := folder / "model.safetensors", "7", **options)
    backend = load_backend(path, strategy)
    assert isinstance(backend, NativeBackend)
    return backend


def lines_of(backend: NativeBackend, wanted: np.ndarray) -> Logits:
    """The logits of a step, overwritten: the view is the library's own memory."""
    slot = backend.new_slot()
    logits = backend.step([Row(slot, [0] * len(wanted), "all")])
    logits.to_numpy(range(len(wanted)))[:] = wanted
    return logits


@pytest.mark.parametrize("isa", library.ISAS)
@pytest.mark.parametrize("vocab_size", (7, 300, 5021, 65536))
def test_the_library_samples_what_the_definition_samples(vocab_size: int, isa: str, tmp_path: Path) -> None:
    if library.load().roost_self_test(library.ISAS[isa]) is not None:
        pytest.skip(f"{isa}: this processor cannot run it")
    backend = backend_with(tmp_path, f"native f32 isa={isa} threads=2", vocab_size=vocab_size, n_layer=1, n_embd=64)
    for seed, (kind, logits) in enumerate(kinds_of_logits(vocab_size).items()):
        batch = many_lines(vocab_size, seed)
        line = logits.astype(np.float32)
        found = lines_of(backend, line[None]).sample([0] * len(batch), batch).token_ids.tolist()
        expected = [plain_sampler.sample(line, batch, i) for i in range(len(batch))]
        assert found == expected, (kind, [i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b])
    backend.close()


@pytest.mark.parametrize("format", ("f32", "bf16", "f16", "q8", "q6", "q4"))
@pytest.mark.parametrize("banned_count", (0, 5, 200, 291))
def test_banned_tokens_need_no_logits(format: str, banned_count: int, tmp_path: Path) -> None:
    """If most tokens are banned, the head is computed only for the others; the sampled tokens are the same as with all
    logits."""
    backend = backend_with(tmp_path, f"native {format} threads=2", vocab_size=300)
    rng = np.random.default_rng(banned_count)
    banned = sorted(rng.permutation(300)[:banned_count].tolist())
    usable_mask = np.frombuffer(rng.bytes(40), np.uint32)
    more = {"presence_penalty": 0.4, "frequency_penalty": 0.7, "logit_bias": {3: 2.5, 6: -100.0}}
    slots = [backend.new_slot() for _ in range(6)]
    params = [{}, {"temperature": 0.0}, {"top_p": 1.0}, {"top_k": 5, "top_p": 1.0}, {"min_p": 0.1}, {"top_p": 0.9}]
    sequences = [sequence(seed, **{**each, **more}) for seed, each in enumerate(params)]
    batch = batch_of(300, *sequences, banned=banned, masks={5: usable_mask})
    for _ in range(20):
        rows = [Row(slot, rng.integers(0, 300, 2).tolist(), "all" if slot == slots[0] else "last") for slot in slots]
        found = backend.step(rows).sample(range(1, 7), batch).token_ids.tolist()
        logits = backend.step(rows)
        lines = logits.to_numpy(range(1, 7)).copy()
        assert logits.sample(range(1, 7), batch).token_ids.tolist() == [
            plain_sampler.sample(line, batch, i) for i, line in enumerate(lines)
        ]
        assert len(found) == 6 and not set(found) & set(banned)
    backend.close()


def test_a_line_that_is_not_finite_or_has_no_token_left_costs_the_others_nothing(tmp_path: Path) -> None:
    backend = backend_with(tmp_path)
    wanted = np.random.default_rng(0).normal(0, 2, (4, 256)).astype(np.float32)
    wanted[1, 200], wanted[3, 0] = np.nan, np.inf
    nothing = np.zeros(8, np.uint32)
    batch = batch_of(256, *[sequence(temperature=0.0) for _ in range(4)], masks={2: nothing})
    logits = lines_of(backend, wanted)
    found = logits.sample(range(4), batch).token_ids.tolist()
    assert found == [int(wanted[0].argmax()), NOT_FINITE, NO_TOKEN, NOT_FINITE]
    backend.close()


def test_logprobs_are_the_models_own_best_first(tmp_path: Path) -> None:
    backend = backend_with(tmp_path, vocab_size=5021)
    line = np.round(np.random.default_rng(3).normal(0, 3, 5021).astype(np.float32) * 4) / 4  # many equal values
    asked = [sequence(seed, logprobs=count) for seed, count in enumerate((0, 20, 3))]
    batch = batch_of(5021, *asked, sequence(9))
    found = lines_of(backend, line[None]).sample([0] * 4, batch)
    expected = plain_sampler.logprobs(line)
    best = np.lexsort((np.arange(len(line)), -line))
    assert found.logprobs is not None and found.best_ids is not None and found.best_logprobs is not None
    for i, count in enumerate((0, 20, 3)):
        assert found.logprobs[i] == pytest.approx(expected[found.token_ids[i]], abs=1e-5)
        assert found.best_ids[i, :count].tolist() == best[:count].tolist()
        assert found.best_logprobs[i, :count] == pytest.approx(expected[best[:count]], abs=1e-5)
    backend.close()


def test_a_fork_and_a_saved_state_continue_exactly(tmp_path: Path) -> None:
    backend = backend_with(tmp_path, "native q8")
    slot = backend.new_slot()
    backend.step([Row(slot, [1, 2, 3], "nothing")])
    saved, fork = backend.save(slot), backend.fork(slot)
    assert saved.nbytes == backend.model.state_bytes
    both = backend.step([Row(slot, [4]), Row(fork, [4])]).to_numpy([0, 1]).copy()
    assert (both[0] == both[1]).all()
    backend.restore(slot, saved)
    assert (backend.step([Row(slot, [4])]).to_numpy([0])[0] == both[0]).all()
    backend.close()


@pytest.mark.parametrize("format", ("f32", "bf16", "q8", "q6", "q4"))
@pytest.mark.parametrize("architecture", ("4", "5.2", "6", "7"))
def test_the_footprint_is_what_the_library_takes(architecture: str, format: str, tmp_path: Path) -> None:
    told, backend = told_and_loaded(tmp_path, architecture, f"native {format}")
    assert told.weights["ram"] == pytest.approx(backend.model.arena_bytes, rel=0.03)
    assert told.state["ram"] == backend.model.state_bytes == told.snapshot
    backend.close()


@pytest.mark.parametrize(("used", "rows"), [(200, 208), (2048, 2048), (2049, 0)])
def test_the_head_for_sampled_tokens_is_counted(used: int, rows: int, tmp_path: Path) -> None:
    write_checkpoint(path := tmp_path / "model.safetensors", "7", n_embd=256, vocab_size=4096)
    bitmap = np.packbits(np.arange(8 * 8192) < used, bitorder="little").tobytes()
    found = inspect(path)
    known = replace(found, metadata={USED_TOKENS_KEY: base64.b64encode(bitmap).decode()})
    damaged = replace(found, metadata={USED_TOKENS_KEY: "?"})
    cls, options = resolve_strategy("native q8")
    plain, told, other = (cls.footprint(one, options).run_extra["ram"] for one in (found, known, damaged))
    assert rows * 256 <= told - plain < 1.2 * rows * 256 + 1
    assert other == plain


def test_options_are_read_from_words() -> None:
    assert resolve_strategy("native")[1]["format"] == "q8"
    options = resolve_strategy("native q4 isa=portable head=q8 threads=3")[1]
    assert (options["format"], options["isa"], options["head"], options["threads"]) == ("q4", "portable", "q8", 3)
    for strategy in ("native q9", "native threads=1000", "native head=fp16"):
        with pytest.raises(StrategyError):
            resolve_strategy(strategy)


def test_a_file_the_library_cannot_read_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    from msgspec.structs import replace

    write_checkpoint(path := tmp_path / "model.safetensors", "7")
    cls, options = resolve_strategy("native")
    inspection = inspect(path)
    cls.check(inspection, options)
    odd = replace(inspection.tensors[0], dtype="float8_e4m3fn")
    for other in (replace(inspection, converted_strategy="cpu fp32"), replace(inspection, tensors=(odd,))):
        with pytest.raises(StrategyError):
            cls.check(other, options)


def test_an_instruction_set_this_processor_lacks_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    missing = [name for name in library.ISAS if library.load().roost_self_test(library.ISAS[name]) is not None]
    if not missing:
        pytest.skip("this processor has all of them")
    with pytest.raises(BackendUnavailable) as refused:
        backend_with(tmp_path, f"native isa={missing[0]}")
    assert refused.value.hint


def test_threads_are_at_most_the_cores_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(path := tmp_path / "small.safetensors", "7")
    config = inspect(path).config
    assert config is not None
    for cores, wanted in ((1, 1), (2, 2), (8, 2)):
        monkeypatch.setattr("webapp.backends.native.backend.usable_cores", lambda cores=cores: cores)
        assert default_threads(config) == wanted


def test_a_small_model_takes_a_second_thread_only_while_a_processor_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any number of threads, the result is the same."""
    backend = backend_with(tmp_path, "native f32 threads=2")
    spread, free = [], [2]
    monkeypatch.setattr(backend._free_threads, "begin", lambda: free[0])
    monkeypatch.setattr(
        backend.model, "spread", lambda which, known=backend.model.spread: spread.append(which) or known(which)
    )
    found = []
    for free[0] in (2, 1):
        slot = backend.new_slot()
        found.append(backend.step([Row(slot, [5, 6, 7], "last")]).to_numpy([0]).copy())
        backend.free_slot(slot)
    assert spread == [library.LARGE_JOBS, library.NO_JOBS] and np.array_equal(*found)


def test_running_a_model_imports_no_torch(tmp_path: Path) -> None:
    write_checkpoint(path := tmp_path / "model.pth", "7")
    code = (
        "import sys; from tests.engine.driving import load_backend; from webapp.engine.backend import Row\n"
        f"b = load_backend({str(path)!r}, 'native q8'); b.step([Row(b.new_slot(), [1])])\n"
        "print(sorted({'torch', 'rwkv', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("vocab_size", (40, 300, 1024))
def test_rows_of_a_step_in_rounds_are_sampled_like_others(vocab_size: int, tmp_path: Path) -> None:
    """More tokens than the layers take at once; the head's data about its rows must belong to the right ones."""
    backend = backend_with(tmp_path, "native q8 threads=2", vocab_size=vocab_size)
    slots = [backend.new_slot(), backend.new_slot()]
    fed = np.random.default_rng(0).integers(0, vocab_size, (2, 150)).tolist()
    lines = [0, 77, 149, 150, 299]
    params = [{"temperature": 0.0}, {"top_p": 0.6}, {"top_k": 3, "top_p": 1.0}, {"min_p": 0.2}, {"top_p": 1.0}]
    sequences = [sequence(seed, **each, logit_bias={5: 1.5}) for seed, each in enumerate(params)]
    batch = batch_of(vocab_size, *sequences, banned=[1])
    rows = [Row(slot, ids, "all") for slot, ids in zip(slots, fed, strict=True)]
    saved = [backend.save(slot) for slot in slots]
    found = backend.step(rows).sample(lines, batch).token_ids.tolist()
    for slot, state in zip(slots, saved, strict=True):
        backend.restore(slot, state)
    logits = backend.step(rows).to_numpy(lines)
    assert found == [plain_sampler.sample(line, batch, i) for i, line in enumerate(logits)]
    backend.close()
