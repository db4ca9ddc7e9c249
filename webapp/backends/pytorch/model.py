"""A model in torch that runs a step of all sequences at once. :mod:`loader` reads it.

The tokens of all rows are stored one after another, ``(M, n_embd)``, and pass each matrix together; only the recurrence
handles sequences separately (:mod:`recurrence`). Activations are always float32; matrices have their own formats
(:mod:`linear`).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from msgspec import Struct
from msgspec.structs import astuple
from torch import Tensor
from torch.nn.functional import group_norm, layer_norm, normalize

from webapp.backends.pytorch import recurrence
from webapp.backends.pytorch.linear import Matrix
from webapp.engine.backend import Row
from webapp.engine.state import ModelConfig, RecurrentState

GROUP_NORM_EPS = 64e-5
HALVING_LAYERS = 6
"""In float16, outputs of layers are divided by 2 after every this many layers, as in the rwkv package, and restored."""


class Step:
    """The order of the tokens in a batch: single tokens first, then the prompts, one after another.

    ``rows`` are the batch's rows in this order. Index tensors are on every device that the layers use.
    """

    def __init__(self, batch: Sequence[Row], devices: Sequence[str]) -> None:
        order = sorted(range(len(batch)), key=lambda i: (len(batch[i].token_ids) > 1, batch[i].slot))
        self.rows = [batch[i] for i in order]
        self.singles = sum(len(row.token_ids) == 1 for row in self.rows)
        lengths = [len(row.token_ids) for row in self.rows]
        starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
        self.token_ids = torch.tensor([token for row in self.rows for token in row.token_ids], dtype=torch.long)
        self.lengths = lengths[self.singles :]
        self.is_plain = self.singles == len(self.rows)
        wanted: list[int] = []
        for i in sorted(range(len(order)), key=order.__getitem__):
            if self.rows[i].want != "nothing":
                wanted += range(starts[i] if self.rows[i].want == "all" else starts[i + 1] - 1, starts[i + 1])
        self.lines = len(wanted)
        slots = [row.slot for row in self.rows]
        is_run = slots == list(range(slots[0], slots[0] + len(slots)))
        self.run = slice(slots[0], slots[0] + len(slots)) if is_run else None
        """If the slots are adjacent, their states are used directly, without a copy."""
        self._index = {
            "slots": slots,
            "ends": [end - 1 for end in starts[1:]],
            "wanted": wanted,
            "lengths": self.lengths,
            "places": self._places(starts),
            # for each token the previous one, as an index into [the slots' stored tokens, the tokens]
            "before": [
                i if place == 0 else len(slots) + starts[i] + place - 1
                for i, length in enumerate(lengths)
                for place in range(length)
            ],
        }
        self._tensors = {
            device: {k: torch.tensor(v, dtype=torch.long, device=device) for k, v in self._index.items()}
            for device in devices
        }

    def _places(self, starts: list[int]) -> list[int]:
        """``(prompts, longest)`` flat: the indices of each prompt's tokens; beyond its end any token."""
        longest = max(self.lengths, default=0)
        return [
            starts[self.singles + i] + min(place, length - 1)
            for i, length in enumerate(self.lengths)
            for place in range(longest)
        ]

    def index(self, name: str, device: str) -> Tensor:
        return self._tensors[device][name]


