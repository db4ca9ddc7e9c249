"""Identifies the tensors of a ``.bin`` or ``.gguf``: an RWKV model with its version and size, each tensor checked.

rwkv.cpp's names and shapes are used for both: :func:`read_model` returns a GGUF of llama.cpp with them too. Compared
with the official file, rwkv.cpp transposes low-rank matrices, stacks v7's six shifts, and stores the final values of
v4's and v5's decay (rwkv.cpp's convert_pytorch_to_ggml.py); :mod:`.ggml_layout` converts both ways.

A tensor with a wrong shape or type would end the process inside ggml, so every tensor is checked here first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from webapp.engine.state import ModelConfig
from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights.architecture import STATE_NAME, Description, tokenizer_for
from webapp.weights.file_format import read_contents
from webapp.weights.ggml_header import GGML_TYPES
from webapp.weights.tensor_info import BLOCKS, FileContents, StoredTensor, TensorInfo, contiguous_strides

FORMATS = ("ggml-bin", "gguf")
VECTOR_DTYPES = ("float32", "float16", "bfloat16")
ARCHITECTURES = {"4.0": "4", "5.1": "5.0", "5.2": "5.2", "6.0": "6", "7.0": "7"}
"""rwkv.cpp's name of a version -> ours. Its 5.1 is the rwkv package's 5.0; the real 5.1 becomes a 5.2 there."""
GGUF_ARCHITECTURES = {"rwkv6": "6", "rwkv7": "7"}
RESCALE = "rwkv6.rescale_every_n_layers"

MAX_LAYERS = 10_000

Shape = tuple[int | str, ...]

MATRICES: dict[str, Shape] = {
    "att.receptance.weight": ("D", "D"),
    "att.key.weight": ("D", "D"),
    "att.value.weight": ("D", "D"),
    "att.output.weight": ("D", "D"),
    "ffn.key.weight": ("F", "D"),
    "ffn.value.weight": ("D", "F"),
}
"""Rows, then columns. D: the width, F: the hidden width, V: the vocabulary; small letters: a rank that the file
determines."""
MORE_MATRICES: dict[str, dict[str, Shape]] = {
    "4": {"ffn.receptance.weight": ("D", "D")},
    "5.0": {"ffn.receptance.weight": ("D", "D")},
    "5.2": {"ffn.receptance.weight": ("D", "D"), "att.gate.weight": ("D", "D")},
    "6": {
        "ffn.receptance.weight": ("D", "D"),
        "att.gate.weight": ("D", "D"),
        "att.time_maa_w1": ("5m", "D"),
        "att.time_maa_w2": (5, "D", "m"),
        "att.time_decay_w1": ("d", "D"),
        "att.time_decay_w2": ("D", "d"),
    },
    "7": {f"att.{x}{half}": (x, "D") if half == 1 else ("D", x) for x in "wavg" for half in (1, 2)},
}
NORMS = ("ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias")
HEAD_NORM = ("att.ln_x.weight", "att.ln_x.bias")
V5_VECTORS = (*HEAD_NORM, *(f"att.time_mix_{x}" for x in "kvr"), "ffn.time_mix_k", "ffn.time_mix_r", "att.time_decay")
VECTORS: dict[str, tuple[str, ...]] = {
    "4": (
        *(f"att.time_mix_{x}" for x in "kvr"),
        *("ffn.time_mix_k", "ffn.time_mix_r", "att.time_decay", "att.time_first"),
    ),
    "5.0": (*V5_VECTORS, "att.time_first"),
    "5.2": (*V5_VECTORS, "att.time_mix_g", "att.time_faaaa"),
    "6": (
        *(*HEAD_NORM, "att.time_decay", "att.time_faaaa"),
        *(*(f"att.time_maa_{x}" for x in "xwkvrg"), "ffn.time_maa_k", "ffn.time_maa_r"),
    ),
    "7": (*HEAD_NORM, *(f"att.{x}" for x in ("x_rwkvag", "w0", "a0", "v0", "k_k", "k_a", "r_k")), "ffn.x_k"),
}
"""Each has D elements, except v7's ``x_rwkvag`` (6 D) and v5's ``time_decay`` and bonus (one number per head is
allowed)."""
NOT_IN_FIRST_LAYER = ("att.v0", "att.v1", "att.v2")


class GgmlTensor(Struct, frozen=True):
    """``name`` in rwkv.cpp; ``info`` and ``offset`` in the file, which may use another name."""

    name: str
    info: TensorInfo
    offset: int
    is_matrix: bool

    @property
    def nbytes(self) -> int:
        return self.info.nbytes


class GgmlModel(Struct, frozen=True):
    """``tensors`` by rwkv.cpp's names. ``rescale_every``: the number of layers after which a v6 GGUF from Hugging Face
    halves its activations, with later weights halved in advance; 0 for others."""

    path: Path
    config: ModelConfig
    tensors: Mapping[str, GgmlTensor]
    rescale_every: int = 0


def read_model(path: str | Path) -> GgmlModel:
    """Raises WeightsError for missing or wrong tensors."""
    path = Path(path)
    return model_of(path, read_contents(path))


def model_of(path: Path, contents: FileContents) -> GgmlModel:
    """For a table of contents that has already been read."""
    try:
        if contents.format == "gguf":
            tensors, config = _renamed(contents), _gguf_config(contents)
        elif contents.format == "ggml-bin":
            tensors, config = dict(contents.tensors), _bin_config(contents)
        else:
            raise _Refused(Text("reason.weights.is_in_format", format=contents.format))
        checked = {tensor.name: tensor for tensor in _checked(tensors, config)}
        return GgmlModel(path, config, checked, _number(contents, RESCALE, 0))
    except _Refused as exc:
        raise WeightsError(path=str(path), reason=exc.args[0]) from None


def matrix_names(path: Path, infos: Mapping[str, TensorInfo], config: ModelConfig) -> set[str]:
    """Which tensors of a model, with rwkv.cpp's names and shapes, are matrices; the others are vectors. Raises
    WeightsError if one is missing or does not fit."""
    tensors = {name: StoredTensor(info, 0, contiguous_strides(info.shape), 0) for name, info in infos.items()}
    try:
        return {tensor.name for tensor in _checked(tensors, config) if tensor.is_matrix}
    except _Refused as exc:
        raise WeightsError(path=str(path), reason=exc.args[0]) from None


def describe_ggml(contents: FileContents) -> Description:
    """As :func:`webapp.weights.architecture.describe`."""
    architecture = contents.metadata.get("general.architecture", "")
    if contents.format == "gguf" and architecture not in GGUF_ARCHITECTURES:
        is_rwkv = "rwkv" in architecture
        reason = Text("reason.weights.gguf_other_architecture")
        if is_rwkv:
            reason = Text("reason.weights.gguf_architecture_not_run", name=architecture)
        return Description("model" if is_rwkv else "unknown", reason=reason)
    try:
        config = model_of(Path(), contents).config
    except WeightsError as exc:
        return Description("unknown", reason=exc.params["reason"])
    return Description("model", config, tokenizer=tokenizer_for(config.vocab_size))


class _Refused(Exception):
    """Its text says what is wrong."""


def _find(tensors: Mapping[str, StoredTensor], name: str) -> TensorInfo:
    try:
        return tensors[name].info
    except KeyError:
        raise _Refused(Text("reason.weights.tensor_is_missing", name=name)) from None


def _bin_config(contents: FileContents) -> ModelConfig:
    """Distinguishes versions as rwkv_load_model_from_file does (rwkv_model_loading.inc)."""
    att, tensors = "blocks.0.att.", contents.tensors
    version = "4.0"
    if f"{att}ln_x.weight" in tensors:
        version = "5.2" if f"{att}gate.weight" in tensors else "5.1"
    if f"{att}time_maa_x" in tensors:
        version = "6.0"
    if f"{att}r_k" in tensors:
        version = "7.0"
    vocab_size, width, layers = (int(contents.metadata[name]) for name in ("vocab_size", "n_embd", "n_layer"))
    heads, size = 0, 0
    if version != "4.0":
        shape = _find(tensors, att + {"7.0": "r_k", "6.0": "time_faaaa"}.get(version, "time_decay")).shape
        if len(shape) < 2:
            raise _Refused(Text("reason.weights.heads_missing"))
        heads = shape[0]
        size = width // heads if version == "5.1" else shape[1]
    return _config(ARCHITECTURES[version], tensors, layers, width, heads, size, vocab_size)


def _gguf_config(contents: FileContents) -> ModelConfig:
    prefix = contents.metadata.get("general.architecture", "")
    if prefix not in GGUF_ARCHITECTURES:
        raise _Refused(Text("reason.weights.gguf_architecture_not_run", name=prefix))
    keys = ("embedding_length", "block_count", "wkv.head_size")
    width, layers, size = (_number(contents, f"{prefix}.{name}") for name in keys)
    vocab_size = (*_find(contents.tensors, "token_embd.weight").shape, 0)[0]
    tensors = {"blocks.0.ffn.key.weight": contents.tensors.get("blk.0.channel_mix_key.weight")}
    kept = {name: stored for name, stored in tensors.items() if stored is not None}
    return _config(GGUF_ARCHITECTURES[prefix], kept, layers, width, width // max(size, 1), size, vocab_size)


def _config(
    architecture: str,
    tensors: Mapping[str, StoredTensor],
    layers: int,
    width: int,
    heads: int,
    size: int,
    vocab_size: int,
) -> ModelConfig:
    if architecture != "4" and (heads < 1 or size < 1 or heads * size != width):
        raise _Refused(Text("reason.weights.heads_do_not_fit", heads=heads, size=size, width=width))
    if min(layers, width, vocab_size) < 1 or layers > MAX_LAYERS:
        raise _Refused(Text("reason.weights.sizes_of_no_model"))
    hidden = _find(tensors, "blocks.0.ffn.key.weight").shape[0]
    return ModelConfig(architecture, layers, width, width, hidden, heads, size, vocab_size)


def _number(contents: FileContents, key: str, default: int | None = None) -> int:
    text = contents.metadata.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        if default is None or text:
            raise _Refused(Text("reason.weights.key_is_no_number", key=key, found=text))
        return default
    return int(text)


def _checked(tensors: Mapping[str, StoredTensor], config: ModelConfig) -> Iterator[GgmlTensor]:
    beyond = next((name for name in tensors if name.startswith(f"blocks.{config.n_layer}.")), None)
    if beyond is not None:
        raise _Refused(Text("reason.weights.layer_beyond_the_last", name=beyond, layers=config.n_layer))
    sizes = {"D": config.n_embd, "F": config.n_ffn, "V": config.vocab_size}
    for name in ("emb.weight", "head.weight"):
        yield _matrix(name, _stored(tensors, name), ("V", "D"), sizes)
    for name in ("blocks.0.ln0.weight", "blocks.0.ln0.bias", "ln_out.weight", "ln_out.bias"):
        yield _vector(name, _stored(tensors, name), (config.n_embd,))
    matrices = MATRICES | MORE_MATRICES[config.architecture]
    for layer in range(config.n_layer):
        bound = dict(sizes)  # ranks may differ between layers
        for name, shape in matrices.items():
            if layer or name not in NOT_IN_FIRST_LAYER:
                full = f"blocks.{layer}.{name}"
                yield _matrix(full, _stored(tensors, full), shape, bound)
        for name in (*NORMS, *VECTORS[config.architecture]):
            if layer or name not in NOT_IN_FIRST_LAYER:
                full = f"blocks.{layer}.{name}"
                yield _vector(full, _stored(tensors, full), _elements(name, config))
    for name, stored in tensors.items():
        if STATE_NAME.fullmatch(name):
            yield _vector(name, stored, (config.n_embd * config.head_size,))


def _elements(name: str, config: ModelConfig) -> tuple[int, ...]:
    """Allowed numbers of elements of a vector."""
    if name == "att.x_rwkvag":
        return (6 * config.n_embd,)
    if config.major == 5 and name in ("att.time_decay", "att.time_first", "att.time_faaaa"):
        return (config.n_embd, config.n_head)
    return (config.n_embd,)


def _stored(tensors: Mapping[str, StoredTensor], name: str) -> StoredTensor:
    _find(tensors, name)
    return tensors[name]


def _matrix(name: str, stored: StoredTensor, shape: Shape, sizes: dict[str, int]) -> GgmlTensor:
    """Adds sizes for the letters of ``shape`` that are not in ``sizes`` yet."""
    found = stored.info.shape
    if len(found) != len(shape):
        raise _Refused(Text("reason.weights.has_another_shape", name=name, found=str(found), expected=str(shape)))
    for size, wanted in zip(found, shape, strict=True):
        if isinstance(wanted, str) and wanted[0] == "5":
            if size % 5 or sizes.setdefault(wanted[1:], size // 5) * 5 != size:
                raise _Refused(Text("reason.weights.has_another_shape", name=name, found=str(found), expected=wanted))
        elif size != (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted):
            known = tuple(sizes.get(each, each) if isinstance(each, str) else each for each in shape)
            raise _Refused(Text("reason.weights.has_another_shape", name=name, found=str(found), expected=str(known)))
    if stored.info.dtype not in GGML_TYPES:
        raise _Refused(Text("reason.common.tensor_has_type", name=name, type=stored.info.dtype))
    return GgmlTensor(name, stored.info, stored.offset, True)


def _vector(name: str, stored: StoredTensor, elements: tuple[int, ...]) -> GgmlTensor:
    if stored.info.numel not in elements:
        params = {"name": name, "found": str(stored.info.shape), "expected": str(elements[0])}
        raise _Refused(Text("reason.weights.has_another_shape", **params))
    if stored.info.dtype not in VECTOR_DTYPES:
        raise _Refused(Text("reason.common.tensor_has_type", name=name, type=stored.info.dtype))
    return GgmlTensor(name, stored.info, stored.offset, False)


GGUF_NAMES = {
    "token_embd.weight": "emb.weight",
    "output.weight": "head.weight",
    "token_embd_norm.weight": "blocks.0.ln0.weight",
    "token_embd_norm.bias": "blocks.0.ln0.bias",
    "output_norm.weight": "ln_out.weight",
    "output_norm.bias": "ln_out.bias",
}
GGUF_LAYER_NAMES = {
    **{f"attn_norm.{half}": f"ln1.{half}" for half in ("weight", "bias")},
    **{f"attn_norm_2.{half}": f"ln2.{half}" for half in ("weight", "bias")},
    **{f"time_mix_ln.{half}": f"att.ln_x.{half}" for half in ("weight", "bias")},
    **{f"time_mix_{x}.weight": f"att.{x}.weight" for x in ("receptance", "key", "value", "output", "gate")},
    **{f"channel_mix_{x}.weight": f"ffn.{x}.weight" for x in ("receptance", "key", "value")},
}
GGUF_V6_NAMES = {
    "time_mix_w1.weight": "att.time_maa_w1",
    "time_mix_w2.weight": "att.time_maa_w2",
    "time_mix_decay_w1.weight": "att.time_decay_w1",
    "time_mix_decay_w2.weight": "att.time_decay_w2",
    "time_mix_decay.weight": "att.time_decay",
    "time_mix_first.weight": "att.time_faaaa",
    **{f"time_mix_lerp_{x}.weight": f"att.time_maa_{x}" for x in "xwkvrg"},
    **{f"channel_mix_lerp_{x}.weight": f"ffn.time_maa_{x}" for x in "kr"},
}
GGUF_V7_NAMES = {
    "time_mix_lerp_fused.weight": "att.x_rwkvag",
    "channel_mix_lerp_k.weight": "ffn.x_k",
    **{f"time_mix_{x}{part}.weight": f"att.{x}{part}" for x in "wavg" for part in (0, 1, 2) if (x, part) != ("g", 0)},
    **{f"time_mix_{x}.weight": f"att.{x}" for x in ("k_k", "k_a", "r_k")},
}
FUSED_V6 = "time_mix_lerp_fused.weight"
FUSED_ORDER_V6 = "wkvrg"


def _renamed(contents: FileContents) -> dict[str, StoredTensor]:
    """A GGUF's tensors under rwkv.cpp's names, without those that it does not know."""
    is_6 = contents.metadata.get("general.architecture") == "rwkv6"
    layer_names = GGUF_LAYER_NAMES | (GGUF_V6_NAMES if is_6 else GGUF_V7_NAMES)
    found: dict[str, StoredTensor] = {}
    for name, stored in contents.tensors.items():
        if name in GGUF_NAMES:
            found[GGUF_NAMES[name]] = stored
            continue
        head, _, rest = name.partition(".")
        layer, _, rest = rest.partition(".")
        if head != "blk" or not layer.isdigit():
            continue
        prefix = f"blocks.{int(layer)}."
        if rest in layer_names:
            found[prefix + layer_names[rest]] = stored
        elif is_6 and rest == FUSED_V6 and stored.info.dtype not in BLOCKS:
            for place, letter in enumerate(FUSED_ORDER_V6):
                found[f"{prefix}att.time_maa_{letter}"] = _part(stored, place, len(FUSED_ORDER_V6))
    return found


def _part(stored: StoredTensor, place: int, parts: int) -> StoredTensor:
    """One of ``parts`` equal, consecutive pieces."""
    numel = stored.info.numel // parts
    info = TensorInfo(stored.info.name, (numel,), stored.info.dtype)
    offset = stored.offset + place * info.nbytes
    return StoredTensor(info, offset, contiguous_strides(info.shape), offset + info.nbytes)
