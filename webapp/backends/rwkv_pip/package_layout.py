"""RWKV-4 to 6 as the package's loader leaves them (rwkv 0.8.32, model.py, ``RWKV.__init__``), value for value.

A matrix of ``(out, in)`` is kept as ``(in, out)`` without moving a byte: its columns lie in sequence, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from webapp.backends.strategy import LayerPlacement
from webapp.weights.convert.plan import Blocks, PlannedTensor
from webapp.weights.convert.source import Source, cast
from webapp.weights.int8_matrix import Int8Matrix, quantize
from webapp.weights.tensor_info import TensorInfo, contiguous_strides

if TYPE_CHECKING:
    import torch

    _Change = Callable[[torch.Tensor], torch.Tensor]

TURNED = ("key.weight", "value.weight", "receptance.weight", "gate.weight", "output.weight", "head.weight")
RESCALED = ("att.output.weight", "ffn.value.weight")
NORMALISED = ("emb.weight", "blocks.0.ln0.weight", "blocks.0.ln0.bias")
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Layer:
    """What a tensor of this layer becomes. ``divisor``: of the matrices that fp16 rescales."""

    dtype: str
    is_int8: bool
    divisor: int


def planned(
    source: Source, names: Sequence[str], placements: Sequence[LayerPlacement], rescale: int
) -> list[PlannedTensor]:
    out: list[PlannedTensor] = []
    for name in names:
        if name.startswith("blocks.0.ln0."):
            continue
        layer = _layer(name, placements, rescale)
        if name == "emb.weight":
            out.append(_embedding(source, layer))
        elif name.endswith(TURNED):
            out += _matrix(source, name, layer)
        else:
            out.append(_small(source, name, layer))
    return out


def package_name(name: str) -> str:
    return name.replace(".time_faaaa", ".time_first")


def normalised_blocks(source: Source) -> Iterator[torch.Tensor]:
    """The embedding through the first layer's ``ln0``, in float32."""
    import torch

    weight, bias = (source.whole(name).float() for name in NORMALISED[1:])
    for block in source.blocks(NORMALISED[0]):
        yield torch.nn.functional.layer_norm(block.float(), weight.shape, weight=weight, bias=bias)


def _layer(name: str, placements: Sequence[LayerPlacement], rescale: int) -> Layer:
    number = int(name.split(".")[1]) if name.startswith("blocks.") else 0
    if name.startswith(("ln_out.", "head.")):
        number = len(placements) - 1
    divisor = 2 ** (number // rescale) if rescale > 0 and name.endswith(RESCALED) else 1
    placement = placements[number]
    return Layer(DTYPES[placement.dtype], placement.is_int8, divisor)


def _embedding(source: Source, layer: Layer) -> PlannedTensor:
    info = TensorInfo("emb.weight", source.infos["emb.weight"].shape, layer.dtype)

    def blocks() -> Iterator[torch.Tensor]:
        for block in normalised_blocks(source):
            yield cast(block, layer.dtype, "emb.weight")

    return PlannedTensor(info, blocks)


def _matrix(source: Source, name: str, layer: Layer) -> list[PlannedTensor]:
    n_out, n_in = source.infos[name].shape

    def divided() -> Iterator[torch.Tensor]:
        for block in source.blocks(name):
            yield block / layer.divisor if layer.divisor > 1 else block

    if layer.is_int8:
        return _int8_matrix(name, n_in, n_out, layer.dtype, divided)

    def blocks() -> Iterator[torch.Tensor]:
        for block in divided():
            yield cast(block, layer.dtype, name)

    return [PlannedTensor(TensorInfo(name, (n_in, n_out), layer.dtype), blocks, (1, n_in))]


def _int8_matrix(name: str, n_in: int, n_out: int, dtype: str, rows: Blocks) -> list[PlannedTensor]:
    """Bytes and scales in this order, so that the scales found for the bytes can be let go with the last of them."""
    kept: list[Int8Matrix] = []

    def numbered() -> Iterator[tuple[int, torch.Tensor]]:
        start = 0
        for block in rows():
            yield start, block.float()
            start += len(block)

    def data() -> Iterator[torch.Tensor]:
        kept[:] = [quantize(numbered, n_in, n_out)]
        whole = kept[0].data
        kept[0] = replace(kept[0], data=whole[:0])
        yield whole.t()

    def scale(ending: str) -> Blocks:
        def blocks() -> Iterator[torch.Tensor]:
            value = getattr(kept[0], ending)
            yield cast(value / 16 if ending in ("rx", "ry") else value, dtype, f"{name}_{ending}")

        return blocks

    shapes = {"mx": (n_out,), "rx": (n_out,), "my": (n_in, 1), "ry": (n_in, 1)}
    scales = [PlannedTensor(TensorInfo(f"{name}_{end}", shape, dtype), scale(end)) for end, shape in shapes.items()]
    return [PlannedTensor(TensorInfo(name, (n_in, n_out), "uint8"), data, (1, n_in)), *scales]


def _small(source: Source, name: str, layer: Layer) -> PlannedTensor:
    shape, dtype, _ = _small_form(source, name, layer)
    info = TensorInfo(package_name(name), shape, dtype)

    def blocks() -> Iterator[torch.Tensor]:
        value = source.whole(name)
        yield cast(_small_form(source, name, layer)[2](value), dtype, name).reshape(shape)

    return PlannedTensor(info, blocks, contiguous_strides(shape))


def _small_form(source: Source, name: str, layer: Layer) -> tuple[tuple[int, ...], str, _Change]:
    """Shape, dtype and values of a vector or small matrix; time constants and ``ln_x`` stay in float32."""
    shape = source.infos[name].shape
    squeezed = tuple(size for size in shape if size != 1) if ".time_" in name else shape
    version = source.architecture
    n_head = source.config.n_head
    if ".time_decay" in name and "_w" not in name:
        return _time_shape(version, squeezed, n_head), "float32", _decay(version)
    if ".time_first" in name or ".time_faaaa" in name:
        return _time_shape(version, squeezed, n_head), "float32", _bonus(version, name)
    return squeezed, "float32" if ".ln_x" in name else layer.dtype, lambda value: value


def _time_shape(version: str, shape: tuple[int, ...], n_head: int) -> tuple[int, ...]:
    if version == "4":
        return shape
    numel = 1
    for size in shape:
        numel *= size
    return (n_head, numel // n_head, 1) if version in ("5.2", "6") else (numel, 1, 1)


def _decay(version: str) -> _Change:
    if version == "4":
        return lambda value: -_exp(value)
    if version == "6":
        return lambda value: value.float()
    return lambda value: _exp(-_exp(value))


def _bonus(version: str, name: str) -> _Change:
    is_logarithm = ".time_faaaa" not in name and version != "4"
    return _exp if is_logarithm else (lambda value: value.float())


def _exp(value: torch.Tensor) -> torch.Tensor:
    """torch is imported with the first value, not with the plan."""
    import torch

    return torch.exp(value.float())
