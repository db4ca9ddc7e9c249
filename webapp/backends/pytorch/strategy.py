"""Strategies of the torch engine: ``torch cpu q8``, ``torch cuda f16 *20 -> cpu q8``, ``torch cuda:0 f16 *16 -> cuda:1
f16``. One or more parts follow the word; a part is a device, a format and its number of layers. The head counts as the
last layer. Imports no torch."""

from __future__ import annotations

import re
from itertools import groupby

from msgspec import Struct

from webapp.engine.options import PlacedRun
from webapp.errors import StrategyError
from webapp.i18n import Text

NAME = "torch"
FORMATS = ("q8", "q4", "f32", "bf16", "f16")
DEFAULT_FORMAT = {"cpu": "q8", "cuda": "f16"}
SPELLINGS = {"fp32": "f32", "fp16": "f16", "int8": "q8", "int4": "q4"}
MAX_LENGTH = 500
"""Characters: about thirty parts."""
PART = re.compile(
    r"(?:(?P<device>cpu|cuda(?::\d{1,3})?)\s*)?(?P<format>[a-z]+\d+)?(?:\s*\*(?P<count>\d{1,6}))?", re.ASCII
)


class Part(Struct, frozen=True):
    """``layers`` is None if the strategy gives no number."""

    device: str
    format: str
    layers: int | None = None

    def __str__(self) -> str:
        return f"{self.device} {self.format}" + ("" if self.layers is None else f" *{self.layers}")


class Place(Struct, frozen=True):
    """The placement of one layer. ``device`` always includes its number: ``cuda:0``."""

    device: str
    format: str


def parse(strategy: str) -> tuple[Part, ...]:
    """Case and extra spaces do not matter. Raises StrategyError."""
    if len(strategy) > MAX_LENGTH:
        raise _refusal(f"{strategy[:40]}…", "too_long", limit=MAX_LENGTH)
    name, _, rest = " ".join(strategy.lower().split()).partition(" ")
    if name != NAME:
        raise _refusal(strategy, "not_a_part", part=name)
    return tuple(_part(strategy, text.strip()) for text in rest.split("->"))


def canonical(strategy: str) -> str:
    """One space between words, with every device and format."""
    return f"{NAME} " + " -> ".join(str(part) for part in parse(strategy))


def place(strategy: str, n_layer: int) -> tuple[Place, ...]:
    """A place for each layer and the head. Parts without a number share the remaining layers, and the last part takes
    the rest. Raises StrategyError if a part gets none."""
    parts = parse(strategy)
    counts = [part.layers or 0 for part in parts]
    total = n_layer + 1
    if sum(counts) > total:
        raise _refusal(strategy, "too_many_layers", placed=sum(counts), n_layer=n_layer, total=total)
    left = total - sum(counts)
    shares = [index for index, part in enumerate(parts) if part.layers is None]
    for position, index in enumerate(shares):
        counts[index] = left // (len(shares) - position)
        left -= counts[index]
    counts[-1] += left
    for part, count in zip(parts, counts, strict=True):
        if count == 0:
            raise _refusal(strategy, "none_left", part=part)
    return tuple(
        Place("cuda:0" if part.device == "cuda" else part.device, part.format)
        for part, count in zip(parts, counts, strict=True)
        for _ in range(count)
    )


def runs(strategy: str, n_layer: int) -> tuple[PlacedRun, ...]:
    """The layers, grouped by equal placement."""
    places, first, found = place(strategy, n_layer), 0, []
    for at, same in groupby(places):
        count = len(list(same))
        has_head = first + count == len(places)
        found.append(PlacedRun(at.device, at.format, False, first, count - has_head, has_head))
        first += count
    return tuple(found)


def _part(strategy: str, text: str) -> Part:
    found = PART.fullmatch(text)
    if found is None:
        raise _refusal(strategy, "not_a_part", part=text)
    device = found["device"] or "cpu"
    format = found["format"] or DEFAULT_FORMAT[device.partition(":")[0]]
    format = SPELLINGS.get(format, format)
    if format not in FORMATS:
        raise StrategyError(
            strategy=strategy,
            reason=Text("reason.engine.unknown_option", name=format),
            way_out=Text("reason.common.choose_one_of", names=", ".join(FORMATS)),
        )
    part = Part(device, format, None if found["count"] is None else int(found["count"]))
    if part.layers == 0:
        raise _refusal(strategy, "no_layer", part=part)
    return part


def _refusal(strategy: str, problem: str, **params: object) -> StrategyError:
    """``strategy.problem`` in the catalogues, as for the rwkv package's strategies."""
    words = {name: Text(f"strategy.problem.{problem}.{name}", **params) for name in ("reason", "way_out")}
    return StrategyError(strategy=strategy, **words)
