"""The tensors of a model for ggml: type, shape, and how to read the bytes of each.

Tensors from ``.bin`` and ``.gguf`` are copied unchanged into ggml's memory. Those of other checkpoints are converted as
``roost convert`` would do for a ``.bin`` of the requested type, tensor by tensor during the load.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from webapp.backends.ggml.library import Ggml
from webapp.engine.state import ModelConfig
from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights import ggml_blocks
from webapp.weights.adapter import AdapterChoice, open_model
from webapp.weights.architecture import STATE_NAME
from webapp.weights.ggml_header import GGML_TYPES
from webapp.weights.ggml_layout import Piece, ggml_pieces, passes_float16, stored_dtype
from webapp.weights.ggml_model import FORMATS, GgmlTensor, matrix_names, read_model
from webapp.weights.inspection import inspect
from webapp.weights.tensor_info import BLOCKS, TensorInfo

Floats = NDArray[np.float32]
READ_BYTES = 16 * 2**20
BLOCK_ELEMENTS = 8 * 2**20
HELD_BYTES = 64 * 2**20
"""Limit for the pages of a checkpoint in this process's memory while it is read."""
K_TYPES = ("q4_k", "q5_k", "q6_k")
FALLBACK = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
"""For rows that are not a multiple of 256: a type with blocks of 32 that is at least as exact, as in llama.cpp."""

Write = Callable[[int, int, int], None]


class WeightTensor(Struct, frozen=True):
    """``dtype`` as in ``TensorInfo``, ``dimensions`` in ggml's order. ``fill(address)`` writes all its bytes there."""

    name: str
    dtype: str
    dimensions: tuple[int, ...]
    fill: Callable[[int], None]

    @property
    def nbytes(self) -> int:
        return TensorInfo(self.name, self.dimensions[::-1], self.dtype).nbytes


