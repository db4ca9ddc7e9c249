"""A safetensors file that is written and read as a whole, with the digest of all its bytes in the header: for snapshots
(:mod:`.snapshot_store`) and chat files. A file is accepted only if all sizes add up and the digest matches. Reading
allocates nothing beyond the file's own bytes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # the web process reads what a state is without numpy
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "U8": 1}
DIGEST_HEX = 64
MOST_TENSORS, MOST_DIMENSIONS = 4096, 8


class DamagedFile(Exception):
    """The bytes are not such a file, or are incomplete."""


class Stored(NamedTuple):
    """One tensor: its format, its shape, and its bytes, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def packed(about: Mapping[str, str], tensors: Mapping[str, Stored]) -> list[memoryview]:
    """The file in pieces, to be written in order."""
    table: dict[str, Any] = {}
    end = 0
    for name, stored in tensors.items():
        begin, end = end, end + stored.data.nbytes
        table[name] = {"dtype": stored.dtype, "shape": list(stored.shape), "data_offsets": [begin, end]}
    blank = "0" * DIGEST_HEX
    header = json.dumps({"__metadata__": {**about, "digest": blank}, **table}).encode()
    header += b" " * (-len(header) % 8)
    front = len(header).to_bytes(8, "little") + header
    digest = hashlib.blake2b(front, digest_size=DIGEST_HEX // 2)
    for stored in tensors.values():
        digest.update(stored.data)
    front = front.replace(blank.encode(), digest.hexdigest().encode(), 1)
    return [memoryview(front), *(stored.data for stored in tensors.values())]


def unpacked(content: bytearray, most_header_bytes: int) -> tuple[dict[str, str], dict[str, Stored]]:
    """The file's metadata, and its tensors as views of ``content``. Blanks the digest in it. Raises DamagedFile."""
    size = len(content)
    header_size = int.from_bytes(content[:8], "little")
    if size < 8 or header_size > min(most_header_bytes, size - 8):
        raise DamagedFile("its header is cut off")
    try:
        header = json.loads(bytes(content[8 : 8 + header_size]))
        about = header.pop("__metadata__")
        digest = str(about.pop("digest"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise DamagedFile("its header makes no sense") from exc
    place = content.find(digest.encode("ascii", "replace"), 8, 8 + header_size)
    if len(digest) != DIGEST_HEX or place < 0 or not all(isinstance(value, str) for value in about.values()):
        raise DamagedFile("its header makes no sense")
    content[place : place + DIGEST_HEX] = b"0" * DIGEST_HEX
    if hashlib.blake2b(content, digest_size=DIGEST_HEX // 2).hexdigest() != digest:
        raise DamagedFile("its bytes are not those that were written")
    if len(header) > MOST_TENSORS:
        raise DamagedFile("it has too many tensors")
    found, end, data = {}, 8 + header_size, memoryview(content)
    for name, entry in header.items():
        begin = end
        dtype, shape, end = _entry(name, entry, begin - 8 - header_size, size)
        end += 8 + header_size
        if end > size:
            raise DamagedFile("it is cut off")
        found[name] = Stored(dtype, shape, data[begin:end])
    if end != size:
        raise DamagedFile("it has more bytes than tensors")
    return about, found


def _entry(name: str, entry: Any, begin: int, size: int) -> tuple[str, tuple[int, ...], int]:
    """Format, shape and end; the data must begin where the previous tensor ends."""
    if not isinstance(entry, dict):
        raise DamagedFile(f"{name} has no size")
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in WIDTHS or not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS:
        raise DamagedFile(f"{name} has another size")
    if not all(type(side) is int and 0 <= side <= size for side in shape):
        raise DamagedFile(f"{name} has another size")
    end = begin + WIDTHS[dtype] * math.prod(shape)
    if entry.get("data_offsets") != [begin, end]:
        raise DamagedFile(f"{name} has another size")
    return dtype, tuple(shape), end


def narrowest(values: FloatArray) -> Stored:
    """Stores the values in the smallest format that represents them exactly."""
    import numpy as np

    whole = np.ascontiguousarray(values, "<f4")
    bits = whole.view("<u4")
    if not (bits & np.uint32(0xFFFF)).any():
        return Stored("BF16", values.shape, _bytes((bits >> np.uint32(16)).astype("<u2")))
    with np.errstate(over="ignore"):
        half = whole.astype("<f2")
    if np.array_equal(half.astype("<f4"), whole):
        return Stored("F16", values.shape, _bytes(half))
    return Stored("F32", values.shape, _bytes(whole))


def widened(stored: Stored) -> FloatArray:
    """As float32. Raises DamagedFile for a tensor of another kind of numbers."""
    import numpy as np

    if stored.dtype not in ("F32", "F16", "BF16"):
        raise DamagedFile(f"{stored.dtype} is no format of a state")
    data = np.frombuffer(stored.data, np.uint8)
    if stored.dtype == "BF16":
        data = (data.view("<u2").astype("<u4") << np.uint32(16)).view(np.uint8)
    found: FloatArray = data.view("<f2" if stored.dtype == "F16" else "<f4").astype(np.float32, copy=False)
    return found.reshape(stored.shape)


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.data.cast("B")
