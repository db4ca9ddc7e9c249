"""Several states made one: a weighted mean of their values. Experimental: nothing promises that what two states teach
a model adds up, but between states tuned from the same model it often does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights.state_file import StateFile
from webapp.weights.state_mismatch import mismatch

MOST_PARTS = 16


def blend_states(parts: Sequence[tuple[StateFile | None, float]]) -> tuple[np.ndarray, str]:
    """Layers of ``sum(weight * state) / sum(weight)``, and the architecture the parts agree on, "" if none says.

    None stands for no state at all (zeros), which weakens the others. ``blend_invalid`` for weights or parts that make
    no mean; ``state_mismatch`` for states of different sizes or architectures."""
    states = [state for state, _ in parts if state is not None]
    if not 2 <= len(parts) <= MOST_PARTS or not states:
        raise WeightsError("blend_invalid", reason=Text("reason.weights.number_of_parts", most=MOST_PARTS))
    weights = [weight for _, weight in parts]
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not 0 < sum(weights) < math.inf:
        raise WeightsError("blend_invalid", reason=Text("reason.common.weights_are_numbers_from_0_up"))
    architecture = _common_architecture(states)
    total = np.zeros(states[0].layers.shape, np.float64)
    for state, weight in parts:
        if state is not None:
            total += state.layers * (weight / sum(weights))
    return total.astype(np.float32), architecture


def _common_architecture(states: Sequence[StateFile]) -> str:
    first = states[0]
    told = next((state.origin.architecture for state in states if state.origin.architecture), "")
    for state in states:
        if state.sizes != first.sizes:
            what = Text("states.mismatch.sizes")
            raise mismatch(Path(state.name), what, _text(first.sizes), _text(state.sizes))
        found = state.origin.architecture
        if found and found != told:
            what = Text("states.mismatch.architecture")
            raise mismatch(Path(state.name), what, f"RWKV-{told}", f"RWKV-{found}")
    return told


def _text(sizes: tuple[int, int, int]) -> str:
    return " x ".join(map(str, sizes))