class WeightSource:
    """The tensors of one file for ggml. A context manager."""

    def __init__(self, path: str | Path, wanted: str, ggml: Ggml, adapter: AdapterChoice | None = None) -> None:
        """``wanted``: a dtype for files other than .bin and .gguf. Raises WeightsError."""
        self.path = Path(path)
        self.rescale_every = 0
        self.initial_state: Floats | None = None
        self._ggml = ggml
        self._stack = ExitStack()
        inspection = inspect(self.path)
        try:
            if inspection.format in FORMATS:
                tensors = list(self._from_ggml())
            else:
                assert inspection.config is not None, "check() comes first"
                tensors = list(self._from_official(inspection.config, wanted, adapter))
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        states = {tensor.name: tensor for tensor in tensors if STATE_NAME.fullmatch(tensor.name)}
        self.tensors = [tensor for tensor in tensors if tensor.name not in states]
        if states:
            self.initial_state = self._read_states(states)

    def __enter__(self) -> WeightSource:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def refuse(self, reason: Text | str) -> WeightsError:
        return WeightsError(path=str(self.path), reason=reason)

    # .bin and .gguf

    def _from_ggml(self) -> Iterator[WeightTensor]:
        model = read_model(self.path)
        self.rescale_every = model.rescale_every
        self.config = model.config
        file = self._stack.enter_context(self.path.open("rb", buffering=0))
        for tensor in model.tensors.values():
            if tensor.is_matrix:
                yield WeightTensor(tensor.name, tensor.info.dtype, tensor.info.shape[::-1], self._reading(file, tensor))
            else:
                yield self._vector(tensor.name, self._values(file, tensor))

    def _reading(self, file: Any, tensor: GgmlTensor) -> Callable[[int], None]:
        def fill(address: int) -> None:
            view = memoryview((ctypes.c_uint8 * tensor.nbytes).from_address(address)).cast("B")
            file.seek(tensor.offset)
            done = 0
            while done < tensor.nbytes:
                read = file.readinto(view[done : done + READ_BYTES])
                if not read:
                    raise self.refuse(Text("reason.weights.ends_inside", name=tensor.name))
                done += read
            if not self._ggml.validate_row_data(GGML_TYPES[tensor.info.dtype], address, tensor.nbytes):
                raise self.refuse(Text("reason.backends.not_finite", name=tensor.name))

        return fill

    def _values(self, file: Any, tensor: GgmlTensor) -> Floats:
        file.seek(tensor.offset)
        data = file.read(tensor.nbytes)
        if len(data) < tensor.nbytes:
            raise self.refuse(Text("reason.weights.ends_inside", name=tensor.name))
        return ggml_blocks.dequantize(np.frombuffer(data, np.uint8), tensor.info.dtype)

    # .pth, .safetensors, .st

    def _from_official(self, config: ModelConfig, wanted: str, adapter: AdapterChoice | None) -> Iterator[WeightTensor]:
        self.config = config
        self._checkpoint = self._stack.enter_context(open_model(self.path, adapter))
        self._held_bytes = 0
        infos = {name: self._checkpoint.info(name) for name in self._checkpoint.names()}
        pieces = list(ggml_pieces(infos, config))
        as_5_2 = replace(config, architecture="5.2") if config.architecture == "5.1" else config
        made = {piece.name: TensorInfo(piece.name, piece.shape, "float32") for piece in pieces}
        matrices = matrix_names(self.path, made, as_5_2)
        for piece in pieces:
            if piece.name in matrices:
                yield self._matrix(piece, piece_dtype(piece, wanted))
            else:
                yield self._vector(piece.name, self._whole(piece).reshape(-1))

    def _matrix(self, piece: Piece, dtype: str) -> WeightTensor:
        row = piece.shape[-1]
        if row % BLOCKS.get(dtype, (1, 0))[0]:
            params = {"name": piece.name, "size": row, "type": dtype}
            raise self.refuse(Text("reason.backends.row_size_not_blocks", **params))

        def fill(address: int) -> None:
            done = 0
            for block in self._blocks(piece):
                if passes_float16(piece) and dtype != "float32":
                    with np.errstate(over="ignore"):
                        block = block.astype(np.float16).astype(np.float32)
                self._check_finite(block, piece.name)
                done += self._packed(block, dtype, address + done)

        return WeightTensor(piece.name, dtype, piece.shape[::-1], fill)

    def _packed(self, block: Floats, dtype: str, address: int) -> int:
        """Writes rows; returns the number of bytes."""
        block = np.ascontiguousarray(block, np.float32)
        row = block.shape[-1]
        if dtype in BLOCKS:
            count = block.size // row
            return int(self._ggml.quantize_chunk(GGML_TYPES[dtype], block.ctypes.data, address, 0, count, row, None))
        data = ggml_blocks.quantize(block, dtype)
        ctypes.memmove(address, data.ctypes.data, data.nbytes)
        return data.nbytes

    def _blocks(self, piece: Piece) -> Iterator[Floats]:
        if piece.make is not None:
            yield self._whole(piece)
            return
        bits = self._checkpoint.bits(piece.name)
        dtype = self._checkpoint.info(piece.name).dtype
        step = max(1, BLOCK_ELEMENTS // max(1, bits[0].size if bits.ndim > 1 else 1))
        for start in range(0, len(bits), step):
            yield _widened(bits[start : start + step], dtype)
            self._release(bits[start : start + step].nbytes)

    def _whole(self, piece: Piece) -> Floats:
        parts = [np.array(self._checkpoint.array(name), np.float32) for name in piece.sources]
        try:
            made = piece.make(parts, _exp) if piece.make is not None else parts[0]
            return np.ascontiguousarray(made, np.float32).reshape(piece.shape)
        except ValueError:
            raise self.refuse(Text("reason.backends.shape_does_not_fit", name=piece.name)) from None

    def _release(self, nbytes: int) -> None:
        self._held_bytes += nbytes
        if self._held_bytes >= HELD_BYTES:
            self._checkpoint.release()
            self._held_bytes = 0

    # both

    def _vector(self, name: str, values: Floats) -> WeightTensor:
        """float32, in the shape that the graph needs; checked at once."""
        self._check_finite(values, name)
        config, last = self.config, name.rpartition(".")[2]
        heads = config.n_head * config.head_size
        dimensions: tuple[int, ...] = (values.size,)
        if STATE_NAME.fullmatch(name):
            pass
        elif config.major == 5 and last in ("time_decay", "time_first", "time_faaaa"):
            values = np.repeat(values, heads // values.size)
            dimensions = (config.head_size, config.n_head)
            name = name.replace("time_first", "time_faaaa")
        elif config.major in (6, 7) and last in ("time_faaaa", "r_k"):
            dimensions = (config.head_size, config.n_head)
        elif last == "x_rwkvag":
            dimensions = (config.n_embd, 1, 6)
        kept = np.ascontiguousarray(values, np.float32).reshape(-1)
        return WeightTensor(name, "float32", dimensions, lambda to: _copy(to, kept))

    def _check_finite(self, values: Floats, name: str) -> None:
        if not np.isfinite(values).all():
            raise self.refuse(Text("reason.backends.not_finite", name=name))

    def _read_states(self, states: dict[str, WeightTensor]) -> Floats | None:
        """``(n_layer, n_head, head_size, head_size)``; None unless every layer has one."""
        config = self.config
        names = [f"blocks.{layer}.att.time_state" for layer in range(config.n_layer)]
        size = config.n_embd * config.head_size
        if config.major == 4 or set(names) != states.keys() or any(states[n].dimensions != (size,) for n in names):
            return None
        found = np.empty((config.n_layer, config.n_head, config.head_size, config.head_size), np.float32)
        for layer, name in enumerate(names):
            states[name].fill(found[layer].ctypes.data)
        return found


def piece_dtype(piece: Piece, wanted: str) -> str:
    """Like :func:`stored_dtype`, also for the K types."""
    if wanted not in K_TYPES:
        return stored_dtype(piece, wanted)
    found = stored_dtype(piece, wanted)
    return FALLBACK[wanted] if found == wanted and piece.shape[-1] % BLOCKS[wanted][0] else found


def _copy(address: int, values: Floats) -> None:
    ctypes.memmove(address, values.ctypes.data, values.nbytes)


def _exp(values: Floats) -> Floats:
    """In 64 bits, because the result need not equal another program's to the bit."""
    return np.exp(values.astype(np.float64)).astype(np.float32)


def _widened(bits: np.ndarray, dtype: str) -> Floats:
    if dtype != "bfloat16":
        return bits.astype(np.float32)
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def is_on_gpu(name: str, first_layer: int, layers: int) -> bool:
    """Whether a tensor, by rwkv.cpp's or llama.cpp's names, goes to the GPU if the layers from ``first_layer`` on do.
    The head goes with them; the embedding stays."""
    if first_layer >= layers or name.startswith(("emb.", "token_embd", "blocks.0.ln0.")):
        return False
    kind, _, rest = name.partition(".")
    layer = rest.partition(".")[0]
    return int(layer) >= first_layer if kind in ("blocks", "blk") and layer.isdigit() else True
