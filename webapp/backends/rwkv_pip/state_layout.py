"""A sequence's state as the package keeps it (a flat list of tensors, layer by layer) and as Roost does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from webapp.engine.model_config import ModelConfig
from webapp.engine.state import RecurrentState

if TYPE_CHECKING:
    import torch

    LayerPlace = tuple[torch.device | str, torch.dtype]
    """Device of a layer, and the precision of its activations."""

V4_ORDER = ("att_x_prev", "att_aa", "att_bb", "att_pp", "ffn_x_prev")
V5_ORDER = ("att_x_prev", "att_kv", "ffn_x_prev")
ACTIVATIONS = ("att_x_prev", "ffn_x_prev")  # kept in the layer's precision; the rest is float32 in the package


def order(config: ModelConfig) -> tuple[str, ...]:
    """Names of the tensors of one layer, in the package's order."""
    return V4_ORDER if config.major == 4 else V5_ORDER


def to_tensors(config: ModelConfig, state: RecurrentState, places: Sequence[LayerPlace]) -> list[torch.Tensor]:
    """Fresh tensors that share no memory with ``state``."""
    import torch

    tensors = []
    for layer, (device, dtype) in enumerate(places):
        for name in order(config):
            array = _turn(config, name, state.arrays[name][layer])
            kept = dtype if name in ACTIVATIONS else torch.float32
            tensors.append(torch.tensor(np.ascontiguousarray(array), dtype=kept, device=device))
    return tensors


def from_tensors(config: ModelConfig, tensors: Sequence[torch.Tensor]) -> RecurrentState:
    """A copy, in float32."""
    names = order(config)
    arrays = {}
    for position, name in enumerate(names):
        rows = [tensor.float().cpu().numpy() for tensor in tensors[position :: len(names)]]
        stacked = np.stack([_turn(config, name, row) for row in rows])
        arrays[name] = np.ascontiguousarray(stacked, np.float32)
    return RecurrentState(config.architecture, arrays)


def _turn(config: ModelConfig, name: str, array: np.ndarray) -> np.ndarray:
    """The package's RWKV-5 and 6 keep ``att_kv[head, key, value]``; its RWKV-7 and Roost ``[head, value, key]``."""
    return array.swapaxes(-1, -2) if name == "att_kv" and config.major in (5, 6) else array
