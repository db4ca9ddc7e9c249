"""Conversion to and from ggml's files: the plan of a ``.bin``, byte for byte as rwkv.cpp's own tools write it, and of a
``.gguf`` for llama.cpp; and reading either like an unconverted model. Works on one block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from webapp.engine.state import ModelConfig
from webapp.errors import ConversionError, WeightsError
from webapp.i18n import Text
from webapp.tokenizer import Tokenizer
from webapp.tokenizer.loading import ByteTokenizer, WorldTokenizer
from webapp.weights import ggml_blocks
from webapp.weights.adapter import BLOCK_BYTES
from webapp.weights.convert.plan import ConversionOptions, Plan, PlannedTensor, conversion_to
from webapp.weights.convert.source import Source, kept_marks
from webapp.weights.ggml_header import GGMF_DTYPES, GGUF_TOKEN_TYPES
from webapp.weights.ggml_layout import (
    Floats,
    Piece,
    ggml_pieces,
    gguf_dtype,
    gguf_pieces,
    official_pieces,
    passes_float16,
    stored_dtype,
)
from webapp.weights.ggml_model import GGUF_ARCHITECTURES, read_model
from webapp.weights.inspection import chat_template, inspect, tokenizer_of
from webapp.weights.tensor_info import BLOCKS, TensorInfo

if TYPE_CHECKING:
    import torch

CODES = {dtype: code for code, dtype in GGMF_DTYPES.items()}
BEYOND_FLOAT16 = ("float32", "bfloat16")


def plan_bin(source: Source, options: ConversionOptions) -> Plan:
    wanted, config = conversion_to("bin").dtype(options, source.path.name), source.config
    tensors = []
    for piece in ggml_pieces(source.infos, config):
        dtype = stored_dtype(piece, wanted)
        rounded = dtype != "float32" and passes_float16(piece)
        tensors.append(_planned(source, "bin", piece, dtype, rounded))
    marks = {"n_vocab": config.vocab_size, "n_embed": config.n_embd, "n_layer": config.n_layer}
    return Plan("ggml-bin", tensors, {**marks, "data_type": CODES[wanted]})


def _planned(source: Source, target: str, piece: Piece, dtype: str, rounded: bool) -> PlannedTensor:
    """``rounded``: rounds to 16 bits before it is quantised."""
    if piece.shape[-1] % BLOCKS.get(dtype, (1, 0))[0]:
        params = {"name": piece.name, "size": piece.shape[-1], "type": dtype}
        reason = Text("reason.backends.row_size_not_blocks", **params)
        raise _refused(source, target, reason, Text("reason.common.choose_one_of", names="f16, f32"))
    info = TensorInfo(piece.name, piece.shape, dtype)
    return PlannedTensor(info, partial(_blocks, source, piece, dtype, rounded))


def _refused(source: Source, target: str, reason: Text, way_out: Text) -> ConversionError:
    return ConversionError.refused(source.path.name, target, reason, way_out)


def _blocks(source: Source, piece: Piece, dtype: str, rounded: bool) -> Iterator[torch.Tensor]:
    """The tensor's bytes. A value that 16 bits cannot hold cannot be a block's scale either."""
    import torch

    for values in _values(source, piece):
        if dtype not in BEYOND_FLOAT16:
            with np.errstate(over="ignore"):
                half = values.astype(np.float16)
            if not np.isfinite(half).all():
                params = {"name": piece.name, "type": "float16"}
                raise ConversionError(reason=Text("reason.weights.values_out_of_range", **params))
            values = half.astype(np.float32) if rounded else values
        yield torch.from_numpy(ggml_blocks.quantize(values, dtype))


def _values(source: Source, piece: Piece) -> Iterator[Floats]:
    if piece.make is None:
        for name in piece.sources:
            for block in source.blocks(name):
                yield block.float().numpy()
        return
    parts = [source.whole(name).float().numpy() for name in piece.sources]
    yield np.ascontiguousarray(piece.make(parts, _exp), np.float32)


def _exp(values: Floats) -> Floats:
    """torch's exp, whose last bit matches rwkv.cpp's converter."""
    import torch

    found: Floats = torch.exp(torch.from_numpy(np.ascontiguousarray(values))).numpy()
    return found


# GGUF

FILE_TYPES = {"float32": 0, "float16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "bfloat16": 32}
"""``general.file_type``: llama_ftype in llama.h."""
QUANTIZATION_VERSION = 2
CONTEXT_LENGTH = 1_048_576
"""As llama.cpp's own converter writes it: RWKV has no limit."""
RANKS = {
    "6": {"time_mix_extra_dim": ("att.time_maa_w2", 1), "time_decay_extra_dim": ("att.time_decay_w2", 0)},
    "7": {
        "attention.decay_lora_rank": ("att.w2", 0),
        "attention.iclr_lora_rank": ("att.a2", 0),
        "attention.value_residual_mix_lora_rank": ("att.v2", 0),
        "attention.gate_lora_rank": ("att.g2", 0),
    },
}
"""Key -> the official tensor and the dimension that defines it; llama.cpp needs one value for all layers."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ {'system': 'System: ', 'assistant': 'Assistant: '}.get(message['role'], 'User: ') }}"
    "{{ message['content'] | trim }}{{ '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For World and G1 models, for programs without another template. A model's own template is kept."""


