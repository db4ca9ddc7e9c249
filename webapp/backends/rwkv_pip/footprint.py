"""How much memory a model will take on the package, from the shapes of its tensors: no torch, nothing is read.

Follows what the package makes of each tensor (model.py 0.8.32, ``RWKV.__init__`` and ``RWKV_x070.__init__``) as this
room's loader has it do that. ``python -m tests.services.strategy.fit_table`` compares with real loads (docs/memory.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from webapp.backends.rwkv_pip import requirements
from webapp.backends.strategy import LayerPlacement
from webapp.engine.backend import RAM, Footprint, ModelFile, TensorSize
from webapp.engine.model_config import ModelConfig

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
"""A CUDA context: in main memory on top of the base, and on each card. Not measured, no card was at hand."""
READING_BYTES = 24 * MIB
"""Of the file that is held while it is read, and the pieces in work (``model_loader``: 32 MB and 4 MB)."""
INT8_READING_BYTES = 64 * MIB
"""More of that where matrices are quantised, in three passes over float32 pieces."""
CHUNK_TOKENS = 64
"""Of a prompt, in one step: the backend's ``prefill_tokens``."""


def footprint(model: ModelFile, strategy: str) -> Footprint:
    """For a strategy that ``requirements.check_strategy`` lets through."""
    config = model.config
    assert config is not None, "check() comes first"
    places = requirements.placements(config, strategy)
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
    """Main memory for the CPU and for Apple's GPUs, which share it; ``cuda`` is the first card."""
    return {"cpu": RAM, "mps": RAM, "cuda": "cuda:0"}.get(device, device)


def _place(name: str, places: tuple[LayerPlacement, ...]) -> LayerPlacement:
    layer = LAYER.match(name)
    if layer is not None:
        return places[int(layer[1])]
    return places[-1] if name.startswith(("ln_out.", "head.")) else places[0]


def _weights(model: ModelFile, config: ModelConfig, places: tuple[LayerPlacement, ...]) -> Iterator[tuple[str, int]]:
    """Device and bytes, for each tensor and the scales of int8."""
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
    """RWKV-4 to 6 look the embedding up on the CPU; streamed matrices wait there (pinned)."""
    is_embedding = name == EMBEDDING and config.major < 7
    return RAM if is_embedding or (place.is_streamed and name.endswith(STREAMED)) else None


def _is_matrix(tensor: TensorSize) -> bool:
    return len(tensor.shape) == 2 and not NEVER_QUANTIZED.search(tensor.name)


def _largest(model: ModelFile, places: tuple[LayerPlacement, ...]) -> int:
    """A tensor is made in main memory before it goes to a card."""
    return max(tensor.numel * DTYPE_BYTES[_place(tensor.name, places).dtype] for tensor in model.tensors)


def _run_extra(model: ModelFile, config: ModelConfig, places: tuple[LayerPlacement, ...]) -> dict[str, int]:
    """Activations of a chunk of a prompt, a row of logits and its sampling, the state before and after a step and its
    copies; on a card the matrices of a streamed or int8 layer in work, whole."""
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
        if passes or place.is_int8:  # the package restores int8 in two whole copies
            needed = activations + tensor.numel * DTYPE_BYTES[place.dtype] * (2 if place.is_int8 else 1)
            extra[device] = max(extra[device], needed)
    return dict(extra)


def _state(config: ModelConfig, places: tuple[LayerPlacement, ...]) -> dict[str, int]:
    """One sequence: what the layers hand on in their precision, the rest in float32."""
    state: Counter[str] = Counter()
    for place in places[: config.n_layer]:
        per_layer = config.n_att * (3 if config.major == 4 else config.head_size) * 4
        state[device_name(place.device)] += per_layer + 2 * config.n_embd * DTYPE_BYTES[place.dtype]
    return dict(state)
