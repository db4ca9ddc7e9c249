"""Parsing strategies, and which ones are refused before anything is loaded."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.errors import contains, raises_code
from webapp.backends.rwkv_pip import requirements
from webapp.backends.rwkv_pip.strategy import canonical_strategy, parse_strategy, place_layers
from webapp.engine.backend import ModelSizes
from webapp.engine.registry import resolve_strategy
from webapp.engine.state import ModelConfig

V6 = ModelConfig("6", 32, 2560, 2560, 8960, 40, 64, 65536)
V7 = ModelConfig("7", 32, 2560, 2560, 10240, 40, 64, 65536)
# STRATEGY_REGEX of rwkv 0.8.32, model.py, must match every accepted strategy.
PACKAGE_REGEX = r"^(?:(?:^|->) *(?:cuda(?::[\d]+)?|cpu|mps|dml) (?:fp(?:16|32)|bf16)(?:i8|i4|i3)?(?: \*[\d]+\+?)? *)+$"


def check(config: ModelConfig, strategy: str) -> None:
    backend, options = resolve_strategy(strategy)
    backend.check(ModelSizes(config), options)


def counts(strategy: str, n_layer: int) -> list[tuple[str, int, int]]:
    """(device and precision, layers, how many of them streamed); equal neighbours are combined."""
    out: list[tuple[str, int, int]] = []
    for place in place_layers(strategy, n_layer):
        name = f"{place.device} {place.dtype}{'i8' if place.is_int8 else ''}"
        if not out or out[-1][0] != name:
            out.append((name, 0, 0))
        out[-1] = (name, out[-1][1] + 1, out[-1][2] + place.is_streamed)
    return out


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("cpu fp32", [("cpu fp32", 33, 0)]),
        ("cpu fp32i8", [("cpu fp32i8", 33, 0)]),
        ("cuda fp16 -> cuda fp32 *1", [("cuda fp16", 32, 0), ("cuda fp32", 1, 0)]),
        ("cuda:0 fp16 *20 -> cuda:1 fp16", [("cuda:0 fp16", 20, 0), ("cuda:1 fp16", 13, 0)]),
        ("cuda fp16i8 *10 -> cpu bf16", [("cuda fp16i8", 10, 0), ("cpu bf16", 23, 0)]),
        ("cuda fp16 *10+", [("cuda fp16", 33, 23)]),
        ("cuda fp16 *0+ -> cpu fp32 *1", [("cuda fp16", 32, 32), ("cpu fp32", 1, 0)]),
        (
            "cuda:0 fp16 -> cuda:1 fp16 -> cpu fp32",
            [("cuda:0 fp16", 11, 0), ("cuda:1 fp16", 11, 0), ("cpu fp32", 11, 0)],
        ),
        ("cpu fp32 *3 -> cpu bf16 *4", [("cpu fp32", 3, 0), ("cpu bf16", 30, 0)]),
    ],
)
def test_layers_go_where_the_package_puts_them(strategy: str, expected: list[tuple[str, int, int]]) -> None:
    assert counts(strategy, 32) == expected


def test_case_and_spaces_do_not_matter() -> None:
    assert canonical_strategy("  CUDA:1  FP16i8   *20+ ->CPU fp32") == "cuda:1 fp16i8 *20+ -> cpu fp32"
    assert re.match(PACKAGE_REGEX, canonical_strategy("CUDA:1  FP16i8   *20+ ->CPU fp32"))
    assert parse_strategy("cpu bf16")[0].layers is None


@pytest.mark.parametrize(
    ("strategy", "problem", "told"),
    [
        ("", "part_empty", {}),
        ("cpu", "not_a_part", {}),
        ("cpu int8", "not_a_part", {}),
        ("cpu fp32 -> ", "part_empty", {}),
        ("gpu fp16", "not_a_part", {}),
        ("cpu fp64", "not_a_part", {}),
        ("cpu fp32 20", "not_a_part", {}),
        ("cpu fp32 *-1", "not_a_part", {}),
        ("cuda fp16i4", "no_such_int", {"int": "i4"}),
        ("cuda fp16i3", "no_such_int", {"int": "i3"}),
        ("cpu fp32 *0 -> cpu bf16", "no_layer", {}),
        ("cpu fp32 *2+", "cpu_streams", {}),
        ("cuda fp16 *2+ -> cuda:1 fp16 *2+", "two_streams", {}),
        ("cpu fp32 *34", "too_many_layers", {"placed": 34}),
        ("cpu fp32 *999999999999", "too_many_layers", {}),
        ("cpu fp32 *33 -> cpu bf16", "none_left", {}),
        ("cuda fp16 *4+ -> cpu fp32", "none_left", {}),
    ],
)
def test_a_strategy_that_cannot_be_is_refused_with_a_way_out(
    strategy: str, problem: str, told: dict[str, object]
) -> None:
    with raises_code("strategy_invalid", key=f"strategy.problem.{problem}.reason", **told) as caught:
        place_layers(strategy, 32)
    assert contains(caught.value, key=f"strategy.problem.{problem}.way_out") and caught.value.hint


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        ("cpu fp32i8", "v7_int8"),
        ("cpu fp32 *10 -> cpu bf16", "v7_split"),
        ("cpu fp32 *33", "v7_layers"),
        ("cuda fp16 *10+", "v7_stream"),
        ("mps fp32", "v7_device"),
    ],
)
def test_what_the_package_cannot_do_for_rwkv_7_is_refused_before_loading(strategy: str, problem: str) -> None:
    with raises_code("strategy_invalid", key=f"strategy.problem.{problem}.reason") as caught:
        check(V7, strategy)
    assert "`" in caught.value.hint, "the way out names a strategy"


@pytest.mark.parametrize("strategy", ["cpu fp32", "cpu bf16", "cpu fp16"])
def test_one_device_in_one_precision_is_fine_for_every_version(strategy: str) -> None:
    check(V7, strategy)
    check(V6, strategy)


def test_int8_and_splits_are_fine_up_to_rwkv_6() -> None:
    check(V6, "cpu fp32i8")
    check(V6, "cpu fp32 *10 -> cpu bf16")


@pytest.mark.parametrize("strategy", ["cuda fp16", "dml fp32"])
def test_a_device_that_is_not_there_is_said_to_be_missing(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "has_gpu_driver", lambda: False)
    with raises_code("backend_unavailable") as caught:
        check(V6, strategy)
    assert "`cpu fp32`" in caught.value.hint


def test_torch_has_the_last_word_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with raises_code("backend_unavailable", key="strategy.problem.no_gpu_found.reason"):
        requirements.check_torch_devices({"cpu", "cuda"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with raises_code("backend_unavailable", key="strategy.problem.gpu_index.reason", count=1):
        requirements.check_torch_devices({"cuda:1"})


def test_checking_imports_neither_torch_nor_the_package() -> None:
    code = (
        "import sys; from webapp.engine.backend import ModelSizes as M;"
        "from webapp.engine.registry import resolve_strategy as r; B, o = r('cpu fp32');"
        "from webapp.engine.state import ModelConfig;"
        "B.availability(); B.check(M(ModelConfig('7', 2, 64, 64, 256, 1, 64, 256)), o);"
        "sys.exit('torch' in sys.modules or 'rwkv' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
