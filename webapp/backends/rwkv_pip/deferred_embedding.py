"""The embedding, which the package normalises at load: piece by piece, or not before a token asks for its row."""

from __future__ import annotations

from typing import Any

from webapp.backends.rwkv_pip.deferred_tensor import DeferredTensor
from webapp.backends.rwkv_pip.deferred_weights import DeferredWeights
from webapp.weights.tensor_info import ITEM_BYTES


class DeferredEmbedding(DeferredTensor):
    """The package's RWKV-4 to 6 normalise the embedding before they widen it, which from a bf16 file costs 1e-2 in the
    logits of fp32: here it is done in float32. Its RWKV-7 names the precision first, and then normalises in it.

    ``may_stay_narrow``: in float32 it may become :class:`EmbeddingRows`, half as large, if the file has it so.
    """

    def __init__(self, weights: DeferredWeights, name: str, may_stay_narrow: bool) -> None:
        super().__init__(weights, name)
        self._may_stay_narrow = may_stay_narrow
        self._norm: tuple[Any, Any] | None = None
        self._dtype: Any = None

    def real(self, dtype: Any) -> Any:
        if self._norm is None:
            return self._changed(_dtype=dtype)
        return self._normalised(dtype)

    def _normalised(self, dtype: Any) -> Any:
        import torch

        assert self._norm is not None
        precision = self._dtype or torch.float32
        weight, bias = (_real(value).to(precision).cpu() for value in self._norm)
        stored = self._weights.infos[self._name].dtype
        if self._may_stay_narrow and dtype is torch.float32 and is_narrow(stored):
            return EmbeddingRows(super().real(getattr(torch, stored)), weight, bias)
        rows = torch.empty(self.shape, dtype=dtype)
        for start, piece in self._weights.pieces(self._name):
            normalised = torch.nn.functional.layer_norm(piece.to(precision), weight.shape, weight, bias)
            rows[start : start + len(piece)].copy_(normalised)
        return rows if self._device is None else rows.to(self._device)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.__name__ != "layer_norm" or not isinstance(args[0], cls):
            return super().__torch_function__(function, types, args, kwargs)
        embedding = args[0]._changed(_norm=(kwargs["weight"], kwargs["bias"]))
        return embedding if embedding._dtype is None else embedding._normalised(embedding._dtype)


def is_narrow(dtype: str) -> bool:
    """Of the file: widening it loses nothing, and keeping it saves half."""
    return ITEM_BYTES[dtype] == 2


def _real(value: Any) -> Any:
    return value.read() if isinstance(value, DeferredTensor) else value


class EmbeddingRows:
    """The file's own half-precision rows, each widened and normalised when a token is read: the same numbers as a
    float32 embedding at half its memory, 268 MB of a 1.6 B model. For the package it looks like a tensor on the CPU."""

    requires_grad = False

    def __init__(self, rows: Any, weight: Any, bias: Any) -> None:
        self._rows = rows
        self._weight = weight
        self._bias = bias
        self.shape = rows.shape
        self.dtype = weight.dtype
        self.device = rows.device

    def __getitem__(self, token_ids: Any) -> Any:
        """Float32 ``(n_embd,)`` of one id, ``(T, n_embd)`` of a list."""
        import torch

        found = self._rows[token_ids].to(self.dtype)
        return torch.nn.functional.layer_norm(found, self._weight.shape, self._weight, self._bias)

    def contiguous(self) -> EmbeddingRows:
        return self

    def is_pinned(self) -> bool:
        return False

    def dim(self) -> int:
        return 2
