"""The computation of RWKV-4 to 7 as ggml graphs, for rows of several lengths at once.

The formulas are those of rwkv.cpp (rwkv_graph.inc). Its graphs accept one sequence or several of equal length; these
accept a ragged step: the tokens of all rows pass each matrix together, and only operations on the past (token shift,
attention) run separately for each group of rows of equal length. Tensors use ggml's order: the row's length first.

D: width, N: head size, H: heads, T: tokens of a row, S: rows of a group; "all": the tokens of the whole step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from webapp.backends.ggml.library import Ggml, InitParams
from webapp.engine.state import ModelConfig
from webapp.errors import OutOfMemory
from webapp.i18n import Text

F32, I32, I64 = 0, 26, 27  # ggml_type
ITEM = 4
NORM_EPS = 1e-5
GROUP_NORM_EPS = 64e-5
"""For the norm of the heads, in all of BlinkDL's code and models. rwkv.cpp uses 1e-5 for RWKV-5."""
L2_EPS = 1e-12
DECAY_V7 = -0.606531  # -exp(-0.5)
BY_INDEX = -1
Tensor = Any


class Group(Struct, frozen=True):
    """``rows`` sequences of ``tokens`` each. ``first``: their slots are this one and the following ones;
    :data:`BY_INDEX`: any slots, given with each step."""

    tokens: int
    rows: int
    first: int

    @property
    def total(self) -> int:
        return self.tokens * self.rows


class Weights(Struct):
    """The inputs of a graph: tensors by rwkv.cpp's names, and one state per layer and part, ``(elements, slots)``.

    ``mix_rank``: of v6's low-rank shift. ``states``: for each layer ffn shift, attention shift, then the matrices, or
    v4's three vectors.
    """

    tensors: dict[str, Tensor]
    states: list[list[Tensor]]
    mix_rank: int = 0
    rescale_every: int = 0
    group_norm_eps: float = GROUP_NORM_EPS


class Graph:
    """One built computation: its inputs, and the position of its logits. ``close`` frees it."""

    def __init__(self, ggml: Ggml, context: Tensor, graph: Tensor) -> None:
        self._ggml = ggml
        self.context = context
        self.graph = graph
        self.allocator: Tensor = None
        self.scheduler: Tensor = None
        self.token_ids: Tensor = None
        self.line_ids: Tensor = None
        self.read_slots: list[Tensor] = []
        self.write_slots: list[Tensor] = []
        self.logits: Tensor = None
        self.nbytes = 0

    def allocate(self, buffer_type: Tensor) -> None:
        """Raises OutOfMemory."""
        self.allocator = self._ggml.gallocr_new(buffer_type)
        if not self.allocator or not self._ggml.gallocr_alloc_graph(self.allocator, self.graph):
            raise OutOfMemory(reason=Text("reason.backends.ggml_out_of_memory"))
        self.nbytes = self._ggml.gallocr_get_buffer_size(self.allocator, 0)

    def schedule(self, backends: Sequence[Tensor]) -> None:
        """Replaces :meth:`allocate` if weights are on several backends, the CPU's last. Raises OutOfMemory."""
        ggml, places = self._ggml, (ctypes.c_void_p * len(backends))(*backends)
        size = ggml.graph_size(self.graph)
        self.scheduler = ggml.backend_sched_new(places, None, len(backends), size, False, False)
        if not self.scheduler or not ggml.backend_sched_alloc_graph(self.scheduler, self.graph):
            raise OutOfMemory(reason=Text("reason.backends.ggml_out_of_memory"))
        self.nbytes = sum(ggml.backend_sched_get_buffer_size(self.scheduler, each) for each in backends)

    def compute(self, backend: Tensor) -> int:
        """Returns ggml's status. ``backend`` is needed if the graph was not scheduled."""
        if self.scheduler:
            return int(self._ggml.backend_sched_graph_compute(self.scheduler, self.graph))
        return int(self._ggml.backend_graph_compute(backend, self.graph))

    def close(self) -> None:
        if self.allocator:
            self._ggml.gallocr_free(self.allocator)
        if self.scheduler:
            self._ggml.backend_sched_free(self.scheduler)
        if self.context:
            self._ggml.free(self.context)
        self.allocator = self.scheduler = self.context = None


def build(ggml: Ggml, config: ModelConfig, weights: Weights, groups: Sequence[Group], lines: int) -> Graph:
    """The graph of one step. ``lines``: number of tokens with logits; 0 for none, all without selection."""
    return _Builder(ggml, config, weights, groups).build(lines)