def plan_gguf(source: Source, options: ConversionOptions) -> Plan:
    """RWKV-6 and 7, which llama.cpp supports."""
    wanted, config = conversion_to("gguf").dtype(options, source.path.name), source.config
    if config.architecture not in GGUF_ARCHITECTURES.values():
        reason = Text("reason.weights.version_is_not_run_by_llama_cpp", version=config.architecture)
        raise _refused(source, "gguf", reason, Text("reason.weights.convert_to_another", target="bin"))
    if config.n_att != config.n_embd:
        reason = Text("reason.backends.attention_width")
        raise _refused(source, "gguf", reason, Text("reason.weights.convert_to_another", target="st"))
    if any(name.endswith(".time_state") for name in source.infos):
        reason = Text("reason.weights.gguf_has_no_place_for_a_state")
        raise _refused(source, "gguf", reason, Text("reason.weights.convert_to_another", target="bin"))
    marks = _gguf_marks(source, wanted)
    pieces = gguf_pieces(source.infos, config)
    tensors = [_planned(source, "gguf", piece, gguf_dtype(piece, wanted), False) for piece in pieces]
    return Plan("gguf", tensors, marks)


def _gguf_marks(source: Source, wanted: str) -> dict[str, Any]:
    """llama.cpp's keys, in its converter's order."""
    config = source.config
    name = source.inspection.metadata.get("general.name") or source.path.stem
    marks: dict[str, Any] = {"general.architecture": f"rwkv{config.architecture}", "general.type": "model"}
    marks |= {"general.name": name, "general.file_type": FILE_TYPES[wanted]}
    if wanted in BLOCKS:
        marks["general.quantization_version"] = QUANTIZATION_VERSION
    sizes: dict[str, int | float] = {
        "context_length": CONTEXT_LENGTH,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.n_ffn,
        "wkv.head_size": config.head_size,
        "attention.head_count": 0,
        "attention.layer_norm_epsilon": 1e-5,
        **{key: _rank(source, tensor, place) for key, (tensor, place) in RANKS[config.architecture].items()},
    }
    if config.major == 6:
        sizes["rescale_every_n_layers"] = 0
    marks |= {f"rwkv{config.architecture}.{key}": value for key, value in sizes.items()}
    return marks | _vocabulary_marks(source) | kept_marks(source)


