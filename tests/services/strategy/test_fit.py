"""The estimate equals the loader's memory, and it distinguishes models that fit from those that do not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.engine.driving import load_backend
from tests.services.strategy.engine_memory import measure
from tests.weights.make_big_checkpoint import drawn_tensors, write_big_checkpoint
from tests.weights.make_checkpoints import write_checkpoint, write_state
from webapp.backends.native.backend import NativeBackend
from webapp.backends.pytorch.backend import TorchBackend
from webapp.backends.rwkv_pip import model_loader, requirements
from webapp.backends.rwkv_pip.requirements import footprint
from webapp.engine.backend import RAM, Availability
from webapp.i18n import translate
from webapp.manager.memory import Gpu
from webapp.services.strategy import Hardware, estimate, recommend
from webapp.weights.architecture import describe
from webapp.weights.inspection import Inspection, inspect
from webapp.weights.tensor_info import TensorInfo

GB = 10**9
SLACK_BYTES = 60 * 2**20
"""For a model so small that torch itself needs most of the memory, which differs between versions and systems."""


def machine(free_gb: float, *vram_gb: float) -> Hardware:
    gpus = tuple(Gpu(number, f"card {number}", 24 * GB, int(free * GB)) for number, free in enumerate(vram_gb))
    return Hardware("cpu", 4, 8, 64 * GB, int(free_gb * GB), gpus)


def big(architecture: str, n_layer: int = 24, n_embd: int = 2048) -> Inspection:
    """A bf16 model of real size, without a file."""
    tensors = {
        name: TensorInfo(name, drawn.shape, "bfloat16")
        for name, drawn in drawn_tensors(architecture, n_layer, n_embd, 65536).items()
    }
    config = describe(tensors).config
    size = sum(tensor.nbytes for tensor in tensors.values())
    plain = (None, None, "official", "world", "", {})
    return Inspection(
        "big.pth", "pth", "model", config, size // 2, "bfloat16", size, False, *plain, tuple(tensors.values())
    )


@pytest.fixture(autouse=True)
def own_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not available, even if there is a compiler."""
    monkeypatch.setattr(NativeBackend, "availability", lambda: Availability(False, "no compiler", is_ready=False))
    monkeypatch.setattr(TorchBackend, "availability", lambda: Availability(False, "no torch"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: True)
    monkeypatch.setattr(requirements, "read_torch_build", lambda: requirements.TorchBuild("2.6.0", cuda="12.4"))


def held_bytes(loaded: model_loader.LoadedModel) -> int:
    """Bytes of everything that the package stores for a loaded model."""
    total = 0
    for tensor in (loaded.model.z if hasattr(loaded.model, "z") else loaded.model.w).values():
        total += tensor.nbytes
    return total


RUNS = [
    *((architecture, "cpu fp32") for architecture in ("4", "5.0", "5.1", "5.2", "6", "7")),
    *((architecture, "cpu fp32i8") for architecture in ("4", "5.0", "5.1", "5.2", "6")),
    *((architecture, "cpu bf16") for architecture in ("4", "5.2", "6", "7")),
    ("7", "cpu fp16"),
    ("6", "cpu fp16i8 -> cpu fp32 *1"),
    ("6", "cpu fp32 *1 -> cpu bf16i8 *1 -> cpu fp32"),
]
FILES = [(file, dtype) for file in ("model.pth", "model.safetensors") for dtype in ("bfloat16", "float32")]


@pytest.mark.parametrize(
    ("architecture", "strategy", "file", "dtype"), [(*run, *FILES[n % 4]) for n, run in enumerate(RUNS)]
)
def test_weights_are_estimated_to_the_byte(
    architecture: str, strategy: str, file: str, dtype: str, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / file, architecture, dtype=dtype, time_state=architecture != "4")
    found = inspect(tmp_path / file)
    loaded = model_loader.load_model(str(tmp_path / file), found.config, strategy, lambda progress: None)
    assert footprint(found, strategy).weights == {RAM: held_bytes(loaded)}


def test_a_state_is_estimated_to_the_byte(tmp_path: Path) -> None:
    for architecture in ("4", "5.2", "6", "7"):
        write_checkpoint(tmp_path / "model.pth", architecture)
        found = inspect(tmp_path / "model.pth")
        for strategy in ("cpu fp32", "cpu bf16"):
            backend = load_backend(found.path, strategy)
            held = sum(tensor.nbytes for tensor in backend._slots[backend.new_slot()])
            assert footprint(found, strategy).state == {RAM: held}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.parametrize(("architecture", "strategy"), [("6", "cpu fp32i8 -> cpu fp32 *1"), ("7", "cpu fp32")])
def test_the_real_peak_is_within_a_tenth(architecture: str, strategy: str, tmp_path: Path) -> None:
    """122 million parameters, 0.24 GB on disk; docs/memory.md has 1.6 billion."""
    write_big_checkpoint(tmp_path / "model.pth", architecture, n_layer=4, n_embd=768)
    estimated = estimate(inspect(tmp_path / "model.pth"), strategy, machine(64)).needed_bytes
    real = measure(tmp_path / "model.pth", strategy, tmp_path).peak
    assert abs(estimated - real) <= max(0.1 * real, SLACK_BYTES), f"{estimated / 1e6:.0f} MB, really {real / 1e6:.0f}"


def test_layers_are_counted_where_they_go(gpu: None) -> None:
    whole = footprint(big("6"), "cuda fp16").weights
    split = footprint(big("6"), "cuda:0 fp16 *12 -> cuda:1 fp16").weights
    streamed = footprint(big("6"), "cuda fp16 *6+").weights
    assert set(split) == {RAM, "cuda:0", "cuda:1"}
    assert split[RAM] == whole[RAM] == 2 * 65536 * 2048, "the embedding is looked up in main memory"
    assert split["cuda:0"] + split["cuda:1"] == whole["cuda:0"] == streamed["cuda:0"] + streamed[RAM] - whole[RAM]
    assert streamed["cuda:0"] < whole["cuda:0"] / 2
    assert set(footprint(big("7"), "cuda fp16").weights.items()) >= {(RAM, 0)}


@pytest.mark.parametrize(
    ("free_gb", "verdict"), [(64, "fits"), (6.9, "tight"), (6.0, "does_not_fit"), (0.1, "does_not_fit")]
)
def test_the_verdict_follows_what_is_free(free_gb: float, verdict: str) -> None:
    found = estimate(big("6"), "cpu fp32", machine(free_gb))
    assert found.verdict == verdict
    assert (found.answers == 0) is (verdict == "does_not_fit")


def test_slots_are_limited_by_memory_and_settings() -> None:
    found = estimate(big("6"), "cpu bf16", machine(8), max_sequences=16, state_cache_bytes=10**8)
    left = found.free_bytes - found.needed_bytes - 10**8
    assert found.answers == 1 + left // found.state_bytes_per_answer and found.answers > 100
    assert found.usable_answers == 16
    found = estimate(big("6"), "cpu bf16", machine(64), max_sequences=4096)
    assert found.usable_answers == 64, "the backend's limit"


def test_memory_the_running_engine_gives_back_counts_as_free() -> None:
    assert estimate(big("6"), "cpu fp32", machine(2)).verdict == "does_not_fit"
    assert estimate(big("6"), "cpu fp32", machine(2), reclaimable_bytes=6 * GB).verdict == "fits"


def test_a_strategy_that_does_not_fit_is_shown_with_one_that_does(gpu: None) -> None:
    found = estimate(big("6"), "cpu fp32", machine(4.0))
    assert found.verdict == "does_not_fit" and found.needed_bytes - found.free_bytes > 2 * GB
    best = found.alternatives[0]
    assert best.verdict == "fits" and best.needed_bytes < 4.0 * GB
    assert estimate(big("6"), best.strategy, machine(4.0)).verdict == "fits"
    assert "cpu fp32" not in [other.strategy for other in found.alternatives]


def test_a_card_with_too_little_is_the_tightest_device(gpu: None) -> None:
    found = estimate(big("6"), "cuda fp16", machine(32, 2.2))
    assert found.verdict == "does_not_fit" and found.tightest.device == "cuda:0"
    assert found.free_bytes == 2.2 * GB
    streamed = [other for other in found.alternatives if other.verdict == "fits" and "cuda" in other.strategy]
    assert streamed and any("+" in other.strategy for other in streamed)


def test_a_card_that_cannot_be_queried_is_not_promised(gpu: None) -> None:
    found = estimate(big("7"), "cuda fp16", machine(32))
    assert found.verdict == "tight" and found.answers is None


@pytest.mark.parametrize("strategy", ["cpu fp32i8", "cuda fp16 *5+", "nonsense", "cpu fp32 *99"])
def test_what_cannot_run_says_why_and_what_could(strategy: str) -> None:
    found = estimate(big("7"), strategy, machine(32))
    assert found.verdict == "cannot_run" and found.error is not None and found.devices == ()
    assert found.alternatives[0].strategy == "cpu fp32"


def test_a_file_that_is_no_model_cannot_run(tmp_path: Path) -> None:
    write_state(tmp_path / "state.pth")
    found = estimate(inspect(tmp_path / "state.pth"), "cpu fp32", machine(32))
    assert found.verdict == "cannot_run" and found.error.code == "not_a_model"
    assert recommend(machine(32), inspect(tmp_path / "state.pth")).strategy == ""


@pytest.mark.parametrize(
    ("architecture", "free_gb", "vram", "strategy"),
    [
        ("6", 32, (), "cpu fp32"),
        ("6", 5, (), "cpu bf16"),
        ("6", 3, (), "cpu fp32i8 -> cpu fp32 *1"),
        ("7", 3.3, (), "cpu bf16"),
        ("7", 1, (), "cpu bf16"),
        ("6", 32, (8.0,), "cuda fp16"),
        ("6", 32, (3.0,), "cuda fp16i8 -> cuda fp16 *1"),
        ("6", 32, (2.2,), "cuda fp16 *6+"),
        ("7", 32, (2.0,), "cpu fp32"),
    ],
)
def test_the_fastest_that_fits_is_recommended(
    architecture: str, free_gb: float, vram: tuple[float, ...], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: bool(vram))
    monkeypatch.setattr(requirements, "read_torch_build", lambda: requirements.TorchBuild("2.6.0", cuda="12.4"))
    advice = recommend(machine(free_gb, *vram), big(architecture))
    assert advice.strategy == strategy
    for locale in ("en", "zh"):
        assert strategy in translate(advice.reason, locale, **advice.params)


@pytest.mark.parametrize(
    ("architecture", "free_gb", "strategy"),
    [("7", 32, "native q8"), ("6", 2.2, "native q8"), ("7", 1.8, "native q6"), ("7", 1.6, "native q4")],
)
def test_the_native_engine_is_recommended_in_as_many_bits_as_fit(
    architecture: str, free_gb: float, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NativeBackend, "availability", lambda: Availability(True))
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: False)
    advice = recommend(machine(free_gb), big(architecture))
    assert advice.strategy == strategy and advice.fit is not None and advice.fit.verdict == "fits"
    for locale in ("en", "zh"):
        assert strategy in translate(advice.reason, locale, **advice.params)


