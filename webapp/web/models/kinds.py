"""What a file is, in one word: the key of a badge, an icon and a filter."""

from __future__ import annotations

import time

from webapp.errors import WeightsError
from webapp.manager.library import ModelEntry
from webapp.weights.inspection import Inspection

KINDS = ("world", "model", "midi", "abc", "state", "lora", "other", "broken")
ICONS = {"state": "layers", "lora": "git-merge", "other": "file-json", "broken": "triangle-alert", "writing": "history"}
FRESH_S = 5.0
SHORT_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "uint8": "int8"}


def kind_of(entry: ModelEntry, now: float | None = None) -> str:
    """One of KINDS, or ``writing`` for a file that cannot be read and was touched a moment ago: a copy under way."""
    if entry.inspection is not None:
        return _kind(entry.inspection)
    is_fresh = (time.time() if now is None else now) - _touched_at(entry) < FRESH_S
    return "writing" if is_fresh and isinstance(entry.error, WeightsError) else "broken"


def _kind(found: Inspection) -> str:
    if found.kind == "music":
        return "abc" if found.tokenizer == "abc" else "midi"
    if found.kind == "model":
        return "world" if found.tokenizer == "world" else "model"
    return found.kind if found.kind in ("state", "lora") else "other"


def _touched_at(entry: ModelEntry) -> float:
    try:
        return entry.path.stat().st_mtime
    except OSError:
        return 0.0


def is_loadable(found: Inspection | None) -> bool:
    """True when its sizes are known: a model some backend of this Roost could run."""
    return found is not None and found.config is not None


def dtype_text(dtype: str) -> str:
    return SHORT_DTYPES.get(dtype, dtype)
