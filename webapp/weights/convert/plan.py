"""The definition of a conversion before tensors are read: targets, options, the plan of the new file, progress."""

from __future__ import annotations

import importlib
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from webapp.errors import ConversionError
from webapp.i18n import Text
from webapp.weights.tensor_info import TensorInfo, contiguous_strides

if TYPE_CHECKING:
    import torch

    from webapp.weights.convert.source import Source

    MakePlan = Callable[[Source, "ConversionOptions"], "Plan"]


class ConversionOptions(Struct, frozen=True):
    """``strategy``: the target strategy of a fast file. ``lora``: an adapter to merge, ``lora_alpha``: the alpha of its
    training (its effect is multiplied by alpha / rank), ``lora_init``: the start of a PiSSA training. ``without_lora``:
    drops an adapter's tensors that are in the model's file. ``type``: of the matrices in a .bin or .gguf."""

    strategy: str = ""
    lora: str = ""
    lora_alpha: float | None = None
    overwrite: bool = False
    lora_init: str = ""
    without_lora: bool = False
    type: str = ""


REPORT_EVERY_S = 0.1


class ConversionProgress(Struct, frozen=True):
    """``phase``: ``convert`` or ``verify``; each counts its own bytes and tensors of the result."""

    phase: str
    done_bytes: int
    total_bytes: int
    done_tensors: int
    total_tensors: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


ReportProgress = Callable[[ConversionProgress], None]
IsCancelled = Callable[[], bool]


class Meter:
    """Counts one phase. Every block checks for cancellation (``conversion_cancelled``); reports are sent ten times per
    second.

    ``checksums``: CRC-32 of each tensor's bytes, by name, computed on the way.
    """

    def __init__(
        self, phase: str, total_bytes: int, total_tensors: int, report: ReportProgress, is_cancelled: IsCancelled
    ) -> None:
        self.checksums: dict[str, int] = {}
        self._progress = ConversionProgress(phase, 0, total_bytes, 0, total_tensors)
        self._send = report
        self._is_cancelled = is_cancelled
        self._reported_at = time.monotonic()
        report(self._progress)

    def block(self, name: str, data: memoryview | bytes) -> None:
        self.checksums[name] = zlib.crc32(data, self.checksums.get(name, 0))
        self._progress = replace(self._progress, done_bytes=self._progress.done_bytes + len(data))
        self.check()

    def tensor_done(self, name: str) -> None:
        self.checksums.setdefault(name, 0)
        self._progress = replace(self._progress, done_tensors=self._progress.done_tensors + 1)
        if self._progress.done_tensors == self._progress.total_tensors:
            self._send(self._progress)

    def check(self) -> None:
        if self._is_cancelled():
            raise ConversionError("conversion_cancelled")
        now = time.monotonic()
        if now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            self._send(self._progress)


Container = Literal["safetensors", "pth", "folder", "ggml-bin", "gguf"]
Blocks = Callable[[], Iterator["torch.Tensor"]]


class PlannedTensor(Struct, frozen=True):
    """``blocks`` yields its elements in stored order, one piece at a time, in ``info.dtype``. ``strides`` (in elements;
    only a .pth can have other than row-major ones) describe that order."""

    info: TensorInfo
    blocks: Blocks
    strides: tuple[int, ...] = ()

    def stored_strides(self) -> tuple[int, ...]:
        return self.strides or contiguous_strides(self.info.shape)


