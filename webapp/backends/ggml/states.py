"""The states of a model's slots in ggml's memory, and their conversion from and to Roost's layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.backends.ggml.graph import F32, ITEM
from webapp.backends.ggml.library import Ggml, InitParams
from webapp.engine.state import ModelConfig, RecurrentState

Floats = NDArray[np.float32]
STATE_PARTS = ("ffn_x_prev", "att_x_prev")
V4_PARTS = ("att_aa", "att_bb", "att_pp")


class States:
    """``tensors``: for each layer its parts, ``(elements, slots)`` in ggml's order, which graphs read and write;
    replaced by :meth:`grow`. ``capacity``: the number of slots that fit."""

    def __init__(self, ggml: Ggml, config: ModelConfig, gpu_buffer_type: Any = None, first_gpu_layer: int = 0) -> None:
        """The states of layers from ``first_gpu_layer`` on use ``gpu_buffer_type`` if it is given."""
        self.tensors: list[list[Any]] = []
        self._ggml = ggml
        self._config = config
        self._gpu_buffer_type = gpu_buffer_type
        self._is_on_gpu = [gpu_buffer_type and layer >= first_gpu_layer for layer in range(config.n_layer)]
        self._names = (*STATE_PARTS, *(V4_PARTS if config.major == 4 else ("att_kv",)))
        self._shapes = [array.shape for array in map(RecurrentState.zeros(config).arrays.__getitem__, self._names)]
        self._parts: list[list[Floats | GpuPart]] = []
        self._context: Any = None
        self._buffers: list[Any] = []

    @property
    def capacity(self) -> int:
        return len(self._parts[0][0]) if self._parts else 0

    def copy(self, source: int, target: int) -> None:
        for row in self._parts:
            for part in row:
                part[target] = part[source]

    def save(self, slot: int) -> Floats:
        """In the model's own layout, for :meth:`restore`."""
        return np.concatenate([part[slot] for row in self._parts for part in row])

    def restore(self, slot: int, saved: Floats) -> None:
        start = 0
        for row in self._parts:
            for part in row:
                part[slot] = saved[start : start + part.shape[1]]
                start += part.shape[1]

    def read(self, slot: int) -> RecurrentState:
        arrays = {}
        for number, name in enumerate(self._names):
            stacked = np.stack([row[number][slot] for row in self._parts]).reshape(self._shapes[number])
            arrays[name] = np.ascontiguousarray(stacked.swapaxes(-1, -2)) if self._is_turned(name) else stacked
        return RecurrentState(self._config.architecture, arrays)

    def write(self, slot: int, state: RecurrentState) -> None:
        for number, name in enumerate(self._names):
            turned = state.arrays[name].swapaxes(-1, -2) if self._is_turned(name) else state.arrays[name]
            for layer, values in enumerate(turned):
                self._parts[layer][number][slot] = values.reshape(-1)

    def _is_turned(self, name: str) -> bool:
        """ggml's operation for v5 and v6 has the key channel in rows; its v7 and all state files the value channel."""
        return name == "att_kv" and self._config.major in (5, 6)

    def grow(self, slots: int) -> None:
        """Makes room for this many slots; states in use are kept. Existing graphs still point to the old memory. On
        MemoryError nothing has changed."""
        sizes = [int(np.prod(shape[1:])) for shape in self._shapes]
        g, is_on_gpu = self._ggml, self._is_on_gpu
        context = g.init(InitParams(g.tensor_overhead() * (len(sizes) * len(is_on_gpu) + 8), None, True))
        if not context:
            raise MemoryError
        buffers = []
        grown: list[list[Floats | GpuPart]] = []
        try:
            for on_gpu in is_on_gpu:
                make: Callable[[int, int], Floats | GpuPart] = partial(GpuPart, g, context) if on_gpu else _aligned
                grown.append([make(slots, size) for size in sizes])
            if any(is_on_gpu):
                buffers.append(g.backend_alloc_ctx_tensors_from_buft(context, self._gpu_buffer_type))
                if not buffers[0]:
                    raise MemoryError
        except MemoryError:
            g.free(context)
            raise
        for old, new in zip(self._parts, grown, strict=False):
            for source, target in zip(old, new, strict=True):
                for slot in range(len(source)):
                    target[slot] = source[slot]
        self.close()
        self._parts, self._context, self._buffers = grown, context, buffers
        self.tensors = [[self._tensor(part, slots) for part in row] for row in grown]

    def _tensor(self, part: Floats | GpuPart, slots: int) -> Any:
        if isinstance(part, GpuPart):
            return part.tensor
        g = self._ggml
        tensor = g.new_tensor_2d(self._context, F32, part.shape[1], slots)
        buffer = g.backend_cpu_buffer_from_ptr(part.ctypes.data, part.nbytes)
        g.backend_tensor_alloc(buffer, tensor, part.ctypes.data)
        self._buffers.append(buffer)
        return tensor

    def close(self) -> None:
        """May be called again."""
        for buffer in self._buffers:
            self._ggml.backend_buffer_free(buffer)
        if self._context:
            self._ggml.free(self._context)
        self._buffers, self._context = [], None


class GpuPart:
    """One part of one layer's states on a GPU, ``(slots, size)``: slots are read and written like rows of an array."""

    def __init__(self, ggml: Ggml, context: Any, slots: int, size: int) -> None:
        """Declared in ``context``, which allocates the memory later."""
        self.tensor = ggml.new_tensor_2d(context, F32, size, slots)
        self.shape = (slots, size)
        self._ggml = ggml

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, slot: int) -> Floats:
        values = np.empty(self.shape[1], np.float32)
        self._ggml.backend_tensor_get(self.tensor, values.ctypes.data, slot * values.nbytes, values.nbytes)
        return values

    def __setitem__(self, slot: int, values: Floats) -> None:
        kept = np.ascontiguousarray(values, np.float32)
        self._ggml.backend_tensor_set(self.tensor, kept.ctypes.data, slot * kept.nbytes, kept.nbytes)


def _aligned(slots: int, size: int) -> Floats:
    """Zeros ``(slots, size)`` at an address that ggml accepts (a multiple of 32)."""
    raw = np.zeros(slots * size * ITEM + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + slots * size * ITEM].view(np.float32).reshape(slots, size)
