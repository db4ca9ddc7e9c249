"""The tables of RWKV-Runner's manual that help to choose a strategy, and what was measured with Roost beside them.

``comparison.json`` is the manual (its memory on an i7-10870H with an RTX 3080 Laptop, 16 GB, and 32 GB RAM), and under
``here`` what Roost's own backends read. ``measured.json`` is a list, filled only with figures that a command gave:
``{"kind", "precision", "size", "parameters", "architecture", "peak_gb", "tokens_per_s" or null, "machine", "date",
"command"}``; ``size`` is the column of the manual it belongs to.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class MemoryCell:
    """``gb`` None: does not fit the machine. ``layers`` quantised for that figure, 0 for all; with ``all_layers``
    quantised it is ``all_gb``."""

    gb: float | None = None
    layers: int = 0
    all_layers: int = 0
    all_gb: float | None = None


@dataclass(frozen=True)
class MemoryRow:
    """``place``: ram or vram. One cell for each of :attr:`Comparison.sizes`."""

    kind: str
    precision: str
    place: str
    cells: tuple[MemoryCell, ...]


@dataclass(frozen=True)
class KindRow:
    """``hardware``: any or nvidia; ``stars`` is the manual's word on speed, out of five."""

    kind: str
    hardware: str
    format: str
    models: tuple[str, ...]
    stars: int


@dataclass(frozen=True)
class Here:
    """What a backend of Roost reads."""

    versions: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """One figure of ours. ``command`` gives it again."""

    kind: str
    precision: str
    size: str
    parameters: str
    architecture: str
    peak_gb: float
    tokens_per_s: float | None
    machine: str
    date: str
    command: str


@dataclass(frozen=True)
class Comparison:
    sizes: tuple[str, ...]
    memory: tuple[MemoryRow, ...]
    kinds: tuple[KindRow, ...]
    here: dict[str, Here]
    measured: tuple[Measured, ...]

    def measured_for(self, kind: str, precision: str, size: str) -> tuple[Measured, ...]:
        wanted = (kind, precision, size)
        return tuple(row for row in self.measured if (row.kind, row.precision, row.size) == wanted)


@functools.lru_cache(maxsize=1)
def comparison() -> Comparison:
    """Read once."""
    data = _read("comparison.json")
    return Comparison(
        sizes=tuple(data["sizes"]),
        memory=tuple(
            MemoryRow(row["kind"], row["precision"], row["place"], tuple(MemoryCell(**cell) for cell in row["cells"]))
            for row in data["memory"]
        ),
        kinds=tuple(KindRow(**{**row, "models": tuple(row["models"])}) for row in data["kinds"]),
        here={kind: Here(tuple(row["versions"]), tuple(row["formats"])) for kind, row in data["here"].items()},
        measured=tuple(Measured(**row) for row in _read("measured.json")),
    )


def _read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))