class _Builder:
    def __init__(self, ggml: Ggml, config: ModelConfig, weights: Weights, groups: Sequence[Group]) -> None:
        self.g = ggml
        self.config = config
        self.w = weights.tensors
        self.weights = weights
        self.groups = groups
        self.all = sum(group.total for group in groups)
        self.starts = [sum(group.total for group in groups[:i]) for i in range(len(groups))]
        nodes = self._most_nodes()
        size = ggml.tensor_overhead() * nodes + ggml.graph_overhead_custom(nodes, False)
        self.c = ggml.init(InitParams(size, None, True))
        if not self.c:
            raise OutOfMemory(reason=Text("reason.backends.ggml_out_of_memory"))
        self.out = Graph(ggml, self.c, ggml.new_graph_custom(self.c, nodes, False))
        self.value_of_first_layer: Tensor = None

    def _most_nodes(self) -> int:
        """A generous limit: if a context is full, ggml ends the process. Counted: 7 has 75 a layer and 27 a group."""
        per_group = 80 if self.config.major > 4 else 60
        unrolled = 50 * sum(group.tokens for group in self.groups) if self.config.major == 4 else 0
        return self.config.n_layer * (200 + per_group * len(self.groups) + unrolled) + 256

    def build(self, lines: int) -> Graph:
        g, c = self.g, self.c
        self.out.token_ids = self._input(I32, self.all)
        for group in self.groups:
            is_indexed = group.first == BY_INDEX
            self.out.read_slots.append(self._input(I32, group.rows) if is_indexed else None)
            self.out.write_slots.append(self._input(I64, group.rows) if is_indexed else None)
        x = self._norm(g.get_rows(c, self.w["emb.weight"], self.out.token_ids), "blocks.0.ln0")
        for layer in range(self.config.n_layer):
            x = self._layer(layer, x)
        if lines:
            if lines < self.all:
                self.out.line_ids = self._input(I32, lines)
                x = g.get_rows(c, x, self.out.line_ids)
            self.out.logits = g.mul_mat(c, self.w["head.weight"], self._norm(x, "ln_out"))
            g.set_output(self.out.logits)
            self._run(self.out.logits)
        return self.out

    def _layer(self, layer: int, x: Tensor) -> Tensor:
        g, c, p = self.g, self.c, f"blocks.{layer}."
        xx = self._norm(x, p + "ln1")
        before, kept = self._shift(layer, 1, xx)
        attention: dict[int, Callable[[int, str, Tensor, Tensor], tuple[Tensor, list[Tensor]]]] = {
            4: self._attention_v4,
            5: self._attention_v5,
            6: self._attention_v6,
            7: self._attention_v7,
        }
        y, states = attention[self.config.major](layer, p + "att.", xx, before)
        x = g.add(c, x, y)
        self._run(x)
        for each in (*kept, *states):
            self._run(each)
        xx = self._norm(x, p + "ln2")
        before, kept = self._shift(layer, 0, xx)
        x = g.add(c, x, self._feed_forward(p + "ffn.", xx, before))
        every = self.weights.rescale_every
        if every and (layer + 1) % every == 0:
            x = g.scale(c, x, 0.5)
        self._run(x)
        for each in kept:
            self._run(each)
        return x

    def _feed_forward(self, p: str, xx: Tensor, before: Tensor) -> Tensor:
        g, c, w, major = self.g, self.c, self.w, self.config.major
        if major >= 6:
            change = g.sub(c, before, xx)
            key = g.add(c, g.mul(c, change, w[p + ("x_k" if major == 7 else "time_maa_k")]), xx)
        else:
            key = self._mixed(p + "time_mix_k", xx, before)
        hidden = g.sqr(c, g.relu(c, g.mul_mat(c, w[p + "key.weight"], key)))
        y = g.mul_mat(c, w[p + "value.weight"], hidden)
        if major == 7:
            return y
        if major == 6:
            gate = g.add(c, g.mul(c, change, w[p + "time_maa_r"]), xx)
        else:
            gate = self._mixed(p + "time_mix_r", xx, before)
        return g.mul(c, g.sigmoid(c, g.mul_mat(c, w[p + "receptance.weight"], gate)), y)

    # attention

    def _attention_v4(self, layer: int, p: str, xx: Tensor, before: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The recurrence is unrolled with about twelve operations per token, because ggml has no operation for it."""
        g, c, w, width = self.g, self.c, self.w, self.config.n_embd
        r = g.sigmoid(c, g.mul_mat(c, w[p + "receptance.weight"], self._mixed(p + "time_mix_r", xx, before)))
        k = g.mul_mat(c, w[p + "key.weight"], self._mixed(p + "time_mix_k", xx, before))
        v = g.mul_mat(c, w[p + "value.weight"], self._mixed(p + "time_mix_v", xx, before))
        parts, states = [], []
        for i, group in enumerate(self.groups):
            aa, bb, pp = (self._state(layer, part, i) for part in (2, 3, 4))
            outputs = None
            for t in range(group.tokens):
                kt, vt = (self._token(i, z, t) for z in (k, v))
                ww = g.add(c, kt, w[p + "time_first"])
                most = self._maximum(pp, ww)
                e1, e2 = g.exp(c, g.sub(c, pp, most)), g.exp(c, g.sub(c, ww, most))
                above = g.add(c, g.mul(c, e1, aa), g.mul(c, e2, vt))
                output = g.div(c, above, g.add(c, g.mul(c, e1, bb), e2))
                ww = g.add(c, pp, w[p + "time_decay"])
                most = self._maximum(ww, kt)
                e1, e2 = g.exp(c, g.sub(c, ww, most)), g.exp(c, g.sub(c, kt, most))
                aa, bb = g.add(c, g.mul(c, e1, aa), g.mul(c, e2, vt)), g.add(c, g.mul(c, e1, bb), e2)
                pp = most
                output = g.reshape_3d(c, output, width, 1, group.rows)
                outputs = output if outputs is None else g.concat(c, outputs, output, 1)
            parts.append(g.reshape_2d(c, outputs, width, group.total))
            for part, value in ((2, aa), (3, bb), (4, pp)):
                states.append(self._keep(layer, part, i, value))
        y = g.mul(c, r, self._joined(parts))
        return g.mul_mat(c, w[p + "output.weight"], y), states

    def _maximum(self, either: Tensor, finite: Tensor) -> Tensor:
        """``either`` starts at -1e30; ``finite`` must not be lost in the sum with it."""
        g, c = self.g, self.c
        return g.add(c, g.relu(c, g.sub(c, either, finite)), finite)

    def _token(self, group: int, x: Tensor, t: int) -> Tensor:
        """The ``t``-th token of each row of a group, ``(D, S)``."""
        width, rows, tokens = self.config.n_embd, self.groups[group].rows, self.groups[group].tokens
        start = (self.starts[group] + t) * width * ITEM
        found = self.g.view_2d(self.c, x, width, rows, width * tokens * ITEM, start)
        return self.g.cont(self.c, found) if tokens > 1 and rows > 1 else found

    def _attention_v5(self, layer: int, p: str, xx: Tensor, before: Tensor) -> tuple[Tensor, list[Tensor]]:
        g, c, w, config = self.g, self.c, self.w, self.config
        r, k, v = (
            g.mul_mat(c, w[f"{p}{name}.weight"], self._mixed(f"{p}time_mix_{name[0]}", xx, before))
            for name in ("receptance", "key", "value")
        )
        gate = None
        if p + "gate.weight" in w:
            gate = g.silu(c, g.mul_mat(c, w[p + "gate.weight"], self._mixed(p + "time_mix_g", xx, before)))
        size, heads = config.head_size, config.n_head
        decay = g.reshape_3d(c, w[p + "time_decay"], size, heads, 1)
        outputs, states = self._recurrence(
            layer,
            lambda i: g.rwkv_wkv6(
                c,
                self._heads(i, k),
                self._heads(i, v),
                self._heads(i, r),
                w[p + "time_faaaa"],
                g.repeat_4d(c, decay, size, heads, self.groups[i].total, 1),
                self._state(layer, 2, i),
            ),
        )
        return self._output(p, self._head_norm(p, outputs), gate), states

    def _attention_v6(self, layer: int, p: str, xx: Tensor, before: Tensor) -> tuple[Tensor, list[Tensor]]:
        g, c, w, width, rank = self.g, self.c, self.w, self.config.n_embd, self.weights.mix_rank
        change = g.sub(c, before, xx)
        shifted = g.add(c, g.mul(c, change, w[p + "time_maa_x"]), xx)
        low = g.reshape_4d(c, g.tanh(c, g.mul_mat(c, w[p + "time_maa_w1"], shifted)), rank, 1, 5, self.all)
        low = g.cont(c, g.permute(c, low, 0, 1, 3, 2))
        shifts = g.mul_mat(c, g.reshape_4d(c, w[p + "time_maa_w2"], rank, width, 1, 5), low)
        mixed = {}
        for place, letter in enumerate("wkvrg"):
            part = self._plane(shifts, place)
            mixed[letter] = g.add(c, g.mul(c, g.add(c, part, w[f"{p}time_maa_{letter}"]), change), xx)
        r, k, v = (g.mul_mat(c, w[f"{p}{name}.weight"], mixed[name[0]]) for name in ("receptance", "key", "value"))
        gate = g.silu(c, g.mul_mat(c, w[p + "gate.weight"], mixed["g"]))
        low = g.tanh(c, g.mul_mat(c, w[p + "time_decay_w1"], mixed["w"]))
        decay = g.add(c, g.mul_mat(c, w[p + "time_decay_w2"], low), w[p + "time_decay"])
        decay = g.exp(c, g.neg(c, g.exp(c, decay)))
        outputs, states = self._recurrence(
            layer,
            lambda i: g.rwkv_wkv6(
                c,
                *(self._heads(i, each) for each in (k, v, r)),
                w[p + "time_faaaa"],
                self._heads(i, decay),
                self._state(layer, 2, i),
            ),
        )
        return self._output(p, self._head_norm(p, outputs), gate), states

    def _attention_v7(self, layer: int, p: str, xx: Tensor, before: Tensor) -> tuple[Tensor, list[Tensor]]:
        g, c, w, config = self.g, self.c, self.w, self.config
        size, heads, total = config.head_size, config.n_head, self.all
        change = g.repeat_4d(c, g.sub(c, before, xx), config.n_embd, total, 6, 1)
        shifted = g.add(c, g.mul(c, change, w[p + "x_rwkvag"]), xx)
        xr, xw, xk, xv, xa, xg = (self._plane(shifted, place) for place in range(6))
        r = g.mul_mat(c, w[p + "receptance.weight"], xr)
        gate = g.mul_mat(c, w[p + "g2"], g.sigmoid(c, g.mul_mat(c, w[p + "g1"], xg)))
        a = g.sigmoid(c, self._low_rank(p + "a", xa))
        low = g.mul_mat(c, w[p + "w2"], g.tanh(c, g.mul_mat(c, w[p + "w1"], xw)))
        decay = g.exp(c, g.scale(c, g.sigmoid(c, g.add(c, low, w[p + "w0"])), DECAY_V7))
        k = g.mul_mat(c, w[p + "key.weight"], xk)
        kk = g.l2_norm(c, g.reshape_3d(c, g.mul(c, k, w[p + "k_k"]), size, heads, total), L2_EPS)
        ka = g.mul(c, k, w[p + "k_a"])
        k = g.add(c, k, g.sub(c, g.mul(c, a, ka), ka))
        v = g.mul_mat(c, w[p + "value.weight"], xv)
        if self.value_of_first_layer is None:
            self.value_of_first_layer = v
        else:
            mix = g.sigmoid(c, self._low_rank(p + "v", xv))
            v = g.add(c, v, g.mul(c, g.sub(c, self.value_of_first_layer, v), mix))
        removed = g.neg(c, kk)
        replaced = g.mul(c, kk, g.reshape_3d(c, a, size, heads, total))
        outputs, states = self._recurrence(
            layer,
            lambda i: g.rwkv_wkv7(
                c, *(self._heads(i, each) for each in (r, decay, k, v, removed, replaced)), self._state(layer, 2, i)
            ),
        )
        y = self._head_norm(p, outputs)
        r, k, v = (g.reshape_3d(c, each, size, heads, total) for each in (r, k, v))
        bonus = g.mul(c, v, g.sum_rows(c, g.mul(c, g.mul(c, k, r), w[p + "r_k"])))
        y = g.add(c, y, g.reshape_2d(c, bonus, config.n_embd, total))
        return self._output(p, y, gate), states

    def _low_rank(self, p: str, x: Tensor) -> Tensor:
        g, c, w = self.g, self.c, self.w
        return g.add(c, g.mul_mat(c, w[p + "2"], g.mul_mat(c, w[p + "1"], x)), w[p + "0"])

    def _recurrence(self, layer: int, run: Callable[[int], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Outputs of all groups ``(D, all)``, and the nodes that write new states. ggml returns both in one tensor."""
        g, c, width = self.g, self.c, self.config.n_embd
        elements = width * self.config.head_size
        outputs, states = [], []
        for i, group in enumerate(self.groups):
            both = run(i)
            outputs.append(g.view_2d(c, both, width, group.total, width * ITEM, 0))
            after = g.view_2d(c, both, elements, group.rows, elements * ITEM, width * group.total * ITEM)
            states.append(self._keep(layer, 2, i, after))
        return self._joined(outputs), states

    def _head_norm(self, p: str, x: Tensor) -> Tensor:
        g, c, config = self.g, self.c, self.config
        x = g.norm(c, g.reshape_3d(c, x, config.head_size, config.n_head, self.all), self.weights.group_norm_eps)
        x = g.mul(c, g.reshape_2d(c, x, config.n_embd, self.all), self.w[p + "ln_x.weight"])
        return g.add(c, x, self.w[p + "ln_x.bias"])

    def _output(self, p: str, y: Tensor, gate: Tensor) -> Tensor:
        y = y if gate is None else self.g.mul(self.c, y, gate)
        return self.g.mul_mat(self.c, self.w[p + "output.weight"], y)

    # operations on the past

    def _shift(self, layer: int, part: int, xx: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The previous token of each ``(D, all)``, and the nodes that store the last one of each row in the state."""
        g, c, width = self.g, self.c, self.config.n_embd
        before, kept = [], []
        for i, group in enumerate(self.groups):
            tokens, rows = group.tokens, group.rows
            start = self.starts[i] * width * ITEM
            state = self._state(layer, part, i)
            if tokens == 1:
                before.append(state)
            else:
                row_bytes = width * tokens * ITEM
                earlier = g.view_3d(c, xx, width, tokens - 1, rows, width * ITEM, row_bytes, start)
                joined = g.concat(c, g.reshape_3d(c, state, width, 1, rows), earlier, 1)
                before.append(g.reshape_2d(c, joined, width, group.total))
            last = g.view_2d(c, xx, width, rows, width * tokens * ITEM, start + (tokens - 1) * width * ITEM)
            kept.append(self._keep(layer, part, i, last))
        return self._joined(before), kept

    def _state(self, layer: int, part: int, group: int) -> Tensor:
        """``(elements, S)`` for a group's slots, before this step."""
        g, c, state, found = self.g, self.c, self.weights.states[layer][part], self.groups[group]
        if found.first == BY_INDEX:
            return g.get_rows(c, state, self.out.read_slots[group])
        elements = self._elements(part)
        return g.view_2d(c, state, elements, found.rows, elements * ITEM, found.first * elements * ITEM)

    def _keep(self, layer: int, part: int, group: int, value: Tensor) -> Tensor:
        g, c, found = self.g, self.c, self.groups[group]
        if found.first == BY_INDEX:
            # ggml copies rows one after another from memory that it assumes contiguous.
            value = g.cont(c, value) if part < 2 else value
            return g.set_rows(c, self.weights.states[layer][part], value, self.out.write_slots[group])
        return g.cpy(c, value, self._state(layer, part, group))

    def _elements(self, part: int) -> int:
        config = self.config
        return config.n_embd * (config.head_size if config.major > 4 and part == 2 else 1)

    # small operations

    def _norm(self, x: Tensor, name: str) -> Tensor:
        g, c = self.g, self.c
        return g.add(c, g.mul(c, g.norm(c, x, NORM_EPS), self.w[name + ".weight"]), self.w[name + ".bias"])

    def _mixed(self, name: str, xx: Tensor, before: Tensor) -> Tensor:
        """v4 and v5: the factor for the present token; the rest comes from the previous one."""
        g, c, mix = self.g, self.c, self.w[name]
        return g.add(c, g.mul(c, xx, mix), g.sub(c, before, g.mul(c, before, mix)))

    def _heads(self, group: int, x: Tensor) -> Tensor:
        """A group's part of ``(D, all)`` or ``(N, H, all)`` as ``(N, H, T * S)``."""
        g, c, config = self.g, self.c, self.config
        size, heads, row = config.head_size, config.n_head, config.n_embd * ITEM
        return g.view_3d(c, x, size, heads, self.groups[group].total, size * ITEM, row, self.starts[group] * row)

    def _plane(self, x: Tensor, place: int) -> Tensor:
        """One of several ``(D, all)`` that are stored one after another."""
        width, total = self.config.n_embd, self.all
        return self.g.view_2d(self.c, x, width, total, width * ITEM, place * width * total * ITEM)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        whole = parts[0]
        for part in parts[1:]:
            whole = self.g.concat(self.c, whole, part, 1)
        return whole

    def _input(self, kind: int, size: int) -> Tensor:
        tensor = self.g.new_tensor_1d(self.c, kind, size)
        self.g.set_input(tensor)
        return tensor

    def _run(self, tensor: Tensor) -> None:
        self.g.build_forward_expand(self.out.graph, tensor)
