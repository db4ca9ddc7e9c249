"""The model that a conversion reads: blocks of rows under the official names, through one small buffer.

The file is read, not mapped: mapped pages count as this process's memory, and a conversion reads all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.engine.state import ModelConfig
from webapp.errors import ConversionError
from webapp.i18n import Text
from webapp.weights.adapter import BLOCK_BYTES, FLOATS, Adapter, AdapterChoice
from webapp.weights.architecture import WHOLE_MODEL, without_adapters
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.inspection import inspect, require_model
from webapp.weights.tensor_info import ITEM_BYTES, ZEROS, TensorInfo

if TYPE_CHECKING:
    import torch


class Source:
    """A context manager. Raises errors of :func:`inspect`, ``not_a_model``, ``conversion_refused`` for a converted
    file, and errors of :class:`Adapter`.

    ``adapter``: the model reads as if the adapter had been trained into it; each tensor keeps its precision.
    ``without_adapter``: only the model, without the LoRA tensors in the same file."""

    _adapter: Adapter | None = None
    _has_effect = False

    def __init__(
        self, path: str | Path, target: str, without_adapter: bool = False, adapter: AdapterChoice | None = None
    ) -> None:
        self.path = Path(path)
        if adapter is not None and self.path.resolve() == Path(adapter.path).resolve():
            without_adapter = inspect(self.path).adapter == WHOLE_MODEL
        self.inspection = inspect(self.path, without_adapter=without_adapter)
        self.config: ModelConfig = require_model(self.inspection)
        self.is_changed = without_adapter or adapter is not None
        """True if the tensors are not all of the file's, or have other values."""
        _check_is_raw(self, target)
        self._files: list[FileIO] = []
        self._checkpoint = open_checkpoint(self.path)
        infos = {name: self._checkpoint.info(name) for name in self._checkpoint.names()}
        self.infos: dict[str, TensorInfo] = without_adapters(infos) if without_adapter else infos
        try:
            _check_floats(self, target)
            if adapter is not None:
                self._adapter = Adapter(adapter)
                self._adapter.check(self.infos)
            self._files.extend(path.open("rb", buffering=0) for path in self._checkpoint.paths)
        except BaseException:
            self.close()
            raise

    @property
    def architecture(self) -> str:
        return self.config.architecture

    def changed_names(self) -> set[str]:
        """Tensors that differ from those of the file."""
        return {*self._adapter.changed, *self._adapter.replaced} if self._adapter is not None else set()

    def check_effect(self) -> None:
        """Raises ``lora_mismatch`` if all was read and the adapter changed no value."""
        if self._adapter is not None:
            self._adapter.check_effect(self._has_effect)

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Consecutive rows (of the first dimension); a vector is one block. ConversionError for NaN and infinity."""
        for block in self._raw_blocks(name, BLOCK_BYTES):
            check_finite(block, name)
            yield block

    def whole(self, name: str) -> torch.Tensor:
        """For small tensors."""
        import torch

        blocks = list(self.blocks(name))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def close(self) -> None:
        if self._adapter is not None:
            self._adapter.close()
        for file in self._files:
            file.close()
        self._checkpoint.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raw_blocks(self, name: str, block_bytes: int) -> Iterator[torch.Tensor]:
        """Does not check the file's values for NaN."""
        adapter = self._adapter
        if adapter is None or not (name in adapter.changed or name in adapter.replaced):
            yield from self._file_blocks(name, block_bytes)
            return
        import torch

        start, info = 0, self.infos[name]
        own = torch.from_numpy(adapter.array(name).copy()) if name in adapter.replaced else None
        if own is None:
            block_bytes = adapter.block_rows(info) * (info.nbytes // max(info.shape[0], 1))
        for block in self._file_blocks(name, block_bytes):
            if own is not None:
                changed = own[start : start + len(block)] if own.dim() > 1 else own
            else:
                changed = torch.from_numpy(adapter.apply(name, start, block.float().numpy()))
            start += len(block)
            merged = changed.to(block.dtype)
            check_finite(merged, name)
            self._has_effect = self._has_effect or not torch.equal(block, merged)
            yield merged

    def _file_blocks(self, name: str, block_bytes: int) -> Iterator[torch.Tensor]:
        stored = self._checkpoint.stored(name)
        if stored.file == ZEROS or not stored.is_contiguous or not stored.info.numel:
            yield self._checkpoint.tensor(name).contiguous().clone()
            return
        import torch

        shape = stored.info.shape
        n_rows = shape[0] if len(shape) > 1 else 1
        row_bytes = stored.info.nbytes // max(n_rows, 1)
        step = max(1, block_bytes // max(row_bytes, 1))
        dtype = getattr(torch, stored.info.dtype)
        for start in range(0, n_rows, step):
            count = min(step, n_rows - start)
            data = self._read(self._files[stored.file], stored.offset + start * row_bytes, count * row_bytes)
            block_shape = (count, *shape[1:]) if len(shape) > 1 else shape
            yield torch.frombuffer(data, dtype=dtype).view(block_shape)

    def _read(self, file: FileIO, offset: int, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        file.seek(offset)
        done = 0
        while done < count:
            read = file.readinto(view[done:])
            if not read:
                reason = Text("reason.weights.changed_while_read", path=str(self.path))
                raise ConversionError(reason=reason)
            done += read
        return data


def check_finite(block: torch.Tensor, name: str, became: str = "") -> None:
    """Raises ConversionError if a value is NaN or infinite; ``became``: the precision that caused it."""
    import torch

    if bool(torch.isfinite(block).all()):
        return
    if became:
        reason = Text("reason.weights.values_out_of_range", name=name, type=became)
    else:
        reason = Text("reason.weights.values_not_finite", name=name)
    raise ConversionError(reason=reason)


def cast(block: torch.Tensor, dtype: str, name: str) -> torch.Tensor:
    """Converts to another precision. Raises ConversionError if a value does not fit."""
    import torch

    wanted = getattr(torch, dtype)
    if block.dtype == wanted:
        return block
    out = block.to(wanted)
    if ITEM_BYTES[dtype] < 4:
        check_finite(out, name, dtype)
    return out


def _check_is_raw(source: Source, target: str) -> None:
    strategy = source.inspection.converted_strategy
    if strategy is not None:
        reason = Text("reason.weights.converted_already", strategy=strategy)
        raise ConversionError.refused(source.path.name, target, reason, Text("reason.weights.convert_original"))


def _check_floats(source: Source, target: str) -> None:
    for info in source.infos.values():
        if info.dtype not in FLOATS:
            reason = Text("reason.common.tensor_has_type", name=info.name, type=info.dtype)
            way_out = Text("reason.weights.convert_full_precision")
            raise ConversionError.refused(source.path.name, target, reason, way_out)
