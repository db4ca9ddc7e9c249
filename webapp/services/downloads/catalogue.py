"""The catalogue of published RWKV models: purpose, size and location of each, and which fit this machine.

``catalogue.json`` contains only data: names, sizes, dates and checksums from the publisher and RWKV-Runner's manifest.
An unknown checksum is null; an unknown size is estimated from the tensors, two bytes per weight.

A newer list of the same form can replace it: fetched when a person asks for it, stored in the data folder, and used
only while its checksum equals the one in the settings.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import re
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from webapp.engine.backend import RAM
from webapp.engine.state import ARCHITECTURES, ModelConfig
from webapp.services.downloads.hubs import REPOSITORY
from webapp.services.strategy import FITS, Hardware, recommend
from webapp.weights.inspection import Inspection
from webapp.weights.tensor_info import TensorInfo

DATA = Path(__file__).with_suffix(".json")
FAMILIES = ("g1", "world7", "world6", "world5", "world4", "music", "states")
USES = ("try", "chat", "reasoning", "code", "languages", "older", "midi", "abc", "state")
BEST_FAMILY = "g1"
QUICK_BYTES = 5 * 10**9
"""A CPU reads all weights for each token: 5 tokens/s, the speed of a human reader, at 25 GB/s of memory bandwidth."""
ROUND_BYTES = 256 << 20  # so that two measurements of one machine give the same
MAX_ROWS = 2000
FILE = re.compile(r"[A-Za-z0-9][\w. /-]{0,150}\.(pth|safetensors|st)")
FOLDER = re.compile(r"[A-Za-z0-9][\w./-]{0,150}")
PAGES = "https://huggingface.co/"


class KnownModel(Struct, frozen=True):
    """``file``: path in ``repo``; for a folder in Hugging Face's format (``is_folder``) the folder's path, or the
    repository's name if the repository is the folder. ``parameters``: the publisher's text ("1.5B"). ``size_bytes``: of
    the 16-bit file or all files, exact or tensors only. ``context``: the trained context length in tokens.
    ``published``: ISO date. ``sha256``: "" if unknown. ``modelscope``: the same repository on ModelScope, "" for
    none."""

    file: str
    family: str
    parameters: str
    size_bytes: int
    size_is_exact: bool
    sha256: str
    good_for: tuple[str, ...]
    published: str
    context: int
    licence: str
    repo: str
    architecture: str
    layers: int | None
    width: int | None
    modelscope: str = ""
    is_folder: bool = False

    @property
    def folder(self) -> str:
        """The folder's path in ``repo``, "" for the repository itself."""
        return "" if self.file == self.repo.rpartition("/")[2] else self.file

    def is_twin_of(self, other: KnownModel) -> bool:
        """Whether both contain the same weights, one as a file and one as a folder."""
        return (self.family, self.parameters, self.published) == (other.family, other.parameters, other.published)

    @property
    def page(self) -> str:
        return PAGES + self.repo


class Fitting(Struct, frozen=True):
    """How a published model would run here: its strategy ("" for none) and the memory it needs."""

    strategy: str
    needed_bytes: int
    is_fitting: bool
    is_on_processor: bool = False


def known_models() -> tuple[KnownModel, ...]:
    """In the order of the file: families as in FAMILIES, small models before large ones."""
    return _newer or _shipped()


@functools.cache
def _shipped() -> tuple[KnownModel, ...]:
    return read_catalogue(DATA.read_bytes())


_newer: tuple[KnownModel, ...] = ()


def use_newer(path: Path, sha256: str) -> None:
    """Uses the list at ``path`` if it exists and has this checksum, otherwise the one that comes with Roost."""
    global _newer
    _newer = ()
    with contextlib.suppress(OSError, ValueError):
        content = path.read_bytes()
        if sha256 and hashlib.sha256(content).hexdigest() == sha256.lower():
            _newer = read_catalogue(content)


def read_catalogue(content: bytes) -> tuple[KnownModel, ...]:
    """Raises ValueError unless all rows are valid: the list may be downloaded, and its names become file names."""
    rows = json.loads(content)
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_ROWS:
        raise ValueError("not a list of models")
    try:
        found = [
            KnownModel(**{**row, "good_for": tuple(row["good_for"]), "sha256": row["sha256"] or ""}) for row in rows
        ]
    except (TypeError, KeyError) as exc:
        raise ValueError("a row is not whole") from exc
    wrong = next((model for model in found if not _is_whole(model)), None)
    if wrong is not None:
        raise ValueError(f"a row makes no sense: {str(wrong)[:200]}")
    return tuple(sorted(found, key=lambda model: FAMILIES.index(model.family)))


def _is_whole(model: KnownModel) -> bool:
    texts = (model.file, model.family, model.parameters, model.sha256, model.published, model.licence, model.repo)
    numbers = (model.size_bytes, model.context)
    sizes = [size for size in (model.layers, model.width) if size is not None]
    return (
        all(type(text) is str and len(text) <= 200 for text in (*texts, model.architecture, model.modelscope))
        and all(type(number) is int and 0 <= number < 2**50 for number in (*numbers, *sizes))
        and type(model.size_is_exact) is bool
        and type(model.is_folder) is bool
        and (FOLDER if model.is_folder else FILE).fullmatch(model.file) is not None
        and ".." not in model.file
        and model.family in FAMILIES
        and {*model.good_for} <= {*USES}
        and re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,4})?B", model.parameters) is not None
        and re.fullmatch(r"[0-9a-f]{64}|", model.sha256) is not None
        and re.fullmatch(r"\d{4}-\d\d-\d\d", model.published) is not None
        and all(REPOSITORY.fullmatch(repo) for repo in filter(None, (model.repo, model.modelscope or None)))
        and model.architecture in ARCHITECTURES
    )


