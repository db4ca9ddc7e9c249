"""The builder's fields made a strategy string, and a string taken apart into fields again where they can say it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from webapp.backends.native.backend import FORMATS
from webapp.backends.strategy import canonical_strategy, parse_strategy, place_layers
from webapp.errors import StrategyError

NATIVE = "native"
DTYPES = ("fp32", "fp16", "bf16")
INT8_BASE = {"cpu": "fp32", "cuda": "fp16"}
"""Precision of what int8 leaves as it is, and of the sums."""
REST = "cpu fp32"
"""Where the layers go that do not fit on the GPU: the fastest on a CPU."""
NOMINAL_LAYERS = 24
"""Stands for a model's layers while none is known: enough to tell what a string does to all of them."""


@dataclass(frozen=True)
class BuilderFields:
    """``precision`` is a dtype or int8. ``gpu_layers`` and ``quantized_layers`` count the head as the last layer; None
    means all (of ``quantized_layers``: all but the head). ``stream``: the rest passes through the GPU instead of
    running on the CPU. Kind ``custom`` has ``strategy`` alone, as written."""

    kind: str
    precision: str = ""
    gpu_layers: int | None = None
    quantized_layers: int | None = None
    stream: bool = False
    strategy: str = ""


def build(
    kind: str,
    precision: str,
    gpu_layers: int | None = None,
    quantized_layers: int | None = None,
    n_layer: int | None = None,
    stream: bool = False,
) -> str:
    """The strategy string. Numbers past the model's layers mean all; ValueError for a kind or precision that is none.

    Without ``n_layer`` only whole models can be placed: ``gpu_layers`` and ``quantized_layers`` count for nothing.
    """
    if kind == NATIVE and precision in FORMATS:
        return f"{NATIVE} {precision}"
    if kind not in INT8_BASE or (precision != "int8" and precision not in DTYPES):
        raise ValueError(f"the builder has no {kind} {precision}")
    total = None if n_layer is None else n_layer + 1
    on_gpu = None
    if kind == "cuda" and gpu_layers is not None and total is not None and gpu_layers < total:
        on_gpu = max(gpu_layers, 0)
    if precision == "int8":
        return _int8(kind, on_gpu, None if total is None else quantized_layers, total, stream)
    return _with_rest(f"{kind} {precision}", on_gpu, stream)


def _with_rest(part: str, on_gpu: int | None, stream: bool) -> str:
    if on_gpu is None:
        return part
    if stream:
        return f"{part} *{on_gpu}+"
    return f"{part} *{on_gpu} -> {REST}" if on_gpu else REST


def _int8(kind: str, on_gpu: int | None, quantized: int | None, total: int | None, stream: bool) -> str:
    """The head stays in the base precision unless it was counted in: in int8 it costs most and gains least."""
    base = f"{kind} {INT8_BASE[kind]}"
    if on_gpu is None or total is None:
        return _int8_throughout(base, quantized, total)
    if stream:
        return f"{base}i8 *{min(on_gpu, total - 2)}+ -> {base} *1"
    return " -> ".join(_runs(base, on_gpu, total - 1 if quantized is None else quantized, total))


def _int8_throughout(base: str, quantized: int | None, total: int | None) -> str:
    if quantized is None or quantized + 1 == total:
        return f"{base}i8 -> {base} *1"
    if total is not None and quantized >= total:
        return f"{base}i8"
    return f"{base}i8 *{quantized} -> {base}" if quantized > 0 else base


def _runs(base: str, on_gpu: int, quantized: int, total: int) -> Iterator[str]:
    """One part for each stretch of layers with the same device and precision."""
    layers = [f"{base if layer < on_gpu else REST}{'i8' if layer < quantized else ''}" for layer in range(total)]
    for part, same in groupby(layers):
        yield f"{part} *{len(list(same))}"


def parse(strategy: str, n_layer: int | None = None) -> BuilderFields:
    """Inverse of :func:`build`: fields that place every layer of this model as ``strategy`` does, else kind custom."""
    custom = BuilderFields("custom", strategy=strategy)
    words = strategy.split()
    if words[:1] == [NATIVE]:
        precision = " ".join(words[1:]) or FORMATS[0]
        return BuilderFields(NATIVE, precision, strategy=strategy) if precision in FORMATS else custom
    try:
        wanted = place_layers(strategy, n_layer or NOMINAL_LAYERS)
        text = canonical_strategy(strategy)
    except StrategyError:
        return custom
    for fields in _candidates(text, n_layer):
        built = build_fields(fields, n_layer)
        try:
            if place_layers(built, n_layer or NOMINAL_LAYERS) == wanted:
                return fields
        except StrategyError:
            continue
    return custom


def build_fields(fields: BuilderFields, n_layer: int | None) -> str:
    """:func:`build` of what :func:`parse` gave; a custom one's own string."""
    if fields.kind == "custom":
        return fields.strategy
    return build(fields.kind, fields.precision, fields.gpu_layers, fields.quantized_layers, n_layer, fields.stream)


def _candidates(strategy: str, n_layer: int | None) -> Iterator[BuilderFields]:
    """What could be meant, by the first part; :func:`parse` tries them."""
    first = parse_strategy(strategy)[0]
    placements = place_layers(strategy, n_layer or NOMINAL_LAYERS)
    kind = first.device
    if kind not in INT8_BASE:
        return
    known = n_layer is not None
    stream = any(place.is_streamed for place in placements)
    on_gpu = sum(place.device == "cuda" and not place.is_streamed for place in placements)
    int8 = sum(place.is_int8 for place in placements)
    gpu_layers = None if kind == "cpu" or not known or (on_gpu == len(placements)) else on_gpu
    if int8 == 0:
        yield BuilderFields(kind, first.dtype, gpu_layers, None, stream, strategy)
        return
    yield BuilderFields(kind, "int8", gpu_layers, None, stream, strategy)
    if stream and known:  # the head is resident beside the layers that are
        yield BuilderFields(kind, "int8", max(on_gpu - 1, 0), None, stream, strategy)
    if known:
        yield BuilderFields(kind, "int8", gpu_layers, int8, stream, strategy)
