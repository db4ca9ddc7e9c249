"""The plans of this package's targets. .pth is the published form: official names and orientation, every tensor in its
precision. .st is for web-rwkv (and so WebGPU): fp16, its names, small matrices transposed. An hf folder is as from
rwkv-rs' converter for transformers: official names and shapes under ``model.``, and the sizes in config.json."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from webapp.errors import ConversionError
from webapp.i18n import Text
from webapp.weights.convert.plan import ConversionOptions, Plan, PlannedTensor
from webapp.weights.convert.source import Source, cast
from webapp.weights.model_folder import CHAT_TEMPLATE, CONFIG, GENERATION
from webapp.weights.spelling import ARCHITECTURE_KEY, LAYOUT_KEY, WEB_RWKV, WebSpelling, web_rwkv_spelling
from webapp.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    import torch


def plan_pth(source: Source, options: ConversionOptions) -> Plan:
    if source.inspection.format == "pth" and source.inspection.is_published_form and not source.is_changed:
        reason = Text("reason.weights.pth_already")
        raise ConversionError.refused(source.path.name, "pth", reason, Text("reason.weights.use_it_as_it_is"))
    return Plan("pth", [_planned_pth(source, name) for name in source.infos])


def _planned_pth(source: Source, name: str) -> PlannedTensor:
    return PlannedTensor(source.infos[name], lambda: source.blocks(name))


DTYPE = "float16"  # web-rwkv supports nothing else


def plan_st(source: Source, options: ConversionOptions) -> Plan:
    """``format: pt`` as from web-rwkv's own converters; Roost's marks make the reverse conversion exact."""
    if source.inspection.naming == WEB_RWKV and not source.is_changed:
        reason = Text("reason.weights.has_web_rwkv_names")
        raise ConversionError.refused(source.path.name, "st", reason, Text("reason.weights.use_it_as_it_is"))
    tensors = [_planned_st(source, name) for name in source.infos]
    marks = {"format": "pt", LAYOUT_KEY: WEB_RWKV, ARCHITECTURE_KEY: source.config.architecture}
    return Plan("safetensors", tensors, marks | kept_marks(source))


def kept_marks(source: Source) -> dict[str, str]:
    """Keeps the data that Roost's training wrote into the header (the tokens it saw)."""
    ours = {name: text for name, text in source.inspection.metadata.items() if name.startswith("roost.")}
    return {name: text for name, text in ours.items() if name not in (LAYOUT_KEY, ARCHITECTURE_KEY)}


def _planned_st(source: Source, name: str) -> PlannedTensor:
    spelling = web_rwkv_spelling(name, source.config.architecture)
    info = TensorInfo(spelling.stored_name, _shape_st(source, name, spelling), DTYPE)
    return PlannedTensor(info, lambda: _blocks_st(source, name, spelling))


def _shape_st(source: Source, name: str, spelling: WebSpelling) -> tuple[int, ...]:
    shape = source.infos[name].shape
    if spelling.is_turned:
        return (*shape[:-2], shape[-1], shape[-2])
    return (shape[0], _head_size(source)) if spelling.is_repeated else shape


def _head_size(source: Source) -> int:
    return source.config.n_att // source.config.n_head


def _blocks_st(source: Source, name: str, spelling: WebSpelling) -> Iterator[torch.Tensor]:
    if spelling.is_turned:
        yield cast(source.whole(name), DTYPE, name).transpose(-1, -2)
    elif spelling.is_repeated:
        yield cast(source.whole(name), DTYPE, name).unsqueeze(1).repeat(1, _head_size(source))
    else:
        for block in source.blocks(name):
            yield cast(block, DTYPE, name)


PREFIX = "model."
BARE = ("head.weight",)
RANKS = {"decay": "w", "a": "a", "v": "v", "gate": "g"}
SIDE_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", CHAT_TEMPLATE, GENERATION)


def plan_hf(source: Source, options: ConversionOptions) -> Plan:
    """The tensors of the official file; tokenizer, template and sampling of a source folder are copied."""
    tensors = []
    for name in source.infos:
        info = source.infos[name]
        stored = name if name in BARE else PREFIX + name
        tensors.append(PlannedTensor(TensorInfo(stored, info.shape, info.dtype), partial(source.blocks, name)))
    copies = [source.path / name for name in SIDE_FILES] if source.path.is_dir() else []
    marks = {"format": "pt"} | kept_marks(source)
    return Plan("folder", tensors, marks, {CONFIG: _hf_config(source)}, [path for path in copies if path.is_file()])


def _hf_config(source: Source) -> dict[str, Any]:
    sizes = source.config
    config: dict[str, Any] = {
        "architectures": ["RwkvForCausalLM"],
        "model_type": "rwkv",
        "architecture_version": f"rwkv{sizes.architecture}",
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.n_embd,
        "attention_hidden_size": sizes.n_att,
        "intermediate_size": sizes.n_ffn,
        "num_hidden_layers": sizes.n_layer,
        "head_size": sizes.head_size,
        "num_attention_heads": sizes.n_head,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "dtype": source.inspection.dtype,
    }
    for name, letter in RANKS.items():
        info = source.infos.get(f"blocks.{sizes.n_layer - 1}.att.{letter}1")
        if sizes.major == 7 and info is not None and len(info.shape) == 2:
            config[f"{name}_low_rank_dim"] = info.shape[1]
    trained = re.search(r"ctx([0-9]{3,7})", source.path.name)
    if trained:
        config["context_length"] = int(trained[1])
    return config
