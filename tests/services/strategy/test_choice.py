"""Choosing a strategy: what is offered, what the fields come to, and what is said while one is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from webapp.backends.native.backend import NativeBackend
from webapp.backends.rwkv_pip import requirements, torch_build
from webapp.backends.strategy import place_layers
from webapp.backends.strategy_problems import PROBLEMS
from webapp.engine.backend import Availability
from webapp.engine.model_config import ModelConfig
from webapp.errors import BackendUnavailable, StrategyError
from webapp.i18n import translate, translate_error
from webapp.i18n.translation import CATALOGUE_DIR
from webapp.services.strategy import choice, kinds

ROOT = Path(__file__).resolve().parents[3]
V6 = ModelConfig("6", 24, 2048, 2048, 7168, 32, 64, 65536)
V7 = ModelConfig("7", 24, 2048, 2048, 8192, 32, 64, 65536)
GPU_TORCH = torch_build.TorchBuild("2.6.0", cuda="12.4")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a driver and a torch that can use it."""
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: True)
    monkeypatch.setattr(torch_build, "read", lambda: GPU_TORCH)


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
    kind, precision, gpu_layers, quantized, stream = (*fields, *(None, None, False)[len(fields) - 2 :])
    assert choice.build(kind, precision, gpu_layers, quantized, V6.n_layer, stream) == strategy
    assert len(place_layers(strategy, V6.n_layer)) == 25


def test_fields_read_from_a_strategy_write_the_same_placement_again(gpu: None) -> None:
    tried = 0
    for kind in ("cpu", "cuda"):
        for precision in choice.limits(kind, V6).precisions:
            for gpu_layers in (None, 1, 10, 24):
                for quantized in (None, 3, 24, 25):
                    for stream in (False, True):
                        written = choice.build(kind, precision, gpu_layers, quantized, V6.n_layer, stream)
                        fields = choice.parse(written, V6.n_layer)
                        again = choice.build_fields(fields, V6.n_layer)
                        assert fields.kind != "custom", written
                        assert place_layers(again, V6.n_layer) == place_layers(written, V6.n_layer), written
                        assert choice.validate(written, V6).is_valid, written
                        tried += 1
    assert tried == 7 * 4 * 4 * 2


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
    fields = choice.parse(strategy, V6.n_layer)
    assert (fields.kind, fields.strategy) == ("custom", strategy)
    assert choice.build_fields(fields, V6.n_layer) == strategy


@pytest.mark.parametrize("strategy", ["cpu fp32", "cuda fp16i8 -> cuda fp16 *1", "cuda fp16"])
def test_a_strategy_for_the_whole_model_is_read_before_a_model_is_chosen(strategy: str) -> None:
    fields = choice.parse(strategy)
    assert fields.kind == strategy.split()[0]
    assert choice.build_fields(fields, None) == strategy


def test_a_kind_or_precision_that_is_none_is_a_mistake_of_the_caller() -> None:
    for kind, precision in (("ggml", "fp16"), ("cpu", "int4"), ("custom", "fp32")):
        with pytest.raises(ValueError, match="the builder has no"):
            choice.build(kind, precision)


def test_every_layer_is_shown_where_it_would_go(gpu: None) -> None:
    check = choice.validate("cuda:0 FP16i8 *10 ->  cuda:1 fp16 *5 -> cpu fp32", V6)
    assert check.is_valid and check.strategy == "cuda:0 fp16i8 *10 -> cuda:1 fp16 *5 -> cpu fp32"
    shown = [(run.device, run.is_int8, run.first, run.count, run.has_head) for run in check.runs]
    assert shown == [("cuda:0", True, 0, 10, False), ("cuda:1", False, 10, 5, False), ("cpu", False, 15, 9, True)]


def test_streamed_layers_are_shown_apart(gpu: None) -> None:
    runs = choice.validate("cuda fp16 *10+", V6).runs
    assert [(run.is_streamed, run.count, run.has_head) for run in runs] == [(False, 10, False), (True, 14, True)]


def test_a_head_alone_has_no_layers(gpu: None) -> None:
    runs = choice.validate("cuda fp16i8 -> cuda fp16 *1", V6).runs
    assert [(run.count, run.has_head) for run in runs] == [(24, False), (0, True)]


def test_what_another_machine_could_run_is_told_from_what_none_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: False)
    elsewhere = choice.validate("cuda fp16", V6)
    nowhere = choice.validate("cuda fp16i8", V7)
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
    check = choice.validate(strategy, config)
    assert check.is_valid == (strategy == "cpu fp32 *99" and config is None)
    if check.error is not None:
        for locale in ("en", "zh"):
            message, hint = translate_error(check.error, locale)
            assert message and hint and len(message) < 2000
    choice.parse(strategy, 24)


