"""The tables of RWKV-Runner's manual that help to choose a strategy, and what was measured with Roost beside them.

``comparison.json`` is the manual. ``sizes`` are the columns of ``memory`` (figures of an i7-10870H with an RTX 3080
Laptop, 16 GB, and 32 GB RAM). A row has ``kind``, ``precision``, ``place`` (ram or vram) and ``cells``; a cell ``gb``
(absent: not advised), and where not all layers are quantised ``layers``, ``all_layers`` and ``all_gb``. ``kinds``: file
format, kinds of model and stars for speed, out of five.

``measured.json`` is a list, filled only with figures that a command gave: ``{"kind", "precision", "size", "parameters",
"architecture", "peak_gb", "tokens_per_s" or null, "machine", "date", "command"}``; ``size`` is the column of the manual
it belongs to.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any


@functools.lru_cache(maxsize=1)
def comparison() -> dict[str, Any]:
    """Both files: ``sizes``, ``memory``, ``kinds``, ``measured``. Read once."""
    manual, measured = (
        json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
        for name in ("comparison.json", "measured.json")
    )
    return {**manual, "measured": measured}
