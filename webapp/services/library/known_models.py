"""The list of RWKV models that are published: what each is for, how large it is, where its page is.

``known_models.json`` is data and nothing more: names, sizes and dates as their publisher and RWKV-Runner's manifest
give them; where no exact size was at hand it is that of the tensors, two bytes a weight. Roost downloads nothing by it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).with_suffix(".json")
FAMILIES = ("g1", "world7", "world6", "world5", "world4", "music")
USES = ("try", "chat", "reasoning", "code", "languages", "older", "midi", "abc")
ROOM = 1.2  # weights and what runs beside them
BESIDE_BYTES = 400 << 20


@dataclass(frozen=True)
class KnownModel:
    """``file`` is its name, ``parameters`` as its publisher says it ("1.5B"), ``size_bytes`` of the 16-bit file, to the
    byte or of its tensors alone; ``context`` the tokens it was trained on at once; ``published`` an ISO date."""

    file: str
    family: str
    parameters: str
    size_bytes: int
    size_is_exact: bool
    good_for: tuple[str, ...]
    published: str
    context: int
    licence: str
    page: str


@dataclass(frozen=True)
class Hint:
    """A strategy for a machine; "" when the model is too large for it. ``needed_bytes`` of memory for it."""

    strategy: str
    needed_bytes: int


@functools.cache
def known_models() -> tuple[KnownModel, ...]:
    """In the order of the file: families as in FAMILIES, small before large."""
    rows = json.loads(DATA.read_text(encoding="utf-8"))
    return tuple(KnownModel(**{**row, "good_for": tuple(row["good_for"])}) for row in rows)


def hint(model: KnownModel, ram_bytes: int, vram_bytes: Iterable[int] = ()) -> Hint:
    """By size alone, before anything is downloaded: the best of graphics card, processor in fp32, processor in bf16."""
    half, full = (int(size * ROOM + BESIDE_BYTES) for size in (model.size_bytes, 2 * model.size_bytes))
    if any(half <= vram for vram in vram_bytes):
        return Hint("cuda fp16", half)
    if full <= ram_bytes:
        return Hint("cpu fp32", full)
    return Hint("cpu bf16" if half <= ram_bytes else "", half)
