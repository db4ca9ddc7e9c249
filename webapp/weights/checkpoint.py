"""A lazily opened model: returns tensors by their official names from memory maps, for any format, spelling and number
of files.

Nothing is mapped or read before it is requested. :meth:`Checkpoint.array` needs only numpy; :meth:`Checkpoint.tensor`
imports torch. To identify a file without opening it, use :func:`.inspection.inspect`.

A wrong number in a view of memory would end the process, so every number is checked again here, even though the readers
of headers have checked it.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights.file_format import FORMAT_NAMES, read_contents
from webapp.weights.spelling import in_official_spelling
from webapp.weights.tensor_info import ZEROS, FileContents, StoredTensor, TensorInfo

if TYPE_CHECKING:
    import torch


def open_checkpoint(path: str | Path, any_name: bool = False) -> Checkpoint:
    """Opens a .pth, .safetensors/.st, .npy or a folder of any kind (model, state, LoRA). Errors as in
    :func:`inspect`."""
    path = Path(path)
    contents = in_official_spelling(read_contents(path, any_name))
    if contents.format not in ("pth", "safetensors", "npy"):
        reason = Text("reason.weights.format_not_read", format=FORMAT_NAMES[contents.format])
        raise WeightsError(path=str(path), reason=reason)
    return Checkpoint(path, contents)


class Checkpoint:
    """Tensors by name. A context manager; returned arrays and tensors stay valid after it is closed."""

    def __init__(self, path: Path, contents: FileContents) -> None:
        self.path = path
        self.format = contents.format
        self.spelling = contents.spelling
        self.metadata: Mapping[str, str] = contents.metadata
        self.paths = contents.files or (path,)
        self.merged = ""
        """What an adapter changed, for callers that cache the numbers; "" for the unchanged file."""
        self._stored = contents.tensors
        self._files: list[BinaryIO] = []
        self._maps: dict[tuple[int, int], mmap.mmap] = {}
        try:
            self._files.extend(one.open("rb") for one in self.paths)
        except OSError:
            self.close()
            raise

    def names(self) -> list[str]:
        return list(self._stored)

    def info(self, name: str) -> TensorInfo:
        return self._find(name).info

    def stored(self, name: str) -> StoredTensor:
        """The position of a tensor's bytes in its file of :attr:`paths`, for a reader that does not use the map."""
        return self._find(name)

    def array(self, name: str) -> np.ndarray:
        """Read-only numpy view of the file, with its strides; bfloat16 is converted to a float32 copy."""
        array = self.bits(name)
        if self.info(name).dtype == "bfloat16":
            bits = array.astype(np.uint32)
            bits <<= np.uint32(16)
            array = bits.view(np.float32)
        array.flags.writeable = False
        return array

    def bits(self, name: str) -> np.ndarray:
        """As :meth:`array`, but bfloat16 as its bits in uint16: always a view, never a copy."""
        stored = self._find(name)
        info = stored.info
        if info.dtype.startswith("float8"):
            reason = Text("reason.weights.numpy_cannot_hold", name=name, type=info.dtype)
            raise WeightsError(path=str(self.path), reason=reason)
        return self._view(stored, np.dtype("uint16" if info.dtype == "bfloat16" else info.dtype))

    def tensor(self, name: str) -> torch.Tensor:
        """CPU tensor over the mapped file, with its dtype and strides; writing to it changes no file. A tensor that is
        transposed in the file is copied row by row, because other strides use kernels that round differently."""
        import torch

        stored = self._find(name)
        info = stored.info
        dtype = getattr(torch, info.dtype)
        if info.numel == 0 or stored.file == ZEROS:
            return torch.zeros(info.shape, dtype=dtype)
        # Copy-on-write: torch needs writable memory, but the file must never change.
        flat = self._bytes(stored, mmap.ACCESS_COPY)
        tensor = torch.frombuffer(flat, dtype=dtype).as_strided(info.shape, stored.strides)
        return tensor.contiguous() if stored.is_turned else tensor

    def release(self) -> bool:
        """Releases the pages read so far, which count as this process's memory; they are read again when needed. False
        if the system cannot do it (Windows): there only :meth:`close` does."""
        if not self._files or not hasattr(mmap, "MADV_DONTNEED"):
            return False
        for mapped in self._maps.values():
            mapped.madvise(mmap.MADV_DONTNEED)
        return True

    def close(self) -> None:
        """Closes the file; a memory map itself exists as long as the last array made from it."""
        files, self._files = self._files, []
        for file in files:
            file.close()
        for mapped in self._maps.values():
            with contextlib.suppress(BufferError):  # arrays still use it; the last of them releases it
                mapped.close()
        self._maps.clear()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find(self, name: str) -> StoredTensor:
        try:
            return self._stored[name]
        except KeyError:
            raise WeightsError(path=str(self.path), reason=Text("reason.weights.no_tensor_in_it", name=name)) from None

    def _bytes(self, stored: StoredTensor, access: int) -> memoryview:
        """From the tensor's first element to its last."""
        mapped = self._mapped(stored.file, access)
        span = stored.span_bytes
        numbers = (stored.offset, *stored.info.shape, *stored.strides)
        if len(stored.strides) != len(stored.info.shape) or min(numbers) < 0 or stored.offset + span > stored.end:
            reason = Text("reason.weights.reaches_beyond_its_data", name=stored.info.name)
            raise WeightsError(path=str(self.path), reason=reason)
        if stored.end > len(mapped):
            params = {"name": stored.info.name, "end": stored.end, "found": len(mapped)}
            raise WeightsError(
                "file_truncated",
                path=str(self.path),
                reason=Text("reason.weights.ends_after_the_file", **params),
            )
        return memoryview(mapped)[stored.offset : stored.offset + span]

    def _mapped(self, file: int, access: int) -> mmap.mmap:
        if not self._files:
            raise ValueError("the checkpoint is closed")
        if (file, access) not in self._maps:
            self._maps[file, access] = mmap.mmap(self._files[file].fileno(), 0, access=access)
        return self._maps[file, access]

    def _view(self, stored: StoredTensor, dtype: np.dtype) -> np.ndarray:
        if stored.info.numel == 0 or stored.file == ZEROS:
            return np.zeros(stored.info.shape, dtype)
        flat = np.frombuffer(self._bytes(stored, mmap.ACCESS_READ), dtype)
        strides = tuple(stride * dtype.itemsize for stride in stored.strides)
        return np.lib.stride_tricks.as_strided(flat, stored.info.shape, strides, writeable=False)
