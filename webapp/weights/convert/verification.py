"""A result read back before it gets its name: every byte, every shape, and values compared with the source's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from webapp.errors import ConversionError, RoostError
from webapp.i18n import Text
from webapp.weights.convert.plan import Plan
from webapp.weights.convert.progress import Meter
from webapp.weights.convert.source import Source
from webapp.weights.file_format import read_contents
from webapp.weights.inspection import inspect, require_model
from webapp.weights.naming import open_official
from webapp.weights.tensor_info import FileContents, TensorInfo

if TYPE_CHECKING:
    import torch

READ_BYTES = 16 * 2**20
SAMPLES = 64


def verify(path: Path, source: Source, plan: Plan, checksums: Mapping[str, int], meter: Meter) -> None:
    """ConversionError when the file at ``path`` is not exactly what was planned and written."""
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
    if not plan.marks.get("_strategy"):
        compare_samples(path, source)


def _check_shapes(contents: FileContents, plan: Plan) -> None:
    found = {name: (stored.info, stored.strides) for name, stored in contents.tensors.items()}
    planned = {tensor.info.name: (tensor.info, tensor.stored_strides()) for tensor in plan.tensors}
    if found != planned:
        odd = next(name for name in {**found, **planned} if found.get(name) != planned.get(name))
        raise _wrong(
            Text(
                "reason.weights.tensor_is_instead_of",
                name=odd,
                found=str(found.get(odd)),
                expected=str(planned.get(odd)),
            )
        )


def _check_bytes(path: Path, contents: FileContents, checksums: Mapping[str, int], meter: Meter) -> None:
    with path.open("rb", buffering=0) as file:
        for name, stored in contents.tensors.items():
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
                raise _wrong(Text("reason.weights.reads_differently_from_what_was_written", name=name))


def compare_samples(path: Path, source: Source) -> None:
    """Up to :data:`SAMPLES` values of each tensor, read as the loader will read them: names and turns are right."""
    changed = source.changed_names()
    rng = np.random.default_rng(0)
    with open_official(path, any_name=True) as result, open_official(source.path) as original:
        if set(result.names()) != set(source.infos):
            raise _wrong(Text("reason.weights.tensors_have_other_names"))
        for name, info in source.infos.items():
            if name not in changed:
                _compare(name, info, original.tensor(name), result.tensor(name), rng)
                # Each value looked at brings 64 kB around it into this process: 3 GB over all tensors of a 1.6 B model.
                original.release()
                result.release()


def _compare(
    name: str, info: TensorInfo, original: torch.Tensor, result: torch.Tensor, rng: np.random.Generator
) -> None:
    if result.shape != original.shape:
        raise _wrong(
            Text(
                "reason.weights.is_instead_of",
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
        raise _wrong(Text("reason.weights.values_of_are_not_those", name=name))


def _wrong(reason: Text | str) -> ConversionError:
    return ConversionError(reason=Text("reason.weights.new_file_did_not_pass_its", reason=reason))
