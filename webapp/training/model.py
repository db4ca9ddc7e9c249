"""RWKV-7 (x070) as a differentiable module with the official parameter names.

Follows RWKV-LM's RWKV-v7; the head size is 64. A state is a list with one (att_x_prev (B,C), att_kv (B,H,64,64) as
[value][key], ffn_x_prev (B,C)) per layer. Any of its tensors may require a gradient, as in state tuning.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from webapp.training.operations import GROUP_NORM_EPS, HEAD_SIZE, Operations, PlainOperations

FULL_VOCABULARY = 65536
LayerState = tuple[Tensor, Tensor, Tensor]


class TimeMixLayer(nn.Module):
    def __init__(self, layer: int, n_layer: int, n_embd: int) -> None:
        super().__init__()
        for name, vector in att_vectors(layer, n_layer, n_embd).items():
            setattr(self, name, nn.Parameter(vector.reshape(1, 1, n_embd).clone()))
        for kind in LORA_FACTORS:
            rank = lora_rank(kind, n_embd)
            setattr(self, kind + "1", nn.Parameter(torch.zeros(n_embd, rank)))
            setattr(self, kind + "2", nn.Parameter(orthogonal(rank, n_embd, 0.1)))
        self.r_k = nn.Parameter(torch.full((n_embd // HEAD_SIZE, HEAD_SIZE), -0.04))
        for name, gain in (("receptance", 1.0), ("key", 0.1), ("value", 1.0), ("output", 0.0)):
            linear = nn.Linear(n_embd, n_embd, bias=False)
            nn.init.orthogonal_(linear.weight, gain=gain) if gain else nn.init.zeros_(linear.weight)
            setattr(self, name, linear)
        self.ln_x = nn.GroupNorm(n_embd // HEAD_SIZE, n_embd, eps=GROUP_NORM_EPS)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / n_layer) ** 0.7)

    def forward(
        self, x: Tensor, v_first: Tensor | None, before: Tensor, state: Tensor, ops: Operations
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the output (B,T,C), the first layer's values and the final state."""
        mix = torch.cat([getattr(self, "x_" + name) for name in SHIFT_EXPONENTS], 1)[0]
        xr, xw, xk, xv, xa, xg = ops.shift(x, mix, before)
        r = ops.matmul(xr, self.receptance.weight.t())
        k = ops.matmul(xk, self.key.weight.t())
        v = ops.matmul(xv, self.value.weight.t())
        w = ops.matmul(torch.tanh(ops.matmul(xw, self.w1)), self.w2)
        a = ops.matmul(ops.matmul(xa, self.a1), self.a2)
        g = ops.matmul(torch.sigmoid(ops.matmul(xg, self.g1)), self.g2)
        vx = None if v_first is None else ops.matmul(ops.matmul(xv, self.v1), self.v2)
        vectors = (self.w0, self.a0, self.v0, self.k_k, self.k_a, self.r_k, self.ln_x.weight, self.ln_x.bias)
        params = torch.stack([vector.reshape(-1) for vector in vectors])
        output, state = ops.time_mix(r, w, k, v, v_first, vx, a, g, params, state)
        return ops.matmul(output, self.output.weight.t()), v if v_first is None else v_first, state


class ChannelMixLayer(nn.Module):
    def __init__(self, layer: int, n_layer: int, n_embd: int) -> None:
        super().__init__()
        self.x_k = nn.Parameter(ffn_shift(layer, n_layer, n_embd).reshape(1, 1, n_embd))
        self.key, self.value = (
            nn.Linear(n_embd, 4 * n_embd, bias=False),
            nn.Linear(4 * n_embd, n_embd, bias=False),
        )
        nn.init.orthogonal_(self.key.weight)
        nn.init.zeros_(self.value.weight)

    def forward(self, x: Tensor, before: Tensor, ops: Operations) -> Tensor:
        (k,) = ops.shift(x, self.x_k[0], before)
        return ops.matmul(ops.relu_squared(ops.matmul(k, self.key.weight.t())), self.value.weight.t())


