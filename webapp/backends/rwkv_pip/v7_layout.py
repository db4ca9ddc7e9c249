"""RWKV-7 as the package's class ends up with it (rwkv 0.8.32, model.py, ``RWKV_x070``), and how it is handed back.

On a CPU in half precision matrices keep their columns in sequence, which :func:`.model_loader.turn_half_matrices` would
do at load; elsewhere their rows, as the package leaves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

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


def planned(source: Source, names: Sequence[str], strategy: str) -> list[PlannedTensor]:
    part = parse_strategy(strategy)[0]
    dtype = DTYPES[part.dtype]
    is_column_major = part.device == "cpu" and ITEM_BYTES[dtype] == 2
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


class FinishedTensor:
    """A tensor of a fast file in the package's hands: what its RWKV-7 constructor does to each has been done, so every
    step gives the same back, and the last, ``to`` a precision, the tensor itself. The embedding goes on until it is
    normalised, which it is."""

    def __init__(self, tensor: torch.Tensor, name: str) -> None:
        self._tensor = tensor
        self._name = name
        self.shape = tensor.shape

    def t(self) -> FinishedTensor:
        return self

    contiguous = squeeze = t

    def flatten(self) -> FinishedTensor:
        return FinishedTensor(self._tensor.flatten(), self._name)

    def to(self, place: Any) -> Any:
        moved = self._tensor.to(place)
        is_last = hasattr(place, "itemsize") and self._name != "emb.weight"
        return moved if is_last else FinishedTensor(moved, self._name)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Of the package's functions only ``layer_norm`` of the embedding gets here."""
        return args[0]._tensor


def handed_over(names: Sequence[str], read: Callable[[str], torch.Tensor]) -> dict[str, Any]:
    """What the package's ``torch.load`` returns for a fast file; ``ln0`` only has to be there."""
    import torch

    handed: dict[str, Any] = {name: FinishedTensor(read(name), name) for name in names}
    return handed | {name: torch.zeros(1) for name in NORMALISED[1:]}
