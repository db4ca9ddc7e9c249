"""The sizes of a model, the recurrent state of one sequence as a value (named arrays in a fixed layout, portable
between backends), a state as a snapshot with its logits, and the file of states in snapshots and chat files.

The file is safetensors with the digest of all its bytes in the header, written and read as a whole. It is accepted only
if all sizes add up and the digest matches. Reading allocates nothing beyond the file's own bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct
from msgspec.structs import asdict

from webapp.errors import WeightsError
from webapp.i18n import Text

if TYPE_CHECKING:  # numpy comes with the first state: the web process must start without it
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


ARCHITECTURES = ("4", "5.0", "5.1", "5.2", "6", "7")


class ModelConfig(Struct, frozen=True):
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


class RecurrentState(Struct, frozen=True):
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


class Snapshot(Struct, frozen=True):
    """Read-only. ``logits (vocab_size,)`` are those after its last token, if an answer begins there."""

    state: RecurrentState
    logits: FloatArray | None = None

    @property
    def nbytes(self) -> int:
        return self.state.nbytes + (0 if self.logits is None else self.logits.nbytes)


PART_ENDING = ".part"
LOGITS = "logits"
MAX_HEADER_BYTES = 1 << 14
"""The largest header of a snapshot that is read."""
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "U8": 1}
DIGEST_HEX = 64
MAX_TENSORS, MAX_DIMENSIONS = 4096, 8


class DamagedFile(Exception):
    """The bytes are not such a file, or are incomplete."""


class Stored(NamedTuple):
    """One tensor: its format, its shape, and its bytes, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def packed(about: Mapping[str, str], tensors: Mapping[str, Stored]) -> list[memoryview]:
    """The file in pieces, to be written in order."""
    table: dict[str, Any] = {}
    end = 0
    for name, stored in tensors.items():
        begin, end = end, end + stored.data.nbytes
        table[name] = {"dtype": stored.dtype, "shape": list(stored.shape), "data_offsets": [begin, end]}
    blank = "0" * DIGEST_HEX
    header = json.dumps({"__metadata__": {**about, "digest": blank}, **table}).encode()
    header += b" " * (-len(header) % 8)
    front = len(header).to_bytes(8, "little") + header
    digest = hashlib.blake2b(front, digest_size=DIGEST_HEX // 2)
    for stored in tensors.values():
        digest.update(stored.data)
    front = front.replace(blank.encode(), digest.hexdigest().encode(), 1)
    return [memoryview(front), *(stored.data for stored in tensors.values())]


def unpacked(content: bytearray, most_header_bytes: int) -> tuple[dict[str, str], dict[str, Stored]]:
    """The file's metadata, and its tensors as views of ``content``. Blanks the digest in it. Raises DamagedFile."""
    size = len(content)
    header_size = int.from_bytes(content[:8], "little")
    if size < 8 or header_size > min(most_header_bytes, size - 8):
        raise DamagedFile("its header is cut off")
    try:
        header = json.loads(bytes(content[8 : 8 + header_size]))
        about = header.pop("__metadata__")
        digest = str(about.pop("digest"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise DamagedFile("its header makes no sense") from exc
    place = content.find(digest.encode("ascii", "replace"), 8, 8 + header_size)
    if len(digest) != DIGEST_HEX or place < 0 or not all(isinstance(value, str) for value in about.values()):
        raise DamagedFile("its header makes no sense")
    content[place : place + DIGEST_HEX] = b"0" * DIGEST_HEX
    if hashlib.blake2b(content, digest_size=DIGEST_HEX // 2).hexdigest() != digest:
        raise DamagedFile("its bytes are not those that were written")
    if len(header) > MAX_TENSORS:
        raise DamagedFile("it has too many tensors")
    found, end, data = {}, 8 + header_size, memoryview(content)
    for name, entry in header.items():
        begin = end
        dtype, shape, end = _entry(name, entry, begin - 8 - header_size, size)
        end += 8 + header_size
        if end > size:
            raise DamagedFile("it is cut off")
        found[name] = Stored(dtype, shape, data[begin:end])
    if end != size:
        raise DamagedFile("it has more bytes than tensors")
    return about, found


def _entry(name: str, entry: Any, begin: int, size: int) -> tuple[str, tuple[int, ...], int]:
    """Format, shape and end; the data must begin where the previous tensor ends."""
    if not isinstance(entry, dict):
        raise DamagedFile(f"{name} has no size")
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in WIDTHS or not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise DamagedFile(f"{name} has another size")
    if not all(type(side) is int and 0 <= side <= size for side in shape):
        raise DamagedFile(f"{name} has another size")
    end = begin + WIDTHS[dtype] * math.prod(shape)
    if entry.get("data_offsets") != [begin, end]:
        raise DamagedFile(f"{name} has another size")
    return dtype, tuple(shape), end


def narrowest(values: FloatArray) -> Stored:
    """Stores the values in the smallest format that represents them exactly."""
    import numpy as np

    whole = np.ascontiguousarray(values, "<f4")
    bits = whole.view("<u4")
    if not (bits & np.uint32(0xFFFF)).any():
        return Stored("BF16", values.shape, _bytes((bits >> np.uint32(16)).astype("<u2")))
    with np.errstate(over="ignore"):
        half = whole.astype("<f2")
    if np.array_equal(half.astype("<f4"), whole):
        return Stored("F16", values.shape, _bytes(half))
    return Stored("F32", values.shape, _bytes(whole))


def widened(stored: Stored) -> FloatArray:
    """As float32. Raises DamagedFile for a tensor of another kind of numbers."""
    import numpy as np

    if stored.dtype not in ("F32", "F16", "BF16"):
        raise DamagedFile(f"{stored.dtype} is no format of a state")
    data = np.frombuffer(stored.data, np.uint8)
    if stored.dtype == "BF16":
        data = (data.view("<u2").astype("<u4") << np.uint32(16)).view(np.uint8)
    found: FloatArray = data.view("<f2" if stored.dtype == "F16" else "<f4").astype(np.float32, copy=False)
    return found.reshape(stored.shape)


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.data.cast("B")


def write_snapshot(path: Path, snapshot: Snapshot, is_synced: bool = True) -> int:
    """Returns the file's size in bytes; the header repeats the name. Raises OSError and never leaves a partial file
    under the name. A file that was not synced may be torn after a power failure; its digest detects that."""
    arrays: dict[str, FloatArray] = dict(snapshot.state.arrays)
    if snapshot.logits is not None:
        arrays[LOGITS] = snapshot.logits
    about = {"format": "roost-snapshot-1", "of": path.stem, "architecture": snapshot.state.architecture}
    pieces = packed(about, {name: narrowest(values) for name, values in arrays.items()})
    size = sum(piece.nbytes for piece in pieces)
    part = path.with_name(f"{path.stem}.{os.getpid()}-{threading.get_ident()}{PART_ENDING}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)  # Windows would change line ends
        with open(os.open(part, flags, 0o600), "wb", buffering=0) as file:
            for piece in pieces:
                while piece:
                    piece = piece[file.write(piece) :]
            if is_synced:
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return size


def read_snapshot(path: Path, config: ModelConfig) -> Snapshot:
    """Raises OSError, or DamagedFile unless it is a complete snapshot with the file's name and for this model.
    Allocates no more than the file's size, and does not read a file that is larger than a snapshot can be."""
    expected = state_shapes(config)
    if path.stem.endswith(LOGITS):
        expected[LOGITS] = (config.vocab_size,)
    most = MAX_HEADER_BYTES + 8 + 4 * sum(math.prod(shape) for shape in expected.values())
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if not 8 < size <= most:
            raise DamagedFile(f"{size} bytes")
        content = bytearray(size)
        if file.readinto(content) != size:
            raise DamagedFile("it is cut off")
    about, tensors = unpacked(content, MAX_HEADER_BYTES)
    if about != {"format": "roost-snapshot-1", "of": path.stem, "architecture": config.architecture}:
        raise DamagedFile("it is of something else")
    if tensors.keys() != expected.keys():
        raise DamagedFile("it has other arrays")
    for name, stored in tensors.items():
        if stored.shape != expected[name]:
            raise DamagedFile(f"{name} has another size")
    arrays = {name: widened(stored) for name, stored in tensors.items()}
    logits = arrays.pop(LOGITS, None)
    state = RecurrentState(config.architecture, arrays)
    try:
        state.check(config)
    except WeightsError as exc:
        raise DamagedFile(str(exc)) from exc
    return Snapshot(state, logits)
