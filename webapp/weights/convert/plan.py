"""What a conversion is going to write, known before the first byte of a tensor is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from webapp.weights.tensor_info import TensorInfo, contiguous_strides

if TYPE_CHECKING:
    import torch

Container = Literal["safetensors", "pth"]
Blocks = Callable[[], Iterator["torch.Tensor"]]


@dataclass(frozen=True)
class PlannedTensor:
    """``blocks`` gives its elements in the order they are stored, a piece at a time, in ``info.dtype``; ``strides`` (of
    elements, only a .pth can hold others than row after row) say how to read that order."""

    info: TensorInfo
    blocks: Blocks
    strides: tuple[int, ...] = ()

    def stored_strides(self) -> tuple[int, ...]:
        return self.strides or contiguous_strides(self.info.shape)


@dataclass(frozen=True)
class Plan:
    """``marks`` go into the file beside the tensors (a safetensors header holds text only)."""

    container: Container
    tensors: Sequence[PlannedTensor]
    marks: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Of the tensors; headers add some 100 bytes a tensor."""
        return sum(tensor.info.nbytes for tensor in self.tensors)
