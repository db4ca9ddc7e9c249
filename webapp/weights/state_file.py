"""Trained initial states (``time_state``) from a file of their own, checked before anything is applied.

Orientation at Roost's boundary: ``layers[layer, head, value_index, key_index]``, which is that of state-tuning files
and of the rwkv package's v7 runtime. (Its v5 and v6 runtime holds the transpose; the backend turns it.)

Limits. A state of v6 and one of v7 with equal sizes cannot be told apart by their tensors. web-rwkv's own ``.st``
states are transposed in the last two indices under the same names, which cannot be told either: such a file is read
as the official orientation, so convert from the original ``.pth`` instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from webapp.engine.model_config import ModelConfig
from webapp.errors import StateMismatch
from webapp.weights.architecture import STATE_NAME, describe
from webapp.weights.checkpoint import Checkpoint, open_checkpoint

FLOATS = ("float32", "float16", "bfloat16", "float64")
KINDS = {"model": "a whole model", "music": "a whole model", "lora": "a LoRA", "unknown": "a file of other tensors"}


@dataclass(frozen=True)
class StateFile:
    """``layers``: float32 ``(n_layer, n_head, head_size, head_size)``, read-only; ``digest``: SHA-256 of it, hex."""

    name: str
    layers: np.ndarray
    digest: str


def read_state_file(path: str | Path, config: ModelConfig) -> StateFile:
    """Reads .pth, .safetensors, .st or .state; StateMismatch says what was expected and found. Needs no torch."""
    path = Path(path)
    if config.major == 4:
        raise _mismatch(path, "the model's version", "RWKV 5, 6 or 7", "RWKV 4, which has no state files")
    with open_checkpoint(path) as checkpoint:
        _check_kind(path, checkpoint)
        _check_layers(path, checkpoint, config)
        layers = np.stack([_layer(path, checkpoint, layer, config) for layer in range(config.n_layer)])
    layers.flags.writeable = False
    return StateFile(path.stem, layers, state_digest(layers))


def state_digest(layers: np.ndarray) -> str:
    """SHA-256 (hex) over shape and float32 values: equal states have equal digests, whatever file they came from."""
    values = np.ascontiguousarray(layers, np.float32)
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def _check_kind(path: Path, checkpoint: Checkpoint) -> None:
    infos = {name: checkpoint.info(name) for name in checkpoint.names()}
    kind = describe(infos).kind
    if kind == "state":
        return
    found = KINDS[kind]
    strangers = [name for name in infos if not STATE_NAME.fullmatch(name)]
    if kind == "unknown":
        found += f" ({strangers[0]} is one)" if strangers else ", none in fact"
    raise _mismatch(path, "the content", "blocks.N.att.time_state for each layer and nothing else", found)


def _check_layers(path: Path, checkpoint: Checkpoint, config: ModelConfig) -> None:
    names = checkpoint.names()
    if len(names) != config.n_layer:
        raise _mismatch(path, "the number of layers", config.n_layer, len(names))
    for layer in range(config.n_layer):
        if _name(layer) not in names:
            odd = next(name for name in names if name not in {_name(i) for i in range(config.n_layer)})
            raise _mismatch(path, f"the name of layer {layer}", _name(layer), odd)


def _layer(path: Path, checkpoint: Checkpoint, layer: int, config: ModelConfig) -> np.ndarray:
    name = _name(layer)
    info = checkpoint.info(name)
    expected = (config.n_head, config.head_size, config.head_size)
    if info.shape != expected:
        raise _mismatch(path, f"the shape of {name}", _sizes(expected), _sizes(info.shape))
    if info.dtype not in FLOATS:
        raise _mismatch(path, f"the type of {name}", "floating point", info.dtype)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused as such
        values = checkpoint.array(name).astype(np.float32)
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise _mismatch(path, f"every value of {name}", "a finite number", f"NaN or infinite in {bad} places")
    return values


def _name(layer: int) -> str:
    return f"blocks.{layer}.att.time_state"


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _mismatch(path: Path, what: str, expected: object, found: object) -> StateMismatch:
    return StateMismatch(path=str(path), what=what, expected=str(expected), found=str(found))
