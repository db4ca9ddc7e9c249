"""Random checkpoints in the spellings of other projects: each function converts official names and shapes to one
spelling, like that project's converter, independent of Roost's code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch

from tests.weights.make_checkpoints import make_tensors

Tensors = dict[str, torch.Tensor]
VALUE_RESIDUAL = tuple(f"blocks.0.att.{part}" for part in ("v0", "v1", "v2"))


def official(architecture: str, dtype: torch.dtype = torch.bfloat16, **sizes: int) -> Tensors:
    return {name: torch.from_numpy(array).to(dtype) for name, array in make_tensors(architecture, **sizes).items()}


def prefixed(prefix: str, bare: str = "\0") -> Callable[[Tensors], Tensors]:
    """Adds a prefix to all names except those that begin with ``bare``."""
    return lambda tensors: {n if n.startswith(bare) else prefix + n: tensor for n, tensor in tensors.items()}


def hf(tensors: Tensors) -> Tensors:
    """transformers, models/rwkv/convert_rwkv_checkpoint_to_hf.py, and the RWKV-5 and 6 repositories with the same
    names."""
    out = {}
    for name, tensor in tensors.items():
        for old, new in (
            (r"^emb\.", "embeddings."),
            (r"^blocks\.0\.ln0", "blocks.0.pre_ln"),
            (r"\.att\.", ".attention."),
            (r"\.ffn\.", ".feed_forward."),
            (r"\.time_mix_k$", ".time_mix_key"),
            (r"\.time_mix_v$", ".time_mix_value"),
            (r"\.time_mix_r$", ".time_mix_receptance"),
            (r"\.time_mix_g$", ".time_mix_gate"),
        ):
            name = re.sub(old, new, name)
        out[name if name == "head.weight" else f"rwkv.{name}"] = tensor
    return out


def rwkv_rs(tensors: Tensors) -> Tensors:
    """rwkv-rs' converter for transformers: everything squeezed, no value residual in layer 0."""
    rows = (
        (r"^emb\.", "model.embed_tokens."),
        (r"^head\.", "lm_head."),
        (r"^ln_out\.", "model.norm."),
        (r"^blocks\.0\.ln0\.", "model.embedding_norm."),
        (r"^blocks\.", "model.layers."),
        (r"\.ln1\.", ".input_layernorm."),
        (r"\.ln2\.", ".post_attention_layernorm."),
        (r"\.att\.", ".linear_attn."),
        (r"\.ffn\.", ".mlp."),
        (r"\.linear_attn\.receptance\.", ".linear_attn.r_proj."),
        (r"\.linear_attn\.key\.", ".linear_attn.k_proj."),
        (r"\.linear_attn\.value\.", ".linear_attn.v_proj."),
        (r"\.linear_attn\.output\.", ".linear_attn.o_proj."),
        (r"\.linear_attn\.ln_x\.", ".linear_attn.g_norm."),
    )
    return _renamed({n: t.squeeze().contiguous() for n, t in tensors.items() if n not in VALUE_RESIDUAL}, rows)


def fla(tensors: Tensors) -> Tensors:
    """flash-linear-attention's convert_from_rwkv7.py: low-rank matrices as in nn.Linear."""
    rows = (
        (r"^emb\.", "model.embeddings."),
        (r"^head\.", "lm_head."),
        (r"^ln_out\.", "model.norm."),
        (r"^blocks\.0\.ln0\.", "model.layers.0.pre_norm."),
        (r"^blocks\.", "model.layers."),
        (r"\.ln1\.", ".attn_norm."),
        (r"\.ln2\.", ".ffn_norm."),
        (r"\.att\.", ".attn."),
        (r"\.attn\.receptance\.", ".attn.r_proj."),
        (r"\.attn\.key\.", ".attn.k_proj."),
        (r"\.attn\.value\.", ".attn.v_proj."),
        (r"\.attn\.output\.", ".attn.o_proj."),
        (r"\.attn\.ln_x\.", ".attn.g_norm."),
        (r"\.([wavg])1$", r".\1_lora.lora.0.weight"),
        (r"\.([wavg])2$", r".\1_lora.lora.2.weight"),
        (r"\.([wav])0$", r".\1_lora.lora.2.bias"),
    )
    squeezed = {}
    for name, tensor in tensors.items():
        if name in VALUE_RESIDUAL:
            continue
        if re.search(r"att\.[wavg][12]$", name):
            tensor = tensor.t().contiguous()
        if re.search(r"(att\.([wav]0|k_k|k_a)|ffn\.x_k)$", name):
            tensor = tensor.flatten()
        squeezed[name] = tensor
    return _renamed(squeezed, rows)


def _renamed(tensors: Tensors, rows: tuple[tuple[str, str], ...]) -> Tensors:
    out = {}
    for name, tensor in tensors.items():
        for old, new in rows:
            name = re.sub(old, new, name)
        out[name] = tensor
    return out


def web_rwkv(tensors: Tensors) -> Tensors:
    """RWKV-Runner's convert_safetensors.py."""
    turned = ("time_mix_w1", "time_mix_w2", "time_decay_w1", "time_decay_w2", "time_state")
    turned += tuple(f".{letter}{half}" for letter in "wavg" for half in (1, 2))
    out = {}
    for name, tensor in tensors.items():
        name = name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix")
        out[name] = tensor.transpose(-1, -2).contiguous() if name.endswith(turned) else tensor
    return out


def write_folder(folder: Path, tensors: Tensors, shards: int = 2, **documents: object) -> Path:
    """As ``save_pretrained`` writes a model: shards, an index and config.json."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    names = list(tensors)
    weight_map = {}
    for number in range(shards):
        part = {name: tensors[name].contiguous() for name in names[number::shards]}
        file = "model.safetensors" if shards == 1 else f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, content in {"config": {"model_type": "rwkv"}, **documents}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


OLDER = ("4", "5.0", "5.1", "5.2", "6")
SPELLINGS: dict[str, tuple[tuple[str, ...], str, Callable[[Tensors], Tensors]]] = {
    "module.": ((*OLDER, "7"), "official", prefixed("module.")),
    "_forward_module.": ((*OLDER, "7"), "official", prefixed("_forward_module.")),
    "_orig_mod.module.": (("7",), "official", prefixed("_orig_mod.module.")),
    "rwkv.": (("7",), "hf", prefixed("rwkv.")),
    "model., head bare": ((*OLDER, "7"), "hf", prefixed("model.", "head.")),
    "rwkv7., head bare": (("7",), "hf", prefixed("rwkv7.", "head.")),
    "hf": (OLDER, "hf", hf),
    "rwkv-rs": (("7",), "rwkv-rs", rwkv_rs),
    "fla": (("7",), "fla", fla),
    "web-rwkv": (("5.2", "6", "7"), "web-rwkv", web_rwkv),
}
"""Spelling to the versions published in it, its name in Roost, and its writer."""
