"""Weights for the package that are read from the file one by one, at the moment it converts them.

The package calls ``torch.load`` and then walks over the names, replacing (v4 to v6) or deleting (v7) each tensor as it
goes. Given stand-ins (``deferred_tensor``) that read on first use, it never holds more than its converted model and a
piece of the tensor in hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from webapp.engine.backend import LoadProgress, ProgressCallback
from webapp.weights.naming import open_official
from webapp.weights.tensor_info import TensorInfo

PIECE_BYTES = 4 * 2**20
"""Of the file, at a time: small enough for a processor's cache, also widened."""
HELD_BYTES = 32 * 2**20
"""Pages read through a map count as this process's memory until it lets go of them."""
MOST_REOPENINGS = 16  # each reads the table of contents again, some 10 ms; for systems that cannot let go


class DeferredWeights:
    """The tensors of one file, counted as they are read. Raises what ``progress`` raises, and WeightsError."""

    def __init__(self, path: str, progress: ProgressCallback) -> None:
        self._path = Path(path)
        self._progress = progress
        self._checkpoint = open_official(self._path)
        self._mapped_bytes = 0
        self._done: set[str] = set()
        self._done_bytes = 0
        self._failure: BaseException | None = None
        self.infos: Mapping[str, TensorInfo] = {name: self._checkpoint.info(name) for name in self._checkpoint.names()}
        self.metadata = self._checkpoint.metadata
        self._total_bytes = sum(info.nbytes for info in self.infos.values())
        self._reopen_after = max(HELD_BYTES, self._total_bytes // MOST_REOPENINGS)

    def read(self, name: str) -> Any:
        """A tensor in memory of its own: a model must not run out of a file that someone may overwrite."""
        with self._reading(name):
            tensor = self._checkpoint.tensor(name).clone()
            self._let_go(self.infos[name].nbytes)
        return tensor

    def pieces(self, name: str) -> Iterator[tuple[int, Any]]:
        """Row number and rows from there on, in order, as views into the file: to be used before the next one."""
        info = self.infos[name]
        rows = max(1, PIECE_BYTES * info.shape[0] // max(info.nbytes, 1))
        with self._reading(name):
            for start in range(0, info.shape[0], rows):
                piece = self._checkpoint.tensor(name)[start : start + rows]
                yield start, piece
                size = piece.nbytes
                del piece
                self._let_go(size)

    def float_pieces(self, name: str, divisor: float = 1.0) -> Iterator[tuple[int, Any]]:
        """The same divided, in the file's precision, and then widened."""
        for start, piece in self.pieces(name):
            yield start, (piece if divisor == 1 else piece / divisor).float()

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Counts ``name``. A failure is remembered: the package catches everything around its first reading."""
        if self._failure is not None:
            raise self._failure
        try:
            self._report()
            yield
            self._count(self.infos[name])
            self._report()
        except GeneratorExit:
            raise
        except BaseException as exc:
            self._failure = exc
            raise

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

    def _let_go(self, size: int) -> None:
        self._mapped_bytes += size
        if self._mapped_bytes >= HELD_BYTES and self._checkpoint.release():
            self._mapped_bytes = 0
        elif self._mapped_bytes > self._reopen_after:
            self._checkpoint.close()
            self._checkpoint = open_official(self._path)
            self._mapped_bytes = 0

    def _report(self) -> None:
        total = len(self.infos)
        self._progress(LoadProgress(self._done_bytes, self._total_bytes, len(self._done), total))
