"""The plans of the targets of this room. .pth is as the models are published: official names and orientation, every
tensor in the precision it had. .st is as web-rwkv (and so WebGPU) reads it: fp16, its names, small matrices turned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from webapp.errors import ConversionError
from webapp.i18n import Text
from webapp.weights.convert.plan import ConversionOptions, Plan, PlannedTensor
from webapp.weights.convert.source import Source, cast
from webapp.weights.naming import ARCHITECTURE_KEY, LAYOUT_KEY, WEB_RWKV, Spelling, web_rwkv_spelling
from webapp.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    import torch


def plan_pth(source: Source, options: ConversionOptions) -> Plan:
    if source.inspection.format == "pth" and not source.has_lora:
        reason = Text("reason.weights.pth_already")
        raise ConversionError(
            "conversion_refused",
            path=source.path.name,
            target="pth",
            reason=reason,
            way_out=Text("reason.weights.use_it_as_it_is"),
        )
    return Plan("pth", [_planned_pth(source, name) for name in source.infos])


def _planned_pth(source: Source, name: str) -> PlannedTensor:
    return PlannedTensor(source.infos[name], lambda: source.blocks(name))


DTYPE = "float16"  # web-rwkv takes nothing else


def plan_st(source: Source, options: ConversionOptions) -> Plan:
    """``format: pt`` is what web-rwkv's own converters write; Roost's marks make the way back exact."""
    if source.is_web_rwkv and not source.has_lora:
        reason = Text("reason.weights.has_web_rwkvs_names_already")
        raise ConversionError(
            "conversion_refused",
            path=source.path.name,
            target="st",
            reason=reason,
            way_out=Text("reason.weights.use_it_as_it_is"),
        )
    tensors = [_planned_st(source, name) for name in source.infos]
    marks = {"format": "pt", LAYOUT_KEY: WEB_RWKV, ARCHITECTURE_KEY: source.architecture}
    return Plan("safetensors", tensors, marks | kept_marks(source))


def kept_marks(source: Source) -> dict[str, str]:
    """What Roost's training wrote into the header (the tokens it saw) goes along."""
    ours = {name: text for name, text in source.inspection.metadata.items() if name.startswith("roost.")}
    return {name: text for name, text in ours.items() if name not in (LAYOUT_KEY, ARCHITECTURE_KEY)}


def _planned_st(source: Source, name: str) -> PlannedTensor:
    spelling = web_rwkv_spelling(name, source.architecture)
    info = TensorInfo(spelling.stored_name, _shape_st(source, name, spelling), DTYPE)
    return PlannedTensor(info, lambda: _blocks_st(source, name, spelling))


def _shape_st(source: Source, name: str, spelling: Spelling) -> tuple[int, ...]:
    shape = source.infos[name].shape
    if spelling.is_turned:
        return (*shape[:-2], shape[-1], shape[-2])
    return (shape[0], _head_size(source)) if spelling.is_repeated else shape


def _head_size(source: Source) -> int:
    return source.config.n_att // source.config.n_head


def _blocks_st(source: Source, name: str, spelling: Spelling) -> Iterator[torch.Tensor]:
    if spelling.is_turned:
        yield cast(source.whole(name), DTYPE, name).transpose(-1, -2)
    elif spelling.is_repeated:
        yield cast(source.whole(name), DTYPE, name).unsqueeze(1).repeat(1, _head_size(source))
    else:
        for block in source.blocks(name):
            yield cast(block, DTYPE, name)
