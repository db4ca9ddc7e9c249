"""For which architecture a state was made, where that can be told: its tensors do not say.

By what a file says about itself (:data:`ARCHITECTURE_KEY` in its metadata, written by Roost), else by the tag official
files carry in their names: ``rwkv-x060-…``, ``RWKV-6-World-…``, ``rwkv7-g1-…``. A bare ``v6`` is no such tag; it may be
the sixth try.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURE_KEY = "roost.architecture"
TAG = re.compile(r"(?i)(?<![a-z0-9])(?:rwkv[-_ ]?)?x0([4-7])\d(?!\d)|rwkv[-_ ]?v?([4-7])(?![0-9])")


@dataclass(frozen=True)
class Origin:
    """``architecture``: "5", "6", "7", or "" when it cannot be told. ``told_by``: ``metadata``, ``name`` or ``model``
    (the state was merged in one); "" likewise."""

    architecture: str = ""
    told_by: str = ""


def origin_of(path: Path, metadata: Mapping[str, str]) -> Origin:
    stated = metadata.get(ARCHITECTURE_KEY, "")[:1]
    if stated in ("5", "6", "7"):
        return Origin(stated, "metadata")
    tags = {match[1] or match[2] for match in TAG.finditer(path.stem)}
    return Origin(tags.pop(), "name") if len(tags) == 1 else Origin()
