"""The layers of a state out of an open file: every name, shape, type and value is checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from webapp.i18n import Text
from webapp.weights.architecture import STATE_NAME
from webapp.weights.checkpoint import Checkpoint
from webapp.weights.state_mismatch import mismatch

FLOATS = ("float32", "float16", "bfloat16", "float64")
Sizes = tuple[int, int, int]
"""``(n_layer, n_head, head_size)``"""
MOST_BYTES = 1 << 30
"""As float32. The largest released model's (14B: 61 layers of 64 heads of 64) has 64 MB."""


def read_layers(path: Path, checkpoint: Checkpoint, sizes: Sizes | None = None) -> np.ndarray:
    """Float32 ``(n_layer, n_head, head_size, head_size)``, read-only. Without ``sizes``, those of its first layer have
    to hold for all. ``state_mismatch``. Tensors that are no state's are left alone."""
    names = [name for name in checkpoint.names() if STATE_NAME.fullmatch(name)]
    n_layer, n_head, head_size = sizes or _own_sizes(path, checkpoint, names)
    _check_names(path, names, n_layer)
    layers = np.stack([_layer(path, checkpoint, layer, (n_head, head_size, head_size)) for layer in range(n_layer)])
    layers.flags.writeable = False
    return layers


def tensor_name(layer: int) -> str:
    return f"blocks.{layer}.att.time_state"


def _own_sizes(path: Path, checkpoint: Checkpoint, names: list[str]) -> Sizes:
    first = min(names, key=lambda name: int(name.split(".")[1]))
    shape = checkpoint.info(first).shape
    if len(shape) != 3 or shape[1] != shape[2] or 0 in shape:
        expected = Text("states.mismatch.heads_by_square")
        raise mismatch(path, _shape_of(first), expected, _sizes(shape))
    needed = 4 * len(names) * shape[0] * shape[1] * shape[2]
    if needed > MOST_BYTES:
        raise mismatch(path, Text("states.mismatch.size"), f"{MOST_BYTES >> 20} MiB", f"{needed >> 20} MiB")
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
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused as such
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
