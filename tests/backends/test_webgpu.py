"""Tests only for WebGPU: packing of weights, parsing of strategies, choice of adapters; and, if there is an adapter
(lavapipe is enough), difficult sizes and batches for kernels, and failures of files and of the device."""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.backends.conftest import shared_gpu
from tests.backends.parity import SHORT, difference, entries, load_or_skip, make_pair, measure
from tests.engine.driving import forward
from tests.engine.test_sampler import PARAMS, batch_of, kinds_of_logits, sequence
from tests.reference import plain_sampler
from tests.reference.numpy_rwkv import NumpyRwkv
from tests.weights.make_checkpoints import make_tensors, write_checkpoint, write_tensors
from webapp.backends import packed_file
from webapp.backends.webgpu import device
from webapp.backends.webgpu.backend import DEVICE, WebgpuBackend
from webapp.backends.webgpu.device import Adapter
from webapp.backends.webgpu.model import Layout
from webapp.backends.webgpu.sampling import GpuSampler
from webapp.backends.webgpu.shaders import NF4
from webapp.backends.webgpu.weights import (
    BITS,
    BLOCK,
    PACKING_VERSION,
    TooLarge,
    Weights,
    is_finite,
    pack,
    packed_bytes,
    unpack,
    widened,
)
from webapp.engine import registry
from webapp.engine.backend import Row
from webapp.engine.registry import resolve_strategy
from webapp.engine.sampler import NO_TOKEN, NOT_FINITE
from webapp.engine.state import ModelConfig
from webapp.errors import BackendUnavailable, EngineCrashed, StrategyError, WeightsError
from webapp.manager.memory import shortfall
from webapp.manager.target import Choice, Target
from webapp.services.strategy import estimate, probe
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.inspection import inspect

TOLERANCE = 1e-4
"""For logits with standard deviation 1; the kernels sum in float32."""
ENTRY = next(entry for entry in entries() if entry.name == "webgpu")
CONFIG = ModelConfig("7", n_layer=24, n_embd=1024, n_att=1024, n_ffn=4096, n_head=16, head_size=64, vocab_size=65536)
CARD = Adapter("Arc A770", "discrete", "Vulkan")
CHIP = Adapter("Radeon 780M", "integrated", "Vulkan")
SOFTWARE = Adapter("llvmpipe", "cpu", "Vulkan")
OPENGL = Adapter("llvmpipe", "cpu", "OpenGL")


# packing


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.013), ("nf4", 0.16)])
def test_a_quantised_weight_is_off_by_half_a_step_at_most(kind: str, most: float) -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (96, 64)).astype(np.float32)
    found = unpack(kind, *pack(kind, rows))
    assert np.abs(found - rows.reshape(-1)).max() <= most


def test_nf4_takes_the_nearest_level() -> None:
    row = np.random.default_rng(1).uniform(-1, 1, (2, 64)).astype(np.float32)
    row[:, 0] = 1
    found = unpack("nf4", *pack("nf4", row)).reshape(row.shape)
    levels = np.asarray(NF4, np.float32)
    nearest = levels[np.abs(row[..., None] - levels).argmin(-1)]
    assert np.abs(np.abs(found - row) - np.abs(nearest - row)).max() <= 2.5e-4


def test_blocks_are_filled_up_and_sizes_are_reported() -> None:
    rows = np.ones((4, 20), np.float32)
    for kind in BITS:
        bits = rows.astype(np.float16) if kind != "bf16" else np.full((4, 20), 0x3F80, np.uint16)
        assert tuple(map(len, pack(kind, bits))) == packed_bytes(kind, rows.size)
    assert (unpack("int8", *pack("int8", rows))[:80] == 1).all()


def test_bfloat16_is_judged_and_widened_from_its_bits() -> None:
    bits = np.array([0x3F80, 0xC000, 0x7F80, 0x7FC0], np.uint16)  # 1, -2, infinity, NaN
    assert widened(bits[:2]).tolist() == [1.0, -2.0]
    assert is_finite(bits[:2]) and not is_finite(bits[2:3]) and not is_finite(bits[3:])


