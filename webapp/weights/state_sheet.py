"""A state file in numbers: what a page shows of it, without its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from webapp.engine.state import ModelConfig

if TYPE_CHECKING:
    from webapp.weights.state_file import StateFile  # brings numpy


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
