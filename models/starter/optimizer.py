"""Official RWKV-7 parameter groups for AdamW, and the learning rate over a run."""

from __future__ import annotations

import math

import torch

from webapp.training.model import Rwkv7


def is_placeholder(name: str) -> bool:
    """Layer 0 has no value residual: its v0, v1, v2 exist in files but are never used."""
    return name in ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2")


def adamw(
    model: Rwkv7, learning_rate: float, weight_decay: float = 0.1, betas: tuple[float, float] = (0.9, 0.99)
) -> torch.optim.AdamW:
    """att.w0 learns at twice the rate; weight decay applies only to matrices named *.weight
    (train_temp/src/model.py)."""
    plain, double, decayed = [], [], []
    for name, parameter in model.named_parameters():
        if is_placeholder(name):
            continue
        if name.endswith("att.w0"):
            double.append(parameter)
        elif name.endswith(".weight") and parameter.dim() >= 2:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": plain, "weight_decay": 0.0, "scale": 1.0},
        {"params": double, "weight_decay": 0.0, "scale": 2.0},
        {"params": decayed, "weight_decay": weight_decay, "scale": 1.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=1e-12, fused=True)


def learning_rate_at(peak: float, step: int, warmup_steps: int, decay_progress: float, floor: float = 0.03) -> float:
    """Linear warm-up, constant, then down to floor * peak while decay_progress goes from 0 to 1 (one minus its root).

    With a constant rate, a run can be extended or given better data at any time; the decay starts when it should end.
    """
    decayed = 1 - (1 - floor) * math.sqrt(min(1.0, max(0.0, decay_progress)))
    return peak * min(1.0, (step + 1) / warmup_steps) * decayed


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["scale"]