def test_values_beyond_fp16_do_not_become_infinite() -> None:
    for kind in ("fp16", "int8", "nf4"):
        with pytest.raises(TooLarge):
            pack(kind, np.full((4, 32), 1e5, np.float32))


# packed files


class Memory:
    """The part of a Gpu that reading needs."""

    def buffer(self, nbytes: int, is_uniform: bool = False) -> bytearray:
        return bytearray(nbytes)

    def write(self, buffer: bytearray, offset: int, data: bytes) -> None:
        buffer[offset : offset + len(data)] = data

    def wait(self, buffer: bytearray) -> None:
        pass


def sent(path: Path, format: str = "nf4", layers: int = 1) -> tuple[dict[str, bytes], list[str], bool]:
    """The bytes of the quantised matrices of a file, sent in two parts; the load's steps; whether they were stored."""
    steps: list[str] = []
    layout = Layout(format, layers, has_packed_file=True)
    found, is_kept = {}, False
    with (
        open_checkpoint(path) as source,
        Weights(source, layout, Memory(), lambda now: steps.append(now.step)) as weights,
    ):
        for name in (n for n in source.names() if layout.kind(*layer_of(n)) == format and source.info(n).numel > 200):
            height, inputs = weights.shape(name)
            is_kept = weights.is_kept(name)
            values = None if is_kept else weights.array(name)
            size, scale_size = packed_bytes(format, height * inputs)
            buffer, scales, at, scale_at = bytearray(size), bytearray(scale_size), 0, 0
            for rows in (range(64), range(64, height)):
                weights.send(format, name, rows, inputs, values, (buffer, at), (scales, scale_at))
                part = packed_bytes(format, len(rows) * inputs)
                at, scale_at = at + part[0], scale_at + part[1]
            found[name] = bytes(buffer + scales)
        weights.finish()
    return found, steps, is_kept


def layer_of(name: str) -> tuple[int, str]:
    return (int(name.split(".")[1]) if name.startswith("blocks.") else -1), name


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(packed_file, "folder", lambda: tmp_path / "packed")
    return tmp_path / "packed"


@pytest.mark.parametrize("format", ["int8", "nf4"])
def test_what_was_quantised_once_is_not_quantised_again(format: str, tmp_path: Path, packed: Path) -> None:
    weights = write_checkpoint(path := tmp_path / "m.st", "7", n_layer=2, dtype="float16")
    first, steps, is_kept = sent(path, format)
    assert first and not is_kept and "quantising" in steps
    again, steps, is_kept = sent(path, format)
    assert again == first and is_kept and "quantising" not in steps
    name = "blocks.0.ffn.key.weight"
    assert first[name] == b"".join(pack(format, weights[name]))
    assert sent(path, format, layers=2)[2] is False and len(list(packed.iterdir())) == 2


