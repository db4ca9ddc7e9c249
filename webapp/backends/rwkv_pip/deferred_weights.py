"""Weights for the package that are read from the file one by one, at the moment it converts them.

The package calls ``torch.load`` and then walks over the names, replacing (v4 to v6) or deleting (v7) each tensor as it
goes. Given stand-ins that read on first use, it never holds more than its converted model and the tensor in hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from webapp.engine.backend import LoadProgress, ProgressCallback
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.tensor_info import TensorInfo

REOPEN_AFTER_BYTES = 64 * 2**20
MOST_REOPENINGS = 16  # each reads the table of contents again, some 10 ms


class DeferredTensor:
    """Stands for a tensor until it is used: any operation reads it and gives a real tensor back."""

    requires_grad = False  # the package writes it

    def __init__(self, info: TensorInfo, read: Callable[[str], Any], is_widened: bool = False) -> None:
        self.shape = info.shape
        self._name = info.name
        self._read = read
        self._is_widened = is_widened

    def read(self) -> Any:
        tensor = self._read(self._name)
        return tensor.float() if self._is_widened else tensor

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.read(), attribute)

    def __truediv__(self, divisor: float) -> Any:
        return self.read() / divisor

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """torch's hook for arguments that are not tensors: called as ``torch.nn.functional.layer_norm(self, ...)``."""
        kwargs = {name: _real(value) for name, value in (kwargs or {}).items()}
        return function(*map(_real, args), **kwargs)


def _real(value: Any) -> Any:
    return value.read() if isinstance(value, DeferredTensor) else value


class DeferredWeights:
    """The tensors of one file, counted as they are read. Raises what ``progress`` raises, and WeightsError."""

    def __init__(self, path: str, progress: ProgressCallback) -> None:
        self._path = Path(path)
        self._progress = progress
        self._checkpoint = open_checkpoint(self._path)
        self._mapped_bytes = 0
        self._done: set[str] = set()
        self._done_bytes = 0
        self._failure: BaseException | None = None
        self.infos: Mapping[str, TensorInfo] = {name: self._checkpoint.info(name) for name in self._checkpoint.names()}
        self.metadata = self._checkpoint.metadata
        self._total_bytes = sum(info.nbytes for info in self.infos.values())
        self._reopen_after = max(REOPEN_AFTER_BYTES, self._total_bytes // MOST_REOPENINGS)

    def deferred(self, name: str, is_widened: bool = False) -> DeferredTensor:
        """``is_widened``: comes as float32 whatever the file has."""
        return DeferredTensor(self.infos[name], self.read, is_widened)

    def read(self, name: str) -> Any:
        """A tensor in memory of its own: a model must not run out of a file that someone may overwrite."""
        if self._failure is not None:  # the package catches everything around its first use of the embedding
            raise self._failure
        try:
            self._report()
            tensor = self._checkpoint.tensor(name).clone()
            self._count(self.infos[name])
            self._report()
        except BaseException as exc:
            self._failure = exc
            raise
        return tensor

    def report_done(self) -> None:
        """The last report, of everything, also when the package left a tensor unread."""
        self._done, self._done_bytes = set(self.infos), self._total_bytes
        self._report()

    def close(self) -> None:
        self._checkpoint.close()

    def _count(self, info: TensorInfo) -> None:
        if info.name not in self._done:
            self._done.add(info.name)
            self._done_bytes += info.nbytes
        self._mapped_bytes += info.nbytes
        if self._mapped_bytes > self._reopen_after:
            # Pages read through a map count as this process's memory until it is unmapped.
            self._checkpoint.close()
            self._checkpoint = open_checkpoint(self._path)
            self._mapped_bytes = 0

    def _report(self) -> None:
        total = len(self.infos)
        self._progress(LoadProgress(self._done_bytes, self._total_bytes, len(self._done), total))
