"""Where a sequence begins: the model's own start, nothing at all, or a state file that was read and checked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from webapp.engine.model_config import ModelConfig
from webapp.engine.state import RecurrentState
from webapp.manager.library import STATES, ModelLibrary

ZERO_STATE = "-"
"""The name of the beginning without any state, also where one is merged in the model; no file has it."""
KEPT_BYTES = 128 << 20


@dataclass(frozen=True)
class StateInfo:
    """A state in use: its file's name, as it stands in the folder of states, and digest; both "" for the model's own
    beginning."""

    name: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Start:
    """``state`` None is the model's own beginning, which only the engine knows."""

    info: StateInfo = StateInfo()
    state: RecurrentState | None = field(default=None, compare=False, repr=False)


OWN_START = Start()
_Key = tuple[str, int, int, ModelConfig]


class StartReader:
    """Reads each file once a change, keeps those used last up to ``kept_bytes``, and hands out the same object.

    ``trusted`` names may lie anywhere on disk (see :class:`.target.TargetResolver`). Safe to use from any thread.
    """

    def __init__(self, library: ModelLibrary, trusted: frozenset[str], kept_bytes: int = KEPT_BYTES) -> None:
        self._library = library
        self._trusted = trusted
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, Start] = OrderedDict()

    def start(self, name: str, config: ModelConfig) -> Start:
        """Of a name as a person gives it. FileMissing, StateMismatch or another WeightsError."""
        if not name:
            return OWN_START
        if name == ZERO_STATE:
            zeros = RecurrentState.zeros(config)
            return Start(StateInfo(ZERO_STATE, zeros.digest()), zeros)
        path = self._library.find_state(name, allow_outside=name in self._trusted)
        found = path.stat()
        key = (str(path), found.st_mtime_ns, found.st_size, config)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        start = self._read(path, config)
        self._keep(key, start)
        return start

    def _read(self, path: Path, config: ModelConfig) -> Start:
        import numpy as np

        digest, values = self._library.reader.read_state(path, config)
        sizes = (config.n_layer, config.n_head, config.head_size, config.head_size)
        layers = np.frombuffer(values, np.float32).reshape(sizes)
        return Start(StateInfo(self._name_of(path), digest), RecurrentState.from_time_state(config, layers))

    def _name_of(self, path: Path) -> str:
        states = self._library.models_dir.absolute() / STATES
        return path.relative_to(states).as_posix() if path.is_relative_to(states) else path.name

    def _keep(self, key: _Key, start: Start) -> None:
        with self._lock:
            self._kept[key] = start
            while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > self._kept_bytes:
                self._kept.popitem(last=False)


def _size(start: Start) -> int:
    return start.state.nbytes if start.state else 0
