"""A model file made another: planned, written beside its place, read back, put there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from webapp.errors import ConversionError
from webapp.i18n import Text
from webapp.weights.convert.lora import MergedSource
from webapp.weights.convert.new_file import new_file
from webapp.weights.convert.options import ConversionOptions
from webapp.weights.convert.plan import Plan
from webapp.weights.convert.progress import IsCancelled, Meter, ReportProgress
from webapp.weights.convert.pth_writer import write_pth
from webapp.weights.convert.registry import conversion_to
from webapp.weights.convert.safetensors_writer import write_safetensors
from webapp.weights.convert.source import Source
from webapp.weights.convert.verification import verify
from webapp.weights.file_format import EXTENSIONS

WRITERS = {"safetensors": write_safetensors, "pth": write_pth}


@dataclass(frozen=True)
class Converted:
    """What came of it. ``written_bytes``: of its tensors."""

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
    """Raises WeightsError, ``not_a_model``, the errors of conversions, StrategyError; then nothing has been written."""
    options = options or ConversionOptions()
    target_path = Path(target_path)
    with open_source(source_path, target, options) as source:
        plan = conversion_to(target).make_plan()(source, options)
        _check_name(source, target_path, target, plan)
        with new_file(target_path, plan.total_bytes, options.overwrite) as (file, path):
            meter = Meter("convert", plan.total_bytes, len(plan.tensors), report, is_cancelled)
            WRITERS[plan.container](file, plan, meter)
            file.flush()
            again = Meter("verify", plan.total_bytes, len(plan.tensors), report, is_cancelled)
            verify(path, source, plan, meter.checksums, again)
            again.check()
    return Converted(target_path, target_path.stat().st_size, len(plan.tensors))


def plan_for(source_path: str | Path, target: str, options: ConversionOptions) -> Plan:
    """What :func:`convert` would write; the same refusals. Imports no torch, reads no tensor."""
    with open_source(source_path, target, options) as source:
        return conversion_to(target).make_plan()(source, options)


@contextmanager
def open_source(path: str | Path, target: str, options: ConversionOptions) -> Iterator[Source]:
    """The model to read, with its LoRA merged where one is named."""
    formats_in = conversion_to(target, Path(path).name).formats_in
    made = MergedSource(path, target, options.lora, options.lora_alpha) if options.lora else Source(path, target)
    with made as source:
        if source.inspection.format not in formats_in:
            way_out = Text("reason.weights.choose_a_file_in_one", formats=", ".join(formats_in))
            reason = Text("reason.weights.is_in_format", format=source.inspection.format)
            raise ConversionError(
                "conversion_refused", path=source.path.name, target=target, reason=reason, way_out=way_out
            )
        yield source


def _check_name(source: Source, path: Path, target: str, plan: Plan) -> None:
    endings = EXTENSIONS[plan.container]
    if path.suffix.lower() not in endings:
        reason: Text | str = Text("reason.weights.new_file_would_be_named", name=path.name)
        way_out: Text | str = Text("reason.weights.give_it_a_name_that_ends", ending=conversion_to(target).ending)
        raise ConversionError(
            "conversion_refused", path=source.path.name, target=target, reason=reason, way_out=way_out
        )
    if not path.parent.is_dir():
        way_out = Text("reason.weights.make_the_folder_first_or_name")
        reason = Text("reason.weights.no_folder", folder=str(path.parent))
        raise ConversionError(
            "conversion_refused", path=source.path.name, target=target, reason=reason, way_out=way_out
        )
    if path.exists() and path.samefile(source.path):
        reason = Text("reason.weights.new_file_would_take_the_place")
        raise ConversionError(
            "conversion_refused",
            path=path.name,
            target=target,
            reason=reason,
            way_out=Text("reason.common.choose_another_name"),
        )
