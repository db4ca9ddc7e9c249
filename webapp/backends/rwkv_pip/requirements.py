"""What the rwkv package 0.8.32 can run on this machine, said before anything is loaded and without torch."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

from webapp.backends.rwkv_pip import torch_build
from webapp.backends.strategy import LayerPlacement, StrategyPart, parse_strategy, place_layers
from webapp.backends.strategy_problems import refuse, unavailable
from webapp.engine.backend import Availability
from webapp.engine.model_config import ModelConfig

NVIDIA_TRACES = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg", "/dev/kfd")  # driver, WSL 2, AMD's ROCm


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
        check_device(part.device)


def placements(config: ModelConfig, strategy: str) -> tuple[LayerPlacement, ...]:
    """The package's RWKV-7 puts every layer on the first part's device."""
    if config.major < 7:
        return place_layers(strategy, config.n_layer)
    part = parse_strategy(strategy)[0]
    return (LayerPlacement(part.device, part.dtype, False, False),) * (config.n_layer + 1)


def _check_v7(strategy: str, parts: tuple[StrategyPart, ...]) -> None:
    """The package's RWKV-7 puts every layer on the first part's device, and asserts or ignores the rest."""
    first = parts[0]
    plain = f"{first.device} {first.dtype}"
    if len(parts) > 1:
        refuse(strategy, "v7_split", plain=plain)
    if first.is_int8:
        refuse(strategy, "v7_int8", device=first.device)
    if first.streams:
        refuse(strategy, "v7_stream", plain=plain)
    if first.layers is not None:
        refuse(strategy, "v7_layers", plain=plain)
    if first.device in ("mps", "dml"):
        refuse(strategy, "v7_device", device=first.device)


def check_device(device: str) -> None:
    """Cheap: from traces of drivers and from torch's files. Raises BackendUnavailable."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        _check_cuda(device)
    if kind == "mps" and not (sys.platform == "darwin" and platform.machine() == "arm64"):
        unavailable(f"`{device}`", "not_apple")
    if kind == "dml" and importlib.util.find_spec("torch_directml") is None:
        unavailable(f"`{device}`", "no_directml")


def _check_cuda(device: str) -> None:
    if not has_gpu_driver():
        unavailable(f"`{device}`", "no_driver")
    build = torch_build.read()
    if build is not None and not build.has_gpu_support:
        command = torch_build.install_command(is_amd=_is_amd())
        unavailable(f"`{device}`", "torch_without_gpu", version=build.version, command=command)


def has_gpu_driver() -> bool:
    """A cheap guess that torch's ``cuda`` could work here; only torch itself knows, and load asks it."""
    if sys.platform == "win32":
        system = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32")
        return (system / "nvcuda.dll").exists() or (system / "amdhip64.dll").exists()
    return any(os.path.exists(path) for path in NVIDIA_TRACES) or shutil.which("nvidia-smi") is not None


def _is_amd() -> bool:
    return os.path.exists("/dev/kfd") and not os.path.exists("/dev/nvidiactl")


def check_torch_devices(devices: set[str]) -> None:
    """Imports torch: the last word on devices whose driver seems to be there. Raises BackendUnavailable."""
    import torch

    for device in sorted(devices):
        kind, _, index = device.partition(":")
        if kind == "cuda":
            if not torch.cuda.is_available():
                unavailable(f"`{device}`", "no_gpu_found", version=torch.__version__)
            if int(index or 0) >= torch.cuda.device_count():
                unavailable(f"`{device}`", "gpu_index", count=torch.cuda.device_count())
        if kind == "mps" and not torch.backends.mps.is_available():
            unavailable(f"`{device}`", "no_mps", version=torch.__version__)
