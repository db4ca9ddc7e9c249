"""Reads trained initial states (``time_state``) from a file, and checks them before they are applied.

Orientation at Roost's boundary: ``layers[layer, head, value_index, key_index]``, as in state-tuning files and the rwkv
package's v7 runtime. (Its v5 and v6 runtime has the transpose, and the backend transposes it.) That package's running
state, a list saved with torch, is read completely: a chat continues where that program stopped.

Limits. A v6 state and a v7 state with equal sizes cannot be distinguished by their tensors; the file's own statement,
or an official name, is trusted (:mod:`.state_sheet`). web-rwkv's own ``.st`` states have the last two indices
transposed under the same names, which cannot be detected either: such a file is read in the official orientation, so
convert from the original ``.pth`` instead.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct, field

from webapp.engine.state import ModelConfig
from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights.architecture import FULL_STATE_NAME, STATE_NAME, describe
from webapp.weights.checkpoint import Checkpoint, open_checkpoint
from webapp.weights.state_sheet import Origin, PrefixSheet, mismatch, origin_of, prefix_of, tensor_name

FLOATS = ("float32", "float16", "bfloat16", "float64")
Sizes = tuple[int, int, int]
"""``(n_layer, n_head, head_size)``"""
MAX_BYTES = 1 << 30
"""As float32. The state of the largest released model (14B: 61 layers, 64 heads of 64) has 64 MB."""


def read_layers(path: Path, checkpoint: Checkpoint, sizes: Sizes | None = None) -> np.ndarray:
    """Float32 ``(n_layer, n_head, head_size, head_size)``, read-only. Without ``sizes``, all layers must have those of
    the first. Raises ``state_mismatch``. Ignores tensors that do not belong to a state."""
    names = [name for name in checkpoint.names() if STATE_NAME.fullmatch(name)]
    n_layer, n_head, head_size = sizes or _own_sizes(path, checkpoint, names)
    _check_names(path, names, n_layer)
    layers = np.stack([_layer(path, checkpoint, layer, (n_head, head_size, head_size)) for layer in range(n_layer)])
    layers.flags.writeable = False
    return layers


def read_shifts(path: Path, checkpoint: Checkpoint, n_layer: int, n_embd: int) -> np.ndarray | None:
    """Float32 ``(2, n_layer, n_embd)`` of a running state, read-only; None for an initial state. Raises
    ``state_mismatch``."""
    names = checkpoint.names()
    if not any(map(FULL_STATE_NAME.fullmatch, names)):
        return None
    rows = [f"blocks.{layer}.{part}.x_prev" for part in ("att", "ffn") for layer in range(n_layer)]
    for name in rows:
        found = checkpoint.info(name).shape
        if found != (n_embd,):
            raise mismatch(path, _shape_of(name), str(n_embd), _sizes(found))
    shifts = np.stack([checkpoint.array(name).astype(np.float32) for name in rows]).reshape(2, n_layer, n_embd)
    bad = int(shifts.size - np.isfinite(shifts).sum())
    if bad:
        what = Text("states.mismatch.values", tensor=rows[0])
        raise mismatch(path, what, Text("states.mismatch.finite"), Text("states.mismatch.not_finite", places=bad))
    shifts.flags.writeable = False
    return shifts


def _own_sizes(path: Path, checkpoint: Checkpoint, names: list[str]) -> Sizes:
    first = min(names, key=lambda name: int(name.split(".")[1]))
    shape = checkpoint.info(first).shape
    if len(shape) != 3 or shape[1] != shape[2] or 0 in shape:
        expected = Text("states.mismatch.heads_by_square")
        raise mismatch(path, _shape_of(first), expected, _sizes(shape))
    needed = 4 * len(names) * shape[0] * shape[1] * shape[2]
    if needed > MAX_BYTES:
        raise mismatch(path, Text("states.mismatch.size"), f"{MAX_BYTES >> 20} MiB", f"{needed >> 20} MiB")
    return len(names), shape[0], shape[1]


def _check_names(path: Path, names: list[str], n_layer: int) -> None:
    if len(names) != n_layer:
        raise mismatch(path, Text("states.mismatch.layers"), n_layer, len(names))
    wanted = {tensor_name(layer) for layer in range(n_layer)}
    for layer in range(n_layer):
        if tensor_name(layer) not in names:
            odd = next(name for name in names if name not in wanted)
            what = Text("states.mismatch.layer_name", layer=layer)
            raise mismatch(path, what, tensor_name(layer), odd)


def _layer(path: Path, checkpoint: Checkpoint, layer: int, expected: tuple[int, int, int]) -> np.ndarray:
    name = tensor_name(layer)
    info = checkpoint.info(name)
    if info.shape != expected:
        raise mismatch(path, _shape_of(name), _sizes(expected), _sizes(info.shape))
    if info.dtype not in FLOATS:
        what = Text("states.mismatch.type", tensor=name)
        raise mismatch(path, what, Text("states.mismatch.floating"), info.dtype)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is then refused
        values = checkpoint.array(name).astype(np.float32)
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        what = Text("states.mismatch.values", tensor=name)
        found = Text("states.mismatch.not_finite", places=bad)
        raise mismatch(path, what, Text("states.mismatch.finite"), found)
    return values


def _shape_of(name: str) -> Text:
    return Text("states.mismatch.shape", tensor=name)


def _sizes(shape: tuple[int, ...]) -> str | Text:
    return " x ".join(map(str, shape)) or Text("states.mismatch.single_number")


CONTENT = Text("states.mismatch.content")
ONLY_STATES = Text("states.mismatch.only_states")


class StateFile(Struct, frozen=True):
    """``layers``: float32 ``(n_layer, n_head, head_size, head_size)``, read-only; ``digest``: SHA-256 of it, hex.

    ``origin``: the architecture it was made for, if known. ``shifts``: float32 ``(2, n_layer, n_embd)``, the last
    inputs of attention and channel mix in a running state of the rwkv package; None for an initial state, where they
    are zero.
    """

    name: str
    layers: np.ndarray
    digest: str
    origin: Origin = field(default_factory=Origin)
    shifts: np.ndarray | None = None
    prefix: PrefixSheet | None = None

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
    """Reads a .pth, .safetensors, .st or .state for this model. Raises ``state_mismatch`` with the expected and the
    found value. Does not need torch."""
    path = Path(path)
    if config.major == 4:
        found = Text("states.mismatch.no_states_in_4")
        raise mismatch(path, Text("states.mismatch.version"), Text("reason.common.rwkv_5_6_or_7"), found)
    with open_checkpoint(path) as checkpoint:
        _check_only_states(path, checkpoint)
        origin = origin_of(path, checkpoint.metadata)
        _check_origin(path, origin, config.major)
        layers = read_layers(path, checkpoint, (config.n_layer, config.n_head, config.head_size))
        shifts = read_shifts(path, checkpoint, config.n_layer, config.n_embd)
    digest = state_digest(layers, shifts)
    if shifts is not None and config.major in (5, 6):  # the package stores the transpose for these versions
        layers = np.ascontiguousarray(layers.swapaxes(-1, -2))
        layers.flags.writeable = False
    return StateFile(path.stem, layers, digest, origin, shifts)


def open_state(path: str | Path, name: str = "") -> StateFile:
    """Not for a particular model: uses the file's own sizes, which must be the same in all layers.

    ``name``: the file's final name, if it is not at its final place yet.
    """
    shown = Path(name or path)
    with open_checkpoint(path, any_name=bool(name)) as checkpoint:
        _check_only_states(shown, checkpoint)
        layers = read_layers(shown, checkpoint)
        n_layer, n_head, head_size, _ = layers.shape
        shifts = read_shifts(shown, checkpoint, n_layer, n_head * head_size)
        digest = state_digest(layers, shifts)
        metadata = checkpoint.metadata
        return StateFile(shown.stem, layers, digest, origin_of(shown, metadata), shifts, prefix_of(metadata))


def merged_state(path: str | Path) -> StateFile:
    """The state merged in a model file, in the official orientation. Raises ``state_mismatch`` if there is none."""
    path = Path(path)
    with open_checkpoint(path) as checkpoint:
        infos = {name: checkpoint.info(name) for name in checkpoint.names()}
        found = describe(infos, "_strategy" in checkpoint.metadata)
        if found.config is None or not any(STATE_NAME.fullmatch(name) for name in infos):
            words = Text("states.mismatch.no_states")
            raise mismatch(path, CONTENT, Text("states.mismatch.merged_model"), words)
        config = found.config
        layers = read_layers(path, checkpoint, (config.n_layer, config.n_head, config.head_size))
    return StateFile(path.stem, layers, state_digest(layers), Origin(str(config.major), "model"))


def state_digest(layers: np.ndarray, shifts: np.ndarray | None = None) -> str:
    """SHA-256 (hex) over shape and float32 values: equal states have equal digests, even from different files."""
    values = np.ascontiguousarray(layers, np.float32)
    found = hashlib.sha256(repr(values.shape).encode() + values.tobytes())
    if shifts is not None:
        found.update(shifts.tobytes())
    return found.hexdigest()


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
        key = "made_for_by_name" if origin.known_from == "name" else "made_for"
        found = Text(f"states.mismatch.{key}", found_version=origin.architecture)
        raise mismatch(path, Text("states.mismatch.architecture"), f"RWKV-{major}", found)


def oriented_states(paths: Sequence[str]) -> list[np.ndarray]:
    """The layers of each state in the official orientation, as far as the files tell theirs. Raises ``state_mismatch``
    for states of different sizes or architectures."""
    states = [open_state(path) for path in paths]
    _common_architecture(states)
    is_turned = [state.shifts is not None and state.origin.architecture in ("5", "6") for state in states]
    pairs = zip(states, is_turned, strict=True)
    return [state.layers.swapaxes(-1, -2) if turned else state.layers for state, turned in pairs]


MAX_PARTS = 16


def blend_states(parts: Sequence[tuple[StateFile | None, float]]) -> tuple[np.ndarray, str]:
    """The layers of ``sum(weight * state) / sum(weight)``, and the common architecture, "" if unknown.

    None means the zero state, which weakens the others. Raises ``blend_invalid`` for weights or parts without a mean;
    ``state_mismatch`` for states of different sizes or architectures.
    """
    states = [state for state, _ in parts if state is not None]
    if not 2 <= len(parts) <= MAX_PARTS or not states:
        raise WeightsError("blend_invalid", reason=Text("reason.weights.number_of_parts", most=MAX_PARTS))
    if any(state.shifts is not None for state in states):
        raise WeightsError("blend_invalid", reason=Text("reason.weights.running_state"))
    weights = [weight for _, weight in parts]
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not 0 < sum(weights) < math.inf:
        raise WeightsError("blend_invalid", reason=Text("reason.common.weights_not_negative"))
    architecture = _common_architecture(states)
    total = np.zeros(states[0].layers.shape, np.float64)
    for state, weight in parts:
        if state is not None:
            total += state.layers * (weight / sum(weights))
    return total.astype(np.float32), architecture


def _common_architecture(states: Sequence[StateFile]) -> str:
    first = states[0]
    common = next((state.origin.architecture for state in states if state.origin.architecture), "")
    for state in states:
        if state.sizes != first.sizes:
            what = Text("states.mismatch.sizes")
            raise mismatch(Path(state.name), what, _text(first.sizes), _text(state.sizes))
        found = state.origin.architecture
        if found and found != common:
            what = Text("states.mismatch.architecture")
            raise mismatch(Path(state.name), what, f"RWKV-{common}", f"RWKV-{found}")
    return common


def _text(sizes: tuple[int, int, int]) -> str:
    return " x ".join(map(str, sizes))
