"""Small files with one state: their description without reading the state, numpy's format, and writing a state file;
the strength of a state in each layer and head, and the distance between two states.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict

from webapp.engine.state import ModelConfig
from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.weights.tensor_info import FileContents, StoredTensor, TensorInfo, contiguous_strides

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from webapp.weights.state_file import StateFile


def mismatch(path: Path, what: Text, expected: object, found: object) -> WeightsError:
    """``expected`` and ``found``, if not a Text, are numbers or names, which need no translation."""
    params = {"what": what, "expected": expected, "found": found}
    words = {name: value if isinstance(value, Text) else str(value) for name, value in params.items()}
    return WeightsError("state_mismatch", path=path.name, **words)


ARCHITECTURE_KEY = "roost.architecture"
TAG = re.compile(r"(?i)(?<![a-z0-9])(?:rwkv[-_ ]?)?x0([4-7])\d(?!\d)|rwkv[-_ ]?v?([4-7])(?![0-9])")


class Origin(Struct, frozen=True):
    """``architecture``: "5", "6", "7", or "" if unknown. ``known_from``: ``metadata``, ``name`` or ``model`` (the state
    was merged in one), or ""."""

    architecture: str = ""
    known_from: str = ""


def origin_of(path: Path, metadata: Mapping[str, str]) -> Origin:
    stated = metadata.get(ARCHITECTURE_KEY, "")[:1]
    if stated in ("5", "6", "7"):
        return Origin(stated, "metadata")
    tags = {match[1] or match[2] for match in TAG.finditer(path.stem)}
    return Origin(tags.pop(), "name") if len(tags) == 1 else Origin()


PREFIX_KEY, SOURCE_KEY = "roost.prefix", "roost.source"
PROMPT, TOOLS, DOCUMENT = "prompt", "tools", "document"
MAX_SOURCE_CHARS = 200_000
SOURCE_PIECE_CHARS = 60_000
TITLE_CHARS = 200


class PrefixSheet(Struct, frozen=True):
    """The prefix of conversations that a model prefilled into a state file.

    ``kind``: prompt, tools or document. ``tokens``: their number; ``ids``: digest of their ids. ``model`` and
    ``strategy`` were used for it; ``made_for`` is that model's identity
    (:func:`webapp.weights.file_format.model_identity`). ``made_at``: seconds since 1970.
    """

    kind: str
    title: str
    tokens: int
    ids: str
    model: str
    strategy: str
    made_for: str
    made_at: int


def prefix_metadata(sheet: PrefixSheet, source: Mapping[str, Any]) -> dict[str, str]:
    """For a state file. ``source``: what the prefix was made from, to make it again for another model."""
    text = json.dumps(source, ensure_ascii=False)
    pieces = [text[start : start + SOURCE_PIECE_CHARS] for start in range(0, len(text), SOURCE_PIECE_CHARS)]
    return {PREFIX_KEY: json.dumps(asdict(sheet)), **{f"{SOURCE_KEY}.{n}": piece for n, piece in enumerate(pieces)}}


def prefix_of(metadata: Mapping[str, str]) -> PrefixSheet | None:
    """None if the file has no valid data about a prefix."""
    try:
        stored = json.loads(metadata.get(PREFIX_KEY, ""))
        texts = {
            name: str(stored[name])[:TITLE_CHARS] for name in ("kind", "title", "ids", "model", "strategy", "made_for")
        }
        found = PrefixSheet(**texts, tokens=int(stored["tokens"]), made_at=int(stored["made_at"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    is_sane = found.kind in (PROMPT, TOOLS, DOCUMENT) and 0 < found.tokens < 1 << 31 and 0 <= found.made_at < 1 << 40
    return found if is_sane else None


def source_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The argument of :func:`prefix_metadata`."""
    pieces: list[str] = []
    while (piece := metadata.get(f"{SOURCE_KEY}.{len(pieces)}")) is not None:
        pieces.append(piece)
    try:
        found = json.loads("".join(pieces))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class StateSheet(Struct, frozen=True):
    """``architecture``: "5", "6", "7", or "" if unknown; ``known_from``: metadata, name, model or "".

    ``norms``: Euclidean norm of each layer. ``digest``: SHA-256 over sizes and values, which the log shows for
    requests. ``prefix``: set if a prefix was prefilled into the file.
    """

    architecture: str
    known_from: str
    n_layer: int
    n_head: int
    head_size: int
    norms: tuple[float, ...]
    digest: str
    prefix: PrefixSheet | None = None

    @property
    def n_embd(self) -> int:
        return self.n_head * self.head_size

    def fits(self, config: ModelConfig) -> bool:
        """True if the sizes are the model's and no other version is named; applying the state checks everything."""
        if config.major == 4 or (config.n_layer, config.n_head, config.head_size) != self.sizes:
            return False
        return self.architecture in ("", str(config.major))

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.n_layer, self.n_head, self.head_size


