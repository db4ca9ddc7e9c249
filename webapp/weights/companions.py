"""What a publisher puts beside the weights for those who run them: a vocabulary, a chat template, sampling defaults, a
name.

A Hugging Face folder has them as files, a GGUF file among its metadata. All of it comes from strangers: it is read with
bounds, and what makes no sense counts as not there.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from webapp.tokenizer import Tokenizer, load_tokenizer
from webapp.weights.ggml_header import read_gguf_vocabulary
from webapp.weights.inspection import Inspection

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""In the order they count; the two JSON files hold it as ``chat_template``."""
GENERATION_FILE = "generation_config.json"
GGUF_TEMPLATE = "tokenizer.chat_template"
NAMES = ("general.name", "general.basename", "name", "base_model", "source")
"""Metadata that may say which model a file under another name is."""
MOST_BYTES = 4 << 20
MOST_NAME_CHARS = 200


def model_name(info: Inspection) -> str:
    """Of its file or folder, with what its metadata call it behind; a file called ``model`` goes by its folder too."""
    path = Path(info.path)
    told = [info.metadata.get(key, "")[:MOST_NAME_CHARS] for key in NAMES]
    folder = [path.parent.name] if path.name.startswith(("model.", "model-", "pytorch_model")) else []
    return " ".join(text for text in (path.name, *folder, *told) if text)


def tokenizer_of(vocab_size: int, path: str | Path, override: str | None = None) -> Tokenizer:
    """As :func:`load_tokenizer`, and from a GGUF file the vocabulary in it."""

    def in_model() -> dict[int, bytes] | None:
        return read_gguf_vocabulary(Path(path)) if str(path).lower().endswith(".gguf") else None

    return load_tokenizer(vocab_size, path, override, in_model=in_model)


def chat_template(info: Inspection) -> str:
    """Its Jinja source; "" where the model brings none along."""
    if found := info.metadata.get(GGUF_TEMPLATE, ""):
        return found
    for name in TEMPLATE_FILES:
        text = _text(info.path, name)
        found = text if name.endswith(".jinja") else _source(_table(text).get("chat_template"))
        if found:
            return found
    return ""


def generation_config(info: Inspection) -> dict[str, Any]:
    """``generation_config.json`` as it is; {} where there is none."""
    return _table(_text(info.path, GENERATION_FILE))


def _source(value: object) -> str:
    """A template, or the one called default of several."""
    if isinstance(value, list):
        named = {row.get("name"): row.get("template") for row in value if isinstance(row, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else ""


def _table(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    try:
        stamp = os.stat(path)
    except (OSError, ValueError):  # the usual case: the model is a file
        return ""
    return _read(path, stamp.st_mtime_ns, stamp.st_size)


@functools.lru_cache(maxsize=16)
def _read(path: str, _changed_ns: int, size: int) -> str:
    if size > MOST_BYTES:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(MOST_BYTES)
    except (OSError, ValueError):
        return ""
