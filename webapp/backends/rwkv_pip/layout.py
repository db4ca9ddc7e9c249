"""The layout of a model's tensors in the package after a load (rwkv 0.8.32, model.py), for its loader and for files.

:func:`plan` describes the manual's converted model: a .pth whose tensors are already in the package's form for one
strategy, so that a load only reads them. For RWKV-4 to 6 the file is identical to the package's own (from
``convert_and_save_and_exit``), block by block. The package cannot convert RWKV-7; its file has the same form with the
final tensors of the RWKV-7 class. A merged ``time_state`` is kept.

RWKV-4 to 6 are as in ``RWKV.__init__``, value for value: a matrix ``(out, in)`` becomes ``(in, out)`` without moving a
byte, with contiguous columns. ``RWKV_x070.__init__`` transposes every matrix and makes its rows contiguous. Here, on a
CPU, its columns stay contiguous, as in the official file: in half precision, torch multiplies a vector by such a matrix
much faster (12 layers x 768 in bf16 decode 17 tokens per second on one core, 1.9 in the package's layout); in float32
there is no difference.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from webapp.backends.rwkv_pip.requirements import check_strategy
from webapp.backends.rwkv_pip.strategy import LayerPlacement, canonical_strategy, parse_strategy, place_layers
from webapp.errors import BackendUnavailable, ConversionError
from webapp.i18n import Text
from webapp.weights.adapter import BLOCK_BYTES
from webapp.weights.convert.plan import Blocks, ConversionOptions, Plan, PlannedTensor
from webapp.weights.convert.source import Source, cast
from webapp.weights.tensor_info import ITEM_BYTES, TensorInfo, contiguous_strides

if TYPE_CHECKING:
    import torch

    _Change = Callable[[torch.Tensor], torch.Tensor]
    import torch

    Rows = Callable[[], Iterable[tuple[int, torch.Tensor]]]
    """Restarts at each call: yields a row number and some float32 rows of the file from there, all of them in order."""


VERSION = "0.7"  # of the package's form; its loader asks for at least this
NO_RESCALE = 999  # the package's advice for music models (model.py)
TURNED = ("key.weight", "value.weight", "receptance.weight", "gate.weight", "output.weight", "head.weight")
RESCALED = ("att.output.weight", "ffn.value.weight")
NORMALISED = ("emb.weight", "blocks.0.ln0.weight", "blocks.0.ln0.bias")
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
V7_TURNED = ("key.weight", "value.weight", "receptance.weight", "output.weight", "head.weight")
V7_UNUSED = ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2", *NORMALISED[1:])
LAYOUT_KEY = "_roost_layout"
V7_LAYOUT = "1"
"""Marks a file written by this module; the rwkv package writes no usable file for RWKV-7."""
MAX_TURN_BYTES = 4 * BLOCK_BYTES


def plan(source: Source, options: ConversionOptions) -> Plan:
    """Raises StrategyError for a strategy that this model does not support; its devices need not be on this machine."""
    if not options.strategy:
        way_out = Text("reason.backends.name_the_strategy")
        reason = Text("reason.backends.no_strategy_named")
        raise ConversionError.refused(source.path.name, "fast", reason, way_out)
    strategy = canonical_strategy(options.strategy)
    with contextlib.suppress(BackendUnavailable):  # the file may be for another machine
        check_strategy(source.config, strategy)
    is_v7 = source.config.major == 7
    rescale = 0 if is_v7 else rescale_layer(strategy, source.inspection.kind == "music")
    extra: dict[str, str | int] = {LAYOUT_KEY: V7_LAYOUT} if is_v7 else {}
    kept = [_kept(source, name) for name in source.infos if name.endswith(".time_state")]
    marks: dict[str, str | int] = {"_strategy": strategy, "_rescale_layer": rescale, "_version": VERSION}
    return Plan("pth", [*package_tensors(source, strategy), *kept], marks | extra)


def package_tensors(source: Source, strategy: str, is_for_disk: bool = True) -> list[PlannedTensor]:
    """The package's tensors after a load. A file uses the best order for its device; in memory, matrices keep the order
    of the source, which avoids a second pass."""
    names = [name for name in source.infos if not name.endswith(".time_state")]
    if source.config.major == 7:
        return v7_planned(source, names, strategy, is_for_disk)
    rescale = rescale_layer(strategy, source.inspection.kind == "music")
    return older_planned(source, names, place_layers(strategy, source.config.n_layer), rescale)


def rescale_layer(strategy: str, is_music: bool) -> int:
    """After how many layers the package halves its activations; 0 for never. As in its constructor."""
    chosen = os.environ.get("RWKV_RESCALE_LAYER", "")
    if chosen.isdigit():
        return int(chosen)
    if is_music:
        return NO_RESCALE
    return 6 if "fp16" in strategy else 0


def _kept(source: Source, name: str) -> PlannedTensor:
    return PlannedTensor(source.infos[name], lambda: source.blocks(name))


class Layer(Struct, frozen=True):
    """The form of a tensor in this layer. ``divisor``: for the matrices that fp16 rescales."""

    dtype: str
    is_int8: bool
    divisor: int


def older_planned(
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
    """Data and scales in this order, so that scales can be freed with the last data."""
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
    """Imports torch with the first value, not with the plan."""
    import torch

    return torch.exp(value.float())


def v7_planned(source: Source, names: Sequence[str], strategy: str, is_for_disk: bool = True) -> list[PlannedTensor]:
    part = parse_strategy(strategy)[0]
    dtype = DTYPES[part.dtype]
    is_column_major = not is_for_disk or part.device == "cpu"
    return [_v7_tensor(source, name, dtype, is_column_major) for name in names if name not in V7_UNUSED]


def _v7_tensor(source: Source, name: str, dtype: str, is_column_major: bool) -> PlannedTensor:
    if name == "emb.weight":
        info = TensorInfo(name, source.infos[name].shape, dtype)
        return PlannedTensor(info, lambda: _v7_embedding(source, dtype))
    if name.endswith(V7_TURNED):
        return _v7_matrix(source, name, dtype, is_column_major)
    shape = source.infos[name].shape
    if not name.endswith(".r_k"):  # the heads show in it; it is flattened when it is handed over
        shape = tuple(size for size in shape if size != 1)
    info = TensorInfo(name, shape, dtype)
    if len(shape) == 2 and is_column_major and not name.endswith(".r_k"):
        return PlannedTensor(info, lambda: iter([cast(source.whole(name), dtype, name).t()]), (1, shape[0]))
    return PlannedTensor(info, lambda: iter([cast(source.whole(name), dtype, name)]))


def _v7_embedding(source: Source, dtype: str) -> Iterator[torch.Tensor]:
    """Normalised in the model's precision, as in the package's RWKV-7."""
    import torch

    weight, bias = (cast(source.whole(name), dtype, name) for name in NORMALISED[1:])
    for block in source.blocks("emb.weight"):
        rows = cast(block.float(), dtype, "emb.weight")
        yield torch.nn.functional.layer_norm(rows, weight.shape, weight=weight, bias=bias)


def _v7_matrix(source: Source, name: str, dtype: str, is_column_major: bool) -> PlannedTensor:
    n_out, n_in = source.infos[name].shape
    info = TensorInfo(name, (n_in, n_out), dtype)

    def as_stored() -> Iterator[torch.Tensor]:
        for block in source.blocks(name):
            yield cast(block, dtype, name)

    if is_column_major:
        return PlannedTensor(info, as_stored, (1, n_in))
    return PlannedTensor(info, lambda: turned_blocks(as_stored, n_out, n_in, ITEM_BYTES[dtype]))


def turned_blocks(
    rows: Callable[[], Iterator[torch.Tensor]], n_rows: int, n_columns: int, item_bytes: int
) -> Iterator[torch.Tensor]:
    """The transposed matrix, row by row: reads one band of columns per pass over the rows."""
    import torch

    band = max(1, MAX_TURN_BYTES // max(n_rows * item_bytes, 1))
    for start in range(0, n_columns, band):
        pieces = [block[:, start : start + band].t().contiguous() for block in rows()]
        yield torch.cat(pieces, dim=1)


class Int8Matrix(Struct, frozen=True):
    """``data (n_in, n_out)`` uint8, column-major as the package has it; ``mx, rx (n_out,)`` and ``my, ry (n_in,)``
    float32, ``rx`` and ``ry`` not yet divided by 16."""

    data: torch.Tensor
    mx: torch.Tensor
    rx: torch.Tensor
    my: torch.Tensor
    ry: torch.Tensor


def quantize(rows: Rows, n_in: int, n_out: int) -> Int8Matrix:
    """The package's int8 quantisation, done in pieces. Does not write to the rows.

    The package (``RWKV.__init__``) needs up to 12 bytes per weight while it quantises, 1.6 GB for the head of a 1.6 B
    model. Here three passes read a few rows of the file at a time, with the same operations in the same order, so the
    results are identical to the last bit.
    """
    import torch

    is_tall = n_in > n_out  # the package subtracts the minima of the longer side first
    mx, rx = torch.empty(n_out), torch.empty(n_out)
    my, ry = torch.full((n_in,), torch.inf), torch.full((n_in,), -torch.inf)
    for part, piece in _parts(rows):
        if not is_tall:
            mx[part] = piece.amin(dim=1)
            piece = piece - mx[part, None]
        torch.minimum(my, piece.amin(dim=0), out=my)
    for part, piece in _parts(rows):
        if is_tall:
            mx[part] = (piece - my).amin(dim=1)
        piece = _shifted(piece, my, mx[part, None], is_tall)
        rx[part] = piece.amax(dim=1)
        torch.maximum(ry, piece.div_(rx[part, None]).amax(dim=0), out=ry)
    data = torch.empty((n_out, n_in), dtype=torch.uint8)
    for part, piece in _parts(rows):
        piece = _shifted(piece, my, mx[part, None], is_tall).div_(rx[part, None]).div_(ry)
        data[part] = piece.mul_(256).floor_().clip_(0, 255).to(torch.uint8)
    return Int8Matrix(data.t(), mx, rx, my, ry)


def _parts(rows: Rows) -> Iterable[tuple[slice, torch.Tensor]]:
    for start, piece in rows():
        yield slice(start, start + len(piece)), piece


def _shifted(piece: torch.Tensor, my: torch.Tensor, mx: torch.Tensor, is_tall: bool) -> torch.Tensor:
    """A new tensor with the minima subtracted in the package's order, because the order affects the rounding."""
    first, second = (my, mx) if is_tall else (mx, my)
    return (piece - first).sub_(second)
