"""What the rwkv package 0.8.32 can run on this machine and how much memory it needs, without importing torch.

Installed packages are detected from files, because importing torch takes seconds and a quarter of a gigabyte. Memory is
computed from the package's form of each tensor (model.py, ``RWKV.__init__`` and ``RWKV_x070.__init__``), as this
package's loader creates it. ``python -m tests.services.strategy.fit_table`` compares it with real loads
(docs/memory.md).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from webapp.backends.rwkv_pip.strategy import (
    LayerPlacement,
    StrategyPart,
    parse_strategy,
    place_layers,
    refuse,
    unavailable,
)
from webapp.engine.backend import RAM, Availability, Footprint, ModelFile, TensorSize
from webapp.engine.state import ModelConfig
from webapp.i18n import Text

NVIDIA_TRACES = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg", "/dev/kfd")  # driver, WSL 2, AMD's ROCm


AVAILABLE = Availability(True)


def package_availability() -> Availability:
    """Whether the packages are installed."""
    for package in ("torch", "rwkv"):
        if importlib.util.find_spec(package) is None:
            reason = Text("reason.backends.package_not_installed", package=package)
            return Availability(False, reason, Text("reason.backends.run_pip_install", package=package))
    return AVAILABLE


def cuda_availability() -> Availability:
    """Whether the packages and a GPU with its driver exist, and torch was built for it."""
    found = package_availability()
    if not found.is_available:
        return found
    if not has_gpu_driver():
        reason = Text("reason.backends.no_gpu")
        return Availability(False, reason, Text("reason.backends.needs_a_gpu"))
    build = read_torch_build()
    if build is not None and not build.has_gpu_support:
        reason = Text(
            "reason.backends.torch_without_gpu",
            version=build.version,
        )
        command = install_command()
        way_out = Text("reason.backends.install_torch_with_gpu", command=command)
        return Availability(False, reason, way_out)
    return AVAILABLE


def kernels_availability() -> Availability:
    """Whether the package could build its own CUDA kernels at load: it needs NVIDIA's compiler and ninja."""
    found = cuda_availability()
    if not found.is_available:
        return found
    if not has_nvcc():
        reason = Text("reason.backends.no_nvcc")
        return Availability(False, reason, Text("reason.backends.install_cuda_toolkit"))
    if importlib.util.find_spec("ninja") is None:
        reason = Text("reason.backends.no_ninja")
        return Availability(False, reason, Text("reason.backends.run_pip_install_ninja"))
    return AVAILABLE


def has_nvcc() -> bool:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or ""
    return shutil.which("nvcc", path=os.path.join(home, "bin") if home else None) is not None


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
    """Cheap: checks traces of drivers and torch's files. Raises BackendUnavailable."""
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
    build = read_torch_build()
    if build is not None and not build.has_gpu_support:
        command = install_command()
        unavailable(f"`{device}`", "torch_without_gpu", version=build.version, command=command)


def has_gpu_driver() -> bool:
    """A cheap guess whether torch's ``cuda`` works here; only torch knows it, and a load asks torch."""
    if sys.platform == "win32":
        system = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32")
        return (system / "nvcuda.dll").exists() or (system / "amdhip64.dll").exists()
    return any(os.path.exists(path) for path in NVIDIA_TRACES) or shutil.which("nvidia-smi") is not None


def check_torch_devices(devices: set[str]) -> None:
    """Imports torch for a definite check of devices that seem to have a driver. Raises BackendUnavailable."""
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


WHEELS = "https://download.pytorch.org/whl"
TORCH_REQUIREMENT = '"torch>=2.6,<=2.13.0"'  # as in pyproject.toml; a test holds it to that


class TorchBuild(Struct, frozen=True):
    """``cuda`` and ``hip``: the versions for which it was built, or empty."""

    version: str
    cuda: str = ""
    hip: str = ""

    @property
    def has_gpu_support(self) -> bool:
        return bool(self.cuda or self.hip)


@functools.cache
def read_torch_build() -> TorchBuild | None:
    """None if it is not installed or its file has no such data (then only an import tells)."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        return parse_torch_version(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8"))
    except OSError:
        return None


def parse_torch_version(source: str) -> TorchBuild | None:
    """Parses torch/version.py, which torch's build writes: ``cuda: Optional[str] = '12.6'``."""
    found = dict(re.findall(r"^(__version__|cuda|hip)\b[^=\n]*= *['\"]([^'\"]*)['\"]", source, re.MULTILINE))
    if "__version__" not in found:
        return None
    return TorchBuild(found["__version__"], found.get("cuda", ""), found.get("hip", ""))


def install_command() -> str:
    """Replaces a torch without GPU support by one with it, for the GPU that this machine has."""
    is_amd = os.path.exists("/dev/kfd") and not os.path.exists("/dev/nvidiactl")
    return f"pip install --force-reinstall {TORCH_REQUIREMENT} --index-url {WHEELS}/{'rocm6.4' if is_amd else 'cu126'}"


MIB = 2**20
DTYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
LAYER = re.compile(r"blocks\.(\d+)\.")
STREAMED = ("key.weight", "value.weight", "receptance.weight", "output.weight")
KEPT_FLOAT32 = re.compile(r"\.time_decay$|\.time_first$|\.time_faaaa$|\.ln_x\.")
NEVER_QUANTIZED = re.compile(r"emb\.|_w[12]$|\.time_")
LN0 = ("blocks.0.ln0.weight", "blocks.0.ln0.bias")
UNUSED_V7 = (*LN0, *(f"blocks.0.att.{name}" for name in ("v0", "v1", "v2")))
EMBEDDING = "emb.weight"

