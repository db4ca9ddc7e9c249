"""The contract every way to run a model fulfils, and the registry that finds one by strategy.

A backend runs one loaded model and is called from the engine loop's thread alone. Adding one is a file under
``webapp/backends``, a row in :data:`REGISTRY`, an extra if it needs a package; the parity test picks it up by itself.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from webapp.engine.model_config import ModelConfig
from webapp.engine.state import RecurrentState
from webapp.errors import StrategyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Availability:
    """Whether this machine can run a backend; if not, why, and the command or hardware that would change that."""

    is_available: bool
    reason: str = ""
    way_out: str = ""


@dataclass(frozen=True)
class LoadProgress:
    """How far a load has come. ``done_bytes`` of ``total_bytes``, ``done_tensors`` of ``total_tensors``."""

    done_bytes: int
    total_bytes: int
    done_tensors: int
    total_tensors: int


class TensorSize(Protocol):
    """What is known of a tensor before it is read; ``dtype`` is torch's name of it."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def numel(self) -> int: ...
    @property
    def nbytes(self) -> int: ...


class ModelFile(Protocol):
    """A model file as it was looked into, without its tensors: ``webapp.weights.inspection.Inspection``.

    ``converted_strategy``: the one strategy a file converted beforehand can run, None for any other file.
    """

    @property
    def config(self) -> ModelConfig | None: ...
    @property
    def tensors(self) -> Sequence[TensorSize]: ...
    @property
    def converted_strategy(self) -> str | None: ...


RAM = "ram"


@dataclass(frozen=True)
class Footprint:
    """Bytes a loaded model takes, by device: :data:`RAM`, or as a strategy names it (``cuda:0``).

    ``weights`` stay as long as the model is loaded. ``base`` is what the process has before a weight is there.
    ``load_extra`` and ``run_extra`` are needed beside both, at the worst moment of the load and while it answers.
    ``state`` is one running sequence, ``snapshot`` one remembered state (always in main memory).
    """

    weights: Mapping[str, int]
    base: Mapping[str, int] = field(default_factory=dict)
    load_extra: Mapping[str, int] = field(default_factory=dict)
    run_extra: Mapping[str, int] = field(default_factory=dict)
    state: Mapping[str, int] = field(default_factory=dict)
    snapshot: int = 0

    @property
    def devices(self) -> tuple[str, ...]:
        """Main memory first; every process has some of it."""
        return (RAM, *sorted({*self.weights, *self.base, *self.load_extra, *self.run_extra, *self.state} - {RAM}))


ProgressCallback = Callable[[LoadProgress], None]
"""Called often during a load; raises LoadCancelled to end it."""


class Backend(ABC):
    """One loaded model. Numpy float32 at the boundary, anything inside."""

    config: ModelConfig
    max_slots: int
    """How many sequences may hold a slot at once; 1 where the engine below keeps a single state."""

    @classmethod
    @abstractmethod
    def availability(cls) -> Availability:
        """Cheap: imports nothing heavy."""

    @classmethod
    @abstractmethod
    def check(cls, config: ModelConfig, strategy: str) -> None:
        """Raises StrategyError or BackendUnavailable when this model cannot run so, before anything is loaded.
        Imports nothing heavy: the web process calls it."""

    @classmethod
    def footprint(cls, model: ModelFile, strategy: str) -> Footprint:
        """What the model would take, from its tensors' shapes; imports nothing heavy. ``check`` comes first.

        Unless a backend knows better: the tensors as they are in the file, in main memory.
        """
        state = model.config.state_bytes() if model.config else 0
        weights = sum(tensor.nbytes for tensor in model.tensors)
        return Footprint({RAM: weights}, state={RAM: state}, snapshot=state)

    @classmethod
    @abstractmethod
    def load(cls, path: str, config: ModelConfig, strategy: str, progress: ProgressCallback) -> Backend:
        """Reads the weights. May raise LoadCancelled (from ``progress``), OutOfMemory, WeightsError."""

    @abstractmethod
    def new_slot(self) -> int:
        """A fresh slot in the zero state (or the ``time_state`` merged in the model file)."""

    @abstractmethod
    def free_slot(self, slot: int) -> None:
        """Gives a slot back."""

    @abstractmethod
    def forward(self, slots: Sequence[int], token_ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Feeds ``token_ids[b]`` (at least one) to ``slots[b]``; logits ``(B, vocab_size)`` after the last of each."""

    @abstractmethod
    def read_state(self, slot: int) -> RecurrentState:
        """A copy of the slot's state."""

    @abstractmethod
    def write_state(self, slot: int, state: RecurrentState) -> None:
        """Overwrites the slot's state; the caller has checked it fits."""

    @abstractmethod
    def close(self) -> None:
        """Frees everything."""


@dataclass(frozen=True)
class BackendEntry:
    """One row of the registry: strategies that match ``pattern`` run on the class at ``target`` (module:class)."""

    name: str
    pattern: str
    target: str

    def load_class(self) -> type[Backend]:
        module, _, name = self.target.partition(":")
        found: type[Backend] = getattr(importlib.import_module(module), name)
        return found


REGISTRY: list[BackendEntry] = [
    BackendEntry("fake", r"fake\b", "webapp.backends.fake:FakeBackend"),
    BackendEntry("rwkv_pip", r"(cpu|cuda(:\d+)?|mps|dml) ", "webapp.backends.rwkv_pip:RwkvPipBackend"),
]


def backend_for(strategy: str) -> BackendEntry:
    """The backend whose pattern the strategy string matches; StrategyError when none does."""
    for entry in REGISTRY:
        if re.match(entry.pattern, strategy.strip() + " "):
            return entry
    raise StrategyError(
        strategy=strategy,
        reason="no backend knows it",
        way_out="Try `cpu fp32`, `cpu bf16` or, with an NVIDIA card, `cuda fp16`.",
    )
