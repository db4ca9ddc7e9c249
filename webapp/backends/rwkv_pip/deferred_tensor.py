"""Stand-ins for tensors, which remember what the package does to them and do it in one go, piece by piece.

The package transposes, converts and moves each tensor in steps of its own, each with a whole copy; of the head of a
1.6 B model that is half a gigabyte beside the result. These go from the file to the result directly. Only the
operations that ``RWKV.__init__`` and ``RWKV_x070.__init__`` (model.py 0.8.32) use on a tensor before it is final are
remembered; any other reads the tensor and is torch's own.
"""

from __future__ import annotations

import copy
from typing import Any

from webapp.backends.rwkv_pip.deferred_weights import DeferredWeights
from webapp.weights.int8_matrix import quantize


class DeferredTensor:
    """Stands for one tensor of the file. Where ``keeps_rows``, ``contiguous`` leaves a transposed matrix as it is."""

    requires_grad = False  # the package writes it

    def __init__(self, weights: DeferredWeights, name: str, keeps_rows: bool = False) -> None:
        self._weights = weights
        self._name = name
        self._keeps_rows = keeps_rows
        self._is_transposed = False
        self._is_contiguous = False
        self._divisor = 1.0
        self._device: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self._weights.infos[self._name].shape
        return shape[::-1] if self._is_transposed else shape

    def t(self) -> DeferredTensor:
        return self._changed(_is_transposed=not self._is_transposed)

    def contiguous(self) -> DeferredTensor:
        return self._changed(_is_contiguous=not self._keeps_rows)

    def squeeze(self) -> Any:
        return self if 1 not in self.shape else self.read().squeeze()

    def __truediv__(self, divisor: float) -> DeferredTensor:
        return self._changed(_divisor=self._divisor * divisor)

    def to(self, target: Any = None, dtype: Any = None) -> Any:
        """A device is remembered, a precision makes the real tensor."""
        import torch

        dtype = target if isinstance(target, torch.dtype) else dtype
        return self._changed(_device=target) if dtype is None else self.real(dtype)

    def float(self) -> Any:
        """The package widens matrices for int8 alone."""
        if len(self.shape) == 2 and self._is_transposed:
            return Int8Draft(self._weights, self._name, self._divisor)
        return self.read().float()

    def real(self, dtype: Any) -> Any:
        import torch

        shape = self._weights.infos[self._name].shape
        turns = self._is_transposed and self._is_contiguous
        whole = torch.empty(shape[::-1] if turns else shape, dtype=dtype)
        rows = whole.t() if turns else whole
        for start, piece in self._weights.pieces(self._name):
            rows[start : start + len(piece)].copy_(piece if self._divisor == 1 else piece / self._divisor)
        found = rows.t() if self._is_transposed else rows
        return found if self._device is None else found.to(self._device)

    def read(self) -> Any:
        """As in the file, but for what was done to it so far."""
        tensor = self._weights.read(self._name)
        tensor = tensor if self._divisor == 1 else tensor / self._divisor
        tensor = tensor.t() if self._is_transposed else tensor
        return tensor if self._device is None else tensor.to(self._device)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(self.read(), attribute)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """torch's hook for arguments that are not tensors."""
        kwargs = {name: _real(value) for name, value in (kwargs or {}).items()}
        return function(*map(_real, args), **kwargs)

    def _changed(self, **changes: Any) -> Any:
        changed = copy.copy(self)
        vars(changed).update(changes)
        return changed


def _real(value: Any) -> Any:
    return value.read() if isinstance(value, DeferredTensor) else value


class Int8Draft:
    """Stands for the float32 matrix the package quantises in a dozen steps, at up to 12 bytes a weight: 1.6 GB for the
    head of a 1.6 B model. Has the results of all of them already, made in pieces, and answers each step with what it
    would have come to."""

    requires_grad = False

    def __init__(self, weights: DeferredWeights, name: str, divisor: float) -> None:
        n_out, n_in = weights.infos[name].shape
        self.shape = (n_in, n_out)
        self._matrix = quantize(lambda: weights.float_pieces(name, divisor), n_in, n_out)

    def _unchanged(self, other: Any) -> Int8Draft:
        return self

    __sub__ = __truediv__ = __mul__ = _unchanged

    def to(self, dtype: Any) -> Any:
        assert str(dtype) == "torch.uint8", dtype
        return self._matrix.data

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        matrix, kwargs = args[0]._matrix, kwargs or {}
        if function.__name__ in ("amin", "amax"):
            found = {("amin", 0): matrix.mx, ("amin", 1): matrix.my, ("amax", 0): matrix.rx, ("amax", 1): matrix.ry}
            return found[function.__name__, kwargs["dim"]]
        assert function.__name__ in ("floor", "clip"), function.__name__
        return args[0]