def sheet_of(state: StateFile) -> StateSheet:
    n_layer, n_head, head_size = state.sizes
    norms = tuple(state.norms())
    origin = state.origin
    return StateSheet(
        origin.architecture, origin.known_from, n_layer, n_head, head_size, norms, state.digest, state.prefix
    )


def tensor_name(layer: int) -> str:
    return f"blocks.{layer}.att.time_state"


DTYPES = {"f2": "float16", "f4": "float32", "f8": "float64"}
HEADER = re.compile(r"\{'descr': '<(f[248])', 'fortran_order': False, 'shape': \(([0-9, ]{0,100})\), ?\}\s*")
MAX_HEADER_BYTES = 4096


def read_npy(path: Path) -> FileContents:
    """Table of contents of a state saved with numpy: one array of all layers, (n_layer, n_head, head_size, head_size),
    read as ``time_state``. Raises WeightsError for other arrays, ``file_truncated`` for an incomplete one.

    Format: numpy.lib.format, version 1 to 3: a magic number, a length, a Python literal of fixed form, then the values.
    The literal is matched, never evaluated.
    """
    with path.open("rb") as file:
        major = file.read(8)[6:7]
        length = int.from_bytes(file.read(2 if major == b"\x01" else 4), "little")
        header = HEADER.fullmatch(file.read(min(length, MAX_HEADER_BYTES)).decode("latin-1"))
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
        params = {"name": "array", "end": end, "found": found}
        raise WeightsError(
            "file_truncated", path=str(path), reason=Text("reason.weights.ends_after_the_file", **params)
        )
    strides = contiguous_strides(info.shape)
    tensors = {}
    for layer in range(layers):
        offset = start + layer * math.prod(rest) * info.nbytes // info.numel
        name = f"blocks.{layer}.att.time_state"
        tensors[name] = StoredTensor(TensorInfo(name, info.shape, info.dtype), offset, strides, offset + info.nbytes)
    return FileContents("npy", tensors, {}, is_published_form=False)