class States:
    """The states of all slots, one tensor per kind and layer: ``att`` and ``ffn (slots, n_embd)``, and ``past (slots,
    H, N, N)`` or ``(slots, 3, n_att)``."""

    def __init__(self, config: ModelConfig, devices: Sequence[str], initial: RecurrentState) -> None:
        self.config = config
        self._devices = devices
        self.capacity = 0
        self.att: list[Tensor] = []
        self.ffn: list[Tensor] = []
        self.past: list[Tensor] = []
        self._initial = self.from_value(initial)
        self.grow(1)

    def grow(self, capacity: int) -> None:
        """On an out-of-memory error of torch, nothing has changed."""
        made = []
        for kind, initial in zip((self.att, self.ffn, self.past), self._initial, strict=True):
            tensors = []
            for layer, device in enumerate(self._devices):
                tensor = torch.empty((capacity, *initial[layer].shape), device=device)
                if kind:
                    tensor[: self.capacity] = kind[layer]
                tensors.append(tensor)
            made.append(tensors)
        self.att, self.ffn, self.past = made
        self.capacity = capacity

    def put(self, slot: int, parts: Sequence[Sequence[Tensor]] | None = None) -> None:
        """The parts from :meth:`take` or :meth:`from_value`, or the initial state of a sequence."""
        for kind, part in zip((self.att, self.ffn, self.past), parts or self._initial, strict=True):
            for layer, tensor in enumerate(kind):
                tensor[slot].copy_(part[layer])

    def take(self, slot: int) -> list[list[Tensor]]:
        return [[tensor[slot].clone() for tensor in kind] for kind in (self.att, self.ffn, self.past)]

    def from_value(self, state: RecurrentState) -> list[list[Tensor]]:
        arrays = {name: torch.from_numpy(array.copy()) for name, array in state.arrays.items()}
        if self.config.major == 4:
            past = torch.stack([arrays["att_aa"], arrays["att_bb"], arrays["att_pp"]], 1)
        else:
            past = arrays["att_kv"]
        parts = (arrays["att_x_prev"], arrays["ffn_x_prev"], past)
        return [[part[layer].to(device) for layer, device in enumerate(self._devices)] for part in parts]

    def value(self, slot: int) -> RecurrentState:
        att, ffn, past = (
            torch.stack([tensor[slot].cpu() for tensor in kind]).numpy() for kind in (self.att, self.ffn, self.past)
        )
        arrays = {"att_x_prev": att, "ffn_x_prev": ffn}
        if self.config.major == 4:
            arrays |= {name: past[:, i].copy() for i, name in enumerate(("att_aa", "att_bb", "att_pp"))}
        else:
            arrays["att_kv"] = past
        return RecurrentState(self.config.architecture, arrays)


class Attention(Struct):
    """The attention of one layer. Parts that a version does not have are absent; vectors are flat, float32."""

    receptance: Matrix
    key: Matrix
    value: Matrix
    output: Matrix
    mix: Tensor
    """``(mixes, 1, n_embd)``: the factor of the previous token, in the version's own order."""
    gate: Matrix | None = None
    norm: tuple[Tensor, Tensor] | None = None
    decay: Tensor | None = None
    bonus: Tensor | None = None
    down: dict[str, Matrix] | None = None
    up: dict[str, Matrix] | None = None
    vectors: dict[str, Tensor] | None = None


class Layer(Struct):
    device: str
    norm1: tuple[Tensor, Tensor]
    norm2: tuple[Tensor, Tensor]
    attention: Attention
    ffn_mix: Tensor
    ffn_key: Matrix
    ffn_value: Matrix
    ffn_receptance: Matrix | None