class Block(nn.Module):
    def __init__(self, layer: int, n_layer: int, n_embd: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        if layer == 0:
            self.ln0 = nn.LayerNorm(n_embd)
        self.att, self.ffn = TimeMixLayer(layer, n_layer, n_embd), ChannelMixLayer(layer, n_layer, n_embd)


class Rwkv7(nn.Module):
    """n_rows: rows of emb and head. With a compact vocabulary, these are the used tokens and one row for all others,
    which counts `65536 - n_rows + 1` times in the softmax."""

    def __init__(
        self, n_layer: int, n_embd: int, n_rows: int = FULL_VOCABULARY, full_vocabulary: int = FULL_VOCABULARY
    ) -> None:
        super().__init__()
        self.n_layer, self.n_embd, self.copies = n_layer, n_embd, full_vocabulary - n_rows + 1
        self.emb = nn.Embedding(n_rows, n_embd)
        self.blocks = nn.ModuleList([Block(layer, n_layer, n_embd) for layer in range(n_layer)])
        self.ln_out = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, n_rows, bias=False)
        self.ops: Operations = PlainOperations()
        nn.init.uniform_(self.emb.weight, -1e-4, 1e-4)
        nn.init.normal_(self.head.weight, std=0.5 / n_embd**0.5)

    def zero_state(self, batch: int) -> list[LayerState]:
        like, heads = self.ln_out.weight, self.n_embd // HEAD_SIZE
        return [
            (
                like.new_zeros(batch, self.n_embd),
                like.new_zeros(batch, heads, HEAD_SIZE, HEAD_SIZE),
                like.new_zeros(batch, self.n_embd),
            )
            for _ in range(self.n_layer)
        ]

    def hidden(self, rows: Tensor, state: list[LayerState] | None = None) -> tuple[Tensor, list[LayerState]]:
        """rows: (B,T) row numbers in the vocabulary. Returns the normalised last hidden vectors (B,T,C) and the final
        state."""
        state = self.zero_state(rows.shape[0]) if state is None else state
        x, v_first, after = self.blocks[0].ln0(self.emb(rows)), None, []
        for block, (att_x_prev, att_kv, ffn_x_prev) in zip(self.blocks, state, strict=True):
            normed = block.ln1(x)
            output, v_first, att_kv = block.att(normed, v_first, att_x_prev, att_kv, self.ops)
            x = x + output
            normed_ffn = block.ln2(x)
            x = x + block.ffn(normed_ffn, ffn_x_prev, self.ops)
            after.append((normed[:, -1], att_kv, normed_ffn[:, -1]))
        return self.ln_out(x), after

    def forward(self, rows: Tensor, state: list[LayerState] | None = None) -> tuple[Tensor, list[LayerState]]:
        """Returns the logits (B,T,n_rows) and the final state."""
        hidden, state = self.hidden(rows, state)
        return self.head(hidden), state

    def loss(
        self,
        rows: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        state: list[LayerState] | None = None,
        chunk: int = 1024,
    ) -> tuple[Tensor, list[LayerState]]:
        """Weighted mean cross-entropy (nats per token) of target (B,T) after rows (B,T); weight (B,T), by default ones.

        Computes logits only where the weight is not zero: the head is a third of the work in a small model.
        """
        hidden, state = self.hidden(rows, state)
        hidden, target = hidden.reshape(-1, self.n_embd), target.reshape(-1)
        weight = hidden.new_ones(target.numel()) if weight is None else weight.reshape(-1).to(hidden.dtype)
        if (counted := weight != 0).any() and not counted.all():
            hidden, target, weight = hidden[counted], target[counted], weight[counted]
        return self.ops.head_loss(hidden, self.head.weight, target, weight, self.copies, chunk), state


# Initial values of all parameters, from RWKV-LM's train_temp/src/model.py and its generate_init_weight. One difference
# is deliberate: rows of `head` are normal with the official row norm (0.5), not an orthogonal matrix, so that the norm
# is the same for a vocabulary of any size.
LORA_FACTORS = {"w": 2.5, "a": 2.5, "v": 1.7, "g": 5.0}
SHIFT_EXPONENTS = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}


def lora_rank(kind: str, n_embd: int) -> int:
    """Inner width of a low-rank pair, a multiple of 32."""
    return max(32, int(round(LORA_FACTORS[kind] * n_embd**0.5 / 32) * 32))


def orthogonal(rows: int, columns: int, scale: float) -> Tensor:
    gain = math.sqrt(rows / columns) if rows > columns else 1.0
    return nn.init.orthogonal_(torch.zeros(rows, columns), gain=gain * scale)


def att_vectors(layer: int, n_layer: int, n_embd: int) -> dict[str, Tensor]:
    """The per-channel parameters of one time mix, each (n_embd,)."""
    up, down = layer / max(1, n_layer - 1), 1.0 - layer / n_layer
    channel = torch.arange(n_embd, dtype=torch.float32)
    ramp, linear = channel / n_embd, channel / (n_embd - 1) - 0.5
    zigzag = ((channel % HEAD_SIZE) - (HEAD_SIZE - 1) / 2) / ((HEAD_SIZE - 1) / 2)
    zigzag = zigzag * zigzag.abs()
    vectors = {"x_" + name: 1 - ramp ** (exponent * down) for name, exponent in SHIFT_EXPONENTS.items()}
    vectors["w0"] = -6 + 6 * (channel / (n_embd - 1)) ** (1 + up**0.3) + 0.5 + zigzag * 2.5
    vectors["a0"] = -0.19 + zigzag * 0.3 + linear * 0.4
    vectors["v0"] = 0.73 - linear * 0.4
    vectors["k_k"] = 0.71 - linear * 0.1
    vectors["k_a"] = torch.full((n_embd,), 1.02)
    return vectors


def ffn_shift(layer: int, n_layer: int, n_embd: int) -> Tensor:
    return 1 - (torch.arange(n_embd, dtype=torch.float32) / n_embd) ** ((1 - layer / n_layer) ** 4)
