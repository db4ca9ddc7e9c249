"""What a page or a command is told of a state file, without reading it: its origin, its sheet, what does not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.engine.state import ModelConfig
from webapp.errors import WeightsError
from webapp.i18n import Text

if TYPE_CHECKING:
    from webapp.weights.state_file import StateFile


def mismatch(path: Path, what: Text, expected: object, found: object) -> WeightsError:
    """What is no Text is a number or a name, the same in every language."""
    told = {"what": what, "expected": expected, "found": found}
    words = {name: value if isinstance(value, Text) else str(value) for name, value in told.items()}
    return WeightsError("state_mismatch", path=path.name, **words)


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


@dataclass(frozen=True)
class StateSheet:
    """``architecture``: "5", "6", "7", or "" when it cannot be told; ``told_by``: metadata, name, model or "".

    ``norms``: Euclidean length of each layer. ``digest``: SHA-256 over sizes and values, the one requests are logged
    with.
    """

    architecture: str
    told_by: str
    n_layer: int
    n_head: int
    head_size: int
    norms: tuple[float, ...]
    digest: str

    @property
    def n_embd(self) -> int:
        return self.n_head * self.head_size

    def fits(self, config: ModelConfig) -> bool:
        """As far as can be told without trying: the sizes are the model's, and no other version is named."""
        if config.major == 4 or (config.n_layer, config.n_head, config.head_size) != self.sizes:
            return False
        return self.architecture in ("", str(config.major))

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.n_layer, self.n_head, self.head_size


def sheet_of(state: StateFile) -> StateSheet:
    n_layer, n_head, head_size = state.sizes
    norms = tuple(state.norms())
    return StateSheet(state.origin.architecture, state.origin.told_by, n_layer, n_head, head_size, norms, state.digest)


def tensor_name(layer: int) -> str:
    return f"blocks.{layer}.att.time_state"
