"""A float32 ``.bin`` of rwkv.cpp as a dict with the names and parameterisation of an official .pth, numpy only.

Format: six uint32 (magic ``ggmf``, version, vocab_size, n_embd, n_layer, data type), then records of dimension count,
name length, data type, dimensions (row length first), name, data. Reverses the changes of convert_pytorch_to_ggml.py.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

MAGIC = 0x67676D66
FLOAT32 = 0
Arrays = dict[str, np.ndarray]


def read_bin(path: Path) -> Arrays:
    """Official names, float64. rwkv.cpp's 5.1 is 5.0 here, and it leaves out v7's unused first v0, v1, v2."""
    stored = _read_records(path.read_bytes())
    if "blocks.0.att.r_k" in stored:
        return _official_v7(stored)
    if "blocks.0.att.ln_x.weight" in stored:
        return _official_v5(stored)
    return {name: np.log(-array) if name.endswith("time_decay") else array for name, array in stored.items()}


def _read_records(data: bytes) -> Arrays:
    magic, _version, *_sizes, _data_type = struct.unpack_from("<6I", data)
    if magic != MAGIC:
        raise ValueError("not an rwkv.cpp model")
    tensors: Arrays = {}
    position = 24
    while position < len(data):
        dimensions, name_bytes, data_type = struct.unpack_from("<3I", data, position)
        if data_type != FLOAT32:
            raise ValueError(f"data type {data_type}; only float32 is read here")
        shape = struct.unpack_from(f"<{dimensions}I", data, position + 12)[::-1]
        position += 12 + 4 * dimensions
        name = data[position : position + name_bytes].decode()
        position += name_bytes
        count = int(np.prod(shape))
        tensors[name] = np.frombuffer(data, np.float32, count, position).reshape(shape).astype(np.float64)
        position += 4 * count
    return tensors


def _official_v5(stored: Arrays) -> Arrays:
    """The file contains ``exp(-exp(time_decay))`` and ``exp(time_first)``, one row per head; 5.2 has one per
    channel."""
    n_head = stored["blocks.0.att.time_decay"].shape[0]
    out: Arrays = {}
    for name, array in stored.items():
        if name.endswith("time_decay"):
            array = np.log(-np.log(array))
        elif name.endswith("time_first"):
            array = np.log(array)
        if name.endswith(("time_decay", "time_first", "time_faaaa")):
            array = array.reshape(n_head, -1)
            array = array[:, 0] if array.shape[1] == 1 else array
        out[name] = array
    return out


def _official_v7(stored: Arrays) -> Arrays:
    """The file stacks the six token shifts and transposes the low-rank matrices."""
    out: Arrays = {}
    for name, array in stored.items():
        last = name.rpartition(".")[2]
        if last == "x_rwkvag":
            rows = array.reshape(6, 1, 1, -1)
            out |= {name.replace(last, f"x_{letter}"): row for letter, row in zip("rwkvag", rows, strict=True)}
        elif last in ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"):
            out[name] = array.T
        elif last in ("w0", "a0", "v0", "k_k", "k_a", "x_k"):
            out[name] = array.reshape(1, 1, -1)
        else:
            out[name] = array
    return out
