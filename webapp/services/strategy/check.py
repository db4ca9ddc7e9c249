"""A strategy string looked at while it is being written: where every layer would go, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from webapp.backends.strategy import LayerPlacement, canonical_strategy, parse_strategy, place_layers
from webapp.engine.backend import ModelSizes
from webapp.engine.model_config import ModelConfig
from webapp.engine.registry import backend_for, resolve_strategy
from webapp.errors import BackendUnavailable, RoostError, StrategyError


@dataclass(frozen=True)
class PlacedRun:
    """``count`` layers from ``first`` on (0 is the first) that are kept alike. The head is not among the ``count``:
    ``has_head`` says it comes with them."""

    device: str
    dtype: str
    is_int8: bool
    is_streamed: bool
    first: int
    count: int
    has_head: bool


@dataclass(frozen=True)
class StrategyCheck:
    """``is_valid``: the model can run so here. ``error`` says why not, ``is_elsewhere`` that another machine could.

    ``strategy`` is the canonical form (as given when it cannot be read). ``runs`` is empty without a model or when it
    cannot be placed. ``advice_keys``: catalogue keys of remarks on a strategy that works but could be better.
    """

    is_valid: bool
    strategy: str
    error: RoostError | None = None
    is_elsewhere: bool = False
    runs: tuple[PlacedRun, ...] = ()
    advice_keys: tuple[str, ...] = ()


def validate(strategy: str, config: ModelConfig | None = None) -> StrategyCheck:
    """Loads nothing, raises nothing. Without ``config`` only the writing is checked, not layers or versions."""
    try:
        backend = backend_for(strategy)
        if backend.name != "rwkv_pip":  # it has words of its own
            if config is not None:
                _check(config, strategy)
            return StrategyCheck(True, strategy.strip())
        text = canonical_strategy(strategy)
    except RoostError as exc:
        return StrategyCheck(False, strategy.strip(), exc)
    if config is None:
        return StrategyCheck(True, text, advice_keys=tuple(_advice(text)))
    return _with_model(text, config)


def _with_model(strategy: str, config: ModelConfig) -> StrategyCheck:
    try:
        runs = tuple(_runs(place_layers(strategy, config.n_layer)))
        _check(config, strategy)
    except BackendUnavailable as exc:
        return StrategyCheck(False, strategy, exc, is_elsewhere=True, runs=runs)
    except StrategyError as exc:
        return StrategyCheck(False, strategy, exc)
    return StrategyCheck(True, strategy, runs=runs, advice_keys=tuple(_advice(strategy)))


def _check(config: ModelConfig, strategy: str) -> None:
    backend, options = resolve_strategy(strategy)
    backend.check(ModelSizes(config), options)


def _runs(placements: tuple[LayerPlacement, ...]) -> Iterator[PlacedRun]:
    first = 0
    for place, same in groupby(placements):
        count = len(list(same))
        has_head = first + count == len(placements)
        layers = count - has_head
        yield PlacedRun(place.device, place.dtype, place.is_int8, place.is_streamed, first, layers, has_head)
        first += count


def _advice(strategy: str) -> Iterator[str]:
    parts = parse_strategy(strategy)
    if any(part.device == "cpu" and part.dtype == "fp16" and not part.is_int8 for part in parts):
        yield "strategy.advice.cpu_fp16"
    if any(part.device == "cpu" and part.dtype == "bf16" and not part.is_int8 for part in parts):
        yield "strategy.advice.cpu_bf16"
    if parts[-1].is_int8:
        yield "strategy.advice.int8_head"
    if any(part.streams for part in parts):
        yield "strategy.advice.streams"
