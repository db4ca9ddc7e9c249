"""A tensor's memory as bytes, without a copy where it lies row after row."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def bytes_of(tensor: torch.Tensor) -> memoryview:
    import torch

    flat = tensor.detach().contiguous().view(-1)
    raw = flat.view(torch.uint8).numpy()
    return raw.data
