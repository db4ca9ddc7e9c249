"""What is in each state file, read once a change: sizes, norms, digest, and for which version it was made."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.engine.model_config import ModelConfig
from webapp.errors import RoostError, as_roost_error

if TYPE_CHECKING:
    from webapp.weights.state_file import StateFile

Stamp = tuple[int, int]


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


class StateSheets:
    """Safe to use from any thread. Reading brings numpy."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[Path, tuple[Stamp, StateSheet | RoostError]] = {}

    def sheet(self, path: Path) -> StateSheet | RoostError:
        """The error of a file that is no state, instead of raising it: others are listed all the same."""
        stamp = stamp_of(path)
        with self._lock:
            seen = self._seen.get(path)
        if seen is not None and seen[0] == stamp:
            return seen[1]
        found = _read(path)
        with self._lock:
            self._seen[path] = (stamp, found)
        return found

    def forget_others(self, paths: set[Path]) -> None:
        with self._lock:
            for path in set(self._seen) - paths:
                del self._seen[path]


def sheet_of(state: StateFile) -> StateSheet:
    n_layer, n_head, head_size = state.sizes
    norms = tuple(state.norms())
    return StateSheet(state.origin.architecture, state.origin.told_by, n_layer, n_head, head_size, norms, state.digest)


def stamp_of(path: Path) -> Stamp:
    try:
        found = path.stat()
        return found.st_mtime_ns, found.st_size
    except OSError:
        return 0, 0


def _read(path: Path) -> StateSheet | RoostError:
    from webapp.weights.state_file import open_state  # brings numpy

    try:
        return sheet_of(open_state(path))
    except Exception as exc:  # whatever is wrong with one file
        return as_roost_error(exc)
