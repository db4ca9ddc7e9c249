"""What the rwkv package 0.8.32 can run on this machine, said before anything is loaded and without torch."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

from webapp.backends.strategy import StrategyPart, parse_strategy, place_layers, refuse
from webapp.engine.backend import Availability
from webapp.engine.model_config import ModelConfig
from webapp.errors import BackendUnavailable

NVIDIA_TRACES = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg", "/dev/kfd")  # driver, WSL 2, AMD's ROCm
CPU_INSTEAD = "Use `cpu fp32`, or `cpu bf16` for half the memory."


def package_availability() -> Availability:
    """Whether the packages are installed."""
    for package in ("torch", "rwkv"):
        if importlib.util.find_spec(package) is None:
            return Availability(False, f"the Python package {package} is not installed", f"pip install {package}")
    return Availability(True)


def check_strategy(config: ModelConfig, strategy: str) -> None:
    """Raises StrategyError or BackendUnavailable."""
    parts = parse_strategy(strategy)
    if config.major == 7:
        _check_v7(strategy, parts)
    place_layers(strategy, config.n_layer)
    for part in parts:
        _check_device(part.device)


def _check_v7(strategy: str, parts: tuple[StrategyPart, ...]) -> None:
    """The package's RWKV-7 puts every layer on the first part's device, and asserts or ignores the rest."""
    first = parts[0]
    plain = f"`{first.device} {first.dtype}`"
    if len(parts) > 1:
        refuse(strategy, "the rwkv package cannot split RWKV-7 between devices or precisions", f"Use {plain}.")
    if first.is_int8:
        way_out = f"Use `{first.device} bf16` (2 bytes a weight), a smaller model, or RWKV-6, which has int8."
        refuse(strategy, "the rwkv package has no int8 for RWKV-7", way_out)
    if first.streams:
        refuse(strategy, "the rwkv package cannot stream the layers of RWKV-7", f"Use {plain} or `cpu bf16`.")
    if first.layers is not None:
        refuse(strategy, "the rwkv package cannot place single layers of RWKV-7", f"Use {plain}.")
    if first.device in ("mps", "dml"):
        refuse(strategy, f"the rwkv package runs RWKV-7 on cpu and cuda, not on {first.device}", CPU_INSTEAD)


def _check_device(device: str) -> None:
    kind = device.partition(":")[0]
    if kind == "cuda" and not has_gpu_driver():
        _unavailable(device, "no NVIDIA (or AMD ROCm) driver is there")
    if kind == "mps" and not (sys.platform == "darwin" and platform.machine() == "arm64"):
        _unavailable(device, "it is not a Mac with Apple silicon")
    if kind == "dml" and importlib.util.find_spec("torch_directml") is None:
        _unavailable(device, "the package torch-directml is not installed")


def has_gpu_driver() -> bool:
    """A cheap guess that torch's ``cuda`` could work here; only torch itself knows, and load asks it."""
    if sys.platform == "win32":
        system = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32")
        return (system / "nvcuda.dll").exists() or (system / "amdhip64.dll").exists()
    return any(os.path.exists(path) for path in NVIDIA_TRACES) or shutil.which("nvidia-smi") is not None


def check_torch_devices(devices: set[str]) -> None:
    """Imports torch: the last word on devices whose driver seems to be there. Raises BackendUnavailable."""
    import torch

    for device in sorted(devices):
        kind, _, index = device.partition(":")
        if kind == "cuda":
            if not torch.cuda.is_available():
                _unavailable(device, f"torch {torch.__version__} finds no GPU it can use")
            if int(index or 0) >= torch.cuda.device_count():
                _unavailable(device, f"torch finds {torch.cuda.device_count()} GPU(s), counted from 0")
        if kind == "mps" and not torch.backends.mps.is_available():
            _unavailable(device, f"torch {torch.__version__} has no MPS here")


def _unavailable(device: str, reason: str) -> None:
    raise BackendUnavailable(backend=f"`{device}`", reason=reason, way_out=CPU_INSTEAD)