def _rank(source: Source, tensor: str, place: int) -> int:
    """v7's first layer does not use the first layer's values: a model with one layer may have any rank."""
    layers = range(1 if tensor == "att.v2" else 0, source.config.n_layer)
    ranks = {source.infos[f"blocks.{layer}.{tensor}"].shape[place] for layer in layers}
    if len(ranks) > 1:
        reason = Text("reason.weights.ranks_differ_between_layers", name=tensor, found=str(sorted(ranks)))
        raise _refused(source, "gguf", reason, Text("reason.weights.convert_to_another", target="bin"))
    return ranks.pop() if ranks else _rank(source, "att.a2", place)


def _vocabulary_marks(source: Source) -> dict[str, Any]:
    """Tokens in llama.cpp's escaped form, and the chat template. Only World vocabularies can be stored in an RWKV GGUF;
    a model with another vocabulary is marked as having none."""
    config = source.config
    tokenizer: Tokenizer | None = None
    try:
        tokenizer = tokenizer_of(config.vocab_size, source.path)
    except WeightsError as exc:
        if exc.code != "tokenizer_missing":
            raise
    if tokenizer is None or isinstance(tokenizer, ByteTokenizer):
        return {"tokenizer.ggml.model": "none", f"rwkv{config.architecture}.vocab_size": config.vocab_size}
    if not isinstance(tokenizer, WorldTokenizer):
        reason = Text("reason.weights.vocabulary_is_not_of_the_world_kind", name=tokenizer.name)
        raise _refused(source, "gguf", reason, Text("reason.weights.convert_to_another", target="bin"))
    tokens, types = _token_lists(tokenizer, config)
    marks: dict[str, Any] = {"tokenizer.ggml.model": "rwkv"}
    marks |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    marks |= {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 0}
    end_of_turn = tokenizer.encode("\n\n")
    if len(end_of_turn) == 1:
        marks["tokenizer.ggml.eot_token_id"] = end_of_turn[0]
    return marks | {"tokenizer.chat_template": chat_template(source.inspection) or CHAT_TEMPLATE}


def _token_lists(tokenizer: Tokenizer, config: ModelConfig) -> tuple[Sequence[bytes], Sequence[int]]:
    tokens, types = [], []
    for token_id in range(config.vocab_size):
        text = tokenizer.token_bytes(token_id)
        if text is not None:
            tokens.append(repr(text)[2:-1].encode())
            types.append(GGUF_TOKEN_TYPES["normal"])
        elif token_id == 0:
            tokens.append(b"<s>")
            types.append(GGUF_TOKEN_TYPES["control"])
        else:
            tokens.append(f"[PAD{token_id}]".encode())
            types.append(GGUF_TOKEN_TYPES["unused"])
    return tokens, types


# back


class GgmlSource(Source):
    """Returns quantised matrices as 16-bit numbers, vectors in 32 bits, all under the official names."""

    def __init__(self, path: str | Path, target: str) -> None:
        self.path = Path(path)
        self.inspection = inspect(self.path)
        self._model = read_model(self.path)
        self.config = self._model.config
        self.is_changed = False
        way_out = Text("reason.weights.convert_original")
        if self._model.rescale_every:
            raise _refused(self, target, Text("reason.weights.weights_were_divided"), way_out)
        unreadable = [one for one in self._model.tensors.values() if one.info.dtype not in ggml_blocks.READABLE]
        if unreadable:
            params = {"name": unreadable[0].name, "type": unreadable[0].info.dtype}
            raise _refused(self, target, Text("reason.common.tensor_has_type", **params), way_out)
        shapes = {name: tensor.info.shape for name, tensor in self._model.tensors.items()}
        self._pieces = {piece.name: piece for piece in official_pieces(shapes, self.config)}
        self.infos = {name: TensorInfo(name, piece.shape, self._dtype(piece)) for name, piece in self._pieces.items()}
        self._files = [self.path.open("rb", buffering=0)]

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _dtype(self, piece: Piece) -> str:
        found = self._model.tensors[piece.sources[0]]
        if not found.is_matrix:
            return "float32"
        return found.info.dtype if found.info.dtype in BEYOND_FLOAT16 else "float16"

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
