"""Trained initial states (``time_state``) from a file, checked before anything is applied.

Orientation at Roost's boundary: ``layers[layer, head, value_index, key_index]``, which is that of state-tuning files
and of the rwkv package's v7 runtime. (Its v5 and v6 runtime holds the transpose; the backend turns it.)

Limits. A state of v6 and one of v7 with equal sizes cannot be told apart by their tensors; what a file says about
itself, or an official name, is believed (:mod:`.state_origin`). web-rwkv's own ``.st`` states are transposed in the
last two indices under the same names, which cannot be told either: such a file is read as the official orientation, so
convert from the original ``.pth`` instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from webapp.engine.state import ModelConfig
from webapp.i18n import Text
from webapp.weights.architecture import STATE_NAME, describe
from webapp.weights.checkpoint import Checkpoint, open_checkpoint
from webapp.weights.state_layers import read_layers
from webapp.weights.state_mismatch import mismatch
from webapp.weights.state_origin import Origin, origin_of

CONTENT = Text("states.mismatch.content")
ONLY_STATES = Text("states.mismatch.only_states")


@dataclass(frozen=True)
class StateFile:
    """``layers``: float32 ``(n_layer, n_head, head_size, head_size)``, read-only; ``digest``: SHA-256 of it, hex.

    ``origin`` says for which architecture it was made, as far as that can be told.
    """

    name: str
    layers: np.ndarray
    digest: str
    origin: Origin = field(default_factory=Origin)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """``(n_layer, n_head, head_size)``"""
        n_layer, n_head, head_size, _ = self.layers.shape
        return n_layer, n_head, head_size

    def norms(self) -> list[float]:
        """Euclidean length of each layer's values."""
        rows = self.layers.reshape(len(self.layers), -1).astype(np.float64)
        return [float(norm) for norm in np.sqrt((rows * rows).sum(axis=1))]


def read_state_file(path: str | Path, config: ModelConfig) -> StateFile:
    """The state of a .pth, .safetensors, .st or .state for this model; ``state_mismatch`` says what was expected and
    found. Needs no torch."""
    path = Path(path)
    if config.major == 4:
        found = Text("states.mismatch.no_states_in_4")
        raise mismatch(path, Text("states.mismatch.version"), Text("reason.common.rwkv_5_6_or_7"), found)
    with open_checkpoint(path) as checkpoint:
        _check_only_states(path, checkpoint)
        origin = origin_of(path, checkpoint.metadata)
        _check_origin(path, origin, config.major)
        layers = read_layers(path, checkpoint, (config.n_layer, config.n_head, config.head_size))
    return StateFile(path.stem, layers, state_digest(layers), origin)


def open_state(path: str | Path, name: str = "") -> StateFile:
    """The same for no model in particular: sizes are what the file has, the same in all its layers.

    ``name`` is what the file is to be called, where it is not in its place yet.
    """
    shown = Path(name or path)
    with open_checkpoint(path, any_name=bool(name)) as checkpoint:
        _check_only_states(shown, checkpoint)
        layers = read_layers(shown, checkpoint)
        return StateFile(shown.stem, layers, state_digest(layers), origin_of(shown, checkpoint.metadata))


def merged_state(path: str | Path) -> StateFile:
    """The state merged in a model file, in the official orientation whatever the file's; ``state_mismatch`` without
    one."""
    path = Path(path)
    with open_checkpoint(path) as checkpoint:
        infos = {name: checkpoint.info(name) for name in checkpoint.names()}
        found = describe(infos, "_strategy" in checkpoint.metadata)
        if found.config is None or not any(STATE_NAME.fullmatch(name) for name in infos):
            words = Text("states.mismatch.no_states")
            raise mismatch(path, CONTENT, Text("states.mismatch.merged_model"), words)
        config = found.config
        layers = read_layers(path, checkpoint, (config.n_layer, config.n_head, config.head_size))
    if found.naming == "web-rwkv":  # RWKV-Runner's convert_safetensors.py turns time_state, too
        layers = np.ascontiguousarray(layers.swapaxes(-1, -2))
        layers.flags.writeable = False
    return StateFile(path.stem, layers, state_digest(layers), Origin(str(config.major), "model"))


def state_digest(layers: np.ndarray) -> str:
    """SHA-256 (hex) over shape and float32 values: equal states have equal digests, whatever file they came from."""
    values = np.ascontiguousarray(layers, np.float32)
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def _check_only_states(path: Path, checkpoint: Checkpoint) -> None:
    infos = {name: checkpoint.info(name) for name in checkpoint.names()}
    kind = describe(infos).kind
    if kind == "state":
        return
    strangers = [name for name in infos if not STATE_NAME.fullmatch(name)]
    if kind != "unknown":
        found = Text(f"states.mismatch.kind_{kind}")
    elif strangers:
        found = Text("states.mismatch.kind_other", tensor=strangers[0])
    else:
        found = Text("states.mismatch.kind_empty")
    raise mismatch(path, CONTENT, ONLY_STATES, found)


def _check_origin(path: Path, origin: Origin, major: int) -> None:
    if origin.architecture and origin.architecture != str(major):
        key = "made_for_by_name" if origin.told_by == "name" else "made_for"
        found = Text(f"states.mismatch.{key}", found_version=origin.architecture)
        raise mismatch(path, Text("states.mismatch.architecture"), f"RWKV-{major}", found)
