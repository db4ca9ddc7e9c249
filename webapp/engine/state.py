"""The sizes of a model; the recurrent state of one sequence, as a value: named arrays of one fixed layout, portable
between backends; and the snapshots of states, found again by the tokens that made them."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
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

    ``att_kv[layer, head, i, j]``: ``i`` runs over the value, ``j`` over the key channel. That is the layout of
    ``time_state`` in official files and of the rwkv package's RWKV-7; its RWKV-5/6 code keeps the transpose, and the
    backend turns it.
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
        """Raises ``state_mismatch`` unless every array is there, has its shape and is finite."""
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


_Key = tuple[str, bytes]


class StateCache:
    """Least recently used snapshots leave first once all of them exceed ``limit_bytes``; 0 keeps none.

    A recurrent state cannot be cut back, so a prompt can only go on from a snapshot taken exactly at one of its
    prefixes. The key is (digest of the initial state, the prefix's token ids): everything that made the state besides
    the model. States are copied in and out, so no slot ever shares memory with the cache.

    A plain dict keyed by the prefix's bytes, tried at each length present from the longest down. Not a trie: a trie
    saves the keys' memory, and a key of 4,000 tokens is 16 kB beside a state of megabytes; hashing a few hundred such
    prefixes takes about a millisecond, and a dict compares whole keys, so a collision can never hand out another
    prompt's state.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self._states: OrderedDict[_Key, RecurrentState] = OrderedDict()
        self._lengths: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def __len__(self) -> int:
        return len(self._states)

    def longest_prefix(self, digest: str, token_ids: Sequence[int], limit: int) -> tuple[int, RecurrentState] | None:
        """The snapshot of the longest prefix of at most ``limit`` tokens, and that prefix's length."""
        prefix = _as_bytes(token_ids)
        width = array("I").itemsize
        for length in sorted(self._lengths.get(digest, ()), reverse=True):
            key = (digest, prefix[: length * width])
            if length <= limit and key in self._states:
                self._states.move_to_end(key)
                self.hits += 1
                return length, self._states[key].copy()
        self.misses += 1
        return None

    def contains(self, digest: str, token_ids: Sequence[int]) -> bool:
        return (digest, _as_bytes(token_ids)) in self._states

    def put(self, digest: str, token_ids: Sequence[int], state: RecurrentState) -> None:
        """Keeps a copy as the newest; one that alone exceeds the limit is not kept."""
        key = (digest, _as_bytes(token_ids))
        if _size(key, state) > self.limit_bytes:
            return
        self._remove(key)
        self._states[key] = state.copy()
        self._lengths[digest][len(token_ids)] += 1
        self.used_bytes += _size(key, state)
        while self.used_bytes > self.limit_bytes:
            self._remove(next(iter(self._states)))

    def clear(self) -> None:
        self._states.clear()
        self._lengths.clear()
        self.used_bytes = 0

    def _remove(self, key: _Key) -> None:
        state = self._states.pop(key, None)
        if state is None:
            return
        self.used_bytes -= _size(key, state)
        digest, prefix = key
        lengths = self._lengths[digest]
        lengths[len(prefix) // array("I").itemsize] -= 1
        self._lengths[digest] = +lengths  # drops lengths that no snapshot has any more
        if not self._lengths[digest]:
            del self._lengths[digest]


def _as_bytes(token_ids: Sequence[int]) -> bytes:
    return array("I", token_ids).tobytes()


def _size(key: _Key, state: RecurrentState) -> int:
    return state.nbytes + len(key[1])