class TorchModel:
    """One model and its states. Not thread-safe; use it in ``torch.inference_mode``."""

    def __init__(
        self,
        config: ModelConfig,
        embedding: Tensor,
        norm0: tuple[Tensor, Tensor],
        layers: list[Layer],
        norm_out: tuple[Tensor, Tensor],
        head: Matrix,
        initial: RecurrentState,
    ) -> None:
        self.config = config
        self.head = head
        self.head_device = str(norm_out[0].device)
        self.devices = [layer.device for layer in layers]
        self._embedding, self._norm0, self._norm_out = embedding, norm0, norm_out
        self._layers = layers
        self.states = States(config, self.devices, initial)
        self._attend = {4: self._attend_v4, 5: self._attend_v5, 6: self._attend_v6, 7: self._attend_v7}[config.major]

    @property
    def weight_bytes(self) -> int:
        """Of all tensors read from the file."""
        layers = sum(_bytes_of(layer) for layer in self._layers)
        return layers + _bytes_of((self._embedding, self._norm0, self._norm_out, self.head))

    def plan(self, batch: Sequence[Row]) -> Step:
        return Step(batch, sorted({*self.devices, self.head_device}))

    def run(self, step: Step) -> Tensor:
        """Feeds a step to its slots: ``(lines, n_embd)`` for :attr:`head`. An error leaves every state unchanged."""
        hidden, after = self.forward(step.token_ids, step)
        self.commit(step, after)
        return hidden

    def forward(self, token_ids: Tensor, step: Step) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        """Like :meth:`run`, but returns the new states, by layer."""
        x = self._embedding[token_ids.to(self._embedding.device)].float()
        x = _norm(x.to(self.devices[0]), self._norm0)
        first: list[Tensor] = []
        after = []
        for i, layer in enumerate(self._layers):
            if x.device != layer.norm1[0].device:
                x = x.to(layer.device)
                first = [value.to(layer.device) for value in first]
            normed = _norm(x, layer.norm1)
            before, att = self._shifted(normed, self.states.att[i], step, layer.device)
            past = self._kept(self.states.past[i], step, layer.device)
            out, past = self._attend(layer, normed, before, past, step, first)
            x = x + out
            normed = _norm(x, layer.norm2)
            before, ffn = self._shifted(normed, self.states.ffn[i], step, layer.device)
            x = x + self._feed_forward(layer, normed, before)
            after.append((att, ffn, past))
        x = x.to(self.head_device)
        return _norm(x[step.index("wanted", self.head_device)], self._norm_out), after

    def commit(self, step: Step, after: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        for i, parts in enumerate(after):
            for kind, part in zip((self.states.att, self.states.ffn, self.states.past), parts, strict=True):
                if step.run is not None:
                    kind[i][step.run] = part
                else:
                    kind[i].index_copy_(0, step.index("slots", self.devices[i]), part)

    def _kept(self, kind: Tensor, step: Step, device: str) -> Tensor:
        return kind[step.run] if step.run is not None else kind[step.index("slots", device)]

    def _shifted(self, x: Tensor, kind: Tensor, step: Step, device: str) -> tuple[Tensor, Tensor]:
        """The previous token of each, and the values that the slots store after the step."""
        kept = self._kept(kind, step, device)
        if step.is_plain:
            return kept, x
        return torch.cat([kept, x])[step.index("before", device)], x[step.index("ends", device)]

    def _attend_v4(
        self, layer: Layer, x: Tensor, before: Tensor, past: Tensor, step: Step, first: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        w = layer.attention
        xr, xk, xv = torch.lerp(x, before, w.mix)
        r, k, v = torch.sigmoid(w.receptance(xr)), w.key(xk), w.value(xv)
        assert w.decay is not None and w.bonus is not None
        means, after = [], []
        if singles := step.singles:
            mean, new = recurrence.mean_token(k[:singles], v[:singles], w.decay, w.bonus, past[:singles])
            means, after = [mean], [new]
        if step.lengths:
            places = step.index("places", layer.device)
            shape = (len(step.lengths), -1, self.config.n_att)
            lengths = step.index("lengths", layer.device)
            mean, new = recurrence.mean_chunks(
                k[places].view(shape), v[places].view(shape), w.decay, w.bonus, past[singles:], lengths
            )
            means += [mean[i, :length] for i, length in enumerate(step.lengths)]
            after.append(new)
        return w.output(r * _joined(means)), _joined(after)

    def _attend_v5(
        self, layer: Layer, x: Tensor, before: Tensor, past: Tensor, step: Step, first: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        w = layer.attention
        mixed = torch.lerp(x, before, w.mix)
        r, k, v = w.receptance(mixed[0]), w.key(mixed[1]), w.value(mixed[2])
        assert w.decay is not None
        decay = w.decay.expand(len(x), -1)
        out, after = self._linear_attention(layer, r, k, v, decay, past, step)
        if w.gate is not None:
            out = out * torch.nn.functional.silu(w.gate(mixed[3]))
        return w.output(out), after

    def _attend_v6(
        self, layer: Layer, x: Tensor, before: Tensor, past: Tensor, step: Step, first: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        w = layer.attention
        assert w.down is not None and w.up is not None and w.gate is not None and w.decay is not None
        difference = before - x
        low = torch.tanh(w.down["mix"](torch.addcmul(x, difference, w.mix[0]))).chunk(5, -1)
        shift = torch.stack([w.up[name](part) for name, part in zip("wkvrg", low, strict=True)])
        xw, xk, xv, xr, xg = torch.addcmul(x, difference, w.mix[1:] + shift)
        log_log_decay = w.decay + w.up["decay"](torch.tanh(w.down["decay"](xw)))
        r, k, v, gate = w.receptance(xr), w.key(xk), w.value(xv), w.gate(xg)
        out, after = self._linear_attention(layer, r, k, v, -torch.exp(log_log_decay), past, step)
        return w.output(out * torch.nn.functional.silu(gate)), after

    def _linear_attention(
        self, layer: Layer, r: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, past: Tensor, step: Step
    ) -> tuple[Tensor, Tensor]:
        bonus = layer.attention.bonus
        assert bonus is not None and layer.attention.norm is not None
        outs, after = [], []
        if singles := step.singles:
            now = [self._heads(part[:singles]) for part in (r, k, v, log_decay)]
            out, new = recurrence.linear_token(now, bonus, past[:singles])
            outs, after = [out.flatten(1)], [new]
        if step.lengths:
            r, k, v, log_decay = (self._prompts(part, step, layer.device) for part in (r, k, v, log_decay))
            is_token = self._is_token(step, layer.device)
            if is_token is not None:
                k, log_decay = k * is_token, log_decay * is_token
            out, new = recurrence.linear_chunks((r, k, v, log_decay), bonus, past[singles:])
            outs += self._flat_prompts(out, step)
            after.append(new)
        out = group_norm(_joined(outs), self.config.n_head, *layer.attention.norm, GROUP_NORM_EPS)
        return out, _joined(after)

    def _attend_v7(
        self, layer: Layer, x: Tensor, before: Tensor, past: Tensor, step: Step, first: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        w = layer.attention
        assert w.down is not None and w.up is not None and w.vectors is not None and w.norm is not None
        down, up, vectors = w.down, w.up, w.vectors
        xr, xw, xk, xv, xa, xg = torch.addcmul(x, before - x, w.mix)
        r, k, v = w.receptance(xr), w.key(xk), w.value(xv)
        a = torch.sigmoid(vectors["a0"] + up["a"](down["a"](xa)))
        gate = up["g"](torch.sigmoid(down["g"](xg)))
        log_decay = -math.exp(-0.5) * torch.sigmoid(vectors["w0"] + up["w"](torch.tanh(down["w"](xw))))
        removal = normalize(self._heads(k * vectors["k_k"]), dim=-1).flatten(1)
        k = torch.addcmul(k, k * (a - 1), vectors["k_a"])
        if first:
            v = torch.lerp(v, first[0], torch.sigmoid(vectors["v0"] + up["v"](down["v"](xv))))
        else:
            first.append(v)
        outs, after = [], []
        parts = (r, k, v, log_decay, -removal, removal * a)
        if singles := step.singles:
            out, new = recurrence.delta_token([self._heads(part[:singles]) for part in parts], past[:singles])
            outs, after = [out.flatten(1)], [new]
        if step.lengths:
            heads = [self._prompts(part, step, layer.device) for part in parts]
            is_token = self._is_token(step, layer.device)
            if is_token is not None:
                heads[1], heads[3], heads[4] = (heads[i] * is_token for i in (1, 3, 4))
            out, new = recurrence.delta_chunks(heads, past[singles:])
            outs += self._flat_prompts(out, step)
            after.append(new)
        out = group_norm(_joined(outs), self.config.n_head, *w.norm, GROUP_NORM_EPS)
        now = self._heads(r * k * vectors["r_k"]).sum(-1, keepdim=True) * self._heads(v)
        return w.output((out + now.flatten(1)) * gate), _joined(after)

    def _feed_forward(self, layer: Layer, x: Tensor, before: Tensor) -> Tensor:
        if layer.ffn_receptance is None:
            hidden = layer.ffn_key(torch.lerp(x, before, layer.ffn_mix[0]))
            return layer.ffn_value(torch.relu(hidden).square())
        xk, xr = torch.lerp(x, before, layer.ffn_mix)
        hidden = torch.relu(layer.ffn_key(xk)).square()
        return torch.sigmoid(layer.ffn_receptance(xr)) * layer.ffn_value(hidden)

    def _heads(self, part: Tensor) -> Tensor:
        return part.unflatten(-1, (self.config.n_head, self.config.head_size))

    def _prompts(self, part: Tensor, step: Step, device: str) -> Tensor:
        """``(M, n_att)`` to ``(prompts, H, T, N)``."""
        if len(step.lengths) == 1:
            return self._heads(part[step.singles :]).unsqueeze(0).transpose(1, 2)
        padded = part[step.index("places", device)].unflatten(0, (len(step.lengths), -1))
        return self._heads(padded).transpose(1, 2)

    def _is_token(self, step: Step, device: str) -> Tensor | None:
        """1 for a prompt's token, 0 beyond its end, ``(prompts, 1, T, 1)``; None if all have the same length."""
        longest = max(step.lengths)
        if min(step.lengths) == longest:
            return None
        lengths = step.index("lengths", device)
        found = torch.arange(longest, device=device) < lengths[:, None]
        return found.view(len(lengths), 1, longest, 1).float()

    def _flat_prompts(self, out: Tensor, step: Step) -> list[Tensor]:
        flat = out.transpose(1, 2).flatten(2)
        return [flat[i, :length] for i, length in enumerate(step.lengths)]


def _norm(x: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
    return layer_norm(x, (x.shape[-1],), *norm)


def _bytes_of(part: object) -> int:
    if isinstance(part, (Tensor, Matrix)):
        return part.nbytes
    if isinstance(part, Struct):
        part = astuple(part)
    if isinstance(part, dict):
        part = tuple(part.values())
    return sum(map(_bytes_of, part)) if isinstance(part, (list, tuple)) else 0


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


log = logging.getLogger(__name__)

# CUDA graphs for decoding: a step of single tokens is recorded once per number of rows and then replayed, which starts
# hundreds of kernels in one call. Tested on a CPU only; not yet run on a GPU.

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Recorded numbers of rows; other steps are padded with rows for an unused slot."""
WARM_UPS = 2
VARIABLE = "ROOST_TORCH_GRAPHS"
"""``0`` in the environment: every step runs kernel by kernel."""

Record = Callable[[Callable[[], Tensor], str], tuple[Callable[[], object], Tensor]]
"""From the work and its device: a function that repeats it, and the tensor with its result."""


def are_wanted(devices: list[str]) -> bool:
    """All layers must be on one GPU: transfers between devices cannot be recorded."""
    return len(set(devices)) == 1 and devices[0].startswith("cuda") and os.environ.get(VARIABLE) != "0"


class FixedStep:
    """A :class:`Step` of single tokens whose values can be replaced."""

    is_plain = True
    run = None
    lengths: tuple[int, ...] = ()

    def __init__(self, size: int, device: str, slot: int) -> None:
        self.singles = size
        self.token_ids = torch.zeros(size, dtype=torch.long, device=device)
        self.slots = torch.full((size,), slot, dtype=torch.long, device=device)
        self._wanted = torch.arange(size, device=device)

    def index(self, name: str, device: str) -> Tensor:
        return {"slots": self.slots, "wanted": self._wanted}[name]


class DecodeGraphs:
    """``spare_slot`` belongs to the graphs. Only for models for which :func:`are_wanted` is True."""

    def __init__(self, model: TorchModel, spare_slot: int, record: Record | None = None) -> None:
        self._model, self._spare_slot, self._record = model, spare_slot, record or record_on_card
        self._device = model.head_device
        self._capacity = 0
        self._graphs: dict[int, tuple[FixedStep, Callable[[], object], Tensor]] = {}
        self._is_usable = True

    def run(self, step: Step) -> Tensor | None:
        """As :meth:`TorchModel.run`; None for a step that cannot use a graph."""
        count = len(step.rows)
        size = next((size for size in SIZES if size >= count), 0)
        if not (self._is_usable and step.is_plain and size):
            return None
        if self._capacity != self._model.states.capacity:  # the recorded tensors do not exist any more
            self._graphs.clear()
            self._capacity = self._model.states.capacity
        if size not in self._graphs:
            try:
                self._graphs[size] = self._recorded(size)
            except RuntimeError as exc:
                log.warning("decoding runs without CUDA graphs: %s", exc)
                self._graphs.clear()
                self._is_usable = False
                return None
        fixed, replay, hidden = self._graphs[size]
        fixed.slots.fill_(self._spare_slot)
        fixed.slots[:count] = step.index("slots", self._device)
        fixed.token_ids[:count] = step.token_ids.to(self._device)
        replay()
        return hidden[step.index("wanted", self._device)]

    def _recorded(self, size: int) -> tuple[FixedStep, Callable[[], object], Tensor]:
        fixed: Any = FixedStep(size, self._device, self._spare_slot)  # it is run several times meanwhile
        replay, hidden = self._record(lambda: self._model.run(fixed), self._device)
        return fixed, replay, hidden


def record_on_card(work: Callable[[], Tensor], device: str) -> tuple[Callable[[], object], Tensor]:
    """As in torch's manual: a few warm-up runs on a separate stream first."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = work()
    return graph.replay, found