def test_a_damaged_packed_file_is_not_believed_and_made_again(tmp_path: Path, packed: Path) -> None:
    write_checkpoint(path := tmp_path / "m.st", "5.2", n_layer=1, n_embd=64, dtype="float16")
    expected = sent(path)[0]
    [kept] = packed.iterdir()
    whole = kept.read_bytes()
    places = [*range(0, len(whole), len(whole) // 7), len(whole) - 1, len(whole) - 30, len(whole) - 60]
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    for wrong in (*damaged, b"", whole[:-1], whole[:100], whole + b"\0", whole[1:]):
        kept.write_bytes(wrong)
        found, _, is_kept = sent(path)
        assert found == expected and not is_kept and kept.read_bytes() == whole
    assert sent(path)[2]


def test_a_load_that_fails_keeps_nothing(tmp_path: Path, packed: Path) -> None:
    weights = write_checkpoint(path := tmp_path / "m.st", "7", n_layer=1, dtype="float32")
    weights["blocks.0.ffn.value.weight"][5, 5] = 1e6  # beyond fp16
    write_tensors(path, weights)
    with pytest.raises(WeightsError):
        sent(path)
    assert list(packed.iterdir()) == []


def test_what_a_killed_load_left_goes_with_the_next_file(tmp_path: Path, packed: Path) -> None:
    packed.mkdir()
    old, young = packed / "a.part", packed / "b.part"
    for left in (old, young):
        left.write_bytes(bytes(10))
    os.utime(old, (1, 1))
    write_checkpoint(path := tmp_path / "m.st", "7", n_layer=1, n_embd=64, dtype="float16")
    sent(path)
    assert not old.exists() and young.exists(), "another process may be writing it"
    [kept] = packed_file.all_files()
    assert packed_file.clear() == kept.size_bytes + 10 and not list(packed.iterdir())


def test_other_packing_takes_another_version() -> None:
    """Packed files contain this format: if it changes, PACKING_VERSION must change too."""
    rows = (np.arange(4096) * 2531 % 4096 - 2048).astype(np.float32).reshape(32, 128) / 2048
    parts = b"".join(part for kind in BLOCK for part in pack(kind, rows))
    assert (PACKING_VERSION, zlib.crc32(parts)) == (1, 3213204543)


# strategies


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("webgpu", ("fp16", 999, 64)),
        ("webgpu int8 layers=12 chunk=128", ("int8", 12, 128)),
        ("webgpu_python fp16", ("fp16", 999, 32)),
        ("webgpu_python fp16i8", ("int8", 31, 32)),
        ("webgpu_python FP16i4 chunk64 layer20", ("nf4", 20, 64)),
    ],
)
def test_both_ways_to_write_a_strategy(strategy: str, expected: tuple[str, int, int]) -> None:
    backend, options = resolve_strategy(strategy)
    assert backend is WebgpuBackend
    assert (options["format"], options["layers"], options["chunk"]) == expected


@pytest.mark.parametrize(
    "strategy",
    ["webgpu q8", "webgpu_python int8", "webgpu_python fp16 layer", "webgpu_python fp16 chunk9999", "webgpu slots=0"],
)
def test_what_no_strategy_is_is_refused(strategy: str) -> None:
    with pytest.raises(StrategyError):
        resolve_strategy(strategy)


@pytest.mark.parametrize(
    "strategy",
    [
        "webgpu fp16",
        "webgpu nf4 layers=7 slots=3",
        "webgpu fp16 'adapter=Arc A770'",
        "webgpu_python fp16",
        "webgpu_python fp16i8 layer7 chunk64",
    ],
)
def test_the_builder_writes_what_it_read(strategy: str) -> None:
    kind, values = registry.read_builder(strategy, CONFIG)
    assert kind == strategy.split()[0]
    built = registry.build(kind, values, CONFIG).strategy
    assert resolve_strategy(built) == resolve_strategy(strategy)


def test_layers_are_asked_for_only_where_some_are_quantised() -> None:
    plain, quantised = (registry.build("webgpu", {"format": name}, CONFIG) for name in ("fp16", "nf4"))
    assert "layers" not in plain.values and quantised.values["layers"] == CONFIG.n_layer
    runs = WebgpuBackend.placement(resolve_strategy("webgpu nf4 layers=10")[1], CONFIG)
    assert [(run.precision, run.first, run.count, run.has_head) for run in runs] == [
        ("nf4", 0, 10, False),
        ("fp16", 10, 14, True),
    ]


# adapters


def test_a_discrete_card_has_priority_and_opengl_is_never_used() -> None:
    assert device.usable([OPENGL, SOFTWARE, CHIP, CARD], with_cpu=True) == [CARD, CHIP, SOFTWARE]
    assert device.usable([OPENGL, SOFTWARE], with_cpu=False) == []
    again = Adapter("Arc A770", "discrete", "D3D12")
    assert device.usable([CARD, again], with_cpu=False) == [CARD]
    assert device.choose("780", [CARD, CHIP]) is CHIP and device.choose("", [CARD, CHIP]) is CARD
    assert device.choose("Voodoo", [CARD]) is None


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ((), "reason.webgpu.no_adapter"),
        ((OPENGL,), "reason.webgpu.only_software"),
        ((SOFTWARE,), "reason.webgpu.only_software"),
        ("a driver's last words", "reason.webgpu.does_not_start"),
        ((CHIP,), ""),
    ],
)
def test_what_is_said_of_a_machine(found: object, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(device.CPU_VARIABLE)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(device, "listed", lambda: found)
    said = WebgpuBackend.availability()
    assert said.is_available == (not reason) and getattr(said.reason, "key", "") == reason


def test_a_missing_package_and_an_old_python_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    assert WebgpuBackend.availability().reason.key == "reason.backends.package_not_installed"
    monkeypatch.setattr(sys, "version_info", (3, 10, 9))
    assert WebgpuBackend.availability().reason.key == "reason.webgpu.python_is_too_old"


def test_a_card_that_is_not_there_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "model.st", "7", n_layer=1, dtype="float16")
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(device, "listed", lambda: (CARD, CHIP))
    with pytest.raises(StrategyError) as raised:
        WebgpuBackend.check(inspect(tmp_path / "model.st"), resolve_strategy("webgpu adapter=Voodoo")[1])
    assert CHIP.name in str(raised.value.params["way_out"])


