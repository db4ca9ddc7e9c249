"""A .safetensors file written front to back. Format: https://github.com/huggingface/safetensors#format."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from webapp.weights.convert.plan import Plan
from webapp.weights.convert.progress import Meter
from webapp.weights.convert.tensor_bytes import bytes_of
from webapp.weights.safetensors_header import DTYPES

CODES = {dtype: code for code, dtype in DTYPES.items()}
ALIGNMENT = 8  # of the first tensor; the reference implementation pads its header with spaces


def write_safetensors(file: BinaryIO, plan: Plan, meter: Meter) -> None:
    """Every tensor row after row, in the order of the plan."""
    header = json.dumps(_header(plan), separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    file.write(len(header).to_bytes(8, "little") + header)
    for tensor in plan.tensors:
        for block in tensor.blocks():
            data = bytes_of(block)
            file.write(data)
            meter.block(tensor.info.name, data)
        meter.tensor_done(tensor.info.name)


def _header(plan: Plan) -> dict[str, Any]:
    header: dict[str, Any] = {"__metadata__": {name: str(value) for name, value in plan.marks.items()}}
    position = 0
    for tensor in plan.tensors:
        assert not tensor.strides, "safetensors knows no strides"
        end = position + tensor.info.nbytes
        header[tensor.info.name] = {
            "dtype": CODES[tensor.info.dtype],
            "shape": list(tensor.info.shape),
            "data_offsets": [position, end],
        }
        position = end
    return header
