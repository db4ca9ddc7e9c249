"""A state saved with numpy: one array of all layers, (n_layer, n_head, head_size, head_size), read as ``time_state``.

Format: numpy.lib.format, version 1 to 3: a magic number, a length, a Python literal of fixed form, then the values.
The literal is matched, never evaluated.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights.tensor_info import FileContents, StoredTensor, TensorInfo, contiguous_strides

DTYPES = {"f2": "float16", "f4": "float32", "f8": "float64"}
HEADER = re.compile(r"\{'descr': '<(f[248])', 'fortran_order': False, 'shape': \(([0-9, ]{0,100})\), ?\}\s*")
MOST_HEADER_BYTES = 4096


def read_npy(path: Path) -> FileContents:
    """Table of contents; WeightsError for any other array, ``file_truncated`` for half of one."""
    with path.open("rb") as file:
        major = file.read(8)[6:7]
        length = int.from_bytes(file.read(2 if major == b"\x01" else 4), "little")
        header = HEADER.fullmatch(file.read(min(length, MOST_HEADER_BYTES)).decode("latin-1"))
        start = file.tell()
    sizes = [int(size) for size in re.findall("[0-9]{1,9}", header[2])] if header else []
    if len(sizes) == 5 and 1 in sizes[:2]:  # a batch of one
        sizes.remove(1)
    if header is None or len(sizes) != 4 or sizes[2] != sizes[3] or not 0 < sizes[0] <= 1000 or 0 in sizes:
        raise WeightsError(path=str(path), reason=Text("reason.weights.array_not_a_state"))
    layers, *rest = sizes
    info = TensorInfo("", tuple(rest), DTYPES[header[1]])
    end = start + layers * info.nbytes
    found = path.stat().st_size
    if end > found:
        told = {"name": "array", "end": end, "found": found}
        raise WeightsError("file_truncated", path=str(path), reason=Text("reason.weights.ends_after_the_file", **told))
    strides = contiguous_strides(info.shape)
    tensors = {}
    for layer in range(layers):
        offset = start + layer * math.prod(rest) * info.nbytes // info.numel
        name = f"blocks.{layer}.att.time_state"
        tensors[name] = StoredTensor(TensorInfo(name, info.shape, info.dtype), offset, strides, offset + info.nbytes)
    return FileContents("npy", tensors, {}, is_published_form=False)