def write_state_file(
    path: Path,
    layers: np.ndarray,
    architecture: str = "",
    note: str = "",
    shifts: np.ndarray | None = None,
    about: Mapping[str, str] | None = None,
) -> None:
    """Writes the whole file or nothing, in float32, with the names and orientation of state tuning. ``layers (n_layer,
    n_head, head_size, head_size)``. Raises FileExistsError if ``path`` exists; OSError.

    ``note`` describes how it was made, for readers of the file; ``about`` is further metadata. With ``shifts (2,
    n_layer, n_embd)``, the last inputs of attention and channel mix, it is a running state in the rwkv package's
    format, which transposes the matrices of RWKV-5 and 6.
    """
    import numpy as np
    from safetensors.numpy import save

    if shifts is not None and architecture[:1] in ("5", "6"):
        layers = layers.swapaxes(-1, -2)
    tensors = {tensor_name(n): np.ascontiguousarray(layer, np.float32) for n, layer in enumerate(layers)}
    for mix, rows in zip(("att", "ffn"), () if shifts is None else shifts, strict=False):
        tensors |= {f"blocks.{n}.{mix}.x_prev": np.ascontiguousarray(row, np.float32) for n, row in enumerate(rows)}
    known = {ARCHITECTURE_KEY: architecture, "roost.note": note, **(about or {})}
    data = save(tensors, {key: value for key, value in known.items() if value})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(data)
        _move_to_free_name(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _move_to_free_name(part: Path, path: Path) -> None:
    """A link fails if the name exists; a rename would replace the file. Some systems have no links."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.replace(part, path)


GROUP_CHANNELS = 64


class StateMeasures(Struct, frozen=True):
    """``norms[layer][column]``: Euclidean norms. With a second state: ``differences``, the norms of first minus second,
    and ``layer_cosines`` of the angle between both in each layer, None if one is zero; otherwise both are empty.
    ``norm``, ``difference`` and ``cosine`` are for all layers together."""

    norms: tuple[tuple[float, ...], ...]
    norm: float
    differences: tuple[tuple[float, ...], ...] = ()
    difference: float = 0.0
    layer_cosines: tuple[float | None, ...] = ()
    cosine: float | None = None


def rows_of(arrays: Mapping[str, NDArray[np.float32]]) -> Iterator[NDArray[np.float64]]:
    """``(columns, values)`` of each layer of a state. RWKV-4 has no heads: its columns are groups of 64 channels of its
    attention's memory, the weighted mean of the values (``att_aa / att_bb``). The last token's activations for the next
    shift are not memory and not counted. ``arrays`` as in
    :class:`webapp.engine.state.RecurrentState`."""
    import numpy as np

    if "att_kv" in arrays:
        for layer in arrays["att_kv"]:
            yield layer.reshape(len(layer), -1).astype(np.float64)
        return
    for values, weights in zip(arrays["att_aa"], arrays["att_bb"], strict=True):
        mean = np.divide(values, weights, out=np.zeros(len(values)), where=weights > 0)
        yield mean.reshape(len(mean) // GROUP_CHANNELS if len(mean) % GROUP_CHANNELS == 0 else 1, -1)


def measure(
    first: Mapping[str, NDArray[np.float32]], second: Mapping[str, NDArray[np.float32]] | None = None
) -> StateMeasures:
    """Raises ValueError for states of different shapes. Works on one layer at a time, in float64."""
    import numpy as np

    if second is None:
        lengths = [np.linalg.norm(row, axis=1) for row in rows_of(first)]
        return StateMeasures(_plain(lengths), _length(lengths))
    lengths, others, differences, products = [], [], [], []
    for mine, theirs in zip(rows_of(first), rows_of(second), strict=True):
        if mine.shape != theirs.shape:
            raise ValueError("states of different shapes")
        lengths.append(np.linalg.norm(mine, axis=1))
        others.append(np.linalg.norm(theirs, axis=1))
        differences.append(np.linalg.norm(mine - theirs, axis=1))
        products.append((mine * theirs).sum(axis=1))
    return StateMeasures(
        _plain(lengths),
        _length(lengths),
        _plain(differences),
        _length(differences),
        tuple(
            _cosine(float(product.sum()), _length([mine]), _length([theirs]))
            for product, mine, theirs in zip(products, lengths, others, strict=True)
        ),
        _cosine(float(sum(product.sum() for product in products)), _length(lengths), _length(others)),
    )


def _cosine(product: float, mine: float, theirs: float) -> float | None:
    return max(-1.0, min(1.0, product / (mine * theirs))) if mine * theirs > 0 else None


def _length(rows: list[NDArray[np.float64]]) -> float:
    return math.sqrt(sum(float((row * row).sum()) for row in rows))


def _plain(rows: list[NDArray[np.float64]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row.tolist()) for row in rows)
