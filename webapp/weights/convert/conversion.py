"""Converts a model file: plans the result, writes it next to its target, verifies it, and moves it there."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from webapp.errors import ConversionError, RoostError
from webapp.i18n import Text
from webapp.weights import ggml_model
from webapp.weights.adapter import AdapterChoice
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.convert.ggml import GgmlSource
from webapp.weights.convert.plan import ConversionOptions, IsCancelled, Meter, Plan, ReportProgress, conversion_to
from webapp.weights.convert.source import Source
from webapp.weights.convert.writers import new_container
from webapp.weights.file_format import EXTENSIONS, read_contents, stamp_of
from webapp.weights.inspection import inspect, require_model
from webapp.weights.tensor_info import FileContents, TensorInfo

if TYPE_CHECKING:
    import torch


READ_BYTES = 16 * 2**20
SAMPLES = 64


def verify(path: Path, source: Source, plan: Plan, checksums: Mapping[str, int], meter: Meter) -> None:
    """Raises ConversionError unless the file at ``path`` is exactly what was planned and written."""
    try:
        contents = read_contents(path, any_name=True)
        found = require_model(inspect(path, any_name=True))
    except RoostError as exc:
        raise _wrong(str(exc)) from exc
    wanted = source.config
    if (found.major, found.n_layer, found.n_embd, found.vocab_size) != (
        wanted.major,
        wanted.n_layer,
        wanted.n_embd,
        wanted.vocab_size,
    ):
        raise _wrong(Text("reason.weights.reads_as_another_model", found=str(found), expected=str(wanted)))
    _check_shapes(contents, plan)
    _check_bytes(path, contents, checksums, meter)
    of_ggml = plan.container in ggml_model.FORMATS or isinstance(source, GgmlSource)
    if not plan.marks.get("_strategy") and not of_ggml:
        compare_samples(path, source)


def _check_shapes(contents: FileContents, plan: Plan) -> None:
    found = {name: (stored.info, stored.strides) for name, stored in contents.tensors.items()}
    planned = {tensor.info.name: (tensor.info, tensor.stored_strides()) for tensor in plan.tensors}
    if found != planned:
        odd = next(name for name in {**found, **planned} if found.get(name) != planned.get(name))
        raise _wrong(
            Text(
                "reason.weights.tensor_differs",
                name=odd,
                found=str(found.get(odd)),
                expected=str(planned.get(odd)),
            )
        )


def _check_bytes(path: Path, contents: FileContents, checksums: Mapping[str, int], meter: Meter) -> None:
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(one.open("rb", buffering=0)) for one in contents.files or (path,)]
        for name, stored in contents.tensors.items():
            file = files[stored.file]
            file.seek(stored.offset)
            left = stored.info.nbytes
            while left:
                data = file.read(min(left, READ_BYTES))
                if not data:
                    raise _wrong(Text("reason.weights.ends_inside", name=name))
                meter.block(name, data)
                left -= len(data)
            meter.tensor_done(name)
            if meter.checksums[name] != checksums.get(name):
                raise _wrong(Text("reason.weights.written_wrong", name=name))


def compare_samples(path: Path, source: Source) -> None:
    """Compares up to :data:`SAMPLES` values of each tensor, read as the loader does: checks names and orientation."""
    changed = source.changed_names()
    rng = np.random.default_rng(0)
    with open_checkpoint(path, any_name=True) as result, open_checkpoint(source.path) as original:
        if set(result.names()) != set(source.infos):
            raise _wrong(Text("reason.weights.tensors_have_other_names"))
        for name, info in source.infos.items():
            if name not in changed:
                _compare(name, info, original.tensor(name), result.tensor(name), rng)
                # Each sampled value loads 64 kB around it into this process: 3 GB for all tensors of a 1.6 B model.
                original.release()
                result.release()


def _compare(
    name: str, info: TensorInfo, original: torch.Tensor, result: torch.Tensor, rng: np.random.Generator
) -> None:
    if result.shape != original.shape:
        raise _wrong(
            Text(
                "reason.weights.differs",
                name=name,
                found=str(tuple(result.shape)),
                expected=str(info.shape),
            )
        )
    places = rng.integers(0, max(info.numel, 1), min(SAMPLES, info.numel))
    index = np.unravel_index(places, info.shape) if math.prod(info.shape) else ()
    if not index:
        return
    picked = tuple([int(value) for value in axis] for axis in index)
    if not bool((original[picked].to(result.dtype) == result[picked]).all()):
        raise _wrong(Text("reason.weights.values_differ", name=name))


def _wrong(reason: Text | str) -> ConversionError:
    return ConversionError(reason=Text("reason.weights.check_failed", reason=reason))


class Converted(Struct, frozen=True):
    path: Path
    size_bytes: int
    tensors: int


def convert(
    source_path: str | Path,
    target_path: str | Path,
    target: str,
    options: ConversionOptions | None = None,
    report: ReportProgress = lambda progress: None,
    is_cancelled: IsCancelled = lambda: False,
) -> Converted:
    """Raises WeightsError, ``not_a_model``, conversion errors and StrategyError; nothing is written then."""
    options = options or ConversionOptions()
    target_path = Path(target_path)
    with open_source(source_path, target, options) as source:
        plan = conversion_to(target).make_plan()(source, options)
        _check_name(source, target_path, target, plan)
        with new_container(target_path, plan, options.overwrite) as (write, path):
            meter = Meter("convert", plan.total_bytes, len(plan.tensors), report, is_cancelled)
            write(meter)
            source.check_effect()
            again = Meter("verify", plan.total_bytes, len(plan.tensors), report, is_cancelled)
            verify(path, source, plan, meter.checksums, again)
            again.check()
    return Converted(target_path, stamp_of(target_path)[1], len(plan.tensors))


def plan_for(source_path: str | Path, target: str, options: ConversionOptions) -> Plan:
    """The plan of :func:`convert`, with the same errors. Imports no torch, reads no tensor."""
    with open_source(source_path, target, options) as source:
        return conversion_to(target).make_plan()(source, options)


@contextmanager
def open_source(path: str | Path, target: str, options: ConversionOptions) -> Iterator[Source]:
    """The model to read, with its adapter merged if one is given."""
    formats_in = conversion_to(target, Path(path).name).formats_in
    if options.lora:
        adapter = AdapterChoice(options.lora, options.lora_alpha, options.lora_init)
        made: Source = Source(path, target, adapter=adapter)
    elif (found := inspect(path)).format in ggml_model.FORMATS and found.config is not None:
        made = GgmlSource(path, target)
    else:
        made = Source(path, target, options.without_lora)
    with made as source:
        if source.inspection.format not in formats_in:
            way_out = Text("reason.weights.choose_other_format", formats=", ".join(formats_in))
            reason = Text("reason.weights.is_in_format", format=source.inspection.format)
            raise ConversionError.refused(source.path.name, target, reason, way_out)
        yield source


def _check_name(source: Source, path: Path, target: str, plan: Plan) -> None:
    endings = () if plan.container == "folder" else EXTENSIONS[plan.container]
    if endings and path.suffix.lower() not in endings:
        reason: Text | str = Text("reason.weights.new_file_would_be_named", name=path.name)
        way_out: Text | str = Text("reason.weights.name_ending", ending=conversion_to(target).ending)
        raise ConversionError.refused(source.path.name, target, reason, way_out)
    if not path.parent.is_dir():
        way_out = Text("reason.weights.make_folder_first")
        reason = Text("reason.weights.no_folder", folder=str(path.parent))
        raise ConversionError.refused(source.path.name, target, reason, way_out)
    if path.exists() and path.samefile(source.path):
        reason = Text("reason.weights.output_is_input")
        raise ConversionError.refused(path.name, target, reason, Text("reason.common.choose_another_name"))