class Plan(Struct, frozen=True):
    """``marks``: metadata for the file (text in safetensors; also numbers and lists in GGUF). ``documents``: JSON files
    of a folder, by name; ``copies``: files that are copied to it unchanged."""

    container: Container
    tensors: Sequence[PlannedTensor]
    marks: Mapping[str, Any] = field(default_factory=dict)
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    copies: Sequence[Path] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes of the tensors; headers add about 100 bytes per tensor."""
        return sum(tensor.info.nbytes for tensor in self.tensors)


class Conversion(Struct, frozen=True):
    """``planner``: module:function of a :data:`MakePlan`, imported at first use; ``ending``: the new file's extension.
    ``needs_strategy``: the result runs with only one strategy, which must be given. ``types``: types of its matrices as
    a person writes them -> dtype, default first; empty if there is no choice."""

    target: str
    formats_in: tuple[str, ...]
    ending: str
    planner: str
    needs_strategy: bool = False
    types: Mapping[str, str] = field(default_factory=dict)

    def make_plan(self) -> MakePlan:
        module, _, name = self.planner.partition(":")
        found: MakePlan = getattr(importlib.import_module(module), name)
        return found

    def dtype(self, options: ConversionOptions, path: str) -> str:
        """The dtype of the matrices; accepts the spellings of RWKV-Runner and llama.cpp (Q5_1, FP16). Raises
        ``conversion_refused`` for a type that is not in :attr:`types`."""
        word = options.type or next(iter(self.types))
        known = word.lower().replace("fp", "f")
        if known not in self.types:
            way_out = Text("reason.common.choose_one_of", names=", ".join(self.types))
            raise ConversionError.refused(path, self.target, Text("reason.weights.no_such_type", name=word), way_out)
        return self.types[known]


EVERY_MODEL = ("pth", "safetensors", "ggml-bin", "gguf")
BIN_TYPES = {"q5_1": "q5_1", "q8_0": "q8_0", "q5_0": "q5_0", "q4_1": "q4_1", "q4_0": "q4_0"}
BIN_TYPES |= {"f16": "float16", "f32": "float32"}
"""The first one is the default, as in RWKV-Runner."""
GGUF_TYPES = {name: BIN_TYPES[name] for name in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "f16")}
GGUF_TYPES |= {"bf16": "bfloat16", "f32": "float32"}

CONVERSIONS: dict[str, Conversion] = {
    row.target: row
    for row in (
        Conversion("st", EVERY_MODEL, ".st", "webapp.weights.convert.source:plan_st"),
        Conversion("pth", EVERY_MODEL, ".pth", "webapp.weights.convert.source:plan_pth"),
        Conversion("hf", ("pth", "safetensors"), "", "webapp.weights.convert.source:plan_hf"),
        Conversion("bin", ("pth", "safetensors"), ".bin", "webapp.weights.convert.ggml:plan_bin", types=BIN_TYPES),
        Conversion("gguf", EVERY_MODEL, ".gguf", "webapp.weights.convert.ggml:plan_gguf", types=GGUF_TYPES),
        Conversion("fast", ("pth", "safetensors"), ".pth", "webapp.backends.rwkv_pip.layout:plan", True),
    )
}


def conversion_to(target: str, path: str = "") -> Conversion:
    """Raises ``conversion_refused`` for an unknown target."""
    try:
        return CONVERSIONS[target]
    except KeyError:
        way_out = Text("reason.common.choose_one_of", names=", ".join(CONVERSIONS))
        raise ConversionError.refused(path, target, Text("reason.weights.no_such_target"), way_out) from None


WEIGHT_ENDINGS = (".pth", ".pt", ".st", ".safetensors", ".bin", ".gguf")


def default_name(source_name: str, target: str, options: ConversionOptions) -> str:
    """``World-1B6.pth`` becomes ``World-1B6.st``, ``World-1B6.cpu-bf16.fast.pth`` or ``World-1B6.merged.pth``, the
    .bin ``World-1B6-Q5_1.bin``, and the folder ``World-1B6-hf``."""
    conversion = conversion_to(target, source_name)
    name = PurePath(source_name)
    stem = name.stem if name.suffix.lower() in WEIGHT_ENDINGS else name.name
    stem += ".merged" if options.lora else ""
    if conversion.types:
        stem += f"-{(options.type or next(iter(conversion.types))).upper()}"
    if target == "hf":
        return f"{stem}-hf"
    if conversion.needs_strategy:
        words = re.sub(r"[^a-z0-9]+", "-", options.strategy.lower()).strip("-")
        stem += f".{words}.fast" if words else ".fast"
    return stem + conversion.ending
