"""Choosing a strategy: the options, the result of the fields, and the checks during input."""

from __future__ import annotations

from pathlib import Path

import pytest

from webapp.backends.ggml.backend import GgmlBackend
from webapp.backends.native.backend import NativeBackend
from webapp.backends.rwkv_pip import requirements
from webapp.backends.rwkv_pip.strategy import place_layers
from webapp.backends.webgpu.backend import WebgpuBackend
from webapp.engine import registry
from webapp.engine.backend import Availability
from webapp.engine.state import ModelConfig
from webapp.errors import BackendUnavailable, StrategyError, translate_error
from webapp.i18n import Text, say, translate
from webapp.services.strategy import validate

ROOT = Path(__file__).resolve().parents[3]
V6 = ModelConfig("6", 24, 2048, 2048, 7168, 32, 64, 65536)
V7 = ModelConfig("7", 24, 2048, 2048, 8192, 32, 64, 65536)
GPU_TORCH = requirements.TorchBuild("2.6.0", cuda="12.4")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a driver and a torch that can use it."""
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: True)
    monkeypatch.setattr(requirements, "read_torch_build", lambda: GPU_TORCH)


@pytest.mark.parametrize(
    ("fields", "strategy"),
    [
        (("cpu", "fp32"), "cpu fp32"),
        (("cpu", "bf16"), "cpu bf16"),
        (("cpu", "int8"), "cpu fp32i8 -> cpu fp32 *1"),
        (("cpu", "int8", None, 25), "cpu fp32i8"),
        (("cpu", "int8", None, 10), "cpu fp32i8 *10 -> cpu fp32"),
        (("cpu", "int8", None, 0), "cpu fp32"),
        (("cuda", "fp16"), "cuda fp16"),
        (("cuda", "fp16", 25), "cuda fp16"),
        (("cuda", "fp16", 10), "cuda fp16 *10 -> cpu fp32"),
        (("cuda", "fp16", 0), "cpu fp32"),
        (("cuda", "fp16", 10, None, True), "cuda fp16 *10+"),
        (("cuda", "fp16", 999), "cuda fp16"),
        (("cuda", "bf16", -3, None, True), "cuda bf16 *0+"),
        (("cuda", "int8"), "cuda fp16i8 -> cuda fp16 *1"),
        (("cuda", "int8", None, 25), "cuda fp16i8"),
        (("cuda", "int8", None, 12), "cuda fp16i8 *12 -> cuda fp16"),
        (("cuda", "int8", 10), "cuda fp16i8 *10 -> cpu fp32i8 *14 -> cpu fp32 *1"),
        (("cuda", "int8", 10, 5), "cuda fp16i8 *5 -> cuda fp16 *5 -> cpu fp32 *15"),
        (("cuda", "int8", 10, None, True), "cuda fp16i8 *10+ -> cuda fp16 *1"),
    ],
)
def test_the_builder_writes_what_the_fields_say(fields, strategy: str) -> None:
    names = ("precision", "gpu_layers", "quantized_layers", "stream")
    given = {name: value for name, value in zip(names, fields[1:], strict=False) if value is not None}
    assert registry.build(fields[0], given, V6).strategy == strategy
    assert len(place_layers(strategy, V6.n_layer)) == 25


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_fields_read_from_a_strategy_write_the_same_placement_again(kind: str, gpu: None) -> None:
    for precision in registry.build(kind, {}, V6).options[0].choices:
        for gpu_layers in (1, 10, 24, 25):
            for quantized in (3, 24, 25):
                for stream in (False, True):
                    given = {"gpu_layers": gpu_layers, "quantized_layers": quantized, "stream": stream}
                    written = registry.build(kind, {"precision": precision, **given}, V6).strategy
                    found, values = registry.read_builder(written, V6)
                    again = registry.build(found, values, V6).strategy
                    assert found != "custom", written
                    assert place_layers(again, V6.n_layer) == place_layers(written, V6.n_layer), written
                    assert validate(written, V6).is_valid, written


@pytest.mark.parametrize(
    "strategy",
    [
        "cuda:1 fp16",
        "mps fp32",
        "cpu fp32 *3 -> cpu bf16",
        "cpu bf16i8",
        "cuda:0 fp16 *9 -> cuda:1 fp16",
        "nonsense",
        "",
    ],
)
def test_what_the_fields_cannot_say_stays_as_it_was_written(strategy: str) -> None:
    kind, values = registry.read_builder(strategy, V6)
    assert kind == "custom" and registry.build(kind, values, V6).strategy == strategy


@pytest.mark.parametrize("strategy", ["cpu fp32", "cuda fp16i8 -> cuda fp16 *1", "cuda fp16"])
def test_a_strategy_for_the_whole_model_is_read_before_a_model_is_chosen(strategy: str) -> None:
    kind, values = registry.read_builder(strategy, None)
    assert kind == strategy.split()[0] and registry.build(kind, values, None).strategy == strategy


def test_an_unknown_kind_has_no_strategy_and_an_invalid_value_counts_as_the_default() -> None:
    assert registry.build("warp", {"precision": "fp16"}, V6).strategy == ""
    assert registry.build("cpu", {"precision": "int4", "gpu_layers": "many"}, V6).strategy == "cpu fp32"


def test_every_layer_is_shown_where_it_would_go(gpu: None) -> None:
    check = validate("cuda:0 FP16i8 *10 ->  cuda:1 fp16 *5 -> cpu fp32", V6)
    assert check.is_valid and check.strategy == "cuda:0 fp16i8 *10 -> cuda:1 fp16 *5 -> cpu fp32"
    shown = [(run.device, run.precision, run.first, run.count, run.has_head) for run in check.runs]
    assert shown == [("cuda:0", "int8", 0, 10, False), ("cuda:1", "fp16", 10, 5, False), ("cpu", "fp32", 15, 9, True)]


def test_streamed_layers_are_shown_apart(gpu: None) -> None:
    runs = validate("cuda fp16 *10+", V6).runs
    assert [(run.is_streamed, run.count, run.has_head) for run in runs] == [(False, 10, False), (True, 14, True)]


def test_a_head_alone_has_no_layers(gpu: None) -> None:
    runs = validate("cuda fp16i8 -> cuda fp16 *1", V6).runs
    assert [(run.count, run.has_head) for run in runs] == [(24, False), (0, True)]


def test_what_another_machine_could_run_is_distinguished_from_what_none_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: False)
    elsewhere = validate("cuda fp16", V6)
    nowhere = validate("cuda fp16i8", V7)
    assert not elsewhere.is_valid and elsewhere.is_elsewhere and elsewhere.runs
    assert isinstance(elsewhere.error, BackendUnavailable)
    assert not nowhere.is_valid and not nowhere.is_elsewhere and isinstance(nowhere.error, StrategyError)


HOSTILE = [
    "",
    "->",
    "cpu",
    "fp32",
    "cpu fp32 *-1",
    "cpu fp32 *" + "9" * 5000,
    "cuda:" + "9" * 50 + " fp16",
    "cpu fp32 -> " * 2000,
    "cpu fp32 *99",
    "cpu fp32i4",
    "cpu fp32; rm -rf /",
    "<script>alert(1)</script>",
    "cpu fp32 *1٣",  # a digit, but not of ASCII
    "{0.__class__} fp32",
    "cpu\x00fp32",
    "albatross workers=1",
]


@pytest.mark.parametrize("config", [None, V6, V7], ids=["no model", "v6", "v7"])
@pytest.mark.parametrize("strategy", HOSTILE, ids=range(len(HOSTILE)))
def test_anything_can_be_typed(strategy: str, config: ModelConfig | None) -> None:
    check = validate(strategy, config)
    assert check.is_valid == (strategy == "cpu fp32 *99" and config is None)
    if check.error is not None:
        for locale in ("en", "zh"):
            message, hint = translate_error(check.error, locale)
            assert message and hint and len(message) < 2000
    registry.read_builder(strategy, config)


def test_a_refusal_is_said_in_the_readers_language() -> None:
    error = validate("cpu fp32 *99", V6).error
    assert translate_error(error, "en")[0].endswith("it places 99 layers")
    assert "99" in translate_error(error, "zh")[0] and "层" in translate_error(error, "zh")[0]
    assert "25" in translate_error(error, "zh")[1]


def test_only_what_runs_here_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler = Text("reason.backends.no_cpp_compiler")
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: False)
    for backend in (NativeBackend, GgmlBackend, WebgpuBackend):
        monkeypatch.setattr(backend, "availability", lambda: Availability(False, no_compiler, no_compiler))
    found = {row.kind.key: row for row in registry.kinds()}
    assert list(found) == ["cpu", "native", "torch", "cuda", "ggml", "webgpu", "webgpu_python", "custom"]
    assert [key for key, row in found.items() if row.availability.is_available] == ["cpu", "torch", "custom"]
    for row in found.values():
        for text in (row.kind.label, row.kind.text):
            assert translate(text, "zh") != text
        if not row.availability.is_available:
            assert say(row.availability.reason, "zh") != str(row.availability.reason)


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_every_option_of_the_builder_has_its_words(locale: str) -> None:
    for row in registry.kinds():
        for config in (None, V6):
            shown = {"gpu_layers": 1, "precision": "int8"}
            for option in registry.build(row.kind.key, shown, config).options:
                assert translate(option.label, locale) != option.label and translate(option.help, locale) != option.help


@pytest.mark.parametrize(
    ("strategy", "values"),
    [
        ("native", {}),
        ("native q4", {"format": "q4"}),
        ("native q4 head=q6", {"format": "q4", "head": "q6"}),
        ("native q8 threads=3", None),
        ("native banana", None),
    ],
)
def test_the_native_engines_strategies_are_in_the_builder(strategy: str, values: dict[str, str] | None) -> None:
    kind, found = registry.read_builder(strategy, V6)
    assert (kind, found) == (("native", values) if values is not None else ("custom", {"strategy": strategy}))
    if values is not None:
        again = registry.build(kind, found, V6).strategy
        assert registry.resolve_strategy(again) == registry.resolve_strategy(strategy)


def test_a_torch_without_gpu_support_says_the_command_that_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: True)
    build = requirements.TorchBuild("2.13.0+cpu")
    monkeypatch.setattr(requirements, "read_torch_build", lambda: build)
    found = requirements.cuda_availability()
    assert not found.is_available and "2.13.0+cpu" in say(found.reason, "zh")
    assert "pip install" in str(found.way_out) and "download.pytorch.org" in say(found.way_out, "zh")


def test_a_card_and_its_torch_make_cuda_available(gpu: None) -> None:
    assert requirements.cuda_availability().is_available


def test_missing_packages_name_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "package_availability", lambda: Availability(False, "x", "pip install rwkv"))
    missing = {row.kind.key for row in registry.kinds() if row.availability.way_out == "pip install rwkv"}
    assert missing == {"cpu", "cuda", "custom"}
    check = validate("cpu fp32", V6)
    assert check.is_elsewhere and "pip install rwkv" in translate_error(check.error, "zh")[1]


@pytest.mark.parametrize(("has_nvcc", "has_ninja"), [(False, True), (True, False), (True, True)])
def test_custom_kernels_need_a_compiler(has_nvcc: bool, has_ninja: bool, gpu: None, monkeypatch) -> None:
    monkeypatch.setattr(requirements, "package_availability", lambda: Availability(True))
    monkeypatch.setattr(requirements, "has_nvcc", lambda: has_nvcc)
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: object() if has_ninja else None)
    assert requirements.kernels_availability().is_available is (has_nvcc and has_ninja)


def test_rwkv_7_is_offered_what_the_package_can_do_with_it() -> None:
    given = {"precision": "int8", "gpu_layers": 3}
    seven, six = (registry.build("cuda", given, config) for config in (V7, V6))
    assert [option.name for option in seven.options] == ["precision"] and seven.strategy == "cuda fp16" and seven.note
    assert [option.name for option in six.options] == ["precision", "gpu_layers", "quantized_layers", "stream"]
    assert six.options[1].high == 25 and not six.note
    assert [option.name for option in registry.build("cpu", given, V6).options] == ["precision", "quantized_layers"]


def test_the_build_of_torch_is_read_from_its_files() -> None:
    import torch

    found = requirements.read_torch_build()
    assert found is not None and found.version == torch.__version__
    assert bool(found.cuda) is (torch.version.cuda is not None)
    assert requirements.parse_torch_version(
        "cuda: Optional[str] = '12.6'\n__version__ = '2.7.0+cu126'\nhip: Optional[str] = None"
    ) == (requirements.TorchBuild("2.7.0+cu126", "12.6"))
    assert requirements.parse_torch_version("nothing") is None


def test_the_command_installs_a_torch_the_project_takes() -> None:
    assert requirements.TORCH_REQUIREMENT in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("strategy", "advice"),
    [("cpu fp16", "cpu_fp16"), ("cpu bf16", "cpu_bf16"), ("cpu fp32i8", "int8_head"), ("cpu fp32", "")],
)
def test_a_strategy_that_could_be_better_gets_a_remark(strategy: str, advice: str) -> None:
    keys = [remark.key for remark in validate(strategy, V6).remarks]
    assert keys == ([f"strategy.advice.{advice}"] if advice else [])
    assert all(translate(key, "zh") != key for key in keys)
