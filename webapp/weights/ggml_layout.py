"""Converts the official tensors of a model to those of rwkv.cpp and llama.cpp, and back, one at a time.

The changes of rwkv.cpp's convert_pytorch_to_ggml.py: v7's six shifts become one tensor and its low-rank matrices are
transposed (v6's too), v4's decay is stored as ``-exp(w)`` and v5's as ``exp(-exp(w))``, 5.0's bonus as its exponential.
A file of a given type has the same bytes as theirs. RWKV 5.1, unknown to rwkv.cpp, becomes a 5.2.

llama.cpp's tensors are rwkv.cpp's under other names (:data:`.ggml_model.GGUF_NAMES`), with v6's five shifts in one, and
three more in v7's first layer that its loader requires but never uses (convert_hf_to_gguf.py: Rwkv6Model, Rwkv7Model).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from webapp.engine.state import ModelConfig
from webapp.weights.ggml_model import (
    FUSED_ORDER_V6,
    FUSED_V6,
    GGUF_LAYER_NAMES,
    GGUF_NAMES,
    GGUF_V6_NAMES,
    GGUF_V7_NAMES,
)
from webapp.weights.tensor_info import BLOCKS, TensorInfo

Floats = NDArray[np.float32]
Exp = Callable[[Floats], Floats]

SHIFTS_V7 = "rwkvag"
TURNED_V7 = tuple(f"{x}{half}" for x in "wavg" for half in (1, 2))
UNUSED = ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2")
KEPT_FLOAT32 = (".time_", ".k_k", ".k_a", ".r_k", ".x_rwkvag", ".x_k", ".w0", ".a0", ".v0")
NEVER_QUANTISED = ("emb.weight", "head.weight", *(f"att.{x}" for x in (*TURNED_V7, "r_k")))


class Piece(Struct, frozen=True):
    """One tensor of the new file: its name, its shape (rows first), and the old tensors from which it is made.

    ``make`` receives them as float32 in the old shapes, and an exp function. None: rows stay unchanged.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    make: Callable[[Sequence[Floats], Exp], Floats] | None = None


def ggml_pieces(infos: Mapping[str, TensorInfo], config: ModelConfig) -> Iterator[Piece]:
    """rwkv.cpp's tensors of a model with official names, in the order of its file, as its converter writes them."""
    for name, info in infos.items():
        if name in UNUSED and config.major == 7:
            continue
        if config.major == 7 and ".att.x_" in name:
            if name.endswith("x_r"):
                yield _stacked(name.removesuffix("r"), config)
            continue
        yield _piece(name, info.shape, config)


def _stacked(prefix: str, config: ModelConfig) -> Piece:
    def make(parts: Sequence[Floats], exp: Exp) -> Floats:
        return np.concatenate([part.reshape(1, 1, -1) for part in parts])

    sources = tuple(prefix + letter for letter in SHIFTS_V7)
    return Piece(f"{prefix}{SHIFTS_V7}", (6, 1, config.n_embd), sources, make)


def _piece(name: str, shape: tuple[int, ...], config: ModelConfig) -> Piece:
    last, major, heads = name.rpartition(".")[2], config.major, max(config.n_head, 1)
    if ".time_" in name:
        shape = tuple(size for size in shape if size != 1)
    change: Callable[[Floats, Exp], Floats] | None = None
    is_state = last == "time_state"
    if major == 7 and last in TURNED_V7:
        return Piece(name, shape[::-1], (name,), lambda parts, exp: parts[0].T)
    if major == 6 and last in ("time_maa_w1", "time_decay_w1", "time_decay_w2"):
        return Piece(name, shape[::-1], (name,), lambda parts, exp: parts[0].T)
    if major == 6 and last == "time_maa_w2":
        turned = (shape[0], shape[2], shape[1])
        return Piece(name, turned, (name,), lambda parts, exp: parts[0].swapaxes(1, 2))
    if major == 6 and last in ("time_decay", "time_faaaa"):
        shape = (heads, config.head_size, 1)
    elif major == 5 and last in ("time_decay", "time_first", "time_faaaa"):
        is_wide = config.architecture != "5.0"
        shape = (heads, config.head_size if is_wide else 1, 1)
        change = _v5(last, config.head_size if config.architecture == "5.1" else 1)
    elif major == 4 and last == "time_decay":
        change = lambda values, exp: -exp(values)  # noqa: E731
    if change is None and ".time_" not in name:
        return Piece(name, shape, (name,))
    wanted = change or (lambda values, exp: values)

    def make(parts: Sequence[Floats], exp: Exp) -> Floats:
        return wanted(parts[0] if is_state else parts[0].reshape(-1), exp).reshape(shape)

    return Piece(name, shape, (name,), make)