@pytest.mark.parametrize(
    ("card", "devices", "verdict"),
    [
        (Adapter("Arc A770", "discrete", "Vulkan", memory_bytes=2**34), {"ram", DEVICE}, "tight"),
        (Adapter("Arc A310", "discrete", "Vulkan", memory_bytes=2**20), {"ram", DEVICE}, "does_not_fit"),
        (CARD, {"ram", DEVICE}, "tight"),
        (CHIP, {"ram"}, "fits"),
        (SOFTWARE, {"ram"}, "fits"),
    ],
)
def test_a_model_too_large_for_a_card_is_reported_before_it_is_loaded(
    card: Adapter, devices: set[str], verdict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The free memory of a card is unknown, so the best answer is that the model may fit."""
    write_checkpoint(tmp_path / "model.st", "7", n_layer=1, dtype="float16")
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(device, "listed", lambda: (card,))
    found = inspect(tmp_path / "model.st")
    machine = replace(probe(), ram_available=2**36, ram_total=2**37, gpus=())
    fit = estimate(found, "webgpu fp16", machine, with_alternatives=False)
    assert {each.device for each in fit.devices} == devices and fit.verdict == verdict
    target = Target(Choice("model.st", "webgpu fp16"), found.path, (0, 0), found, found.config)
    refusal = shortfall(target, 2**36)
    assert (refusal is not None) == (verdict == "does_not_fit")
    if refusal is not None:
        assert refusal.code == "model_does_not_fit" and refusal.hint
        assert refusal.params["reason"].key == "reason.manager.card_is_too_small"


def test_a_card_that_is_here_says_how_much_memory_it_has() -> None:
    found = WebgpuBackend.availability()
    if not found.is_available or device.choices()[0].api != "Vulkan":
        pytest.skip(f"no card with Vulkan: {found.reason}")
    assert device.choices()[0].memory_bytes > 2**26


def test_a_driver_that_ends_the_child_does_not_end_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_has_vulkan_driver", lambda: True)
    monkeypatch.setattr(device.sys, "executable", "/bin/false")
    device.listed.cache_clear()
    try:
        assert isinstance(device.listed(), str)
    finally:
        device.listed.cache_clear()


# sampling on the device


def own_gpu_or_skip() -> device.Gpu:
    found = WebgpuBackend.availability()
    if not found.is_available:
        pytest.skip(f"{found.reason}; {found.way_out}")
    return device.Gpu()


def sampler_or_skip(logits: np.ndarray, cut: int, lines: int = 40) -> GpuSampler:
    """For logits on the card in two parts, split before a token id that is a multiple of 4."""
    found = WebgpuBackend.availability()
    if not found.is_available:
        pytest.skip(f"{found.reason}; {found.way_out}")
    gpu = shared_gpu()
    parts = []
    for start, end in ((0, cut), (cut, logits.shape[1])):
        padding = -(end - start) % 4
        part = gpu.buffer(4 * len(logits) * (end - start + padding))
        gpu.write(part, 0, np.ascontiguousarray(np.pad(logits[:, start:end], ((0, 0), (0, padding)))))
        parts.append((part, start, end - start))
    return GpuSampler(gpu, logits.shape[1], parts, lines)


@pytest.mark.parametrize("vocab_size", [127, *(pytest.param(n, marks=pytest.mark.graphics) for n in (5021, 65536))])
def test_the_card_samples_what_the_definition_samples(vocab_size: int) -> None:
    logits = np.stack(list(kinds_of_logits(vocab_size).values())).astype(np.float32)
    rng = np.random.default_rng(1)
    bias = {int(t): float(rng.normal()) for t in rng.choice(vocab_size, 5, replace=False)}
    wanted = [{**params, **more} for params in PARAMS for more in ({}, {"frequency_penalty": 0.7, "logit_bias": bias})]
    sequences, masks = [sequence(seed, **params) for seed, params in enumerate(wanted)], {}
    for number, each in enumerate(sequences):
        for token_id in rng.integers(0, vocab_size, 30).tolist():
            each.accept(token_id)
        if number % 3 == 0:
            masks[number] = np.frombuffer(rng.bytes(-(-vocab_size // 32) * 4), np.uint32)
    batch = batch_of(vocab_size, *sequences, banned=[1, 5], masks=masks)
    sampler = sampler_or_skip(logits, 100, lines=7)  # several rounds per batch
    for line, row in enumerate(logits):
        expected = [plain_sampler.sample(row, batch, i) for i in range(len(batch))]
        assert sampler.sample([line] * len(batch), batch).token_ids.tolist() == expected


def test_what_is_not_finite_and_what_has_no_token_left_costs_the_others_nothing() -> None:
    logits = np.zeros((4, 400), np.float32)
    logits[1, 7], logits[2, 399], logits[3, 301] = np.nan, -np.inf, 9
    sampler = sampler_or_skip(logits, 300)
    nothing = np.zeros(13, np.uint32)
    batch = batch_of(400, *(sequence(temperature=0) for _ in range(4)), masks={0: nothing})
    assert sampler.sample(range(4), batch).token_ids.tolist() == [NO_TOKEN, NOT_FINITE, NOT_FINITE, 301]
    assert [sampler.is_finite(line) for line in range(4)] == [True, False, False, True]


@pytest.mark.parametrize("vocab_size", [300, 20095])
def test_logprobs_are_of_the_logits_as_they_were(vocab_size: int) -> None:
    line = kinds_of_logits(vocab_size)["few_values"].astype(np.float32)
    batch = batch_of(
        vocab_size, sequence(logit_bias={2: 100.0}, logprobs=20), sequence(), sequence(logprobs=1, top_k=9)
    )
    sampled = sampler_or_skip(line[None], 100).sample([0, 0, 0], batch)
    expected, best = plain_sampler.logprobs(line), np.lexsort((np.arange(vocab_size), -line))
    assert sampled.token_ids[0] == 2 and sampled.best_ids[0].tolist() == best[:20].tolist()
    assert sampled.best_ids[2, 0] == best[0]
    np.testing.assert_allclose(sampled.best_logprobs[0], expected[best[:20]], atol=1e-5)
    np.testing.assert_allclose(sampled.logprobs[[0, 2]], expected[sampled.token_ids[[0, 2]]], atol=1e-5)


def test_usual_sampling_reads_a_hundredth_of_the_logits() -> None:
    line = kinds_of_logits(65536)["peaked"].astype(np.float32)
    sampler = sampler_or_skip(line[None], 100)
    for params, most in (({"top_p": 0.5}, 2100), ({"temperature": 0.0}, 2100), ({}, 8000)):
        before = sampler.gpu.read_bytes
        sampler.sample([0], batch_of(65536, sequence(**params)))
        assert sampler.gpu.read_bytes - before <= most
    assert not sampler.lines_read


# on an adapter


def test_a_model_of_the_newest_version_computes_what_the_reference_does(tmp_path: Path) -> None:
    """Other versions, and all formats: ``-m graphics``."""
    backend, reference = make_pair(ENTRY, tmp_path, "7", "webgpu fp16")
    assert measure(backend, reference, lengths=SHORT).largest() <= TOLERANCE
    backend.close()


@pytest.mark.graphics
@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("architecture", ["4", "5.0", "5.2", "6", "7"])
def test_quantised_layers_compute_what_their_unpacked_weights_do(kind: str, architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "model.st"
    weights = write_checkpoint(path, architecture, n_layer=3, dtype="float16")
    backend = load_or_skip(ENTRY, path, f"webgpu {kind} layers=2")
    for name, values in weights.items():
        if name.startswith(("blocks.0.", "blocks.1.")) and name.endswith(".weight") and values.ndim == 2:
            weights[name] = unpack(kind, *pack(kind, values)).reshape(values.shape)
    assert measure(backend, NumpyRwkv(backend.config, weights), lengths=SHORT).largest() <= TOLERANCE
    backend.close()


@pytest.mark.graphics
@pytest.mark.parametrize(("architecture", "vocab_size"), [("4", 20095), ("5.2", 127)])
def test_models_of_music_run(architecture: str, vocab_size: int, tmp_path: Path) -> None:
    """The formats of RWKV-Runner: MIDI and ABC."""
    options = {"n_layer": 1, "vocab_size": vocab_size, "dtype": "float16"}
    backend, reference = make_pair(ENTRY, tmp_path, architecture, "webgpu_python fp16", "model.st", **options)
    assert measure(backend, reference, lengths=SHORT).largest() <= TOLERANCE
    backend.close()


@pytest.mark.graphics
@pytest.mark.parametrize(
    ("architecture", "strategy"), [("4", "webgpu int8"), ("6", "webgpu nf4"), ("7", "webgpu fp16")]
)
def test_the_estimate_covers_what_is_allocated(
    architecture: str, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Adapter, "uses_main_memory", False)  # so that it is counted separately
    path, options = tmp_path / "model.st", resolve_strategy(strategy)[1]
    write_checkpoint(path, architecture, n_embd=256, vocab_size=8192, dtype="float16")
    expected = WebgpuBackend.footprint(inspect(path), options)
    backend = load_or_skip(ENTRY, path, strategy + " kept_file=off")
    before = backend.model.gpu.allocated_bytes
    load_or_skip(ENTRY, path, strategy + " kept_file=off")
    allocated = backend.model.gpu.allocated_bytes - before
    assert allocated <= expected.weights[DEVICE] + expected.run_extra[DEVICE] <= 1.1 * allocated


@pytest.mark.graphics
@pytest.mark.parametrize("n_embd", [256, 768])
def test_widths_that_are_no_multiple_of_512(n_embd: int, tmp_path: Path) -> None:
    backend, reference = make_pair(ENTRY, tmp_path, "7", "webgpu fp32", n_layer=1, n_embd=n_embd, vocab_size=1023)
    assert measure(backend, reference, lengths=SHORT).largest() <= TOLERANCE
    backend.close()


@pytest.mark.graphics
def test_heads_of_another_size(tmp_path: Path) -> None:
    for architecture in ("6", "7"):
        backend, reference = make_pair(ENTRY, tmp_path, architecture, "webgpu fp32", n_layer=1, head_size=32)
        assert measure(backend, reference, lengths=SHORT).largest() <= TOLERANCE
        backend.close()


@pytest.mark.graphics
def test_matrices_are_split_where_one_binding_cannot_hold_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if WebgpuBackend.availability().is_available:
        monkeypatch.setattr(shared_gpu(), "binding_bytes", 1 << 16)
    backend, reference = make_pair(ENTRY, tmp_path, "7", "webgpu fp32", n_layer=1, vocab_size=1000)
    assert len(backend.model.head_parts) > 2
    assert measure(backend, reference, lengths=SHORT).largest() <= TOLERANCE
    backend.close()


@pytest.mark.graphics
def test_a_row_computes_the_same_alone_and_among_others(tmp_path: Path) -> None:
    """Bit for bit, with any division into passes: more tokens than fit in one, and more rows than the GPU holds."""
    backend, _ = make_pair(ENTRY, tmp_path, "7", "webgpu fp16 chunk=16")
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 256, length).tolist() for length in (1, 40, 3, 9, 1, 8, 17)]
    wants = ["last", "all", "all", "last", "nothing", "last", "last"]
    alone = []
    for ids, want in zip(prompts, wants, strict=True):
        slot = backend.new_slot()
        logits = backend.step([Row(slot, ids, want)])
        alone.append((logits.to_numpy(range(len(logits))).copy(), backend.read_state(slot).digest()))
        backend.free_slot(slot)
    slots = [backend.new_slot() for _ in prompts]
    together = backend.step([Row(*row) for row in zip(slots, prompts, wants, strict=True)])
    expected = np.concatenate([lines for lines, _ in alone])
    assert len(together) == len(expected) == 40 + 3 + 4
    assert (together.to_numpy(range(len(together))) == expected).all()
    assert [backend.read_state(slot).digest() for slot in slots] == [digest for _, digest in alone]
    backend.close()


@pytest.mark.graphics
@pytest.mark.parametrize("architecture", ["4", "6", "7"])
def test_a_state_continues_on_another_backend(architecture: str, tmp_path: Path) -> None:
    backend, reference = make_pair(ENTRY, tmp_path, architecture, "webgpu fp32")
    other = load_or_skip(next(e for e in entries() if e.name == "rwkv_pip"), tmp_path / "model.pth", "cpu fp32")
    slot, there = backend.new_slot(), other.new_slot()
    forward(backend, [slot], [[1, 2, 3]])
    other.write_state(there, backend.read_state(slot))
    forward(other, [there], [[4, 5]])
    back = backend.fork(slot)
    backend.write_state(back, other.read_state(there))
    expected = reference.forward([1, 2, 3, 4, 5, 6])[0][-1]
    # For RWKV-4 to 6, the package normalises the embedding in the file's precision.
    assert difference(forward(backend, [back], [[6]])[0], expected) <= 2e-2
    assert difference(forward(backend, [slot], [[4, 5, 6]])[0], expected) <= TOLERANCE
    backend.close()
    other.close()


def test_a_bad_row_changes_no_slot(tmp_path: Path) -> None:
    backend, _ = make_pair(ENTRY, tmp_path, "7", "webgpu fp16", n_layer=1)
    slot = backend.new_slot()
    before = backend.read_state(slot).digest()
    for rows in ([Row(slot, [1]), Row(slot, [2])], [Row(slot, [])], [Row(slot, [256])], [Row(slot, [1]), Row(99, [1])]):
        with pytest.raises((KeyError, ValueError)):
            backend.step(rows)
    assert backend.read_state(slot).digest() == before
    backend.close()


def test_a_lost_device_ends_the_engine_with_a_reason() -> None:
    gpu = own_gpu_or_skip()
    buffer = gpu.buffer(64)
    gpu._device.destroy()
    with pytest.raises(EngineCrashed) as raised, device.guarded():
        gpu.read(buffer, 0, 16)
    assert raised.value.params["reason"].key == "reason.webgpu.device_failed"


@pytest.mark.graphics
@pytest.mark.parametrize("architecture", ["5.2", "7"])
def test_a_wrong_file_is_refused_with_the_tensor_that_is_wrong(architecture: str, tmp_path: Path) -> None:
    """Each tensor of a model in turn: with a NaN at its end, missing, or with twice its rows."""
    good = make_tensors(architecture, n_layer=1)
    path = tmp_path / "wrong.safetensors"
    write_tensors(path, good)
    load_or_skip(ENTRY, path, "webgpu fp16").close()
    config, options = inspect(path).config, resolve_strategy("webgpu fp16")[1]
    optional = {f"blocks.0.att.v{i}" for i in range(3)} | {"head.weight"}  # a missing head is the embedding
    names = sorted(good.keys() - optional)
    for index, name in enumerate(names):
        broken = good[name].copy()
        broken.flat[-1] = np.nan
        wrong = {name: broken if index % 3 == 0 else np.concatenate([good[name], good[name]])}
        write_tensors(path, {other: {**good, **wrong}[other] for other in good if other != name or index % 3 != 1})
        with pytest.raises(WeightsError) as raised:
            WebgpuBackend.load(str(path), config, options, lambda progress: None)
        assert name in str(raised.value) or index % 3 == 2, name


def test_a_load_without_an_adapter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wgpu")
    monkeypatch.setattr(device, "_enumerate", lambda: [(OPENGL, None)])
    with pytest.raises(BackendUnavailable):
        device.Gpu()
