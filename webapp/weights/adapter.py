"""Merges an adapter (the result of a fine-tuning) into the matrices of a model: into a new file by ``roost convert``,
or in memory during a load (:func:`open_model`). Both compute the same numbers in the same blocks.

For a matrix ``W`` of ``(out, in)``, as RWKV-PEFT merges (merge_lora.py, merge_pissa.py, merge_disha.py) and Hugging
Face's peft saves:

    lora     W + B @ A * alpha / rank           A (rank, in), B (out, rank)
    pissa    W - B0 @ A0 + B @ A                A0 and B0 in a separate file, written at the start of the training
    disha    W[o, i] + D[i % r, o]              D (r, out); Bone files of two dimensions are the same
    bone     W' + W' @ D + D by blocks of r     D (in / r, r, r)

Tensors that were trained as a whole (norms, time parameters) replace the model's. If a file also contains the frozen
matrices, they must equal the model's; otherwise it was trained for another model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from webapp.errors import ConversionError
from webapp.i18n import Text
from webapp.weights.architecture import ADAPTERS, describe
from webapp.weights.checkpoint import Checkpoint, open_checkpoint
from webapp.weights.file_format import PEFT_CONFIG, PEFT_WEIGHTS, read_contents, read_json, stamp_of
from webapp.weights.inspection import inspect, require_model
from webapp.weights.spelling import in_official_spelling
from webapp.weights.tensor_info import FileContents, TensorInfo

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
FLOATS = ("float16", "bfloat16", "float32", "float64")
BLOCK_BYTES = 32 * 2**20
A, B = ".lora_A", ".lora_B"
FIRST_A, FIRST_B = ".init_lora_A", ".init_lora_B"
BONE = (".bone", ".disha")
BASE_TOLERANCE = 0.02
"""Relative: two copies of one matrix, one of which went through bf16 or fp16."""


class AdapterChoice(Struct, frozen=True):
    """Paths of files. ``alpha``: None if the file contains it or its kind needs none. ``start``: the initial weights of
    a PiSSA training."""

    path: str
    alpha: float | None = None
    start: str = ""

    @classmethod
    def of(cls, options: Mapping[str, object]) -> AdapterChoice | None:
        """From an engine's options by name, whose alpha is 0 if not given; None without an adapter."""
        path, alpha, start = (options.get(f"adapter_{part}") for part in ("file", "alpha", "start"))
        return cls(str(path), float(str(alpha or 0)) or None, str(start or "")) if path else None

    def stamps(self) -> tuple[tuple[int, int], ...]:
        """Dates and sizes of its files, which detect a new file with the same name. Raises OSError."""
        paths = [Path(self.path), Path(self.path).parent / PEFT_CONFIG, *([Path(self.start)] if self.start else [])]
        return tuple(stamp_of(path) for path in paths if path.name != PEFT_CONFIG or path.is_file())