@pytest.mark.parametrize(
    ("free_gb", "vram", "strategy"),
    [(32, (), "torch cpu q8"), (3.0, (), "torch cpu q8"), (2.4, (), "torch cpu q4"), (32, (8.0,), "cuda fp16")],
)
def test_the_torch_engine_has_priority_over_the_package_on_a_cpu(
    free_gb: float, vram: tuple[float, ...], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchBackend, "availability", lambda: Availability(True))
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: bool(vram))
    monkeypatch.setattr(requirements, "read_torch_build", lambda: requirements.TorchBuild("2.6.0", cuda="12.4"))
    advice = recommend(machine(free_gb, *vram), big("7"))
    assert advice.strategy == strategy and advice.fit is not None and advice.fit.verdict == "fits"
    for locale in ("en", "zh"):
        assert strategy in translate(advice.reason, locale, **advice.params)


@pytest.mark.parametrize(("free_gb", "strategy"), [(32, "cpu fp32"), (2.2, "native q8")])
def test_an_engine_that_has_to_be_built_first_is_recommended_where_no_other_fits(
    free_gb: float, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NativeBackend, "availability", lambda: Availability(True, is_ready=False))
    assert recommend(machine(free_gb), big("7")).strategy == strategy


def test_a_converted_file_is_run_as_it_was_made_for() -> None:
    made = replace(big("6"), converted_strategy="cpu bf16")
    assert recommend(machine(32), made).strategy == "cpu bf16"
    assert estimate(made, "cpu fp32", machine(32)).verdict == "cannot_run"
    assert estimate(made, "cpu  bf16", machine(32)).verdict == "fits"
