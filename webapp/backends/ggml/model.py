"""One model in ggml's memory and the states of its slots: loads tensor by tensor, runs ragged steps."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.backends.ggml.graph import BY_INDEX, F32, GROUP_NORM_EPS, ITEM, Graph, Group, Weights, build
from webapp.backends.ggml.library import Ggml, InitParams
from webapp.backends.ggml.weights import WeightSource, WeightTensor, is_on_gpu
from webapp.backends.machine import FreeThreads
from webapp.engine.backend import LoadProgress, ProgressCallback, Row, line_starts
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import BackendUnavailable, EngineCrashed, OutOfMemory
from webapp.i18n import Text
from webapp.weights.adapter import AdapterChoice
from webapp.weights.ggml_header import GGML_TYPES

Floats = NDArray[np.float32]

UNROLLED_TOKENS = 16
"""Tokens of an RWKV-4 row in one graph: its recurrence is unrolled token by token."""
MAX_GRAPHS = 16
MAX_GRAPH_BYTES = 256 * 2**20
"""Limits of the cache of built graphs, which the next step of the same shape uses: number and total size."""
FIRST_SLOTS = 4
REPACKED = ("q4_0", "q4_k")
"""Types for which ggml has a faster order for AVX2, eight rows interleaved."""
REPACKED_ROWS = 8
REPACK = b"CPU_REPACK"


class GgmlModel:
    """One model and its slots. Not thread-safe."""

    def __init__(
        self, ggml: Ggml, config: ModelConfig, threads: FreeThreads | int, max_slots: int, gpu_layers: int = 0
    ) -> None:
        """``gpu_layers``: how many of the last layers, with the head, are on a GPU. Raises BackendUnavailable if ggml
        finds none."""
        self.config = config
        self.first_gpu_layer = config.n_layer - min(gpu_layers, config.n_layer)
        self._free_threads = threads if isinstance(threads, FreeThreads) else None
        self.threads = threads.most if isinstance(threads, FreeThreads) else threads
        self._ggml = ggml
        self._max_slots = max_slots
        self._contexts: list[Any] = []
        self._buffers: list[Any] = []
        self._graphs: OrderedDict[tuple[Any, ...], Graph] = OrderedDict()
        self._initial = RecurrentState.zeros(config)
        self._weights = Weights({}, [])
        self._used: set[int] = set()
        self._backend: Any = None
        self._buffer_type = ggml.backend_cpu_buffer_type()
        self.weight_bytes = 0
        self.gpu_weight_bytes = 0
        self.gpu_name = ""
        self._gpu: Any = None
        self._gpu_buffer_type: Any = None
        if gpu_layers:
            self._start_gpu()
        self._states = States(ggml, config, self._gpu_buffer_type, self.first_gpu_layer)
        self._backend = ggml.backend_cpu_init()
        if not self._backend:
            raise _no_memory()
        ggml.backend_cpu_set_n_threads(self._backend, self.threads)

    def _start_gpu(self) -> None:
        found = self._ggml.gpu()
        if found is None:
            raise BackendUnavailable(
                backend="rwkv.cpp",
                reason=Text("reason.backends.ggml_found_no_gpu"),
                way_out=Text("reason.backends.leave_gpu_layers_out"),
            )
        self.gpu_name = found.description
        self._gpu = self._ggml.backend_dev_init(found.device, None)
        if not self._gpu:
            raise _no_memory()
        self._gpu_buffer_type = self._ggml.backend_dev_buffer_type(found.device)

    @classmethod
    def load(
        cls,
        ggml: Ggml,
        path: str,
        config: ModelConfig,
        wanted: str,
        threads: FreeThreads | int,
        max_slots: int,
        progress: ProgressCallback,
        group_norm_eps: float = GROUP_NORM_EPS,
        adapter: AdapterChoice | None = None,
        gpu_layers: int = 0,
    ) -> GgmlModel:
        """``wanted``: the dtype for a checkpoint's matrices; .bin and .gguf keep theirs. Raises WeightsError,
        OutOfMemory, and exceptions of ``progress``."""
        model = cls(ggml, config, threads, max_slots, gpu_layers)
        try:
            with WeightSource(path, wanted, ggml, adapter) as source:
                model._read(source, progress)
            model._weights.group_norm_eps = group_norm_eps
            model._grow(FIRST_SLOTS)
        except BaseException:
            model.close()
            raise
        return model

    def close(self) -> None:
        """May be called again."""
        self._forget_graphs()
        self._states.close()
        for buffer in self._buffers:
            self._ggml.backend_buffer_free(buffer)
        for context in self._contexts:
            self._ggml.free(context)
        self._buffers, self._contexts = [], []
        if self._gpu:
            self._ggml.backend_free(self._gpu)
            self._gpu = None
        if self._backend:
            self._ggml.backend_free(self._backend)
            self._backend = None

    def __del__(self) -> None:
        if hasattr(self, "_states"):
            self.close()

    # slots

    def new_slot(self) -> int:
        """Raises OutOfMemory if all are in use."""
        slot = next((number for number in range(self._max_slots) if number not in self._used), None)
        if slot is None:
            raise _no_memory()
        if slot >= self._states.capacity:
            self._grow(min(2 * self._states.capacity, self._max_slots))
        self._used.add(slot)
        self.write_state(slot, self._initial)
        return slot

    def _grow(self, slots: int) -> None:
        """Raises OutOfMemory."""
        self._forget_graphs()
        try:
            self._states.grow(slots)
        except MemoryError as exc:
            raise _no_memory() from exc
        self._weights.states = self._states.tensors

    def free_slot(self, slot: int) -> None:
        """Raises KeyError if it is not in use."""
        self._used.remove(slot)

    def copy_slot(self, source: int, target: int) -> None:
        self._check_slot(source)
        self._states.copy(source, target)

    def save(self, slot: int) -> Floats:
        """The slot's state in this model's own layout."""
        self._check_slot(slot)
        return self._states.save(slot)

    def restore(self, slot: int, saved: Floats) -> None:
        self._check_slot(slot)
        self._states.restore(slot, saved)

    def read_state(self, slot: int) -> RecurrentState:
        self._check_slot(slot)
        return self._states.read(slot)

    def write_state(self, slot: int, state: RecurrentState) -> None:
        self._check_slot(slot)
        self._states.write(slot, state)

    # running

    def step(self, batch: Sequence[Row]) -> Floats:
        """``(lines, vocab_size)``, valid until the next step. Raises ValueError or KeyError for an invalid token or
        slot before anything runs; EngineCrashed if ggml failed in the middle of a step."""
        self._check(batch)
        starts = line_starts(batch)
        if not self._is_unrolled(batch):
            return self._run([(row.slot, row.token_ids, row.want) for row in batch])
        kept = {row.slot: self.save(row.slot) for row in batch}
        try:
            return self._run_in_pieces(batch, starts)
        except OutOfMemory:
            for slot, saved in kept.items():
                self.restore(slot, saved)
            raise

    def _run_in_pieces(self, batch: Sequence[Row], starts: list[int]) -> Floats:
        """Runs the long rows of RWKV-4 in pieces with a limited number of tokens each."""
        logits = np.empty((starts[-1], self.config.vocab_size), np.float32)
        longest = max(len(row.token_ids) for row in batch)
        for start in range(0, longest, UNROLLED_TOKENS):
            pieces: list[tuple[int, Sequence[int], str]] = []
            lines: list[int] = []
            for row, line in zip(batch, starts, strict=False):
                ids = row.token_ids[start : start + UNROLLED_TOKENS]
                if ids:
                    is_end = start + len(ids) == len(row.token_ids)
                    want = row.want if row.want != "last" or is_end else "nothing"
                    pieces.append((row.slot, ids, want))
                    first = line + (start if want == "all" else 0)
                    lines += range(first, first + (len(ids) if want == "all" else want == "last"))
            logits[lines] = self._run(pieces)
        return logits

    def _is_unrolled(self, batch: Sequence[Row]) -> bool:
        return self.config.major == 4 and any(len(row.token_ids) > UNROLLED_TOKENS for row in batch)

    def _run(self, rows: Sequence[tuple[int, Sequence[int], str]]) -> Floats:
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i][1]), rows[i][0]))
        groups: list[Group] = []
        members: list[list[int]] = []
        for i in order:
            length = len(rows[i][1])
            if not groups or groups[-1].tokens != length:
                groups.append(Group(length, 0, rows[i][0]))
                members.append([])
            members[-1].append(i)
            last = groups[-1]
            is_next = last.first != BY_INDEX and rows[i][0] == last.first + last.rows
            groups[-1] = Group(length, last.rows + 1, last.first if is_next else BY_INDEX)
        graph, lines = self._graph(groups, members, rows)
        if self._free_threads is not None:
            self._ggml.backend_cpu_set_n_threads(self._backend, self._free_threads.begin())
        status = graph.compute(self._backend)
        if self._free_threads is not None:
            self._free_threads.end()
        if status == -2:  # GGML_STATUS_ALLOC_FAILED: before the first operation
            raise _no_memory()
        if status:
            raise EngineCrashed(reason=Text("reason.backends.ggml_failed", code=status))
        if not lines:
            return np.empty((0, self.config.vocab_size), np.float32)
        size = len(lines) * self.config.vocab_size
        if graph.scheduler:
            found = np.empty(size, np.float32)
            self._ggml.backend_tensor_get(graph.logits, found.ctypes.data, 0, found.nbytes)
        else:
            found = np.ctypeslib.as_array((ctypes.c_float * size).from_address(self._ggml.get_data(graph.logits)))
        logits = found.reshape(len(lines), self.config.vocab_size)
        return logits if lines == sorted(lines) else logits[np.argsort(lines)]

    def _graph(
        self, groups: list[Group], members: list[list[int]], rows: Sequence[tuple[int, Sequence[int], str]]
    ) -> tuple[Graph, list[int]]:
        """The graph of a step with its inputs filled in, and the number of each wanted line, in the graph's order."""
        starts = line_starts([Row(slot, ids, want) for slot, ids, want in rows])  # type: ignore[arg-type]
        token_ids: list[int] = []
        places: list[int] = []
        lines: list[int] = []
        for group in members:
            for i in group:
                _, ids, want = rows[i]
                if want == "all":
                    places += range(len(token_ids), len(token_ids) + len(ids))
                    lines += range(starts[i], starts[i] + len(ids))
                elif want == "last":
                    places.append(len(token_ids) + len(ids) - 1)
                    lines.append(starts[i])
                token_ids += ids
        graph = self._built(tuple(groups), len(lines))
        self._set(graph.token_ids, np.array(token_ids, np.int32))
        for number, group_members in enumerate(members):
            if graph.read_slots[number] is not None:
                slots = [rows[i][0] for i in group_members]
                self._set(graph.read_slots[number], np.array(slots, np.int32))
                self._set(graph.write_slots[number], np.array(slots, np.int64))
        if graph.line_ids is not None:
            self._set(graph.line_ids, np.array(places, np.int32))
        return graph, lines

    def _built(self, groups: tuple[Group, ...], lines: int) -> Graph:
        key = (groups, lines)
        graph = self._graphs.pop(key, None)
        if graph is None:
            graph = build(self._ggml, self.config, self._weights, groups, lines)
            try:
                if self._gpu:
                    graph.schedule([self._gpu, self._backend])
                else:
                    graph.allocate(self._buffer_type)
            except BaseException:
                graph.close()
                raise
            while self._graphs and (
                len(self._graphs) >= MAX_GRAPHS
                or graph.nbytes + sum(each.nbytes for each in self._graphs.values()) > MAX_GRAPH_BYTES
            ):
                self._graphs.popitem(last=False)[1].close()
        self._graphs[key] = graph
        return graph

    def _set(self, tensor: Any, values: NDArray[Any]) -> None:
        self._ggml.backend_tensor_set(tensor, values.ctypes.data, 0, values.nbytes)

    def _check(self, batch: Sequence[Row]) -> None:
        """An index out of range would end the process inside ggml."""
        slots = [row.slot for row in batch]
        if len(set(slots)) != len(slots) or not self._used.issuperset(slots):
            raise KeyError("the slot is not in use, or named twice")
        for row in batch:
            if not len(row.token_ids) or not 0 <= min(row.token_ids) <= max(row.token_ids) < self.config.vocab_size:
                raise ValueError("a token id outside the vocabulary")

    def _check_slot(self, slot: int) -> None:
        if slot not in self._used:
            raise KeyError("the slot is not in use")

    # loading

    def _read(self, source: WeightSource, progress: ProgressCallback) -> None:
        repack = self._repack_buffer_type()
        first, layers = self.first_gpu_layer, self.config.n_layer
        on_gpu = [tensor for tensor in source.tensors if is_on_gpu(tensor.name, first, layers)]
        others = [tensor for tensor in source.tensors if not is_on_gpu(tensor.name, first, layers)]
        plain = [tensor for tensor in others if not (repack and _is_repacked(tensor))]
        packed = [tensor for tensor in others if repack and _is_repacked(tensor)]
        self.gpu_weight_bytes = sum(tensor.nbytes for tensor in on_gpu)
        self.weight_bytes = sum(tensor.nbytes for tensor in source.tensors)
        done_bytes = done = 0
        places = [(plain, self._buffer_type), (packed, repack), (on_gpu, self._gpu_buffer_type)]
        for tensors, buffer_type in places:
            if not tensors:
                continue
            self._declare(tensors, buffer_type)
            for tensor in tensors:
                progress(LoadProgress(done_bytes, self.weight_bytes, done, len(source.tensors)))
                self._fill(tensor, is_plain=tensors is plain)
                done_bytes, done = done_bytes + tensor.nbytes, done + 1
        progress(LoadProgress(self.weight_bytes, self.weight_bytes, done, done))
        self._weights.rescale_every = source.rescale_every
        ranks = [tensor.dimensions[1] // 5 for tensor in source.tensors if tensor.name.endswith("att.time_maa_w1")]
        self._weights.mix_rank = ranks[0] if ranks else 0
        if source.initial_state is not None:
            self._initial = RecurrentState.from_time_state(self.config, source.initial_state)

    def _declare(self, tensors: list[WeightTensor], buffer_type: Any) -> None:
        g = self._ggml
        context = g.init(InitParams(g.tensor_overhead() * (len(tensors) + 8), None, True))
        if not context:
            raise _no_memory()
        self._contexts.append(context)
        make = {1: g.new_tensor_1d, 2: g.new_tensor_2d, 3: g.new_tensor_3d}
        for tensor in tensors:
            kind, dimensions = GGML_TYPES[tensor.dtype], tensor.dimensions
            self._weights.tensors[tensor.name] = make[len(dimensions)](context, kind, *dimensions)
        buffer = g.backend_alloc_ctx_tensors_from_buft(context, buffer_type)
        if not buffer:
            raise _no_memory()
        self._buffers.append(buffer)

    def _fill(self, tensor: WeightTensor, is_plain: bool) -> None:
        to = self._weights.tensors[tensor.name]
        assert not is_plain or self._ggml.nbytes(to) == tensor.nbytes, tensor.name
        if is_plain:
            tensor.fill(self._ggml.get_data(to))
            return
        data = np.empty(tensor.nbytes, np.uint8)
        tensor.fill(data.ctypes.data)
        self._ggml.backend_tensor_set(to, data.ctypes.data, 0, data.nbytes)

    def _repack_buffer_type(self) -> Any:
        """ggml's buffer type for the AVX2 weight order; None without AVX2 or if this ggml has none."""
        g = self._ggml
        if not g.has("ggml_cpu_has_avx2"):
            return None
        registry = g.backend_cpu_reg()
        address = g.backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        if not address:
            return None
        extra = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)
        found = extra(g.backend_reg_dev_get(registry, 0))
        place = 0
        while found and found[place]:
            if g.backend_buft_name(found[place]) == REPACK:
                return found[place]
            place += 1
        return None

    def _forget_graphs(self) -> None:
        while self._graphs:
            self._graphs.popitem()[1].close()


def _is_repacked(tensor: WeightTensor) -> bool:
    """Whether ggml has a repacked order for the tensor; any other tensor in that buffer would end the process."""
    return (
        tensor.dtype in REPACKED
        and len(tensor.dimensions) == 2
        and tensor.dimensions[1] % REPACKED_ROWS == 0
        and tensor.name != "emb.weight"
    )


def _no_memory() -> OutOfMemory:
    return OutOfMemory(reason=Text("reason.backends.ggml_out_of_memory"))


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