def _v5(last: str, repeats: int) -> Callable[[Floats, Exp], Floats]:
    def change(values: Floats, exp: Exp) -> Floats:
        if last == "time_decay":
            values = exp(-exp(values))
        elif last == "time_first":
            values = exp(values)
        return np.repeat(values, repeats) if repeats > 1 else values

    return change


def stored_dtype(piece: Piece, wanted: str) -> str:
    """The dtype of a tensor in a file of type ``wanted``: float32, float16 or a quantised one."""
    dimensions = len(piece.shape)
    if wanted == "float32" or dimensions == 1:
        return "float32"
    if wanted in BLOCKS and dimensions == 2 and not piece.name.endswith(NEVER_QUANTISED):
        return wanted
    return "float32" if any(part in piece.name for part in KEPT_FLOAT32) else "float16"


def passes_float16(piece: Piece) -> bool:
    """Whether rwkv.cpp rounds the tensor to 16 bits before quantising it, as it does with an FP16 file."""
    return not any(part in piece.name for part in KEPT_FLOAT32)


GGUF_BACK = {name: gguf for gguf, name in GGUF_NAMES.items()}
GGUF_FLOAT32 = ("time_mix_lerp", "channel_mix_lerp", "time_mix_first", "time_mix_decay.weight")
GGUF_LOW_RANK = tuple(f"time_mix_{x}{half}.weight" for x in ("decay_w", *"wavg") for half in (1, 2))


def gguf_pieces(infos: Mapping[str, TensorInfo], config: ModelConfig) -> Iterator[Piece]:
    """llama.cpp's tensors of an RWKV-6 or 7 with official names and no initial state."""
    named = GGUF_LAYER_NAMES | (GGUF_V6_NAMES if config.major == 6 else GGUF_V7_NAMES)
    back = {name: gguf for gguf, name in named.items()}
    for piece in ggml_pieces(infos, config):
        if piece.name in GGUF_BACK:
            yield replace(piece, name=GGUF_BACK[piece.name])
            continue
        _, layer, last = piece.name.split(".", 2)
        if config.major == 6 and last[:-1] == "att.time_maa_" and last[-1] in FUSED_ORDER_V6:
            if last[-1] == FUSED_ORDER_V6[0]:
                yield _fused_v6(layer, config)
            continue
        made = replace(piece, name=f"blk.{layer}.{back[last]}", shape=_gguf_shape(last, piece.shape, config))
        yield made
        if config.major == 7 and layer == "0" and last in ("att.a0", "att.a1", "att.a2"):
            yield replace(made, name=made.name.replace("time_mix_a", "time_mix_v"))


def _fused_v6(layer: str, config: ModelConfig) -> Piece:
    def make(parts: Sequence[Floats], exp: Exp) -> Floats:
        return np.stack([part.reshape(-1) for part in parts])

    sources = tuple(f"blocks.{layer}.att.time_maa_{letter}" for letter in FUSED_ORDER_V6)
    return Piece(f"blk.{layer}.{FUSED_V6}", (len(sources), 1, 1, config.n_embd), sources, make)


