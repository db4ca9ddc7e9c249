"""To and from rwkv.cpp's ``.bin``: the plan of one, byte for byte as rwkv.cpp's own tools write it, and a ``.bin`` or
``.gguf`` read as if it had never been converted. A block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from webapp.errors import ConversionError
from webapp.i18n import Text
from webapp.weights import ggml_blocks
from webapp.weights.convert.plan import BIN_TYPES, ConversionOptions, Plan, PlannedTensor
from webapp.weights.convert.source import BLOCK_BYTES, Source
from webapp.weights.ggml_header import GGMF_DTYPES
from webapp.weights.ggml_layout import Floats, Piece, ggml_pieces, official_pieces, passes_float16, stored_dtype
from webapp.weights.ggml_model import read_model
from webapp.weights.inspection import inspect
from webapp.weights.tensor_info import BLOCKS, TensorInfo

if TYPE_CHECKING:
    import torch

CODES = {dtype: code for code, dtype in GGMF_DTYPES.items()}


def plan_bin(source: Source, options: ConversionOptions) -> Plan:
    word = options.type or next(iter(BIN_TYPES))
    if word not in BIN_TYPES:
        raise ConversionError(
            "conversion_refused",
            path=source.path.name,
            target="bin",
            reason=Text("reason.weights.no_such_type", name=word),
            way_out=Text("reason.common.choose_one_of", names=", ".join(BIN_TYPES)),
        )
    wanted, config = BIN_TYPES[word], source.config
    tensors = []
    for piece in ggml_pieces(source.infos, config):
        dtype = stored_dtype(piece, wanted)
        if piece.shape[-1] % BLOCKS.get(dtype, (1, 0))[0]:
            told = {"name": piece.name, "size": piece.shape[-1], "type": dtype}
            raise ConversionError(
                "conversion_refused",
                path=source.path.name,
                target="bin",
                reason=Text("reason.backends.rows_do_not_fit_blocks", **told),
                way_out=Text("reason.common.choose_one_of", names="f16, f32"),
            )
        info = TensorInfo(piece.name, piece.shape, dtype)
        tensors.append(PlannedTensor(info, partial(_blocks, source, piece, dtype)))
    marks = {"n_vocab": config.vocab_size, "n_embed": config.n_embd, "n_layer": config.n_layer}
    return Plan("ggml-bin", tensors, {**marks, "data_type": CODES[wanted]})


def _blocks(source: Source, piece: Piece, dtype: str) -> Iterator[torch.Tensor]:
    """The tensor's bytes."""
    import torch

    for values in _values(source, piece):
        if dtype != "float32" and passes_float16(piece):
            with np.errstate(over="ignore"):
                values = values.astype(np.float16).astype(np.float32)
            if not np.isfinite(values).all():
                told = {"name": piece.name, "type": "float16"}
                raise ConversionError(reason=Text("reason.weights.tensor_has_values_beyond_what_can", **told))
        yield torch.from_numpy(ggml_blocks.quantize(values, dtype))


def _values(source: Source, piece: Piece) -> Iterator[Floats]:
    if piece.make is None:
        for block in source.blocks(piece.name):
            yield block.float().numpy()
        return
    parts = [source.whole(name).float().numpy() for name in piece.sources]
    yield np.ascontiguousarray(piece.make(parts, _exp), np.float32)


def _exp(values: Floats) -> Floats:
    """torch's, whose last bit is rwkv.cpp's converter's."""
    import torch

    found: Floats = torch.exp(torch.from_numpy(np.ascontiguousarray(values))).numpy()
    return found


class GgmlSource(Source):
    """Quantised matrices come as 16-bit numbers, vectors in 32 bits, all under the official names."""

    def __init__(self, path: str | Path, target: str) -> None:
        self.path = Path(path)
        self.inspection = inspect(self.path)
        self._model = read_model(self.path)
        self.config = self._model.config
        self.is_changed = False
        if self._model.rescale_every:
            raise ConversionError(
                "conversion_refused",
                path=self.path.name,
                target=target,
                reason=Text("reason.weights.weights_were_divided"),
                way_out=Text("reason.weights.convert_the_file_it_was_made"),
            )
        unreadable = [one for one in self._model.tensors.values() if one.info.dtype not in ggml_blocks.READABLE]
        if unreadable:
            told = {"name": unreadable[0].name, "type": unreadable[0].info.dtype}
            raise ConversionError(
                "conversion_refused",
                path=self.path.name,
                target=target,
                reason=Text("reason.common.tensor_has_type", **told),
                way_out=Text("reason.weights.convert_the_file_it_was_made"),
            )
        shapes = {name: tensor.info.shape for name, tensor in self._model.tensors.items()}
        self._pieces = {piece.name: piece for piece in official_pieces(shapes, self.config)}
        self.infos = {name: TensorInfo(name, piece.shape, self._dtype(piece)) for name, piece in self._pieces.items()}
        self._files = [self.path.open("rb", buffering=0)]

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _dtype(self, piece: Piece) -> str:
        found = self._model.tensors[piece.sources[0]]
        return "float16" if found.is_matrix and found.info.dtype != "float32" else "float32"

    def _raw_blocks(self, name: str, block_bytes: int) -> Iterator[torch.Tensor]:
        import torch

        piece = self._pieces[name]
        dtype = getattr(torch, self.infos[name].dtype)
        if piece.make is None:
            for values in self._rows(piece.sources[0], block_bytes):
                yield torch.from_numpy(values).to(dtype)
            return
        parts = []
        for source in piece.sources:
            shape = self._model.tensors[source].info.shape
            parts.append(np.concatenate(list(self._rows(source, BLOCK_BYTES))).reshape(shape))
        made = np.ascontiguousarray(piece.make(parts, np.exp), np.float32)
        yield torch.from_numpy(made).to(dtype)

    def _rows(self, name: str, block_bytes: int) -> Iterator[Floats]:
        tensor = self._model.tensors[name]
        shape = tensor.info.shape
        count = shape[0] if len(shape) > 1 else 1
        row_bytes = tensor.nbytes // count
        step = max(1, block_bytes // max(row_bytes, 1))
        for start in range(0, count, step):
            rows = min(step, count - start)
            data = self._read(self._files[0], tensor.offset + start * row_bytes, rows * row_bytes)
            values = ggml_blocks.dequantize(np.frombuffer(data, np.uint8), tensor.info.dtype)
            yield values.reshape((rows, *shape[1:]) if len(shape) > 1 else shape)