BASE_BYTES = 241 * MIB
"""An engine process with torch and the package before the first weight: torch 2.13 for CPUs, Linux (docs/memory.md)."""
CUDA_HOST_BYTES, CUDA_DEVICE_BYTES = 700 * MIB, 500 * MIB
"""A CUDA context: in main memory on top of the base, and on each card. Not measured, as no GPU was available."""
READING_BYTES = 24 * MIB
"""Mapped pages of the file during a load, and buffers (``model_loader``: 32 MB and 4 MB)."""
INT8_READING_BYTES = 64 * MIB
"""Additional buffers if matrices are quantised, in three passes over float32 pieces."""
CHUNK_TOKENS = 64
"""Prompt tokens in one step: the backend's ``prefill_tokens``."""


def footprint(model: ModelFile, strategy: str) -> Footprint:
    """For a strategy that passed ``requirements.check_strategy``."""
    config = model.config
    assert config is not None, "check() comes first"
    places = placements(config, strategy)
    weights: Counter[str] = Counter()
    for device, size in _weights(model, config, places):
        weights[device] += size
    gpus = sorted({device_name(place.device) for place in places} - {RAM})
    host = BASE_BYTES + (CUDA_HOST_BYTES if gpus else 0)
    return Footprint(
        weights={RAM: 0} | dict(weights),
        base={RAM: host} | dict.fromkeys(gpus, CUDA_DEVICE_BYTES),
        load_extra={
            RAM: READING_BYTES
            + (INT8_READING_BYTES if any(place.is_int8 for place in places) else 0)
            + (_largest(model, places) if gpus else 0)
        },
        run_extra=_run_extra(model, config, places),
        state=_state(config, places),
        snapshot=config.state_bytes(),
    )


def device_name(device: str) -> str:
    """Main memory for the CPU and for Apple's GPUs, which share it; ``cuda`` is the first GPU."""
    return {"cpu": RAM, "mps": RAM, "cuda": "cuda:0"}.get(device, device)


def _place(name: str, places: tuple[LayerPlacement, ...]) -> LayerPlacement:
    layer = LAYER.match(name)
    if layer is not None:
        return places[int(layer[1])]
    return places[-1] if name.startswith(("ln_out.", "head.")) else places[0]


def _weights(model: ModelFile, config: ModelConfig, places: tuple[LayerPlacement, ...]) -> Iterator[tuple[str, int]]:
    """Device and bytes of each tensor, and of the int8 scales."""
    dropped = UNUSED_V7 if config.major == 7 else LN0
    for tensor in model.tensors:
        if tensor.name.endswith(".time_state") or tensor.name in dropped:
            continue
        place = _place(tensor.name, places)
        device = device_name(place.device)
        if model.converted_strategy is not None:
            yield _stays_in_ram(tensor.name, config, place) or device, tensor.nbytes
        elif tensor.name == EMBEDDING:
            yield _stays_in_ram(tensor.name, config, place) or device, tensor.numel * DTYPE_BYTES[places[0].dtype]
        elif place.is_int8 and _is_matrix(tensor):
            yield _stays_in_ram(tensor.name, config, place) or device, tensor.numel
            yield device, 2 * sum(tensor.shape) * DTYPE_BYTES[place.dtype]
        else:
            size = 4 if config.major < 7 and KEPT_FLOAT32.search(tensor.name) else DTYPE_BYTES[place.dtype]
            yield _stays_in_ram(tensor.name, config, place) or device, tensor.numel * size


def _stays_in_ram(name: str, config: ModelConfig, place: LayerPlacement) -> str | None:
    """RWKV-4 to 6 keep the embedding on the CPU; streamed matrices are stored there (pinned)."""
    is_embedding = name == EMBEDDING and config.major < 7
    return RAM if is_embedding or (place.is_streamed and name.endswith(STREAMED)) else None


def _is_matrix(tensor: TensorSize) -> bool:
    return len(tensor.shape) == 2 and not NEVER_QUANTIZED.search(tensor.name)


def _largest(model: ModelFile, places: tuple[LayerPlacement, ...]) -> int:
    """A tensor is created in main memory before it goes to a GPU."""
    return max(tensor.numel * DTYPE_BYTES[_place(tensor.name, places).dtype] for tensor in model.tensors)


def _run_extra(model: ModelFile, config: ModelConfig, places: tuple[LayerPlacement, ...]) -> dict[str, int]:
    """Activations of a prompt chunk, a row of logits and its sampling, the state before and after a step and its
    copies; on a GPU also the whole matrices of a streamed or int8 layer in use."""
    activations = CHUNK_TOKENS * 4 * (12 * config.n_embd + 3 * config.n_ffn)
    extra = Counter({RAM: 32 * config.vocab_size + 4 * config.state_bytes()})
    for device in {device_name(place.device) for place in places}:
        extra[device] += activations
    for tensor in model.tensors:
        place = _place(tensor.name, places)
        device = device_name(place.device)
        if device == RAM or not _is_matrix(tensor) or tensor.name == EMBEDDING:
            continue
        passes = place.is_streamed and tensor.name.endswith(STREAMED)
        if passes or place.is_int8:  # the package dequantises int8 in two whole copies
            needed = activations + tensor.numel * DTYPE_BYTES[place.dtype] * (2 if place.is_int8 else 1)
            extra[device] = max(extra[device], needed)
    return dict(extra)


def _state(config: ModelConfig, places: tuple[LayerPlacement, ...]) -> dict[str, int]:
    """One sequence: shifted activations in the layers' precision, the rest in float32."""
    state: Counter[str] = Counter()
    for place in places[: config.n_layer]:
        per_layer = config.n_att * (3 if config.major == 4 else config.head_size) * 4
        state[device_name(place.device)] += per_layer + 2 * config.n_embd * DTYPE_BYTES[place.dtype]
    return dict(state)
