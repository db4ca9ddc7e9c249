"""Creates the plan of a :class:`~webapp.backends.webgpu.model.WebgpuModel`: which kernels run on which buffers, layer
by layer; uploads the weights meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from webapp.backends.webgpu import sampling, shaders
from webapp.backends.webgpu.device import UNIFORM_SLICE, guarded
from webapp.backends.webgpu.model import Dispatch, Pass, Product, WebgpuModel, padded
from webapp.backends.webgpu.sampling import GpuSampler
from webapp.backends.webgpu.weights import BITS, Weights, misshapen, packed_bytes, widened
from webapp.engine.backend import ProgressCallback
from webapp.engine.state import RecurrentState
from webapp.errors import OutOfMemory
from webapp.i18n import Text

if TYPE_CHECKING:
    from webapp.weights.checkpoint import Checkpoint

FloatArray = NDArray[np.float32]

MAX_SEGMENTS = 7
COMPILING_S = 0.2
"""Seconds between two reports of how many pipelines are compiled."""


class Matrix(NamedTuple):
    """One segment of a matrix product. Planes are counted in units of ``chunk`` tokens x the width of ``x``/``y``:
    ``x`` and ``y`` are (offset, stride) in floats."""

    name: str
    x: tuple[int, int]
    y: tuple[int, int]
    activation: str = "none"
    bits: np.ndarray | None = None
    """``(rows, inputs)``, used instead of the tensor with this name."""
    rows: range | None = None
    """Selected rows; None is all."""


class Part(NamedTuple):
    """Rows of a matrix that fit into one binding. ``values``: the whole matrix; None if the packed file has it."""

    matrix: Matrix
    values: np.ndarray | None
    rows: range
    inputs: int

    def packed_bytes(self, kind: str) -> tuple[int, int]:
        return packed_bytes(kind, padded(len(self.rows)) * padded(self.inputs))


class Loader:
    """Creates a model's plan from a file's tensors."""

    def __init__(self, model: WebgpuModel, source: Checkpoint, progress: ProgressCallback) -> None:
        self._model, self._gpu = model, model.gpu
        self._config, self._layout = model.config, model.layout
        self._weights = Weights(source, model.layout, model.gpu, progress)
        self._mid: Any = None
        self._deep: Any = None
        self._uniforms = self._gpu.buffer(UNIFORM_SLICE * (24 * self._config.n_layer + 64), is_uniform=True)
        self._uniform_count = 0

    def read(self) -> None:
        model = self._model
        self._compile_ahead()
        with self._weights as weights:
            self._read_embedding()
            ranks = self._low_ranks()
            self._mid = self._gpu.buffer(4 * model.chunk * (4 * self._config.n_att + ranks))
            self._deep = self._gpu.buffer(4 * model.chunk * (model.hidden + self._config.n_embd))
            for layer in range(self._config.n_layer):
                self._read_layer(layer)
            self._read_head()
            self._read_initial_state()
            for code in sampling.KERNELS:
                self._pipeline(code)
            model.sampler = GpuSampler(self._gpu, self._config.vocab_size, model.head_parts, self._layout.slots)
            with guarded():
                self._gpu.wait(model.x)
            model.weight_bytes = weights.sent_bytes + model.embedding.nbytes
            weights.finish()

    def _compile_ahead(self) -> None:
        """In parallel with reading the file."""
        config = self._config
        kinds = {self._weights.kind(0, "blocks.0.att.output.weight"), self._weights.kind(-1, "head.weight")}
        for kind in sorted(kinds):
            for count in shaders.TOKENS_AT_ONCE:
                self._gpu.compile(shaders.matvec(kind, count))
            self._gpu.compile(shaders.matmul_tile(kind))
        for code in (shaders.NORM, shaders.SHIFT, shaders.KEEP, self._attention_code(), *sampling.KERNELS):
            self._gpu.compile(code)
        if config.major == 6:
            self._gpu.compile(shaders.SHIFT_6)

    def _attention_code(self) -> str:
        config = self._config
        if config.major == 4:
            return shaders.ATTENTION_4
        return (shaders.attention_7 if config.major == 7 else shaders.attention_5_6)(config.head_size)

    def _low_ranks(self) -> int:
        """Floats per token for the intermediate results of all low-rank matrices, the maximum of any layer."""
        most = 0
        for layer in range(self._config.n_layer):
            att = f"blocks.{layer}.att."
            if self._config.major == 7:
                names = [f"{att}{letter}1" for letter in ("wavg" if layer else "wag")]
                most = max(most, sum(padded(self._weights.shape(name)[1]) for name in names))
            elif self._config.major == 6:
                shift, decay = (
                    self._weights.shape(f"{att}time_maa_w1")[1],
                    self._weights.shape(f"{att}time_decay_w1")[1],
                )
                most = max(most, 5 * padded(shift // 5), padded(decay))
        return most

    def _read_embedding(self) -> None:
        """In 16 bits, in the file's format if possible."""
        config, name = self._config, "emb.weight"
        bits = self._weights.array(name, (config.vocab_size, config.n_embd))
        if bits.dtype == np.float64:
            bits = bits.astype(np.float32)
        self._model.embedding = np.array(bits)
        self._weights.count(name)
        norm = [self._weights.vector(f"blocks.0.ln0.{part}", config.n_embd) for part in ("weight", "bias")]
        self._model.embedding_norm = norm[0], norm[1]

    def _read_layer(self, layer: int) -> None:
        model, config, block = self._model, self._config, f"blocks.{layer}."
        width, state = config.n_embd, model.states[layer]
        slot4 = model.slot_floats // 4
        self._norm(f"{block}ln1", model.x, model.attention_x)
        if config.major == 7:
            self._attention_7(layer, f"{block}att.")
        elif config.major == 6:
            self._attention_6(layer, f"{block}att.")
        else:
            self._attention_4_5(layer, f"{block}att.")
        output = f"{block}att.output.weight"
        self._product(layer, [Matrix(output, (0, config.n_att), (0, width))], model.y, model.x, "add")
        self._norm(f"{block}ln2", model.x, model.ffn_x)
        self._shift([f"{block}ffn.{name}" for name in self._ffn_mixes()], state, width // 4, model.ffn_x)
        self._dispatch(
            shaders.KEEP,
            [(width // 4, slot4, 0, width // 4)],
            {2: model.sequences, 3: model.attention_x, 4: model.ffn_x, 5: state},
            lambda now: (-(-width // 256), now.sequences),
        )
        plane, hidden = model.chunk * width, model.hidden
        into = [Matrix(f"{block}ffn.key.weight", (0, width), (0, hidden), "relu2")]
        gate = model.chunk * hidden
        if config.major < 7:
            into.append(Matrix(f"{block}ffn.receptance.weight", (plane, width), (gate, width), "sigmoid"))
        self._product(layer, into, model.shifted, self._deep, "set")
        value = Matrix(f"{block}ffn.value.weight", (0, hidden), (0, width))
        if config.major == 7:
            self._product(layer, [value], self._deep, model.x, "add")
        else:
            self._product(layer, [value], self._deep, model.x, "multiply_add", (self._deep, gate))

    def _ffn_mixes(self) -> list[str]:
        if self._config.major == 7:
            return ["x_k"]
        return [f"time_{'maa' if self._config.major == 6 else 'mix'}_{letter}" for letter in "kr"]

    def _attention_7(self, layer: int, att: str) -> None:
        model, config = self._model, self._config
        width, wide, chunk = config.n_embd, config.n_att, model.chunk
        mixes = "rwkvag"
        self._shift([f"{att}x_{letter}" for letter in mixes], model.states[layer], 0, model.attention_x)
        places = {letter: (mixes.index(letter) * chunk * width, width) for letter in mixes}
        into = [
            Matrix(f"{att}{name}.weight", places[name[0]], (i * chunk * wide, wide))
            for i, name in enumerate(("receptance", "key", "value"))
        ]
        out, at = [], 4 * chunk * wide
        activations = {"w": "tanh", "g": "sigmoid"}
        for index, letter in enumerate("wagv"):
            if letter == "v" and not layer:
                continue
            down, up = (
                self._weights.low_rank(f"{att}{letter}1", width),
                self._weights.low_rank(f"{att}{letter}2", None, wide),
            )
            rank = padded(down.shape[0])
            if up.shape[1] != down.shape[0]:
                self._weights.refuse(Text("reason.backends.low_rank_mismatch"))
            middle = (at, rank)
            into.append(Matrix(f"{att}{letter}1", places[letter], middle, activations.get(letter, "none"), down))
            out.append(Matrix(f"{att}{letter}2", middle, (index * chunk * wide, wide), bits=up))
            at += chunk * rank
        self._product(layer, into, model.shifted, self._mid, "set")
        self._product(layer, out, self._mid, model.low, "set")
        names = ["w0", "a0", "v0" if layer else "", "k_k", "k_a", "r_k", "ln_x.weight", "ln_x.bias"]
        vectors = [self._weights.vector(att + name, wide) if name else np.zeros(wide, np.float32) for name in names]
        self._attention(layer, vectors, (config.n_head, int(layer == 0), 0, 0))

    def _attention_6(self, layer: int, att: str) -> None:
        model, config = self._model, self._config
        width, wide, chunk = config.n_embd, config.n_att, model.chunk
        plane = chunk * width
        down, up = self._weights.array(f"{att}time_maa_w1"), self._weights.array(f"{att}time_maa_w2")
        rank = down.shape[-1] // 5
        if down.shape != (width, 5 * rank) or up.shape != (5, rank, width):
            self._weights.refuse(misshapen(f"{att}time_maa_w2"))
        self._shift([f"{att}time_maa_x"], model.states[layer], 0, model.attention_x, with_difference=True)
        # The difference is stored behind the planes for the five shifts.
        middle = 4 * chunk * wide
        stride = padded(rank)
        downs = [
            Matrix(
                f"{att}time_maa_w1", (0, width), (middle + i * chunk * stride, stride), "tanh",
                down[:, i * rank : (i + 1) * rank].T,
            )
            for i in range(5)
        ]  # fmt: skip
        self._product(layer, downs, model.shifted, self._mid, "set")
        ups = [
            Matrix(f"{att}time_maa_w2", (middle + i * chunk * stride, stride), (i * plane, width), bits=up[i].T)
            for i in range(5)
        ]
        self._product(layer, ups, self._mid, model.low, "set")
        mixes = np.concatenate([self._weights.vector(f"{att}time_maa_{letter}", width) for letter in "wkvrg"])
        self._dispatch(
            shaders.SHIFT_6,
            [(width // 4, plane // 4, plane // 4, 0)],
            {2: self._weights.upload(mixes), 3: model.attention_x, 4: model.low, 5: model.shifted},
            lambda now: (-(-width // 256), now.tokens),
        )
        decay_down, decay_up = (
            self._weights.low_rank(f"{att}time_decay_w1", width),
            self._weights.low_rank(f"{att}time_decay_w2"),
        )
        if decay_up.shape != (wide, decay_down.shape[0]):
            self._weights.refuse(misshapen(f"{att}time_decay_w2"))
        stride = padded(decay_down.shape[0])
        places = {"w": 0, "k": 1, "v": 2, "r": 3, "g": 4}
        into = self._four(att, {letter: (place * plane, width) for letter, place in places.items()}, True)
        into.append(Matrix(f"{att}time_decay_w1", (0, width), (middle, stride), "tanh", decay_down))
        self._product(layer, into, model.shifted, self._mid, "set")
        out = Matrix(f"{att}time_decay_w2", (middle, stride), (0, wide), bits=decay_up)
        self._product(layer, [out], self._mid, model.low, "set")
        vectors = [
            self._weights.vector(att + name, wide) for name in ("time_decay", "time_faaaa", "ln_x.weight", "ln_x.bias")
        ]
        self._attention(layer, vectors, (config.n_head, 1, 1, 0))

    def _attention_4_5(self, layer: int, att: str) -> None:
        model, config = self._model, self._config
        width, wide = config.n_embd, config.n_att
        has_gate = config.architecture in ("5.1", "5.2")
        mixes = "rkvg" if has_gate else "rkv"
        self._shift([f"{att}time_mix_{letter}" for letter in mixes], model.states[layer], 0, model.attention_x)
        places = {letter: (mixes.index(letter) * model.chunk * width, width) for letter in mixes}
        self._product(layer, self._four(att, places, has_gate), model.shifted, self._mid, "set")
        first = "time_first" if config.architecture in ("4", "5.0") else "time_faaaa"
        decay, bonus = (self._weights.vector(att + name).astype(np.float64) for name in ("time_decay", first))
        if config.major == 4:
            decay = -np.exp(decay)
        else:
            decay = np.exp(-np.exp(decay))
            bonus = np.exp(bonus) if config.architecture == "5.0" else bonus
        vectors = []
        for name, values in (("time_decay", decay), (first, bonus)):
            if values.size not in (config.n_head, wide):
                self._weights.refuse(misshapen(att + name))
            vectors.append(np.repeat(values, wide // values.size).astype(np.float32))
        if config.major == 5:
            vectors += [self._weights.vector(f"{att}ln_x.{part}", wide) for part in ("weight", "bias")]
        self._attention(layer, vectors, (config.n_head, 0, int(has_gate), 0))

    def _four(self, att: str, places: dict[str, tuple[int, int]], has_gate: bool) -> list[Matrix]:
        """r, k, v and g of RWKV-4 to 6, in the planes of mid."""
        wide, chunk = self._config.n_att, self._model.chunk
        names = ("receptance", "key", "value", "gate") if has_gate else ("receptance", "key", "value")
        activations = {"gate": "silu"} | ({"receptance": "sigmoid"} if self._config.major == 4 else {})
        return [
            Matrix(f"{att}{name}.weight", places[name[0]], (i * chunk * wide, wide), activations.get(name, "none"))
            for i, name in enumerate(names)
        ]

    def _attention(self, layer: int, vectors: Sequence[FloatArray], flags: tuple[int, int, int, int]) -> None:
        model, config = self._model, self._config
        wide, plane = config.n_att, model.chunk * config.n_att
        slot, heads = model.slot_floats, 2 * config.n_embd
        if config.major > 4:
            slot, heads = slot // 4, heads // 4
        across = -(-wide // 64) if config.major == 4 else config.n_head
        places = {
            2: model.sequences, 3: self._weights.upload(np.concatenate(vectors)), 4: self._mid,
            5: model.low, 6: model.states[layer], 7: model.y,
        }  # fmt: skip
        params = [(wide, plane, slot, heads), flags]
        self._dispatch(self._attention_code(), params, places, lambda now: (across, now.sequences))

    def _read_head(self) -> None:
        model, config = self._model, self._config
        width = config.n_embd
        norm = np.concatenate([self._weights.vector(f"ln_out.{part}", width) for part in ("weight", "bias")])
        self._dispatch(
            shaders.NORM,
            [(width // 4, 1, 0, 0)],
            {2: self._weights.upload(norm), 3: model.line, 4: model.x, 5: model.last},
            lambda now: (now.lines, 1),
        )
        bits = self._weights.array("head.weight", (config.vocab_size, width))
        kind = self._weights.kind(-1, "head.weight")
        # Both the weights and the resulting logits must fit into a binding.
        rows = min(self._most_rows(kind, width), model.binding_bytes // (4 * model.chunk) // 32 * 32)
        for start in range(0, config.vocab_size, rows):
            part = range(start, min(start + rows, config.vocab_size))
            logits = self._gpu.buffer(4 * model.chunk * padded(len(part)))
            model.head_parts.append((logits, start, len(part)))
            matrix = Matrix("head.weight", (0, width), (0, padded(len(part))), bits=bits, rows=part)
            self._product(-1, [matrix], model.last, logits, "set", plan=model.head)

    def _read_initial_state(self) -> None:
        config = self._config
        names = [f"blocks.{layer}.att.time_state" for layer in range(config.n_layer)]
        state = RecurrentState.zeros(config)
        if config.major > 4 and self._weights.names.issuperset(names):
            matrices = np.stack([widened(self._weights.array(name)) for name in names])
            state = RecurrentState.from_time_state(config, matrices)
        self._model.set_blank(state)

    # parts of the plan

    def _norm(self, name: str, x: Any, y: Any) -> None:
        width = self._config.n_embd
        values = np.concatenate([self._weights.vector(f"{name}.{part}", width) for part in ("weight", "bias")])
        places = {2: self._weights.upload(values), 3: self._model.line, 4: x, 5: y}
        self._dispatch(shaders.NORM, [(width // 4, 0, 0, 0)], places, lambda now: (now.tokens, 1))

    def _shift(self, names: Sequence[str], state: Any, offset4: int, x: Any, with_difference: bool = False) -> None:
        """RWKV-4 and 5 store the factor of the present token, 6 and 7 that of the previous one."""
        model, width = self._model, self._config.n_embd
        mixes = [self._weights.vector(name, width) for name in names]
        if self._config.major < 6:
            mixes = [1 - mix for mix in mixes]
        plane4 = model.chunk * width // 4
        self._dispatch(
            shaders.SHIFT,
            [(width // 4, len(names), plane4, int(with_difference)), (model.slot_floats // 4, offset4, 0, 0)],
            {2: model.tags, 3: self._weights.upload(np.concatenate(mixes)), 4: state, 5: x, 6: model.shifted},
            lambda now: (-(-width // 256), now.tokens),
        )

    def _product(
        self,
        layer: int,
        matrices: Sequence[Matrix],
        x: Any,
        y: Any,
        epilogue: str,
        multiplied: tuple[Any, int] | None = None,
        plan: list[Any] | None = None,
    ) -> None:
        """Matrices with the same format share a dispatch if their weights fit into one binding."""
        groups: dict[str, list[Part]] = {}
        for matrix in matrices:
            name = matrix.name
            kind = self._weights.kind(layer, name)
            values = matrix.bits
            if values is None:
                shape = self._weights.shape(name)
                self._check_shape(layer, name, shape)
                values = None if self._weights.is_kept(name) else self._weights.array(name)
            else:
                shape = values.shape[0], values.shape[1]
                kind = "bf16" if kind == "fp16" and values.dtype == np.uint16 else kind
            most = self._most_rows(kind, shape[1])
            wanted = matrix.rows or range(shape[0])
            for start in range(wanted.start, wanted.stop, most):
                rows = range(start, min(start + most, wanted.stop))
                part = matrix._replace(y=(matrix.y[0] + start - wanted.start, matrix.y[1]))
                groups.setdefault(kind, []).append(Part(part, values, rows, shape[1]))
        for kind, parts in groups.items():
            held: list[Part] = []
            size = 0
            for one in parts:
                needed = one.packed_bytes(kind)[0]
                if held and (size + needed > self._model.binding_bytes or len(held) == MAX_SEGMENTS):
                    self._add_product(kind, held, x, y, epilogue, multiplied, plan)
                    held, size = [], 0
                held.append(one)
                size += needed
            self._add_product(kind, held, x, y, epilogue, multiplied, plan)

    def _add_product(
        self,
        kind: str,
        parts: Sequence[Part],
        x: Any,
        y: Any,
        epilogue: str,
        multiplied: tuple[Any, int] | None,
        plan: list[Any] | None,
    ) -> None:
        counts = [part.packed_bytes(kind) for part in parts]
        values = self._gpu.buffer(sum(count for count, _ in counts))
        scales = self._gpu.buffer(max(16, sum(count for _, count in counts)))
        self._weights.sent_bytes += sum(map(sum, counts))
        lines = plan is not None
        params = [(len(parts), shaders.EPILOGUES[epilogue], int(lines), multiplied[1] // 4 if multiplied else 0)]
        group = tiles = products = value_at = scale_at = 0
        for (matrix, held, rows, columns), (value_bytes, scale_bytes) in zip(parts, counts, strict=True):
            rows4, inputs = -(-len(rows) // 4), padded(columns)
            base = value_at * 8 // BITS[kind] // 4
            params.append((group, base, inputs // 4, shaders.ACTIVATIONS[matrix.activation]))
            params.append((matrix.x[0] // 4, matrix.x[1] // 4, matrix.y[0] // 4, matrix.y[1] // 4))
            self._weights.send(kind, matrix.name, rows, columns, held, (values, value_at), (scales, scale_at))
            value_at, scale_at = value_at + value_bytes, scale_at + scale_bytes
            group, tiles, products = group + rows4, tiles + -(-rows4 // 8), products + 4 * rows4 * inputs
        params.append((group, 0, 0, 0))
        uniform = self._uniform(params)
        m = multiplied[0] if multiplied else self._model.nothing
        places = {0: self._model.run_uniform, 1: uniform, 2: values, 3: scales, 4: x, 5: m, 6: y}
        codes = {count: shaders.matvec(kind, count) for count in shaders.TOKENS_AT_ONCE}
        if not lines:
            codes[0] = shaders.matmul_tile(kind)
        variants = {count: (self._pipeline(code), self._gpu.bind(code, places)) for count, code in codes.items()}
        target = self._model.plan if plan is None else plan
        target.append(Product(variants, group, tiles, products))

    def _dispatch(
        self,
        code: str,
        params: Sequence[tuple[int, int, int, int]],
        places: dict[int, Any],
        grid: Callable[[Pass], tuple[int, int]],
    ) -> None:
        pipeline = self._pipeline(code)
        group = self._gpu.bind(code, {0: self._model.run_uniform, 1: self._uniform(params), **places})
        self._model.plan.append(Dispatch(pipeline, group, grid))

    def _pipeline(self, code: str) -> Any:
        compiled = self._gpu.compile(code)
        while wait([compiled], COMPILING_S).not_done:
            self._weights.report("compiling", *self._gpu.compiled())
        return compiled.result()[0]

    def _uniform(self, params: Sequence[tuple[int, int, int, int]]) -> Any:
        values = np.zeros((UNIFORM_SLICE // 16, 4), np.uint32)
        values[: len(params)] = params
        offset = self._uniform_count * UNIFORM_SLICE
        if offset + UNIFORM_SLICE > self._uniforms.size:
            self._uniforms, self._uniform_count, offset = self._gpu.buffer(64 * UNIFORM_SLICE, is_uniform=True), 0, 0
        self._uniform_count += 1
        self._gpu.write(self._uniforms, offset, values)
        return self._uniforms, offset, UNIFORM_SLICE

    def _most_rows(self, kind: str, inputs: int) -> int:
        """The number of rows that fit into one binding, a multiple of 32."""
        one = packed_bytes(kind, 32 * padded(inputs))[0]
        rows = self._model.binding_bytes // one * 32
        if not rows:
            raise OutOfMemory(reason=Text("reason.webgpu.binding_too_small"))
        return rows

    def _check_shape(self, layer: int, name: str, shape: tuple[int, ...]) -> None:
        """Compares with the model's sizes, for matrices in layers (the others were checked before)."""
        config, part = self._config, name.partition(f"blocks.{layer}.")[2]
        width, wide, hidden = config.n_embd, config.n_att, config.n_ffn
        expected = {
            "att.output.weight": (width, wide),
            "ffn.key.weight": (hidden, width),
            "ffn.value.weight": (width, hidden),
            "ffn.receptance.weight": (width, width),
        }
        expected |= {f"att.{each}.weight": (wide, width) for each in ("receptance", "key", "value", "gate")}
        if part in expected and shape != expected[part]:
            self._weights.refuse(misshapen(name))
