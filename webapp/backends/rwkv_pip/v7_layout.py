"""RWKV-7 as the package's class ends up with it (rwkv 0.8.32, model.py, ``RWKV_x070.__init__``).

The package turns every matrix and keeps its rows in sequence. Here, on a CPU, its columns are kept in sequence, as in
the official file: in half precision torch multiplies a vector by such a matrix far faster (12 layers x 768 in bf16
decode 17 tokens a second of one core so, 1.9 the package's way), in float32 it makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from webapp.backends.rwkv_pip.package_layout import DTYPES, NORMALISED
from webapp.backends.strategy import parse_strategy
from webapp.weights.convert.plan import PlannedTensor
from webapp.weights.convert.source import BLOCK_BYTES, Source, cast
from webapp.weights.tensor_info import ITEM_BYTES, TensorInfo

if TYPE_CHECKING:
    import torch

TURNED = ("key.weight", "value.weight", "receptance.weight", "output.weight", "head.weight")
UNUSED = ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2", *NORMALISED[1:])
LAYOUT_KEY = "_roost_layout"
V7_LAYOUT = "1"
"""The mark of a file that this module wrote; the rwkv package writes none for RWKV-7 that anyone could load."""
MOST_TURN_BYTES = 4 * BLOCK_BYTES


def planned(source: Source, names: Sequence[str], strategy: str, is_for_disk: bool = True) -> list[PlannedTensor]:
    part = parse_strategy(strategy)[0]
    dtype = DTYPES[part.dtype]
    is_column_major = not is_for_disk or part.device == "cpu"
    return [_planned(source, name, dtype, is_column_major) for name in names if name not in UNUSED]


def _planned(source: Source, name: str, dtype: str, is_column_major: bool) -> PlannedTensor:
    if name == "emb.weight":
        info = TensorInfo(name, source.infos[name].shape, dtype)
        return PlannedTensor(info, lambda: _embedding(source, dtype))
    if name.endswith(TURNED):
        return _matrix(source, name, dtype, is_column_major)
    shape = source.infos[name].shape
    if not name.endswith(".r_k"):  # the heads show in it; it is flattened when it is handed over
        shape = tuple(size for size in shape if size != 1)
    info = TensorInfo(name, shape, dtype)
    if len(shape) == 2 and is_column_major and not name.endswith(".r_k"):
        return PlannedTensor(info, lambda: iter([cast(source.whole(name), dtype, name).t()]), (1, shape[0]))
    return PlannedTensor(info, lambda: iter([cast(source.whole(name), dtype, name)]))


def _embedding(source: Source, dtype: str) -> Iterator[torch.Tensor]:
    """Normalised in the model's precision, as the package's RWKV-7 does."""
    import torch

    weight, bias = (cast(source.whole(name), dtype, name) for name in NORMALISED[1:])
    for block in source.blocks("emb.weight"):
        rows = cast(block.float(), dtype, "emb.weight")
        yield torch.nn.functional.layer_norm(rows, weight.shape, weight=weight, bias=bias)


def _matrix(source: Source, name: str, dtype: str, is_column_major: bool) -> PlannedTensor:
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
    """The transpose row after row: a band of columns of the matrix at a time, each a pass over its rows."""
    import torch

    band = max(1, MOST_TURN_BYTES // max(n_rows * item_bytes, 1))
    for start in range(0, n_columns, band):
        pieces = [block[:, start : start + band].t().contiguous() for block in rows()]
        yield torch.cat(pieces, dim=1)
