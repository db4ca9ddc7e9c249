"""The speed of a model on this machine: measured here, or estimated from measured memory bandwidth.

A single answer reads every weight once per token. So if memory is the bottleneck (for any model larger than the CPU
caches), the speed is the memory bandwidth in bytes per second, divided by the bytes per token.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from webapp.engine.backend import RAM, ModelSizes
from webapp.engine.registry import resolve_strategy
from webapp.errors import RoostError
from webapp.weights.inspection import Inspection

LEAST_BYTES = 64 << 20
"""Bytes per token. Below this, arithmetic and caches matter more, and there is no estimate."""


@dataclass(frozen=True)
class MeasuredSpeed:
    """Speed of a single answer. ``model``: a file name, ``size_bytes``: its size."""

    model: str
    size_bytes: int
    strategy: str
    tokens_per_s: float
    bytes_a_token: int | None = None


@dataclass(frozen=True)
class MeasuredMachine:
    """Measurements on this machine: ``speeds``, newest first, and the memory's read bandwidth (None: not measured)."""

    speeds: tuple[MeasuredSpeed, ...] = ()
    bytes_per_s: float | None = None


@dataclass(frozen=True)
class Speed:
    """Speed of a single answer; ``is_measured``: with this model and strategy, otherwise an estimate."""

    tokens_per_s: float
    is_measured: bool


def speed_here(inspection: Inspection, strategy: str, here: MeasuredMachine) -> Speed | None:
    """None if unknown: no measurement yet, a model so small that memory is not the bottleneck, or a GPU."""
    for one in here.speeds:
        is_this = one.model == os.path.basename(inspection.path) and one.size_bytes == inspection.size_bytes
        if is_this and _is_same(one.strategy, strategy):
            return Speed(one.tokens_per_s, is_measured=True)
    try:
        read = bytes_a_token(inspection, strategy)
        rate = _bytes_per_s(strategy, read or 0, here)
    except RoostError:
        return None
    if rate is None or read is None or read < LEAST_BYTES:
        return None
    return Speed(rate / read, is_measured=False)


def _bytes_per_s(strategy: str, read: int, here: MeasuredMachine) -> float | None:
    """Read bandwidth for weights: measured with this strategy, otherwise with its backend if all its formats read
    equally fast, on the model with the nearest bytes per token; otherwise the backend's usual share of bandwidth."""
    backend, _ = resolve_strategy(strategy)
    share = backend.bandwidth_share
    known = [one for one in here.speeds if (one.bytes_a_token or 0) >= LEAST_BYTES]
    for found in (
        [one for one in known if _is_same(one.strategy, strategy)],
        [one for one in known if share is not None and _backend_of(one.strategy) is backend],
    ):
        if found:
            nearest = min(found, key=lambda one: abs((one.bytes_a_token or 0) - read))
            return nearest.tokens_per_s * (nearest.bytes_a_token or 0)
    return share * here.bytes_per_s if share is not None and here.bytes_per_s else None


def bytes_a_token(inspection: Inspection, strategy: str) -> int | None:
    """Bytes of weights and states read per generated token. None if unknown: on a GPU, and if much of the head is
    skipped because most tokens are never sampled."""
    from webapp.manager.session import banned_token_ids  # imports msgspec, which a start does not need

    config = inspection.config
    if config is None:
        return None
    backend, options = resolve_strategy(strategy)
    without = tuple(tensor for tensor in inspection.tensors if tensor.name != "emb.weight")
    need = backend.footprint(ModelSizes(config, without, inspection.converted_strategy), options)
    unused = banned_token_ids(None, inspection, config.vocab_size)
    if not set(need.weights) <= {RAM} or 2 * len(unused) >= config.vocab_size:
        return None
    return sum(need.weights.values()) + 2 * sum(need.state.values())


def _is_same(one: str, other: str) -> bool:
    if one.split() == other.split():
        return True
    try:
        return resolve_strategy(one) == resolve_strategy(other)
    except RoostError:
        return False


def _backend_of(strategy: str) -> type | None:
    try:
        return resolve_strategy(strategy)[0]
    except RoostError:
        return None


def speeds_of(documents: Sequence[dict[str, object]]) -> MeasuredMachine:
    """From documents of ``roost bench``, newest first."""
    speeds = []
    rates = [share["gb_per_s"] for one in documents if isinstance(share := one.get("bandwidth"), dict)]
    for one in documents:
        model, runs = one["model"], one["runs"]
        assert isinstance(model, dict) and isinstance(runs, list)
        alone = [row["decode_tokens_per_s"] for row in runs if row["sequences"] == 1]
        if alone and alone[0] > 0:
            speeds.append(
                MeasuredSpeed(
                    model["name"], model["file_bytes"], model["strategy"], alone[0], model.get("bytes_a_token")
                )
            )
    return MeasuredMachine(tuple(speeds), rates[0] * 1e9 if rates else None)
