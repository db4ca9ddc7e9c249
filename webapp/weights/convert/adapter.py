"""What a fine-tuning added to a model, merged into its matrices block by block.

For a matrix ``W`` of ``(out, in)``, as RWKV-PEFT merges (merge_lora.py, merge_pissa.py, merge_disha.py), and Hugging
Face's peft saves:

    lora     W + B @ A * alpha / rank           A (rank, in), B (out, rank)
    pissa    W - B0 @ A0 + B @ A                A0 and B0 in a file of their own, written when the training began
    disha    W[o, i] + D[i % r, o]              D (r, out); Bone files of two dimensions are the same
    bone     W' + W' @ D + D by blocks of r     D (in / r, r, r)

Whole tensors that were trained along (norms, time parameters) take the place of the model's. A file that also holds the
matrices themselves, frozen, has to hold those of the model: any others mean that it was trained for another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.errors import ConversionError
from webapp.i18n import Text
from webapp.weights.architecture import ADAPTERS, WHOLE_MODEL, describe
from webapp.weights.checkpoint import Checkpoint, open_checkpoint
from webapp.weights.convert.source import BLOCK_BYTES, FLOATS, Source, check_finite
from webapp.weights.inspection import inspect
from webapp.weights.model_folder import read_json

if TYPE_CHECKING:
    import torch

A, B = ".lora_A", ".lora_B"
FIRST_A, FIRST_B = ".init_lora_A", ".init_lora_B"
BONE = (".bone", ".disha")
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE_TOLERANCE = 0.02
"""Relative: two copies of one matrix, of which one went through bf16 or fp16."""


class Adapter:
    """``changed``: the part of its tensors' names before the ending, by the matrix it changes. ``replaced``: tensors it
    holds whole. Errors as of Checkpoint, ``lora_mismatch``, ``conversion_refused``."""

    def __init__(self, path: str | Path, alpha: float | None = None, first_path: str | Path = "") -> None:
        self.path = Path(path)
        folder = self.path if self.path.is_dir() else self.path.parent
        self._checkpoint: Checkpoint = open_checkpoint(folder / PEFT_WEIGHTS if self.path.is_dir() else self.path)
        self._first: Checkpoint | None = None
        try:
            self._names = set(self._checkpoint.names())
            self.changed = {f"{_stem(name)}.weight": _stem(name) for name in self._names if _ending(name)}
            self.replaced = [name for name in self._names if not _is_adapter(name) and name not in self.changed]
            if not self.changed:
                raise self._mismatch(
                    Text("reason.weights.its_content"),
                    Text("reason.weights.pairs_of_lora_a_and_lora"),
                    self._what_it_is(),
                )
            config = folder / PEFT_CONFIG
            is_peft = self._checkpoint.path.name == PEFT_WEIGHTS and config.is_file()
            self._alpha, self._is_by_root = self._scale(read_json(config) if is_peft else {}, alpha, bool(first_path))
            if first_path:
                self._first = open_checkpoint(first_path)
        except BaseException:
            self.close()
            raise

    def check(self, source: Source) -> None:
        """``lora_mismatch`` unless every tensor has its place in the model, of the right size."""
        for name, stem in self.changed.items():
            if name not in source.infos:
                raise self._mismatch(
                    name, Text("reason.weights.matrix_of_the_model"), Text("reason.weights.no_such_tensor_there")
                )
            self._check_change(name, stem, source.infos[name].shape)
        for name in self.replaced:
            expected = source.infos[name].shape if name in source.infos else Text("reason.weights.not_there")
            if expected != self._checkpoint.info(name).shape:
                raise self._mismatch(name, str(expected), str(self._checkpoint.info(name).shape))

    def rows_together(self, name: str) -> int:
        """How many rows of a matrix have to be changed at a time."""
        tensor = self._bone(self.changed[name])
        return self._checkpoint.info(tensor).shape[1] if tensor and len(self._checkpoint.info(tensor).shape) == 3 else 1

    def apply(self, name: str, start: int, rows: torch.Tensor) -> torch.Tensor:
        """Rows of a matrix from ``start`` on with the change, float32. ``lora_mismatch`` where the file has the same
        rows and they differ."""
        stem, wide = self.changed[name], rows.float()
        self._check_base(name, start, wide)
        end, bone = start + len(rows), self._bone(self.changed[name])
        if not bone:
            low, high = self._float(stem + A), self._float(stem + B)
            if self._first is not None:
                first_low, first_high = (self._float(stem + part, self._first) for part in (FIRST_A, FIRST_B))
                return wide - first_high[start:end] @ first_low + high[start:end] @ low
            rank = low.shape[0]
            return wide + (high[start:end] * (self._alpha / (math.sqrt(rank) if self._is_by_root else rank))) @ low
        change = self._float(bone)
        if change.dim() == 2:
            import torch

            return wide + change.t()[start:end][:, torch.arange(wide.shape[1]) % change.shape[0]]
        size = change.shape[1]
        blocks = wide.view(-1, size, wide.shape[1] // size, size).transpose(1, 2)
        return wide + (blocks @ change + change).transpose(1, 2).reshape(wide.shape)

    def tensor(self, name: str) -> torch.Tensor:
        found = self._checkpoint.tensor(name)
        check_finite(found, name)
        return found

    def close(self) -> None:
        self._checkpoint.close()
        if self._first is not None:
            self._first.close()

    def _float(self, name: str, checkpoint: Checkpoint | None = None) -> torch.Tensor:
        found = (checkpoint or self._checkpoint).tensor(name).float()
        check_finite(found, name)
        return found

    def _bone(self, stem: str) -> str:
        return next((stem + ending for ending in BONE if stem + ending in self._names), "")

    def _check_change(self, name: str, stem: str, shape: tuple[int, ...]) -> None:
        bone = self._bone(stem)
        if bone:
            found = self._checkpoint.info(bone).shape
            flat, blocks = ((found[0], shape[0]), (shape[-1] // max(found[1], 1), found[1], found[1]))
            fits = found == flat and 0 < found[0] <= shape[-1] if len(found) == 2 else found == blocks
            if len(shape) != 2 or not fits or (len(found) == 3 and (shape[0] % found[1] or shape[1] % found[1])):
                raise self._mismatch(bone, f"{flat}, {blocks}", str(found))
            self._check_floats(bone)
            return
        for present, other in ((stem + A, stem + B), (stem + B, stem + A)):
            if other not in self._names:
                raise self._mismatch(
                    present, Text("reason.weights.with_beside_it", name=other), Text("reason.weights.alone")
                )
        pairs = [(self._checkpoint, stem + A, stem + B)]
        if self._first is not None:
            pairs.append((self._first, stem + FIRST_A, stem + FIRST_B))
        for checkpoint, low_name, high_name in pairs:
            low, high = checkpoint.info(low_name), checkpoint.info(high_name)
            rank = low.shape[0] if low.shape else 0
            wanted = ((rank, *shape[1:]), (*shape[:1], rank))
            if not rank or len(shape) != 2 or (low.shape, high.shape) != wanted:
                both = f"{wanted[0]}, {wanted[1]}"
                raise self._mismatch(Text("reason.weights.lora_of", name=name), both, f"{low.shape}, {high.shape}")
        self._check_floats(stem + A, stem + B)

    def _check_floats(self, *names: str) -> None:
        for name in names:
            found = self._checkpoint.info(name).dtype
            if found not in FLOATS:
                raise self._mismatch(
                    Text("reason.weights.type_of", name=name), Text("reason.weights.floating_point"), found
                )

    def _check_base(self, name: str, start: int, rows: torch.Tensor) -> None:
        if name not in self._names:
            return
        own = self._checkpoint.tensor(name)[start : start + len(rows)].float()
        if own.shape != rows.shape or float((own - rows).abs().max()) > BASE_TOLERANCE * float(rows.abs().max()):
            raise self._mismatch(
                name, Text("reason.weights.values_of_the_model"), Text("reason.weights.values_of_another_model")
            )

    def _scale(self, config: dict[str, object], alpha: float | None, is_pissa: bool) -> tuple[float, bool]:
        """Alpha, and whether it is divided by the root of the rank (rank-stabilized LoRA)."""
        if config.get("use_dora") or any("lora_magnitude_vector" in name for name in self._names):
            raise self._refused(Text("reason.weights.is_a_dora"), Text("reason.weights.merge_it_with_peft"))
        if str(config.get("init_lora_weights", "")).lower().startswith(("pissa", "olora", "corda")) and not is_pissa:
            raise self._refused(Text("reason.weights.is_a_pissa_of_peft"), Text("reason.weights.merge_it_with_peft"))
        given = config.get("lora_alpha") if alpha is None else alpha
        if is_pissa or all(self._bone(stem) for stem in self.changed.values()):
            return 1.0, False
        if isinstance(given, (int, float)) and math.isfinite(given) and given > 0:
            return float(given), bool(config.get("use_rslora"))
        raise self._refused(
            Text("reason.weights.loras_alpha_is_not_known"), Text("reason.weights.give_the_alpha_it_was_trained")
        )

    def _what_it_is(self) -> Text:
        """Of a file that changes nothing by itself: the start of a PiSSA, a model, a state."""
        found = describe({name: self._checkpoint.info(name) for name in self._names})
        if found.adapter:
            assert isinstance(found.reason, Text)
            return found.reason
        return Text(f"states.mismatch.kind_{found.kind}") if found.kind == "model" else Text("reason.weights.none")

    def _refused(self, reason: Text, way_out: Text) -> ConversionError:
        target = Text("reason.common.merged_model")
        return ConversionError("conversion_refused", path=self.path.name, target=target, reason=reason, way_out=way_out)

    def _mismatch(self, what: Text | str, expected: Text | str, found: Text | str) -> ConversionError:
        return ConversionError("lora_mismatch", path=self.path.name, what=what, expected=expected, found=found)


def _ending(name: str) -> str:
    return next((ending for ending in (A, B, *BONE) if name.endswith(ending)), "")


def _stem(name: str) -> str:
    return name[: len(name) - len(_ending(name))]


def _is_adapter(name: str) -> bool:
    return any(ends.search(name) for ends in ADAPTERS.values())


class MergedSource(Source):
    """A model that reads as if its adapter had been trained into it; each tensor keeps its precision."""

    def __init__(
        self,
        path: str | Path,
        target: str,
        adapter_path: str | Path,
        alpha: float | None = None,
        first_path: str | Path = "",
    ) -> None:
        is_own = Path(path).resolve() == Path(adapter_path).resolve() and inspect(path).adapter == WHOLE_MODEL
        super().__init__(path, target, without_adapter=is_own)
        self.is_changed = True
        self._has_effect = False
        self._adapter: Adapter | None = None
        try:
            self._adapter = Adapter(adapter_path, alpha, first_path)
            self._adapter.check(self)
        except BaseException:
            self.close()
            raise

    def changed_names(self) -> set[str]:
        return {*self._merging.changed, *self._merging.replaced}

    def check_effect(self) -> None:
        """``lora_mismatch`` when the whole file was read and not one value became another."""
        if not self._has_effect:
            raise ConversionError(
                "lora_mismatch",
                path=self._merging.path.name,
                what=Text("reason.weights.its_content"),
                expected=Text("reason.weights.change_of_the_model"),
                found=Text("reason.weights.no_change_of_a_value"),
            )

    def blocks(self, name: str, block_bytes: int = BLOCK_BYTES) -> Iterator[torch.Tensor]:
        if name in self._merging.changed:
            yield from self._merged(name, block_bytes)
        elif name in self._merging.replaced:
            own = self._merging.tensor(name)
            for start, block in _placed(super().blocks(name, block_bytes)):
                rows = own[start : start + len(block)] if own.dim() > 1 else own
                yield self._noted(block, rows.to(block.dtype))
        else:
            yield from super().blocks(name, block_bytes)

    def close(self) -> None:
        if self._adapter is not None:
            self._adapter.close()
        super().close()

    @property
    def _merging(self) -> Adapter:
        assert self._adapter is not None
        return self._adapter

    def _merged(self, name: str, block_bytes: int) -> Iterator[torch.Tensor]:
        info, together = self.infos[name], self._merging.rows_together(name)
        row_bytes = info.nbytes // max(info.shape[0], 1)
        group_bytes = together * row_bytes
        for start, block in _placed(super().blocks(name, max(block_bytes // group_bytes, 1) * group_bytes)):
            merged = self._merging.apply(name, start, block).to(block.dtype)
            check_finite(merged, name)
            yield self._noted(block, merged)

    def _noted(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        import torch

        self._has_effect = self._has_effect or not torch.equal(before, after)
        return after


def _placed(blocks: Iterator[torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    start = 0
    for block in blocks:
        yield start, block
        start += len(block)
