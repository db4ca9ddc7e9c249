"""A LoRA merged into the model it was trained for, block by block.

Files of RWKV-PEFT and RWKV-LM-LoRA: for a matrix ``X.weight`` of ``(out, in)`` they hold ``X.lora_A`` ``(rank, in)``
and ``X.lora_B`` ``(out, rank)``, and the merged matrix is ``X.weight + lora_B @ lora_A * alpha / rank`` (their
merge_lora.py). Whole tensors that were trained along (norms, time parameters) take the place of the model's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.errors import ConversionError
from webapp.i18n import Text
from webapp.weights.checkpoint import Checkpoint, open_checkpoint
from webapp.weights.convert.source import BLOCK_BYTES, FLOATS, Source, check_finite

if TYPE_CHECKING:
    import torch

A, B = ".lora_A", ".lora_B"


class LoraFile:
    """``pairs``: the name of each matrix it changes; ``replaced``: tensors it holds whole. Errors as of Checkpoint."""

    def __init__(self, path: str | Path, alpha: float | None) -> None:
        self.path = Path(path)
        self._checkpoint: Checkpoint = open_checkpoint(self.path)
        names = self._checkpoint.names()
        self.pairs = {f"{name[: -len(A)]}.weight": name[: -len(A)] for name in names if name.endswith(A)}
        self.replaced = [name for name in names if ".lora" not in name]
        if not self.pairs:
            self.close()
            raise self._mismatch(
                Text("reason.weights.its_content"),
                Text("reason.weights.pairs_of_lora_a_and_lora"),
                Text("reason.weights.none"),
            )
        self._alpha = self._checked_alpha(alpha)

    def check(self, source: Source) -> None:
        """``lora_mismatch`` unless every tensor has its place in the model, of the right size."""
        for name, prefix in self.pairs.items():
            self._check_pair(name, prefix, source)
        orphans = [n for n in self._checkpoint.names() if n.endswith(B) and f"{n[: -len(B)]}.weight" not in self.pairs]
        if orphans:
            raise self._mismatch(
                orphans[0],
                Text("reason.weights.with_beside_it", name=f"{orphans[0][: -len(B)]}{A}"),
                Text("reason.weights.alone"),
            )
        for name in self.replaced:
            expected = source.infos[name].shape if name in source.infos else Text("reason.weights.not_there")
            if expected != self._checkpoint.info(name).shape:
                raise self._mismatch(name, str(expected), str(self._checkpoint.info(name).shape))

    def change(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """``(lora_B * alpha / rank, lora_A)`` of a matrix, float32."""
        prefix = self.pairs[name]
        low, high = self._checkpoint.tensor(prefix + A).float(), self._checkpoint.tensor(prefix + B).float()
        for tensor, ending in ((low, A), (high, B)):
            check_finite(tensor, prefix + ending)
        return high * (self._alpha / low.shape[0]), low

    def tensor(self, name: str) -> torch.Tensor:
        found = self._checkpoint.tensor(name)
        check_finite(found, name)
        return found

    def close(self) -> None:
        self._checkpoint.close()

    def _check_pair(self, name: str, prefix: str, source: Source) -> None:
        if name not in source.infos:
            raise self._mismatch(
                name, Text("reason.weights.matrix_of_the_model"), Text("reason.weights.no_such_tensor_there")
            )
        if prefix + B not in self._checkpoint.names():
            raise self._mismatch(
                prefix + A, Text("reason.weights.with_beside_it", name=f"{prefix}{B}"), Text("reason.weights.alone")
            )
        low, high = self._checkpoint.info(prefix + A), self._checkpoint.info(prefix + B)
        rank = low.shape[0] if low.shape else 0
        shape = source.infos[name].shape
        wanted = ((rank, *shape[1:]), (*shape[:1], rank))
        if not rank or len(shape) != 2 or (low.shape, high.shape) != wanted:
            both = f"{wanted[0]}, {wanted[1]}"
            raise self._mismatch(Text("reason.weights.lora_of", name=name), both, f"{low.shape}, {high.shape}")
        for info in (low, high):
            if info.dtype not in FLOATS:
                raise self._mismatch(
                    Text("reason.weights.type_of", name=info.name), Text("reason.weights.floating_point"), info.dtype
                )

    def _checked_alpha(self, alpha: float | None) -> float:
        if alpha is not None and math.isfinite(alpha) and alpha > 0:
            return alpha
        self.close()
        reason = Text("reason.weights.loras_alpha_is_not_known")
        way_out = Text("reason.weights.give_the_alpha_it_was_trained")
        raise ConversionError(
            "conversion_refused",
            path=self.path.name,
            target=Text("reason.common.merged_model"),
            reason=reason,
            way_out=way_out,
        )

    def _mismatch(self, what: Text | str, expected: Text | str, found: Text | str) -> ConversionError:
        return ConversionError("lora_mismatch", path=self.path.name, what=what, expected=expected, found=found)


class MergedSource(Source):
    """A model that reads as if its LoRA had been trained into it; each tensor keeps its precision."""

    def __init__(self, path: str | Path, target: str, lora_path: str | Path, alpha: float | None) -> None:
        super().__init__(path, target)
        try:
            self._lora = LoraFile(lora_path, alpha)
        except BaseException:
            super().close()
            raise
        try:
            self._lora.check(self)
        except BaseException:
            self.close()
            raise

    @property
    def has_lora(self) -> bool:
        return True

    def changed_names(self) -> set[str]:
        return {*self._lora.pairs, *self._lora.replaced}

    def blocks(self, name: str, block_bytes: int = BLOCK_BYTES) -> Iterator[torch.Tensor]:
        if name in self._lora.replaced:
            yield self._lora.tensor(name).to(next(super().blocks(name, 1)).dtype)
        elif name in self._lora.pairs:
            yield from self._merged(name, block_bytes)
        else:
            yield from super().blocks(name, block_bytes)

    def close(self) -> None:
        self._lora.close()
        super().close()

    def _merged(self, name: str, block_bytes: int) -> Iterator[torch.Tensor]:
        high, low = self._lora.change(name)
        start = 0
        for block in super().blocks(name, block_bytes):
            rows = high[start : start + len(block)]
            merged = (block.float() + rows @ low).to(block.dtype)
            check_finite(merged, name)
            start += len(block)
            yield merged