def test_a_refusal_is_said_in_the_readers_language() -> None:
    error = choice.validate("cpu fp32 *99", V6).error
    assert translate_error(error, "en")[0].endswith("it places 99 layers")
    assert "99" in translate_error(error, "zh")[0] and "层" in translate_error(error, "zh")[0]
    assert "25" in translate_error(error, "zh")[1]


def test_english_reasons_are_the_same_on_the_page_and_in_the_error() -> None:
    texts = json.loads((CATALOGUE_DIR / "en" / "strategy.json").read_text(encoding="utf-8"))["strategy"]["problem"]
    assert {code: (text["reason"], text["way_out"]) for code, text in texts.items()} == PROBLEMS


def test_only_what_runs_here_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: False)
    monkeypatch.setattr(NativeBackend, "availability", lambda: Availability(False, "no compiler"))
    found = {kind.key: kind for kind in choice.kinds()}
    assert list(found) == ["cpu", "native", "cuda", "ggml", "webgpu", "webgpu_python", "custom"]
    assert [key for key, kind in found.items() if kind.is_available] == ["cpu", "custom"]
    for kind in found.values():
        for key in (kind.reason_key, kind.way_out_key) if not kind.is_available else ():
            for locale in ("en", "zh"):
                assert translate(key, locale, **kind.params) != key


@pytest.mark.parametrize(
    ("strategy", "kind", "precision"),
    [("native", "native", "q8"), ("native q4", "native", "q4"), ("native q4 head=q6", "custom", "")],
)
def test_the_native_engines_strategies_stand_in_the_builder(strategy: str, kind: str, precision: str) -> None:
    fields = choice.parse(strategy, 24)
    assert (fields.kind, fields.precision) == (kind, precision)
    assert choice.validate(choice.build_fields(fields, 24)).is_valid


def test_a_torch_without_gpu_support_says_the_command_that_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: True)
    monkeypatch.setattr(torch_build, "read", lambda: torch_build.TorchBuild("2.13.0+cpu"))
    cuda = choice.kind("cuda")
    assert not cuda.is_available and cuda.command.startswith("pip install") and "download.pytorch.org" in cuda.command
    assert cuda.command in translate(cuda.way_out_key, "en", **cuda.params)
    assert "2.13.0+cpu" in translate(cuda.reason_key, "zh", **cuda.params)


def test_a_card_and_its_torch_make_cuda_available(gpu: None) -> None:
    assert choice.kind("cuda").is_available


def test_missing_packages_name_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(requirements.package_availability(), is_available=False, reason="x", way_out="pip install rwkv")
    monkeypatch.setattr(kinds, "package_availability", lambda: missing)
    assert {kind.key: kind.command for kind in choice.kinds() if kind.command} == dict.fromkeys(
        ("cpu", "cuda", "custom"), "pip install rwkv"
    )


@pytest.mark.parametrize(("has_nvcc", "has_ninja"), [(False, True), (True, False), (True, True)])
def test_custom_kernels_need_a_compiler(has_nvcc: bool, has_ninja: bool, gpu: None, monkeypatch) -> None:
    monkeypatch.setattr(kinds, "_has_nvcc", lambda: has_nvcc)
    monkeypatch.setattr(kinds.importlib.util, "find_spec", lambda name: object() if has_ninja else None)
    monkeypatch.setattr(kinds, "package_availability", lambda: requirements.Availability(True))
    assert choice.custom_kernel().is_available is (has_nvcc and has_ninja)


def test_rwkv_7_is_offered_what_the_package_can_do_with_it() -> None:
    seven, six = choice.limits("cuda", V7), choice.limits("cuda", V6)
    assert "int8" not in seven.precisions and not seven.can_split and not seven.can_stream and seven.reason_key
    assert "int8" in six.precisions and six.can_split and six.can_stream and six.layers == 25
    assert not choice.limits("cpu", V6).can_split


def test_the_build_of_torch_is_read_from_its_files() -> None:
    import torch

    found = torch_build.read()
    assert found is not None and found.version == torch.__version__
    assert bool(found.cuda) is (torch.version.cuda is not None)
    assert torch_build.parse(
        "cuda: Optional[str] = '12.6'\n__version__ = '2.7.0+cu126'\nhip: Optional[str] = None"
    ) == (torch_build.TorchBuild("2.7.0+cu126", "12.6"))
    assert torch_build.parse("nothing") is None


def test_the_command_installs_a_torch_the_project_takes() -> None:
    assert torch_build.REQUIREMENT in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("strategy", "advice"),
    [("cpu fp16", "cpu_fp16"), ("cpu bf16", "cpu_bf16"), ("cpu fp32i8", "int8_head"), ("cpu fp32", "")],
)
def test_a_strategy_that_could_be_better_gets_a_remark(strategy: str, advice: str) -> None:
    keys = choice.validate(strategy, V6).advice_keys
    assert keys == ((f"strategy.advice.{advice}",) if advice else ())
    assert all(translate(key, "zh") != key for key in keys)
