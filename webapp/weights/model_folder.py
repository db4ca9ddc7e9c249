"""A folder that is one model, as Hugging Face publishes them: config.json, safetensors in one or several files with
an index, and perhaps a tokenizer, a chat template and sampling defaults.

What a folder is shows from the names in it alone (:func:`is_model_folder`); nothing is opened for that. The index and
the other JSON files are read with bounds, since they come from strangers as the weights do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
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
"""Of an adapter that Hugging Face's peft saved: a folder of its own, and no model."""
MOST_JSON_BYTES = 8 << 20
"""An index of 20,000 tensors has 2 MB."""
MOST_SHARDS = 500


def is_model_folder(names: Collection[str]) -> bool:
    """Of the names of the files in a folder."""
    if any(index in names for index in INDEXES):
        return True
    return CONFIG in names and (any(whole in names for whole in WHOLE) or _single(names) is not None)


def is_model_folder_at(path: str | Path) -> bool:
    """False also for what is no folder."""
    try:
        return is_model_folder(os.listdir(path))
    except (OSError, ValueError):
        return False


def weight_files(folder: Path) -> list[Path]:
    """The files that hold its tensors. ``file_is_directory`` for no model's folder; ``file_truncated`` where one is
    missing; WeightsError for an index that makes no sense."""
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
    """Tensor to file, as the index says; names of files that lie in the folder itself."""
    found = read_json(folder / name).get("weight_map")
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(file, str) and file and not {"/", "\\", "\0"} & set(file) for file in found.values())
        or len(set(found.values())) > MOST_SHARDS
    ):
        raise WeightsError(path=str(folder), reason=Text("reason.weights.index_makes_no_sense", name=name))
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A table; WeightsError for anything else, or more than :data:`MOST_JSON_BYTES`."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_JSON_BYTES + 1)
        found = json.loads(raw) if len(raw) <= MOST_JSON_BYTES else None
    except OSError as exc:
        raise WeightsError("file_unreadable", path=str(path), reason=system_reason(exc)) from exc
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise WeightsError(path=str(path.parent), reason=Text("reason.weights.index_makes_no_sense", name=path.name))
    return found


def folder_stamp(folder: Path) -> tuple[int, int]:
    """Time of the last change of any of its files in ns, and the bytes of all; OSError."""
    changed, size = 0, 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file() and not entry.name.startswith("."):
                found = entry.stat()
                changed, size = max(changed, found.st_mtime_ns), size + found.st_size
    return changed, size


def stamp_of(path: str | Path) -> tuple[int, int]:
    """Time of the last change in ns and size in bytes of a model's file or folder; OSError."""
    found = os.stat(path)
    if os.path.isdir(path):
        return folder_stamp(Path(path))
    return found.st_mtime_ns, found.st_size


def _single(names: Collection[str]) -> str | None:
    """The one safetensors file of a folder, whatever it is called; None of several."""
    found = [name for name in names if name.endswith(".safetensors") and not name.startswith(("adapter_", "."))]
    return found[0] if len(found) == 1 else None
