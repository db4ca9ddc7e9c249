"""A folder that is one model, in Hugging Face's form: config.json, one or several safetensors files with an index, and
possibly a tokenizer, a chat template and sampling defaults.

A model folder is recognised by its file names alone (:func:`is_model_folder`), without opening a file. The index and
the other JSON files are untrusted and read with limits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from webapp.errors import WeightsError
from webapp.i18n import Text, system_reason

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
CONFIG = "config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION = "generation_config.json"
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""Files of an adapter saved by Hugging Face's peft: a separate folder, which is not a model."""
MAX_JSON_BYTES = 8 << 20
"""An index of 20,000 tensors has 2 MB."""
MAX_SHARDS = 500
PIECES, PIECE_BYTES = 64, 1 << 16


def is_model_folder(names: Collection[str]) -> bool:
    """By the names of the files in the folder."""
    if any(index in names for index in INDEXES):
        return True
    return CONFIG in names and (any(whole in names for whole in WHOLE) or _single(names) is not None)


def is_model_folder_at(path: str | Path) -> bool:
    """False also if it is not a folder."""
    try:
        return is_model_folder(os.listdir(path))
    except (OSError, ValueError):
        return False


def weight_files(folder: Path) -> list[Path]:
    """The files with its tensors. Raises ``file_is_directory`` unless it is a model folder; ``file_truncated`` if a
    file is missing; WeightsError for an invalid index."""
    names = set(os.listdir(folder))
    index = next((name for name in INDEXES if name in names), None)
    if index is None:
        whole = next((name for name in WHOLE if name in names), None) or _single(names)
        if whole is None:
            raise WeightsError("file_is_directory", path=str(folder))
        return [folder / whole]
    shards = sorted({str(shard) for shard in index_of(folder, index).values()})
    missing = next((shard for shard in shards if shard not in names), None)
    if missing is not None:
        raise WeightsError(
            "file_truncated", path=str(folder), reason=Text("reason.weights.part_is_missing", name=missing)
        )
    return [folder / shard for shard in shards]


def index_of(folder: Path, name: str) -> dict[str, str]:
    """Tensor -> file, from the index; only names of files directly in the folder."""
    found = read_json(folder / name).get("weight_map")
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(file, str) and file and not {"/", "\\", "\0"} & set(file) for file in found.values())
        or len(set(found.values())) > MAX_SHARDS
    ):
        raise WeightsError(path=str(folder), reason=Text("reason.weights.index_makes_no_sense", name=name))
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises WeightsError for anything else, or more than :data:`MAX_JSON_BYTES`."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JSON_BYTES + 1)
        found = json.loads(raw) if len(raw) <= MAX_JSON_BYTES else None
    except OSError as exc:
        raise WeightsError("file_unreadable", path=str(path), reason=system_reason(exc)) from exc
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise WeightsError(path=str(path.parent), reason=Text("reason.weights.index_makes_no_sense", name=path.name))
    return found


def folder_stamp(folder: Path) -> tuple[int, int]:
    """Latest modification time of its files in ns, and the sum of their bytes. Raises OSError."""
    changed, size = 0, 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file() and not entry.name.startswith("."):
                found = entry.stat()
                changed, size = max(changed, found.st_mtime_ns), size + found.st_size
    return changed, size


def stamp_of(path: str | Path) -> tuple[int, int]:
    """Modification time in ns and size in bytes of a model's file or folder. Raises OSError."""
    found = os.stat(path)
    if os.path.isdir(path):
        return folder_stamp(Path(path))
    return found.st_mtime_ns, found.st_size


@lru_cache(32)
def content_digest(name: str, stamp: tuple[int, int]) -> str:
    """Digest of a model's bytes, independent of their location: 32 hex digits over sizes and :data:`PIECES` pieces (4
    MB) of each file of weights. Hashing 15 GB would take ten seconds; other models differ everywhere. OSError.

    Cached for each ``stamp`` (:func:`stamp_of`)."""
    path = Path(name)
    found = hashlib.blake2b(digest_size=16)
    files = sorted(file for file in path.iterdir() if file.suffix in WEIGHTS) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        found.update(f"\0{size}\0".encode())
        _update(found, file, size)
    return found.hexdigest()


def _update(digest: hashlib.blake2b, file: Path, size: int) -> None:
    """Adds :data:`PIECES` pieces, spread over the file."""
    with file.open("rb", buffering=0) as content:
        for piece in range(PIECES):
            content.seek(piece * size // PIECES)
            digest.update(content.read(PIECE_BYTES))


WEIGHTS = (".safetensors", ".st", ".pth", ".bin", ".gguf")


def _single(names: Collection[str]) -> str | None:
    """The only safetensors file in a folder, whatever its name; None if there are several."""
    found = [name for name in names if name.endswith(".safetensors") and not name.startswith(("adapter_", "."))]
    return found[0] if len(found) == 1 else None


def model_identity(path: Path, strategy: str, custom_cuda: bool, adapter: Mapping[str, object] | None = None) -> str:
    """Identifies everything that affects a loaded model's states: 32 hex digits over name, size, modification time and
    :data:`PIECES` pieces of its files and its adapter's (options as in ``LoadModel.adapter``). Hashing 15 GB would take
    ten seconds, and any change of a model changes its time or bytes everywhere. A path that is not a file counts by its
    name."""
    found = hashlib.blake2b(f"{strategy.split()}{custom_cuda}".encode(), digest_size=16)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    if adapter and adapter["adapter_file"]:
        found.update(repr(sorted(adapter.items())).encode("utf-8", "surrogateescape"))
        merged, start = Path(str(adapter["adapter_file"])), str(adapter["adapter_start"])
        files += [merged, merged.with_name(PEFT_CONFIG), *([Path(start)] if start else [])]
    for file in files:
        found.update(file.name.encode("utf-8", "surrogateescape"))
        if not file.is_file():
            continue
        stat = file.stat()
        found.update(f"\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        _update(found, file, stat.st_size)
    return found.hexdigest()