def _gguf_shape(last: str, shape: tuple[int, ...], config: ModelConfig) -> tuple[int, ...]:
    """The same elements in the same order."""
    if last == "att.x_rwkvag":
        return (6, 1, 1, config.n_embd)
    if last == "att.time_faaaa":
        return (config.n_head, config.head_size)
    if last in ("att.r_k", "att.time_decay") or math.prod(shape) == shape[-1]:
        return (math.prod(shape),)
    return shape


def gguf_dtype(piece: Piece, wanted: str) -> str:
    """The dtype of a tensor of :func:`gguf_pieces` in a file of type ``wanted``. In a quantised file, low-rank matrices
    keep 16 bits, embedding and head 8."""
    if wanted == "float32" or len(piece.shape) == 1 or any(part in piece.name for part in GGUF_FLOAT32):
        return "float32"
    if wanted not in BLOCKS:
        return wanted
    if piece.name.endswith(GGUF_LOW_RANK):
        return "float16"
    return "q8_0" if piece.name in ("token_embd.weight", "output.weight") else wanted


def official_pieces(shapes: Mapping[str, tuple[int, ...]], config: ModelConfig) -> Iterator[Piece]:
    """The reverse: official tensors from rwkv.cpp's. Quantised values are kept; the logarithm of decays is computed in
    64 bits."""
    for name, shape in shapes.items():
        if config.major == 7 and name.endswith(".x_rwkvag"):
            for place, letter in enumerate(SHIFTS_V7):
                yield Piece(name.replace("x_rwkvag", f"x_{letter}"), (1, 1, config.n_embd), (name,), _plane(place))
        else:
            yield _official(name, shape, config)


def _plane(place: int) -> Callable[[Sequence[Floats], Exp], Floats]:
    return lambda parts, exp: parts[0].reshape(6, 1, 1, -1)[place]


def _official(name: str, shape: tuple[int, ...], config: ModelConfig) -> Piece:
    last, major, row = name.rpartition(".")[2], config.major, (1, 1, config.n_embd)
    heads = (config.n_head, config.head_size)
    if (major == 7 and last in TURNED_V7) or (major == 6 and last in ("time_maa_w1", "time_decay_w1", "time_decay_w2")):
        return Piece(name, shape[::-1], (name,), lambda parts, exp: parts[0].T)
    if major == 6 and last == "time_maa_w2":
        return Piece(name, (shape[0], shape[2], shape[1]), (name,), lambda parts, exp: parts[0].swapaxes(1, 2))
    if last == "time_state":
        return Piece(name, (*heads, config.head_size), (name,), _shaped((*heads, config.head_size)))
    if last == "time_faaaa" or (major == 7 and last == "r_k"):
        return Piece(name, heads, (name,), _shaped(heads))
    if last in ("w0", "a0", "v0", "k_k", "k_a", "x_k") or last.startswith(("time_maa_", "time_mix_")):
        return Piece(name, row, (name,), _shaped(row))
    if last == "time_first" and major == 5:
        return Piece(name, heads[:1], (name,), _shaped(heads[:1], np.log))
    if last == "time_decay":
        if major == 6:
            return Piece(name, row, (name,), _shaped(row))
        if major == 4:
            return Piece(name, row[2:], (name,), _shaped(row[2:], lambda values: np.log(-values)))
        size = heads if config.architecture == "5.2" else heads[:1]
        return Piece(name, size, (name,), _shaped(size, lambda values: np.log(-np.log(values))))
    return Piece(name, shape, (name,))


Wide = NDArray[np.float64]


def _shaped(
    shape: tuple[int, ...], change: Callable[[Wide], Wide] | None = None
) -> Callable[[Sequence[Floats], Exp], Floats]:
    def make(parts: Sequence[Floats], exp: Exp) -> Floats:
        values = parts[0].reshape(shape)
        return values if change is None else change(values.astype(np.float64)).astype(np.float32)

    return make
