"""Strategy strings of the ``rwkv`` package: what they say, and where they put each layer. Imports no torch.

One or more parts joined by ``->``; a part is ``device precision[i8] [*N[+]]``, e.g. ``cuda fp16i8 *20 -> cpu fp32``.
A model has ``n_layer + 1`` layers to place, the last one being the head. ``*N`` takes N layers, a part without it
shares what is left, ``*N+`` keeps N layers on the device and streams the rest through it. Grammar and arithmetic are
those of rwkv 0.8.32 (model.py, ``RWKV.__init__``); what the package would quietly ignore is an error here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from webapp.backends.strategy_problems import refuse

MAX_LENGTH = 500
"""Characters: some thirty parts."""
PART = re.compile(
    r"(?P<device>cuda(?::\d{1,4})?|cpu|mps|dml) (?P<dtype>fp32|fp16|bf16)(?P<int>i\d{1,2})?"
    r"(?: \*(?P<count>\d{1,18})(?P<plus>\+)?)?",
    re.ASCII,
)


@dataclass(frozen=True)
class StrategyPart:
    """One part. ``layers`` is None where the string gives no number; ``streams`` is the ``+`` after it."""

    device: str
    dtype: str
    is_int8: bool = False
    layers: int | None = None
    streams: bool = False

    def __str__(self) -> str:
        count = "" if self.layers is None else f" *{self.layers}{'+' if self.streams else ''}"
        return f"{self.device} {self.dtype}{'i8' if self.is_int8 else ''}{count}"


@dataclass(frozen=True)
class LayerPlacement:
    """Where one layer runs and how its matrices are kept; a streamed layer's stay in main memory."""

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
    """The form the package stores in a converted file: one space within a part, `` -> `` between."""
    return " -> ".join(str(part) for part in parse_strategy(strategy))


def place_layers(strategy: str, n_layer: int) -> tuple[LayerPlacement, ...]:
    """A placement for each of the ``n_layer`` layers and the head; StrategyError when a part would get none."""
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
    """Adds ``rest`` layers to ``counts`` as the package does: all to the streaming part, else evenly to the parts
    without a number (the later ones get the odd ones), and what remains to the last part."""
    if streaming:
        counts[streaming[0]] += rest
        return
    open_parts = [index for index, part in enumerate(parts) if part.layers is None]
    for position, index in enumerate(open_parts):
        counts[index] = rest // (len(open_parts) - position)
        rest -= counts[index]
    counts[-1] += rest
