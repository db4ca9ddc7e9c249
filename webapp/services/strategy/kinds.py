"""The ways to run a model that a person can choose from, which of them work here, and what would change the rest."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

from webapp.backends.native.backend import FORMATS, NativeBackend
from webapp.backends.rwkv_pip.requirements import check_device, package_availability
from webapp.engine.model_config import ModelConfig
from webapp.errors import RoostError

PRECISIONS = {"cpu": ("fp32", "bf16", "int8"), "native": FORMATS, "cuda": ("fp16", "bf16", "int8", "fp32")}
"""The best first. fp16 on a CPU is left to the custom kind: it is as large as bf16 and overflows sooner."""
TORCH_KINDS = ("cpu", "cuda", "custom")
LATER_KINDS = ("ggml", "webgpu", "webgpu_python")


@dataclass(frozen=True)
class StrategyKind:
    """``reason_key``, ``way_out_key``: catalogue keys over ``params``, empty when it is available. ``command``: what to
    type to change it, empty when hardware (or a later version of Roost) would."""

    key: str
    is_available: bool
    precisions: tuple[str, ...] = ()
    reason_key: str = ""
    way_out_key: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    command: str = ""


@dataclass(frozen=True)
class BuilderLimits:
    """What the builder may offer for one model. ``layers`` counts the head, 0 while no model is known.

    ``reason_key`` says why splitting, streaming and int8 are not offered; empty when they are.
    """

    precisions: tuple[str, ...]
    layers: int
    can_split: bool
    can_stream: bool
    can_quantize: bool
    reason_key: str = ""


def kinds() -> tuple[StrategyKind, ...]:
    """In the order of the page: CPU, native, CUDA, rwkv.cpp, WebGPU, WebGPU (Python), custom. Imports nothing heavy."""
    return (_torch_kind("cpu"), _native_kind(), _cuda_kind(), *map(_later_kind, LATER_KINDS), _torch_kind("custom"))


def kind(key: str) -> StrategyKind:
    """KeyError for a key that is none."""
    return {found.key: found for found in kinds()}[key]


def limits(key: str, config: ModelConfig | None = None) -> BuilderLimits:
    """``config`` None: no model is chosen, everything the kind has is offered."""
    precisions = PRECISIONS.get(key, ())
    layers = config.n_layer + 1 if config else 0
    if key == "native":
        return BuilderLimits(precisions, layers, False, False, False)
    if config is not None and config.major == 7:
        plain = tuple(name for name in precisions if name != "int8")
        return BuilderLimits(plain, layers, False, False, False, "strategy.limits.rwkv7")
    is_cuda = key == "cuda"
    return BuilderLimits(precisions, layers, is_cuda, is_cuda, "int8" in precisions)


def custom_kernel() -> StrategyKind:
    """Whether the rwkv package could build its own CUDA kernels at load: it needs NVIDIA's compiler and ninja."""
    cuda = _cuda_kind()
    if not cuda.is_available:
        return cuda
    for found, problem, command in (
        (_has_nvcc(), "no_nvcc", ""),
        (importlib.util.find_spec("ninja") is not None, "no_ninja", "pip install ninja"),
    ):
        if not found:
            return _unavailable("custom_kernel", f"strategy.kernel.{problem}", command)
    return StrategyKind("custom_kernel", True)


def _has_nvcc() -> bool:
    import os
    import shutil

    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or ""
    return shutil.which("nvcc", path=os.path.join(home, "bin") if home else None) is not None


def _torch_kind(key: str) -> StrategyKind:
    package = package_availability()
    if not package.is_available:
        return _unavailable(key, "strategy.kind.package_missing", package.way_out)
    return StrategyKind(key, True, PRECISIONS.get(key, ()))


def _native_kind() -> StrategyKind:
    if not NativeBackend.availability().is_available:
        return _unavailable("native", "strategy.kind.no_compiler")
    return StrategyKind("native", True, PRECISIONS["native"])


def _cuda_kind() -> StrategyKind:
    kind = _torch_kind("cuda")
    if not kind.is_available:
        return kind
    try:
        check_device("cuda")
    except RoostError as exc:
        if "command" in exc.params:
            return _unavailable("cuda", "strategy.kind.torch_without_gpu", exc.params["command"], exc.params)
        return _unavailable("cuda", "strategy.kind.no_gpu")
    return kind


def _later_kind(key: str) -> StrategyKind:
    later = "strategy.kind.later"
    return StrategyKind(key, False, (), f"{later}.reason", f"{later}.way_out")


def _unavailable(key: str, text_key: str, command: str = "", params: dict[str, Any] | None = None) -> StrategyKind:
    """``text_key``.reason and .way_out are in the catalogues."""
    said = {"command": command} | (params or {})
    return StrategyKind(key, False, (), f"{text_key}.reason", f"{text_key}.way_out", said, command)
