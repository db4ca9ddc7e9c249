"""Tiny random RWKV models of every architecture, with the official tensor names and shapes, for tests.

Shapes follow the training code as the ``rwkv`` package 0.8.32 loads it (model.py, ``RWKV.__init__`` and
``RWKV_x070``). Values are scaled so that logits stay finite and of order one, and every mechanism (decay, bonus,
token shift, LoRA, gate) matters in them. A tensor's values depend only on its name, the seed and its shape, not on the
order of tensors.
"""

from __future__ import annotations

import atexit
import functools
import math
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

ARCHITECTURES = ("4", "5.0", "5.1", "5.2", "6", "7")
LORA_RANK = 32  # time_maa_w1/w2 of v6 and w, a, v, g of v7; the official models use 32 to 256 by size

Arrays = dict[str, np.ndarray]


def write_checkpoint(
    path: str | Path,
    architecture: str,
    *,
    n_layer: int = 2,
    n_embd: int = 128,
    head_size: int = 64,
    vocab_size: int = 256,
    seed: int = 0,
    dtype: str = "bfloat16",
    time_state: bool = False,
    v0_in_first_layer: bool = True,
) -> Arrays:
    """Write a model to ``path`` (``.pth``, or ``.safetensors``/``.st``) and return what a reader sees, as float32.

    ``dtype`` is ``float32``, ``float16`` or ``bfloat16``; the arrays returned are rounded to it already.
    ``time_state`` merges an initial state into the model; ``v0_in_first_layer`` says whether a v7 file carries the
    unused ``blocks.0.att.v0/v1/v2``.
    """
    arrays = make_tensors(architecture, n_layer, n_embd, head_size, vocab_size, seed)
    if time_state:
        arrays |= make_time_state(n_layer, n_embd // head_size, head_size, seed)
    if not v0_in_first_layer:
        for name in ("v0", "v1", "v2"):
            arrays.pop(f"blocks.0.att.{name}", None)
    return write_tensors(path, arrays, dtype)


def link_checkpoint(path: Path, architecture: str, **options) -> None:
    """Like :func:`write_checkpoint`, but each file is written once in a process, for tests that only read it."""
    original = _original(path.suffix, architecture, tuple(options.items()))
    try:
        os.link(original, path)
    except OSError:  # another file system
        shutil.copyfile(original, path)


@functools.cache
def _original(suffix: str, architecture: str, options: tuple[tuple[str, Any], ...]) -> Path:
    folder = tempfile.mkdtemp(prefix="roost-checkpoint-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_checkpoint(path := Path(folder, f"model{suffix}"), architecture, **dict(options))
    return path


def write_tensors(
    path: str | Path, arrays: Arrays, dtype: str = "float32", metadata: dict[str, str] | None = None
) -> Arrays:
    """Saves arrays in the format of ``path``'s extension; returns them as float32 after rounding to ``dtype``. Uses
    torch."""
    import torch

    tensors = {name: torch.from_numpy(array.copy()).to(getattr(torch, dtype)) for name, array in arrays.items()}
    if str(path).endswith((".safetensors", ".st")):
        from safetensors.torch import save_file

        save_file(tensors, str(path), metadata)
    else:
        torch.save(tensors, str(path))
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def write_state(
    path: str | Path, n_layer: int = 2, n_head: int = 2, head_size: int = 64, seed: int = 0, dtype: str = "float32"
) -> Arrays:
    """A state file like those of state tuning: only ``blocks.N.att.time_state``."""
    return write_tensors(path, make_time_state(n_layer, n_head, head_size, seed), dtype)


def make_time_state(n_layer: int, n_head: int, head_size: int, seed: int = 0) -> Arrays:
    """float32 ``(n_head, head_size, head_size)`` per layer, with values as large as a trained state's (about 0.1)."""
    make = Maker(seed)
    return {
        name: make.normal(name, (n_head, head_size, head_size), 0.1)
        for name in (f"blocks.{i}.att.time_state" for i in range(n_layer))
    }


def make_tensors(
    architecture: str,
    n_layer: int = 2,
    n_embd: int = 128,
    head_size: int = 64,
    vocab_size: int = 256,
    seed: int = 0,
    maker: Maker | None = None,
) -> Arrays:
    """Every tensor of a model, float32, official names. ``maker`` replaces the usual generator."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}")
    if n_embd % head_size:
        raise ValueError("n_embd must be a multiple of head_size")
    make = maker or Maker(seed)
    out: Arrays = {
        "emb.weight": make.normal("emb.weight", (vocab_size, n_embd), 1.0),
        "blocks.0.ln0.weight": make.norm_weight("blocks.0.ln0.weight", n_embd),
        "blocks.0.ln0.bias": make.normal("blocks.0.ln0.bias", (n_embd,), 0.1),
    }
    for i in range(n_layer):
        for norm in ("ln1", "ln2"):
            name = f"blocks.{i}.{norm}"
            out[f"{name}.weight"] = make.norm_weight(f"{name}.weight", n_embd)
            out[f"{name}.bias"] = make.normal(f"{name}.bias", (n_embd,), 0.1)
        _attention(out, make, architecture, f"blocks.{i}.att.", n_embd, head_size)
        _ffn(out, make, architecture, f"blocks.{i}.ffn.", n_embd)
    out["ln_out.weight"] = make.norm_weight("ln_out.weight", n_embd)
    out["ln_out.bias"] = make.normal("ln_out.bias", (n_embd,), 0.1)
    out["head.weight"] = make.matrix("head.weight", vocab_size, n_embd)
    return out


@functools.lru_cache(maxsize=1024)
def drawn(seed: int, name: str, method: str, first: float, second: float, shape: tuple[int, ...]) -> np.ndarray:
    """Drawn once in a process: most tests make the same few models."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return getattr(rng, method)(first, second, shape).astype(np.float32)


class Maker:
    def __init__(self, seed: int) -> None:
        self._seed = seed

    def normal(self, name: str, shape: tuple[int, ...], scale: float) -> np.ndarray:
        return drawn(self._seed, name, "normal", 0, scale, shape).copy()

    def uniform(self, name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        return drawn(self._seed, name, "uniform", low, high, shape).copy()

    def norm_weight(self, name: str, width: int) -> np.ndarray:
        return self.uniform(name, (width,), 0.8, 1.2)

    def matrix(self, name: str, n_out: int, n_in: int) -> np.ndarray:
        """``(n_out, n_in)`` like ``nn.Linear``; keeps the unit variance of a vector."""
        return self.normal(name, (n_out, n_in), 1 / math.sqrt(n_in))


def _attention(out: Arrays, make: Maker, architecture: str, att: str, width: int, head_size: int) -> None:
    for name in ("key", "value", "receptance", "output"):
        out[f"{att}{name}.weight"] = make.matrix(f"{att}{name}.weight", width, width)
    if architecture in ("5.1", "5.2", "6"):
        out[f"{att}gate.weight"] = make.matrix(f"{att}gate.weight", width, width)
    if architecture != "4":
        out[f"{att}ln_x.weight"] = make.norm_weight(f"{att}ln_x.weight", width)
        out[f"{att}ln_x.bias"] = make.normal(f"{att}ln_x.bias", (width,), 0.1)
    n_head = width // head_size
    if architecture == "7":
        _attention_v7(out, make, att, width, n_head, head_size)
    elif architecture == "6":
        _attention_v6(out, make, att, width, n_head, head_size)
    else:
        _attention_v4_v5(out, make, architecture, att, width, n_head, head_size)


def _attention_v4_v5(
    out: Arrays, make: Maker, architecture: str, att: str, width: int, n_head: int, head_size: int
) -> None:
    for letter in "kvrg" if architecture in ("5.1", "5.2") else "kvr":
        out[f"{att}time_mix_{letter}"] = make.uniform(f"{att}time_mix_{letter}", (1, 1, width), 0, 1)
    shape = {"4": (width,), "5.2": (n_head, head_size)}.get(architecture, (n_head,))
    out[f"{att}time_decay"] = make.uniform(f"{att}time_decay", shape, -5, 1)
    # time_first is a logarithm in v4 and v5.0; from v5.1 the file contains the factor itself, as time_faaaa.
    bonus = "time_first" if architecture in ("4", "5.0") else "time_faaaa"
    out[att + bonus] = make.uniform(att + bonus, shape, -1, 1)


def _attention_v6(out: Arrays, make: Maker, att: str, width: int, n_head: int, head_size: int) -> None:
    for letter in "xwkvrg":
        out[f"{att}time_maa_{letter}"] = make.uniform(f"{att}time_maa_{letter}", (1, 1, width), 0, 1)
    shapes = {
        "time_maa_w1": (width, 5 * LORA_RANK),
        "time_maa_w2": (5, LORA_RANK, width),
        "time_decay_w1": (width, 2 * LORA_RANK),
        "time_decay_w2": (2 * LORA_RANK, width),
    }
    for name, shape in shapes.items():
        out[att + name] = make.normal(att + name, shape, 0.3 / math.sqrt(shape[-2]))
    out[f"{att}time_decay"] = make.uniform(f"{att}time_decay", (1, 1, width), -5, 1)
    out[f"{att}time_faaaa"] = make.uniform(f"{att}time_faaaa", (n_head, head_size), -1, 1)


def _attention_v7(out: Arrays, make: Maker, att: str, width: int, n_head: int, head_size: int) -> None:
    for letter in "rwkvag":
        out[f"{att}x_{letter}"] = make.uniform(f"{att}x_{letter}", (1, 1, width), 0, 1)
    for letter in "wavg":
        for name, shape in ((f"{letter}1", (width, LORA_RANK)), (f"{letter}2", (LORA_RANK, width))):
            out[att + name] = make.normal(att + name, shape, 1 / math.sqrt(shape[0]))
    for name, low, high in (("w0", -6, 1), ("a0", -1, 1), ("v0", -1, 1), ("k_k", 0.7, 1.0), ("k_a", 0.8, 1.2)):
        out[att + name] = make.uniform(att + name, (1, 1, width), low, high)
    out[f"{att}r_k"] = make.normal(f"{att}r_k", (n_head, head_size), 0.1)


def _ffn(out: Arrays, make: Maker, architecture: str, ffn: str, width: int) -> None:
    n_ffn = 4 * width if architecture in ("4", "7") else int(width * 3.5) // 32 * 32
    out[f"{ffn}key.weight"] = make.matrix(f"{ffn}key.weight", n_ffn, width)
    out[f"{ffn}value.weight"] = make.matrix(f"{ffn}value.weight", width, n_ffn)
    if architecture == "7":
        out[f"{ffn}x_k"] = make.uniform(f"{ffn}x_k", (1, 1, width), 0, 1)
        return
    out[f"{ffn}receptance.weight"] = make.matrix(f"{ffn}receptance.weight", width, width)
    prefix = "time_maa" if architecture == "6" else "time_mix"
    for letter in "kr":
        out[f"{ffn}{prefix}_{letter}"] = make.uniform(f"{ffn}{prefix}_{letter}", (1, 1, width), 0, 1)