def find(name: str) -> KnownModel | None:
    """Finds a model by file name, with or without extension, ignoring case."""
    wanted = name.strip().casefold().removesuffix(".pth")
    return next((model for model in known_models() if model.file.casefold().removesuffix(".pth") == wanted), None)


def fitting(model: KnownModel, hardware: Hardware, reclaimable_bytes: int = 0) -> Fitting:
    """With the memory that is free now plus what unloading the current model would free."""
    rounded = replace(
        hardware,
        ram_available=(hardware.ram_available + reclaimable_bytes) // ROUND_BYTES * ROUND_BYTES,
        gpus=tuple(replace(gpu, vram_free=gpu.vram_free // ROUND_BYTES * ROUND_BYTES) for gpu in hardware.gpus),
    )
    return _fitting(model, rounded)


@functools.lru_cache(256)
def _fitting(model: KnownModel, hardware: Hardware) -> Fitting:
    found = recommend(hardware, as_inspected(model))
    needed = found.fit.needed_bytes if found.fit else 0
    is_on_processor = found.fit is not None and all(device.device == RAM for device in found.fit.devices)
    return Fitting(found.strategy, needed, found.fit is not None and found.fit.verdict == FITS, is_on_processor)


def best(hardware: Hardware, disk_free: int, reclaimable_bytes: int = 0) -> KnownModel | None:
    """The largest current chat model that fits with a reserve and is fast enough. Ties: the newer one, and a file,
    whose checksum may be known, before a folder. ``disk_free``: bytes for its file."""
    for model in sorted(
        (model for model in known_models() if model.family == BEST_FAMILY),
        key=lambda model: (float(model.parameters.removesuffix("B")), model.published, not model.is_folder),
        reverse=True,
    ):
        found = fitting(model, hardware, reclaimable_bytes)
        is_quick = not found.is_on_processor or found.needed_bytes <= QUICK_BYTES
        if found.is_fitting and is_quick and model.size_bytes < disk_free:
            return model
    return None


@functools.lru_cache(64)
def as_inspected(model: KnownModel) -> Inspection:
    """An estimate of the file's inspection, for memory only: matrices according to the published sizes."""
    layers, width = model.layers or 24, model.width
    if width is None:
        width = round(math.sqrt(model.size_bytes / 2 / layers / 13) / 64) * 64
    inner = 4 * width if model.architecture[0] in "47" else width * 7 // 2 // 32 * 32
    vocabulary = 65536 if model.family != "music" else 20096 if "midi" in model.good_for else 128
    heads = 0 if model.architecture == "4" else width // 64
    config = ModelConfig(model.architecture, layers, width, width, inner, heads, 64 if heads else 0, vocabulary)
    tensors = [TensorInfo(name, (vocabulary, width), "bfloat16") for name in ("emb.weight", "head.weight")]
    for layer in range(layers):
        for name in ("receptance", "key", "value", "output"):
            tensors.append(TensorInfo(f"blocks.{layer}.att.{name}.weight", (width, width), "bfloat16"))
        tensors.append(TensorInfo(f"blocks.{layer}.ffn.key.weight", (inner, width), "bfloat16"))
        tensors.append(TensorInfo(f"blocks.{layer}.ffn.value.weight", (width, inner), "bfloat16"))
    rest = (model.size_bytes - sum(tensor.nbytes for tensor in tensors)) // 2
    if rest > layers:
        tensors += [TensorInfo(f"blocks.{layer}.att.rest", (rest // layers,), "bfloat16") for layer in range(layers)]
    return Inspection(
        path=model.file,
        format="safetensors" if model.is_folder else "pth",
        kind="music" if model.family == "music" else "model",
        config=config,
        parameters=model.size_bytes // 2,
        dtype="bfloat16",
        size_bytes=model.size_bytes,
        has_time_state=False,
        converted_strategy=None,
        converted_version=None,
        naming="official",
        tokenizer=None,
        reason="",
        metadata={},
        tensors=tuple(tensors),
    )


STARTER, STARTER_CONTEXT = "roost-starter-v7", 512
"""The starter model and its trained context length in tokens (docs/starter-model.md)."""
NAMED_CONTEXT = re.compile(r"(?i)(?<![a-z])ctx(\d{3,7})(?!\d)")


def trained_context(name: str) -> int | None:
    """A model's trained context length in tokens, by file name: from the catalogue, otherwise from the name
    (``…-ctx8192``); None if neither contains it."""
    base = name.rpartition("/")[2]
    known = next((model.context for model in known_models() if model.file.rpartition("/")[2] == base), 0)
    if known or base.startswith(STARTER):
        return known or STARTER_CONTEXT
    found = NAMED_CONTEXT.search(base)
    return int(found[1]) if found else None
