"""A backend whose loaded model manages the slots itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from webapp.engine.backend import Backend, SavedState
from webapp.engine.state import RecurrentState

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SlotModel(Protocol):
    """The methods are documented at the methods of :class:`Backend` with the same names."""

    def new_slot(self) -> int: ...

    def free_slot(self, slot: int) -> None: ...

    def copy_slot(self, source: int, target: int) -> None: ...

    def read_state(self, slot: int) -> RecurrentState: ...

    def write_state(self, slot: int, state: RecurrentState) -> None: ...

    def close(self) -> None: ...


class SlotBackend(Backend):
    """Passes all slot methods on to ``_model``."""

    _model: SlotModel

    def new_slot(self) -> int:
        return self._model.new_slot()

    def free_slot(self, slot: int) -> None:
        self._model.free_slot(slot)

    def read_state(self, slot: int) -> RecurrentState:
        return self._model.read_state(slot)

    def write_state(self, slot: int, state: RecurrentState) -> None:
        self._model.write_state(slot, state)

    def fork(self, slot: int) -> int:
        made = self._model.new_slot()
        self._model.copy_slot(slot, made)
        return made

    def close(self) -> None:
        self._model.close()


class FlatModel(SlotModel, Protocol):
    """Stores a state as one flat array, in its own order."""

    def save(self, slot: int) -> NDArray[np.float32]: ...

    def restore(self, slot: int, saved: NDArray[np.float32]) -> None: ...


class FlatBackend(SlotBackend):
    """For a :class:`FlatModel`: states are saved and restored without transposing."""

    _model: FlatModel

    def save(self, slot: int) -> SavedState:
        return Saved(self._model.save(slot))

    def restore(self, slot: int, saved: SavedState) -> None:
        assert isinstance(saved, Saved)
        self._model.restore(slot, saved.values)


class Saved(Struct, frozen=True):
    """A state in the model's own order."""

    values: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes
