"""A model on the GPU: its buffers, and a fixed plan of dispatches (from ``loader``) that every step executes.

The embedding and its norm stay in main memory (one row is looked up per token). The states of all slots are on the GPU,
one buffer per layer: for each slot the two previous tokens, then the heads (RWKV-4: aa, bb, pp).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from webapp.backends.webgpu import shaders
from webapp.backends.webgpu.device import Gpu, guarded
from webapp.backends.webgpu.sampling import GpuSampler
from webapp.backends.webgpu.weights import widened
from webapp.engine.backend import ProgressCallback, Row, line_starts
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import OutOfMemory
from webapp.i18n import Text
from webapp.weights.adapter import AdapterChoice, open_model

FloatArray = NDArray[np.float32]

SHORT_ROW = 8
"""Rows with at most this many tokens use the kernel for single tokens, longer rows the kernel for prompts."""
SUBMIT_PRODUCTS = 1.2e10
"""Multiply-adds in one submission: a quarter of a second on a GPU with 100 GFLOPS. Windows resets a driver that is busy
for two seconds."""
FIRST_TOKEN = 1 << 31


class Layout(Struct, frozen=True):
    """How weights are stored and run. ``format``: fp32, fp16 (16 bits, bfloat16 if the file has it), int8 or nf4; for
    the last two, only the first ``quantised_layers`` layers. ``chunk``: tokens that pass the layers together."""

    format: str = "fp16"
    quantised_layers: int = 10_000
    chunk: int = 64
    slots: int = 9
    has_packed_file: bool = False
    """Whether quantised matrices are stored on disk for the next load (:mod:`webapp.backends.packed_file`)."""
    binding_bytes: int = 0
    """A lower limit than the adapter's, for tests; 0 is none."""

    def kind(self, layer: int, name: str) -> str:
        """Head and low-rank matrices are never quantised: they lose the most quality and save the least memory."""
        if self.format == "fp32":
            return "fp32"
        is_big = layer >= 0 and name.endswith(".weight")
        return self.format if is_big and self.format != "fp16" and layer < self.quantised_layers else "fp16"


class Dispatch(Struct, frozen=True):
    """One step of the plan. ``grid``: pass -> workgroups x, y."""

    pipeline: Any
    group: Any
    grid: Callable[[Pass], tuple[int, int]]


class Product(Struct, frozen=True):
    """A matrix product in the plan: one pipeline and bind group for each number of tokens, and one for prompts."""

    variants: dict[int, tuple[Any, Any]]
    groups: int
    tiles: int
    products: int
    """Multiply-adds a token."""


class Pass(NamedTuple):
    """The tokens that pass the layers together."""

    tokens: int
    short_tokens: int
    sequences: int
    lines: int = 0


class _Work(Struct):
    """A pass under construction: (slot, token ids) of short rows, then of long rows, and which tokens need a line."""

    short: list[tuple[int, list[int]]] = field(default_factory=list)
    long: list[tuple[int, list[int]]] = field(default_factory=list)
    lines: list[tuple[bool, int, int]] = field(default_factory=list)
    """(whether it is in a long row, index among the tokens of its kind, line)."""

    def count(self, is_long: bool) -> int:
        return sum(len(ids) for _, ids in (self.long if is_long else self.short))


class WebgpuModel:
    """One model and its slots. Not thread-safe."""

    def __init__(self, config: ModelConfig, layout: Layout, gpu: Gpu) -> None:
        self.config, self.layout, self.gpu = config, layout, gpu
        self.binding_bytes = layout.binding_bytes or gpu.binding_bytes
        self.chunk = layout.chunk
        wide = 3 * config.n_att if config.major == 4 else config.n_att * config.head_size
        self.slot_floats = 2 * config.n_embd + wide
        self.plan: list[Dispatch | Product] = []
        self.head: list[Product] = []
        self.head_parts: list[tuple[Any, int, int]] = []
        """(buffer of logits, first token id, tokens in it)."""
        self.sampler: GpuSampler
        """Set by the loader at its end."""
        self.weight_bytes = 0
        self._free = list(range(layout.slots - 1, -1, -1))
        self._blank = layout.slots
        """An unused slot in the initial state."""
        self._make_buffers()

    @classmethod
    def load(
        cls,
        path: str,
        config: ModelConfig,
        layout: Layout,
        adapter: str,
        progress: ProgressCallback,
        merged: AdapterChoice | None = None,
    ) -> WebgpuModel:
        """``adapter``: the GPU; ``merged``: a LoRA or similar adapter. Raises WeightsError for a tensor that is
        missing, has another shape or is not finite; OutOfMemory; BackendUnavailable; and exceptions of ``progress``."""
        from webapp.backends.webgpu.loader import Loader

        gpu = Gpu(adapter)
        try:
            model = cls(config, layout, gpu)
            with open_model(path, merged) as source:
                Loader(model, source, progress).read()
            return model
        except BaseException:
            gpu.close()
            raise

    def close(self) -> None:
        self.plan, self.head, self.head_parts = [], [], []
        self.gpu.close()

    # slots

    def new_slot(self) -> int:
        if not self._free:
            raise OutOfMemory(reason=Text("reason.webgpu.no_slot_is_free"))
        slot = self._free.pop()
        self.copy_slot(self._blank, slot)
        return slot

    def free_slot(self, slot: int) -> None:
        self._used(slot)
        self._free.append(slot)

    def copy_slot(self, source: int, target: int) -> None:
        """Uses another buffer, because WebGPU cannot copy within one."""
        size = 4 * self.slot_floats
        out = [(state, source * size, self.stage, layer * size, size) for layer, state in enumerate(self.states)]
        back = [(self.stage, layer * size, state, target * size, size) for layer, state in enumerate(self.states)]
        with guarded():
            self.gpu.copy(out + back)

    def read_slot(self, slot: int) -> FloatArray:
        """``(n_layer, slot_floats)``."""
        self._used(slot)
        size = 4 * self.slot_floats
        with guarded():
            self.gpu.copy(
                [(state, slot * size, self.stage, layer * size, size) for layer, state in enumerate(self.states)]
            )
            found = self.gpu.read(self.stage, 0, size * self.config.n_layer)
        return np.frombuffer(found, np.float32).reshape(self.config.n_layer, -1)

    def write_slot(self, slot: int, values: FloatArray) -> None:
        """``(n_layer, slot_floats)``."""
        if slot != self._blank:
            self._used(slot)
        with guarded():
            for state, row in zip(self.states, values, strict=True):
                self.gpu.write(state, slot * 4 * self.slot_floats, np.ascontiguousarray(row, np.float32))

    def read_state(self, slot: int) -> RecurrentState:
        values, width = self.read_slot(slot), self.config.n_embd
        state = RecurrentState.zeros(self.config)
        arrays = state.arrays
        arrays["att_x_prev"][:], arrays["ffn_x_prev"][:] = values[:, :width], values[:, width : 2 * width]
        rest = values[:, 2 * width :]
        if self.config.major == 4:
            for name, part in zip(("att_aa", "att_bb", "att_pp"), np.split(rest, 3, axis=1), strict=True):
                arrays[name][:] = part
        else:
            arrays["att_kv"][:] = rest.reshape(arrays["att_kv"].shape)
        return state

    def write_state(self, slot: int, state: RecurrentState) -> None:
        self.write_slot(slot, self.flat(state))

    def flat(self, state: RecurrentState) -> FloatArray:
        """In the layout of a slot, ``(n_layer, slot_floats)``."""
        arrays, layers = state.arrays, self.config.n_layer
        names = ("att_aa", "att_bb", "att_pp") if self.config.major == 4 else ("att_kv",)
        parts = [arrays[name].reshape(layers, -1) for name in ("att_x_prev", "ffn_x_prev", *names)]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def set_blank(self, state: RecurrentState) -> None:
        self.write_slot(self._blank, self.flat(state))

    def _used(self, slot: int) -> None:
        if not 0 <= slot < self._blank or slot in self._free:
            raise KeyError(slot)

    # running

    def run(self, batch: Sequence[Row]) -> tuple[int, FloatArray | None]:
        """Feeds every row to its slot. Returns the number of logits lines on the GPU, for :meth:`read_lines`; if there
        are more than ``chunk``, also all of their values."""
        self._check(batch)
        starts = line_starts(batch)
        total = starts[-1]
        works = list(self._works(batch, starts))
        if total <= self.chunk:
            with guarded():
                for work in works:
                    self._run_pass(work)
                self._run_head(total)
            return total, None
        logits = np.empty((total, self.config.vocab_size), np.float32)
        with guarded():
            for work in works:
                lines = [line for _, _, line in work.lines]
                work.lines = [(is_long, token, index) for index, (is_long, token, _) in enumerate(work.lines)]
                self._run_pass(work)
                self._run_head(len(lines))
                if lines:
                    logits[lines] = self.read_lines(0, len(lines))
        return total, logits

    def read_lines(self, first: int, count: int) -> FloatArray:
        """``(count, vocab_size)`` of the last step's logits."""
        found = np.empty((count, self.config.vocab_size), np.float32)
        with guarded():
            for buffer, start, tokens in self.head_parts:
                stride = -(-tokens // 4) * 4
                part = self.gpu.read(buffer, 4 * first * stride, 4 * count * stride)
                rows = np.frombuffer(part, np.float32).reshape(count, stride)
                found[:, start : start + tokens] = rows[:, :tokens]
        return found

    def _check(self, batch: Sequence[Row]) -> None:
        seen = set()
        for row in batch:
            self._used(row.slot)
            if row.slot in seen:
                raise KeyError(f"slot {row.slot} is named twice")
            seen.add(row.slot)
            if not row.token_ids:
                raise ValueError("no token to feed")
            if min(row.token_ids) < 0 or max(row.token_ids) >= self.config.vocab_size:
                raise ValueError("a token id outside the vocabulary")

    def _works(self, batch: Sequence[Row], starts: Sequence[int]) -> Iterator[_Work]:
        """Splits the rows into passes of at most ``chunk`` tokens; single tokens first, so that they share a pass."""
        work, room = _Work(), self.chunk
        order = sorted(range(len(batch)), key=lambda index: len(batch[index].token_ids) > SHORT_ROW)
        for index in order:
            row, at = batch[index], 0
            is_long = len(row.token_ids) > SHORT_ROW
            while at < len(row.token_ids):
                if not room:
                    yield work
                    work, room = _Work(), self.chunk
                ids = list(row.token_ids[at : at + room])
                before = work.count(is_long)
                (work.long if is_long else work.short).append((row.slot, ids))
                last = at + len(ids) == len(row.token_ids)
                if row.want == "all":
                    work.lines += [(is_long, before + i, starts[index] + at + i) for i in range(len(ids))]
                elif row.want == "last" and last:
                    work.lines.append((is_long, before + len(ids) - 1, starts[index]))
                at, room = at + len(ids), room - len(ids)
        if room < self.chunk:
            yield work

    def _run_pass(self, work: _Work) -> None:
        rows = work.short + work.long
        short = work.count(False)
        ids = np.concatenate([np.asarray(ids, np.int64) for _, ids in rows])
        tags = np.concatenate([np.full(len(ids), slot, np.uint32) for slot, ids in rows])
        sequences = np.zeros((len(rows), 4), np.uint32)
        at = 0
        for index, (slot, row_ids) in enumerate(rows):
            sequences[index] = at, len(row_ids), slot, 0
            tags[at] |= np.uint32(FIRST_TOKEN)
            at += len(row_ids)
        state = Pass(len(ids), short, len(rows), len(work.lines))
        gpu = self.gpu
        gpu.write(self.run_uniform, 0, np.array([state.tokens, short, state.sequences, state.lines], np.uint32))
        gpu.write(self.tags, 0, tags)
        gpu.write(self.sequences, 0, sequences)
        gpu.write(self.x, 0, self._embedded(ids))
        if work.lines:
            pairs = [(token + (short if is_long else 0), line) for is_long, token, line in work.lines]
            gpu.write(self.line, 0, np.array(pairs, np.uint32))
        self._dispatch(self.plan, state)

    def _run_head(self, lines: int) -> None:
        if lines:
            self.gpu.write(self.run_uniform, 0, np.array([0, 0, 0, lines], np.uint32))
            self._dispatch(self.head, Pass(0, 0, 0, lines))

    def _dispatch(self, plan: Sequence[Dispatch | Product], state: Pass) -> None:
        """Uses several submissions if a single one would block the driver too long."""
        found: list[tuple[Any, Any, int, int]] = []
        products = 0.0
        for step in plan:
            if isinstance(step, Dispatch):
                x, y = step.grid(state)
                if x and y:
                    found.append((step.pipeline, step.group, x, y))
                continue
            count = state.short_tokens or (0 if state.tokens else state.lines)
            if count:
                size = next((size for size in shaders.TOKENS_AT_ONCE if size >= count), shaders.TOKENS_AT_ONCE[-1])
                found.append((*step.variants[size], step.groups, -(-count // size)))
            if state.tokens > state.short_tokens:
                found.append((*step.variants[0], step.tiles, -(-(state.tokens - state.short_tokens) // 32)))
            products += step.products * max(state.tokens, count)
            if products > SUBMIT_PRODUCTS:
                self.gpu.submit(found)
                found, products = [], 0.0
        if found:
            self.gpu.submit(found)

    def _embedded(self, ids: NDArray[np.int64]) -> FloatArray:
        x = widened(self.embedding[ids])
        x -= x.mean(-1, keepdims=True)
        x /= np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-5))
        return np.ascontiguousarray(x * self.embedding_norm[0] + self.embedding_norm[1])

    def _make_buffers(self) -> None:
        config, chunk, gpu = self.config, self.chunk, self.gpu
        width, wide = config.n_embd, config.n_att
        self.hidden = padded(config.n_ffn)

        def floats(count: int) -> Any:
            return gpu.buffer(4 * count)

        self.run_uniform = gpu.buffer(16, is_uniform=True)
        self.tags, self.line = floats(chunk), floats(2 * chunk)
        self.sequences = floats(4 * chunk)
        self.x, self.attention_x, self.ffn_x = (floats(chunk * width) for _ in range(3))
        self.y = floats(chunk * wide)
        self.shifted = floats(7 * chunk * width)
        self.low = floats(5 * chunk * max(width, wide))
        self.last = floats(chunk * width)
        self.nothing = floats(4)
        size = 4 * self.slot_floats * (self.layout.slots + 1)
        self.states = [gpu.buffer(size) for _ in range(config.n_layer)]
        self.stage = gpu.buffer(4 * self.slot_floats * config.n_layer)
        self.embedding: np.ndarray = np.empty((0, width), np.float16)
        self.embedding_norm: tuple[FloatArray, FloatArray] = (np.empty(0, np.float32), np.empty(0, np.float32))


def padded(count: int) -> int:
    """To a multiple of 4 (whole vec4s)."""
    return -(-count // 4) * 4
