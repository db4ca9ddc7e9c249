"""The sizes of a model, and the recurrent state of one sequence as a value: named arrays in a fixed layout, portable
between backends."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from webapp.errors import WeightsError
from webapp.i18n import Text

if TYPE_CHECKING:  # numpy comes with the first state: the web process must start without it
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


ARCHITECTURES = ("4", "5.0", "5.1", "5.2", "6", "7")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one RWKV model.

    ``architecture`` is one of :data:`ARCHITECTURES`. ``n_head`` and ``head_size`` are 0 for RWKV-4, which has no heads.
    ``n_att`` is the width of the attention (``n_embd`` in every released model).
    """

    architecture: str
    n_layer: int
    n_embd: int
    n_att: int
    n_ffn: int
    n_head: int
    head_size: int
    vocab_size: int

    @property
    def major(self) -> int:
        """4, 5, 6 or 7."""
        return int(self.architecture[0])

    def state_bytes(self) -> int:
        """Bytes of one sequence's recurrent state in float32."""
        per_layer = 2 * self.n_embd + self.n_att * (3 if self.major == 4 else self.head_size)
        return 4 * self.n_layer * per_layer

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class RecurrentState:
    """Float32 arrays, layers first.

    RWKV-5/6/7: ``att_x_prev (n_layer, n_embd)``, ``att_kv (n_layer, n_head, head_size, head_size)``,
    ``ffn_x_prev (n_layer, n_embd)``. RWKV-4: ``att_x_prev, att_aa, att_bb, att_pp, ffn_x_prev``, all
    ``(n_layer, n_embd)``.

    ``att_kv[layer, head, i, j]``: ``i`` is the value channel, ``j`` the key channel. This is the layout of
    ``time_state`` in official files and of the rwkv package's RWKV-7. Its RWKV-5/6 code uses the transpose, and the
    backend transposes it.
    """

    architecture: str
    arrays: dict[str, FloatArray]

    @classmethod
    def zeros(cls, config: ModelConfig) -> RecurrentState:
        """The state before any token. RWKV-4's running maximum ``att_pp`` starts at -1e30."""
        import numpy as np

        arrays = {name: np.zeros(shape, np.float32) for name, shape in state_shapes(config).items()}
        if config.major == 4:
            arrays["att_pp"].fill(-1e30)
        return cls(config.architecture, arrays)

    @classmethod
    def from_time_state(cls, config: ModelConfig, time_state: FloatArray) -> RecurrentState:
        """The zero state with ``time_state (n_layer, n_head, head_size, head_size)`` as its ``att_kv``."""
        state = cls.zeros(config)
        expected = state.arrays["att_kv"].shape if config.major > 4 else Text("reason.engine.none_rwkv_4")
        if expected != time_state.shape:
            raise WeightsError(
                "state_mismatch",
                path="",
                what=Text("reason.engine.the_shape"),
                expected=str(expected),
                found=str(time_state.shape),
            )
        return cls(config.architecture, {**state.arrays, "att_kv": time_state.astype("float32", copy=True)})

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def copy(self) -> RecurrentState:
        return RecurrentState(self.architecture, {name: array.copy() for name, array in self.arrays.items()})

    def digest(self) -> str:
        """32 hex digits over names, shapes and values; equal states have equal digests."""
        h = hashlib.blake2b(self.architecture.encode(), digest_size=16)
        for name in sorted(self.arrays):
            array = self.arrays[name]
            h.update(f"{name}{array.shape}".encode())
            h.update(array.tobytes())
        return h.hexdigest()

    def check(self, config: ModelConfig, path: str = "") -> None:
        """Raises ``state_mismatch`` unless every array exists, has the right shape and is finite."""
        if self.architecture != config.architecture:
            raise WeightsError(
                "state_mismatch",
                path=path,
                what=Text("reason.engine.the_architecture"),
                expected=config.architecture,
                found=self.architecture,
            )
        import numpy as np

        expected = state_shapes(config)
        if set(expected) != set(self.arrays):
            raise WeightsError(
                "state_mismatch",
                path=path,
                what=Text("reason.engine.the_arrays"),
                expected=sorted(expected),
                found=sorted(self.arrays),
            )
        for name, shape in expected.items():
            found = self.arrays[name]
            if found.shape != shape:
                raise WeightsError(
                    "state_mismatch",
                    path=path,
                    what=Text("reason.engine.shape_of", name=name),
                    expected=shape,
                    found=found.shape,
                )
            if not np.isfinite(found).all():
                raise WeightsError(
                    "state_mismatch",
                    path=path,
                    what=name,
                    expected=Text("reason.engine.finite_numbers"),
                    found=Text("reason.common.nan_or_infinity"),
                )


def state_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array of a state of this model."""
    row = (config.n_layer, config.n_embd)
    if config.major == 4:
        wide = (config.n_layer, config.n_att)
        return {"att_x_prev": row, "att_aa": wide, "att_bb": wide, "att_pp": wide, "ffn_x_prev": row}
    matrices = (config.n_layer, config.n_head, config.head_size, config.head_size)
    return {"att_x_prev": row, "att_kv": matrices, "ffn_x_prev": row}
