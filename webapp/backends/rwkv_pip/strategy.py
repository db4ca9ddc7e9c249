"""Strategy strings of the ``rwkv`` package: parsing, placement of the layers, and the strategy builder.

One or more parts joined by ``->``; a part is ``device precision[i8] [*N[+]]``, e.g. ``cuda fp16i8 *20 -> cpu fp32``.
A model has ``n_layer + 1`` layers to place, the last one being the head. ``*N`` takes N layers, a part without it
shares what is left, ``*N+`` keeps N layers on the device and streams the rest through it. Grammar and arithmetic are
those of rwkv 0.8.32 (model.py, ``RWKV.__init__``); what the package would quietly ignore is an error here. Imports no
torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, NoReturn

from msgspec import Struct

from webapp.engine.options import BackendKind, BackendOption, Builder, Options, PlacedRun
from webapp.engine.state import ModelConfig
from webapp.errors import BackendUnavailable, StrategyError
from webapp.i18n import Text

FAST_FILE_STRATEGIES = ("cpu fp32", "cpu bf16", "cpu fp32i8", "cuda fp16", "cuda fp16i8", "cuda fp16i8 *20 -> cpu fp32")
"""The usual choices for a converted file. Any other strategy is possible too."""
MAX_LENGTH = 500
"""Characters: about thirty parts."""
PART = re.compile(
    r"(?P<device>cuda(?::\d{1,4})?|cpu|mps|dml) (?P<dtype>fp32|fp16|bf16)(?P<int>i\d{1,2})?"
    r"(?: \*(?P<count>\d{1,18})(?P<plus>\+)?)?",
    re.ASCII,
)


class StrategyPart(Struct, frozen=True):
    """One part. ``layers`` is None if the string gives no number; ``streams``: a ``+`` follows the number."""

    device: str
    dtype: str
    is_int8: bool = False
    layers: int | None = None
    streams: bool = False

    def __str__(self) -> str:
        count = "" if self.layers is None else f" *{self.layers}{'+' if self.streams else ''}"
        return f"{self.device} {self.dtype}{'i8' if self.is_int8 else ''}{count}"


class LayerPlacement(Struct, frozen=True):
    """Where one layer runs and the format of its matrices; matrices of a streamed layer stay in main memory."""

    device: str
    dtype: str
    is_int8: bool
    is_streamed: bool


def parse_strategy(strategy: str) -> tuple[StrategyPart, ...]:
    """Case and extra spaces do not matter. Raises StrategyError."""
    if len(strategy) > MAX_LENGTH:
        refuse(f"{strategy[:40]}…", "too_long", limit=MAX_LENGTH)
    texts = [" ".join(text.lower().split()) for text in strategy.split("->")]
    return tuple(_parse_part(strategy, text) for text in texts)


def canonical_strategy(strategy: str) -> str:
    """The form that the package stores in a converted file: one space within a part, `` -> `` between parts."""
    return " -> ".join(str(part) for part in parse_strategy(strategy))


def place_layers(strategy: str, n_layer: int) -> tuple[LayerPlacement, ...]:
    """A placement for each of the ``n_layer`` layers and the head. Raises StrategyError if a part would get none."""
    parts = parse_strategy(strategy)
    total = n_layer + 1
    counts = _counts(strategy, parts, total)
    placements: list[LayerPlacement] = []
    for part, count in zip(parts, counts, strict=True):
        for index in range(count):
            is_streamed = part.streams and index >= (part.layers or 0)
            placements.append(LayerPlacement(part.device, part.dtype, part.is_int8, is_streamed))
    return tuple(placements)


def _parse_part(strategy: str, text: str) -> StrategyPart:
    found = PART.fullmatch(text)
    if found is None:
        refuse(strategy, "not_a_part" if text else "part_empty", part=text)
    if found["int"] not in (None, "i8"):
        refuse(strategy, "no_such_int", int=found["int"], device=found["device"], dtype=found["dtype"])
    layers = None if found["count"] is None else int(found["count"])
    part = StrategyPart(found["device"], found["dtype"], found["int"] == "i8", layers, found["plus"] is not None)
    if part.layers == 0 and not part.streams:
        refuse(strategy, "no_layer", part=part)
    if part.streams and part.device == "cpu":
        refuse(strategy, "cpu_streams", part=part)
    return part


def _counts(strategy: str, parts: tuple[StrategyPart, ...], total: int) -> list[int]:
    streaming = [index for index, part in enumerate(parts) if part.streams]
    if len(streaming) > 1:
        refuse(strategy, "two_streams")
    counts = [part.layers or 0 for part in parts]
    if sum(counts) > total:
        refuse(strategy, "too_many_layers", placed=sum(counts), n_layer=total - 1, total=total)
    _share_rest(parts, counts, total - sum(counts), streaming)
    for part, count in zip(parts, counts, strict=True):
        if count == 0:
            refuse(strategy, "none_left", part=part)
    return counts


def _share_rest(parts: tuple[StrategyPart, ...], counts: list[int], rest: int, streaming: list[int]) -> None:
    """Distributes ``rest`` layers over ``counts`` as the package does: all to the streaming part, otherwise evenly to
    the parts without a number (later parts get the odd ones), and the remainder to the last part."""
    if streaming:
        counts[streaming[0]] += rest
        return
    open_parts = [index for index, part in enumerate(parts) if part.layers is None]
    for position, index in enumerate(open_parts):
        counts[index] = rest // (len(open_parts) - position)
        rest -= counts[index]
    counts[-1] += rest


def runs(strategy: str, n_layer: int) -> Iterator[PlacedRun]:
    """The layers, grouped by equal placement; raises StrategyError as :func:`place_layers` does."""
    placements, first = place_layers(strategy, n_layer), 0
    for place, same in groupby(placements):
        count = len(list(same))
        has_head = first + count == len(placements)
        precision = "int8" if place.is_int8 else place.dtype
        yield PlacedRun(place.device, precision, place.is_streamed, first, count - has_head, has_head)
        first += count


def remarks(strategy: str) -> Iterator[Text]:
    """Possible improvements of a valid strategy."""
    parts = parse_strategy(strategy)
    for dtype in ("fp16", "bf16"):
        if any(part.device == "cpu" and part.dtype == dtype and not part.is_int8 for part in parts):
            yield Text(f"strategy.advice.cpu_{dtype}")
    if parts[-1].is_int8:
        yield Text("strategy.advice.int8_head")
    if any(part.streams for part in parts):
        yield Text("strategy.advice.streams")


WORDS = "preset_page.kind"
CUSTOM = "custom"
KINDS = (
    BackendKind("cpu", f"{WORDS}.cpu.label", f"{WORDS}.cpu.text", order=10),
    BackendKind("cuda", f"{WORDS}.cuda.label", f"{WORDS}.cuda.text", order=30, hardware="nvidia"),
    BackendKind(CUSTOM, f"{WORDS}.custom.label", f"{WORDS}.custom.text", order=90, is_text=True),
)
PRECISIONS = {"cpu": ("fp32", "bf16", "int8"), "cuda": ("fp16", "bf16", "int8", "fp32")}
"""Best first. fp16 on a CPU is only in the custom kind: it is as large as bf16 and overflows earlier."""
INT8_BASE = {"cpu": "fp32", "cuda": "fp16"}
"""Precision of the parts that int8 does not quantise, and of the sums."""
REST = "cpu fp32"
"""For the layers that do not fit on the GPU: the fastest on a CPU."""
NOMINAL_LAYERS = 24
"""Number of layers while no model is known: enough to see what a string does to all of them."""


def builder(kind: str, given: Mapping[str, object], config: ModelConfig | None) -> Builder:
    """Precision, layers on the GPU, int8 layers, streaming. The head counts as the last layer. The default is all
    layers; for int8, all but the head. Without a model, only all layers can be placed."""
    if kind == CUSTOM:
        return Builder(strategy=str(given.get("strategy", "")).strip())
    is_v7 = config is not None and config.major == 7
    total = 0 if config is None or is_v7 else config.n_layer + 1
    names = tuple(name for name in PRECISIONS[kind] if not (is_v7 and name == "int8"))
    options, values = [_choice("precision", names)], {}
    precision = values["precision"] = options[0].nearest(given.get("precision", names[0]))
    on_gpu = quantized = total
    if total and kind == "cuda":
        options.append(_layers("gpu_layers", total, total))
        on_gpu = values["gpu_layers"] = int(options[-1].nearest(given.get("gpu_layers", total)))
    if total and precision == "int8":
        options.append(_layers("quantized_layers", total - 1, total))
        quantized = values["quantized_layers"] = int(options[-1].nearest(given.get("quantized_layers", total - 1)))
    if on_gpu < total:
        options.append(BackendOption("stream", "switch", False, label=f"{FIELD}.stream", help=f"{FIELD}.stream_help"))
        values["stream"] = options[-1].nearest(given.get("stream", False))
    written = _written(kind, str(precision), on_gpu, quantized, total, bool(values.get("stream")))
    return Builder(tuple(options), values, written, "strategy.limits.rwkv7" if is_v7 else "")


FIELD = "preset_page.builder"


def _choice(name: str, choices: tuple[str, ...]) -> BackendOption:
    label = f"presets.field.{name}"
    return BackendOption(name, "choice", choices[0], choices, label=f"{label}.label", help=f"{label}.help")


def _layers(name: str, default: int, most: int) -> BackendOption:
    label = f"presets.field.{name}"
    return BackendOption(name, "whole", default, high=most, label=f"{label}.label", help=f"{label}.help")


def _written(kind: str, precision: str, on_gpu: int, quantized: int, total: int, stream: bool) -> str:
    """``total`` 0: the number of layers is unknown, or the package can only place all of them. The head stays in the
    base precision unless it is counted: in int8 it costs the most quality and gains the least."""
    if precision != "int8":
        part = f"{kind} {precision}"
        if on_gpu >= total:
            return part
        return f"{part} *{on_gpu}+" if stream else f"{part} *{on_gpu} -> {REST}" if on_gpu else REST
    base = f"{kind} {INT8_BASE[kind]}"
    if on_gpu < total:
        if stream:
            return f"{base}i8 *{min(on_gpu, total - 2)}+ -> {base} *1"
        layers = [f"{base if layer < on_gpu else REST}{'i8' if layer < quantized else ''}" for layer in range(total)]
        return " -> ".join(f"{part} *{len(list(same))}" for part, same in groupby(layers))
    if quantized == total - 1 or not total:
        return f"{base}i8 -> {base} *1"
    if quantized == total:
        return f"{base}i8"
    return f"{base}i8 *{quantized} -> {base}" if quantized else base


def read_builder(strategy: str, config: ModelConfig | None) -> tuple[str, Options] | None:
    """Values whose strategy places every layer of this model as ``strategy`` does."""
    n_layer = config.n_layer if config else NOMINAL_LAYERS
    try:
        wanted, kind = place_layers(strategy, n_layer), parse_strategy(strategy)[0].device
    except StrategyError:
        return None
    for values in _candidates(wanted, config is not None) if kind in PRECISIONS else ():
        built = builder(kind, values, config).strategy
        if place_layers(built, n_layer) == wanted:
            return kind, values
    return None


def _candidates(placements: tuple[LayerPlacement, ...], is_known: bool) -> Iterator[dict[str, Any]]:
    """Possible values, from the first layer; :func:`read_builder` tries them."""
    int8 = sum(place.is_int8 for place in placements)
    values: dict[str, Any] = {"precision": "int8" if int8 else placements[0].dtype}
    on_gpu = sum(place.device == "cuda" and not place.is_streamed for place in placements)
    if is_known and on_gpu < len(placements) and placements[0].device == "cuda":
        values |= {"gpu_layers": on_gpu, "stream": any(place.is_streamed for place in placements)}
    yield values
    if values.get("stream") and int8:  # the head is resident beside the layers that are
        yield {**values, "gpu_layers": max(on_gpu - 1, 0)}
    if is_known and int8:
        yield {**values, "quantized_layers": int8}


def runner_strategy(parameters: Mapping[str, object]) -> str | None:
    """The result of RWKV-Runner's ``getStrategy`` (frontend/src/utils, 1.9); None for a device of another backend."""
    text = {name: value.strip() if isinstance(value, str) else "" for name, value in parameters.items()}
    device, precision, custom = (text.get(name, "") for name in ("device", "precision", "customStrategy"))
    if device in ("Custom", "MPS"):
        return custom or ("mps fp32" if device == "MPS" else "")
    if device == "CPU":
        return "cpu fp32i8" if precision == "int8" else "cpu fp32"
    if device not in ("CUDA", "CUDA-Beta"):
        return None
    written = {"int8": "cuda fp16i8", "fp32": "cuda fp32"}.get(precision, "cuda fp16")
    stored, most = (_count(parameters.get(name)) for name in ("storedLayers", "maxStoredLayers"))
    return f"{written} *{stored}+" if 0 < stored < most else written


def device_of(strategy: str) -> str:
    """CUDA if a layer is on a GPU, otherwise the first device."""
    kinds = [part.device.partition(":")[0].upper() for part in parse_strategy(strategy)]
    return "CUDA" if "CUDA" in kinds else kinds[0]


def _count(value: object) -> int:
    return min(value, 1000) if isinstance(value, int) and value > 0 else 0


def refuse(strategy: str, problem: str, **params: Any) -> NoReturn:
    """Raises StrategyError."""
    raise StrategyError(strategy=strategy, **_described(problem, params))


def unavailable(backend: str, problem: str, **params: Any) -> NoReturn:
    """Raises BackendUnavailable."""
    raise BackendUnavailable(backend=backend, **_described(problem, params))


def _described(problem: str, params: dict[str, Any]) -> dict[str, Text]:
    """Reason and way out: ``strategy.problem.<problem>`` in the catalogues."""
    return {part: Text(f"strategy.problem.{problem}.{part}", **params) for part in ("reason", "way_out")}