class Adapter:
    """``changed``: for each matrix that it changes, the part of its tensors' names before the suffix. ``replaced``:
    tensors that it contains as a whole. Raises errors of Checkpoint, ``lora_mismatch``, ``conversion_refused``."""

    def __init__(self, choice: AdapterChoice) -> None:
        self.path = Path(choice.path)
        folder = self.path if self.path.is_dir() else self.path.parent
        self._checkpoint: Checkpoint = open_checkpoint(folder / PEFT_WEIGHTS if self.path.is_dir() else self.path)
        self._first: Checkpoint | None = None
        try:
            self._names = set(self._checkpoint.names())
            self.changed = {f"{_stem(name)}.weight": _stem(name) for name in self._names if _ending(name)}
            self.replaced = {name for name in self._names if not _is_adapter(name) and name not in self.changed}
            if not self.changed:
                raise self._mismatch(
                    Text("reason.weights.its_content"),
                    Text("reason.weights.lora_pairs"),
                    self._what_it_is(),
                )
            config = folder / PEFT_CONFIG
            is_peft = self._checkpoint.path.name == PEFT_WEIGHTS and config.is_file()
            self._alpha, self._is_by_root = self._scale(
                read_json(config) if is_peft else {}, choice.alpha, bool(choice.start)
            )
            if choice.start:
                self._first = open_checkpoint(choice.start)
        except BaseException:
            self.close()
            raise

    def check(self, model: Mapping[str, TensorInfo]) -> None:
        """Raises ``lora_mismatch`` unless every tensor matches a tensor of the model, with the right size."""
        for name, stem in self.changed.items():
            if name not in model:
                raise self._mismatch(
                    name, Text("reason.weights.matrix_of_the_model"), Text("reason.weights.no_such_tensor_there")
                )
            self._check_change(name, stem, model[name].shape)
        for name in self.replaced:
            expected = model[name].shape if name in model else Text("reason.weights.not_there")
            if expected != self._checkpoint.info(name).shape:
                raise self._mismatch(name, str(expected), str(self._checkpoint.info(name).shape))

    def block_rows(self, info: TensorInfo) -> int:
        """How many rows of a matrix are changed at a time: what fits :data:`BLOCK_BYTES`, in whole groups of a bone."""
        tensor = self._bone(self.changed[info.name])
        shape = self._checkpoint.info(tensor).shape if tensor else ()
        together = shape[1] if len(shape) == 3 else 1
        row_bytes = max(info.nbytes // max(info.shape[0], 1), 1)
        return max(BLOCK_BYTES // (together * row_bytes), 1) * together

    def apply(self, name: str, start: int, rows: Floats) -> Floats:
        """Rows of a matrix from ``start`` on, with the change. Raises ``lora_mismatch`` if the file contains the same
        rows with other values."""
        stem, end = self.changed[name], start + len(rows)
        self._check_base(name, start, rows)
        bone = self._bone(stem)
        if not bone:
            low, high = self._floats(stem + A), self._floats(stem + B)[start:end]
            if self._first is not None:
                first_low, first_high = (self._floats(stem + part, self._first) for part in (FIRST_A, FIRST_B))
                return rows - first_high[start:end] @ first_low + high @ low
            rank = low.shape[0]
            scale = np.float32(self._alpha / (math.sqrt(rank) if self._is_by_root else rank))
            return rows + (high * scale) @ low
        change = self._floats(bone)
        if change.ndim == 2:
            return rows + change.T[start:end][:, np.arange(rows.shape[1]) % change.shape[0]]
        size = change.shape[1]
        blocks = rows.reshape(-1, size, rows.shape[1] // size, size).transpose(0, 2, 1, 3)
        found: Floats = rows + (blocks @ change + change).transpose(0, 2, 1, 3).reshape(rows.shape)
        return found

    def array(self, name: str) -> NDArray[np.floating]:
        """A tensor that it contains as a whole; bfloat16 as float32."""
        found = self._checkpoint.array(name)
        check_values(found, name)
        return found

    def check_effect(self, has_effect: bool) -> None:
        """Raises ``lora_mismatch`` if the whole model was read and no value changed."""
        if not has_effect:
            raise self._mismatch(
                Text("reason.weights.its_content"),
                Text("reason.weights.change_of_the_model"),
                Text("reason.weights.no_change_of_a_value"),
            )

    def close(self) -> None:
        self._checkpoint.close()
        if self._first is not None:
            self._first.close()

    def _floats(self, name: str, checkpoint: Checkpoint | None = None) -> Floats:
        found = np.asarray((checkpoint or self._checkpoint).array(name), np.float32)
        check_values(found, name)
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
                raise self._mismatch(present, Text("reason.weights.beside", name=other), Text("reason.weights.alone"))
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

    def _check_base(self, name: str, start: int, rows: Floats) -> None:
        if name not in self._names:
            return
        own = np.asarray(self._checkpoint.array(name)[start : start + len(rows)], np.float32)
        if own.shape != rows.shape or float(np.abs(own - rows).max()) > BASE_TOLERANCE * float(np.abs(rows).max()):
            raise self._mismatch(
                name, Text("reason.weights.values_of_the_model"), Text("reason.weights.values_of_another_model")
            )

    def _scale(self, config: dict[str, object], alpha: float | None, is_pissa: bool) -> tuple[float, bool]:
        """Alpha, and whether it is divided by the square root of the rank (rank-stabilized LoRA)."""
        if config.get("use_dora") or any("lora_magnitude_vector" in name for name in self._names):
            raise self.refused(Text("reason.weights.is_a_dora"), Text("reason.weights.merge_it_with_peft"))
        if str(config.get("init_lora_weights", "")).lower().startswith(("pissa", "olora", "corda")) and not is_pissa:
            raise self.refused(Text("reason.weights.is_a_pissa_of_peft"), Text("reason.weights.merge_it_with_peft"))
        given = config.get("lora_alpha") if alpha is None else alpha
        if is_pissa or all(self._bone(stem) for stem in self.changed.values()):
            return 1.0, False
        if isinstance(given, (int, float)) and math.isfinite(given) and given > 0:
            return float(given), bool(config.get("use_rslora"))
        raise self.refused(Text("reason.weights.alpha_unknown"), Text("reason.weights.give_alpha"))

    def _what_it_is(self) -> Text:
        """Describes a file that changes nothing by itself: the start of a PiSSA, a model, a state."""
        found = describe({name: self._checkpoint.info(name) for name in self._names})
        if found.adapter:
            assert isinstance(found.reason, Text)
            return found.reason
        return Text(f"states.mismatch.kind_{found.kind}") if found.kind == "model" else Text("reason.weights.none")

    def refused(self, reason: Text, way_out: Text) -> ConversionError:
        target = Text("reason.common.merged_model")
        return ConversionError.refused(self.path.name, target, reason, way_out)

    def _mismatch(self, what: Text | str, expected: Text | str, found: Text | str) -> ConversionError:
        return ConversionError("lora_mismatch", path=self.path.name, what=what, expected=expected, found=found)


def check_values(found: NDArray[np.generic], name: str) -> None:
    """Raises ConversionError if a value is NaN or infinite."""
    if not np.isfinite(found).all():
        raise ConversionError(reason=Text("reason.weights.values_not_finite", name=name))


def _ending(name: str) -> str:
    return next((ending for ending in (A, B, *BONE) if name.endswith(ending)), "")


def _stem(name: str) -> str:
    return name[: len(name) - len(_ending(name))]


def _is_adapter(name: str) -> bool:
    return any(ends.search(name) for ends in ADAPTERS.values())


# A model and its adapter


def open_model(path: str | Path, adapter: AdapterChoice | None = None) -> Checkpoint:
    """A model's tensors for an engine that loads it, with the adapter merged. Errors as in :class:`Adapter`."""
    if adapter is None:
        return open_checkpoint(path)
    return MergedCheckpoint(Path(path), in_official_spelling(read_contents(Path(path))), adapter)


def check_adapter(path: str | Path, choice: AdapterChoice) -> None:
    """Checks by the headers whether the adapter fits this model. Raises ``not_a_model``, ``conversion_refused`` for a
    model with packed weights, and errors of :class:`Adapter`."""
    found = inspect(path)
    require_model(found)
    odd = next((info for info in found.tensors if info.dtype not in FLOATS), None)
    adapter = Adapter(choice)
    try:
        if found.converted_strategy is not None or odd is not None or found.format not in ("pth", "safetensors"):
            reason = Text("reason.weights.is_already_packed")
            raise adapter.refused(reason, Text("reason.weights.convert_full_precision"))
        adapter.check({info.name: info for info in found.tensors})
    finally:
        adapter.close()


class MergedCheckpoint(Checkpoint):
    """Reads as if the adapter had been trained into the model. Each tensor keeps its precision, so that every engine
    gets the numbers of a merged file."""

    def __init__(self, path: Path, contents: FileContents, choice: AdapterChoice) -> None:
        super().__init__(path, contents)
        self.merged = f"{choice}{choice.stamps()}"
        self._has_effect = False
        self._merged: tuple[str, np.ndarray] = ("", np.empty(0))
        """The last requested tensor, because engines read head and embedding in pieces."""
        try:
            self._adapter = Adapter(choice)
        except BaseException:
            super().close()
            raise
        self._unread = {*self._adapter.changed, *self._adapter.replaced}
        try:
            self._adapter.check({name: self.info(name) for name in self.names()})
        except BaseException:
            self.close()
            raise

    def bits(self, name: str) -> np.ndarray:
        if name not in self._adapter.changed and name not in self._adapter.replaced:
            return super().bits(name)
        if self._merged[0] != name:
            self._merged = (name, self._made(name))
        return self._merged[1]

    def tensor(self, name: str) -> torch.Tensor:
        if name not in self._adapter.changed and name not in self._adapter.replaced:
            return super().tensor(name)
        import torch

        bits = self.bits(name)
        if self.info(name).dtype != "bfloat16":
            return torch.from_numpy(bits)
        return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)

    def close(self) -> None:
        self._merged = ("", np.empty(0))
        self._adapter.close()
        super().close()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Raises ``lora_mismatch`` after a complete read in which the adapter changed nothing."""
        self.close()
        if kind is None and not self._unread:
            self._adapter.check_effect(self._has_effect)

    def _made(self, name: str) -> np.ndarray:
        self._unread.discard(name)
        info, own = self.info(name), super().bits(name)
        made = np.empty(info.shape, own.dtype)
        if name in self._adapter.replaced:
            made[...] = to_bits(self._adapter.array(name), info.dtype)
        else:
            step = self._adapter.block_rows(info)
            for start in range(0, info.shape[0], step):
                rows = _widened(own[start : start + step], info.dtype)
                made[start : start + step] = to_bits(self._adapter.apply(name, start, rows), info.dtype)
        check_values(_widened(made, info.dtype) if info.dtype == "bfloat16" else made, name)
        self._has_effect = self._has_effect or not np.array_equal(made, own)
        return made


def _widened(bits: np.ndarray, dtype: str) -> Floats:
    if dtype != "bfloat16":
        return np.asarray(bits, np.float32)
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def to_bits(values: NDArray[np.floating], dtype: str) -> np.ndarray:
    """Rounded to the nearest, ties to even; bfloat16 as its bits in uint16."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return values.astype(dtype)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded: np.ndarray = (
        (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    ).astype(np.uint16)
    return rounded
