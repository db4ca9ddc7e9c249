"""Initial values of every RWKV-7 parameter, as RWKV-LM's train_temp/src/model.py with its generate_init_weight.

One deliberate difference: rows of `head` are normal with the official row norm (0.5) rather than an orthogonal
matrix, which keeps that norm for a vocabulary of any size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from webapp.training.operations import HEAD_SIZE

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
