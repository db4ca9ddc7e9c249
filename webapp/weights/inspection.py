"""Inspects a model file from its headers in milliseconds, and the publisher's additions to the weights: a vocabulary, a
chat template, sampling defaults, a name. For pages and the command line.

A Hugging Face folder has these additions as files, a GGUF file in its metadata. All of it is untrusted: it is read with
limits, and invalid data counts as missing.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import os
import re
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from webapp.engine.state import ModelConfig
from webapp.errors import WeightsError
from webapp.i18n import Text
from webapp.tokenizer import Tokenizer, load_tokenizer
from webapp.weights import ggml_model
from webapp.weights.architecture import (
    STATE_NAME,
    WHOLE_MODEL,
    Description,
    describe,
    dominant_dtype,
    parameter_count,
    without_adapters,
)
from webapp.weights.file_format import FORMAT_NAMES, read_contents, stamp_of
from webapp.weights.ggml_header import read_gguf_vocabulary
from webapp.weights.spelling import in_official_spelling
from webapp.weights.tensor_info import FileContents, TensorInfo, shared

USED_TOKENS_KEY = "roost.used_token_bitmap"
TRAINED_KEY = "roost.trained_parameters"
BITMAP_BYTES = 65536 // 8


class Inspection(Struct, frozen=True):
    """One file, or one folder. Sizes are in bytes; ``dtype`` is that of most elements.

    ``format``: pth, safetensors, npy, ggml-bin or gguf.
    ``kind``: model, music, state, lora or unknown; ``reason`` says why it is unknown, or what is unusual about it.
    ``config``: sizes, None unless kind is model or music (and for a GGUF of another kind).
    ``naming``: official, or the spelling of the stored tensors (:mod:`.spelling`); ``tensors`` use the official one,
    except in an unknown file.
    ``adapter``: the kind of a LoRA: lora, pissa-init, bone, or model (the file also contains a whole model).
    ``converted_strategy``: the only strategy for a file converted by the rwkv package, with the file's version.
    ``tokenizer``: a hint from the vocabulary's size: world, 20b, byte, abc, midi, midi-piano or custom.
    """

    path: str
    format: str
    kind: str
    config: ModelConfig | None
    parameters: int
    dtype: str
    size_bytes: int
    has_time_state: bool
    converted_strategy: str | None
    converted_version: str | None
    naming: str
    tokenizer: str | None
    reason: Any  # Text | str, which msgspec cannot express
    metadata: dict[str, str]
    tensors: tuple[TensorInfo, ...]
    adapter: str = ""
    is_published_form: bool = True

    @property
    def trained_parameters(self) -> int:
        """Fewer than ``parameters`` if the file says so: the starter never saw most tokens."""
        stored = self.metadata.get(TRAINED_KEY, "")
        return min(int(stored), self.parameters) if re.fullmatch("[0-9]{1,15}", stored) else self.parameters

    @property
    def state_shape(self) -> tuple[int, int, int] | None:
        """``(n_layer, n_head, head_size)`` of a state file, by its first tensor; None for other files."""
        shapes = [info.shape for info in self.tensors if STATE_NAME.fullmatch(info.name)]
        if self.kind != "state" or len(shapes[0]) != 3:
            return None
        n_head, head_size, _ = shapes[0]
        return len(shapes), n_head, head_size

    def to_dict(self, tensors: bool = True) -> dict[str, Any]:
        """Plain JSON; without the list of tensors if ``tensors`` is False (a 7B model has over a thousand)."""
        out = {name: value for name, value in asdict(self).items() if name not in ("config", "tensors")}
        out["config"] = self.config.to_dict() if self.config else None
        out["metadata"] = {key: value for key, value in self.metadata.items() if key != USED_TOKENS_KEY}
        out["state_shape"] = list(self.state_shape) if self.state_shape else None
        if tensors:
            out["tensors"] = [info.to_dict() for info in self.tensors]
        return out


def inspect(path: str | Path, any_name: bool = False, without_adapter: bool = False) -> Inspection:
    """The content of ``path``, without torch and without reading tensors; each kind of bad file has its own error.

    ``any_name`` allows any extension (for a download that has not been renamed yet). ``without_adapter``: ignores the
    tensors of a LoRA in a whole model.
    """
    raw = read_contents(Path(path), any_name)
    contents = raw if raw.format in ggml_model.FORMATS else in_official_spelling(raw)
    infos = {name: stored.info for name, stored in contents.tensors.items()}
    if without_adapter:
        infos = without_adapters(infos)
    strategy = contents.metadata.get("_strategy") if contents.format == "pth" else None
    description = _describe(contents, infos, strategy is not None)
    if description.kind == "unknown":  # shown as they are
        infos = {name: stored.info for name, stored in raw.tensors.items()}
    return Inspection(
        path=str(path),
        format=contents.format,
        kind=description.kind,
        config=description.config,
        parameters=parameter_count(infos.values()),
        dtype=dominant_dtype(infos.values()) or contents.metadata.get("data_type", ""),
        size_bytes=stamp_of(path)[1],
        has_time_state=any(STATE_NAME.fullmatch(name) for name in infos),
        converted_strategy=strategy,
        converted_version=contents.metadata.get("_version") if strategy is not None else None,
        naming=contents.spelling if description.kind != "unknown" else "official",
        tokenizer=description.tokenizer,
        reason=description.reason,
        metadata=dict(contents.metadata),
        tensors=tuple(map(shared, infos.values())),
        adapter=description.adapter,
        is_published_form=contents.is_published_form,
    )


def _describe(contents: FileContents, infos: dict[str, TensorInfo], is_converted: bool) -> Description:
    if contents.format in ggml_model.FORMATS:
        return ggml_model.describe_ggml(contents)
    return describe(infos, is_converted)


ADAPTER_WAYS_OUT = {
    "": "reason.weights.merge_first",
    WHOLE_MODEL: "reason.weights.merge_or_drop_its_adapter",
    "lora": "reason.weights.merge_first",
    "bone": "reason.weights.merge_first",
    "pissa-init": "reason.weights.merge_trained_file",
}


def require_model(inspection: Inspection) -> ModelConfig:
    """The sizes of a runnable model; raises ``not_a_model``, with the way out, for any other file."""
    if inspection.config is not None:
        return inspection.config
    found, way_out = {
        "state": (Text("reason.weights.state_file"), Text("reason.weights.load_as_state")),
        "lora": (inspection.reason, Text(ADAPTER_WAYS_OUT[inspection.adapter])),
        "model": (FORMAT_NAMES[inspection.format], Text("reason.weights.load_torch_file")),
    }.get(
        inspection.kind,
        (
            Text("reason.weights.something_else", reason=inspection.reason),
            Text("reason.weights.choose_rwkv_model"),
        ),
    )
    raise WeightsError("not_a_model", path=inspection.path, found=found, way_out=way_out)


def used_token_bitmap(inspection: Inspection) -> bytes | None:
    """8192 bytes, bit ``id % 8`` of byte ``id // 8`` is set for tokens in the training data; None if unknown.

    Roost's own training writes it into a safetensors header. Raises WeightsError if it exists but is damaged.
    """
    text = inspection.metadata.get(USED_TOKENS_KEY)
    if text is None:
        return None
    try:
        bitmap = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise WeightsError(
            path=inspection.path, reason=Text("reason.weights.is_not_base64", name=USED_TOKENS_KEY)
        ) from exc
    if len(bitmap) != BITMAP_BYTES:
        params = {"name": USED_TOKENS_KEY, "found": len(bitmap), "expected": BITMAP_BYTES}
        reason = Text("reason.weights.size_differs", **params)
        raise WeightsError(path=inspection.path, reason=reason)
    return bitmap


TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""In order of priority; the two JSON files contain it as ``chat_template``."""
GENERATION_FILE = "generation_config.json"
GGUF_TEMPLATE = "tokenizer.chat_template"
NAMES = ("general.name", "general.basename", "name", "base_model", "source")
"""Metadata keys that may name the model of a renamed file."""
MAX_BYTES = 4 << 20
"""Limit for a file next to the weights."""
MAX_NAME_CHARS = 200


def model_name(info: Inspection) -> str:
    """The name of its file or folder, followed by its name in the metadata. If the file is called ``model``, its
    folder's name is included."""
    path = Path(info.path)
    names = [info.metadata.get(key, "")[:MAX_NAME_CHARS] for key in NAMES]
    folder = [path.parent.name] if path.name.startswith(("model.", "model-", "pytorch_model")) else []
    return " ".join(text for text in (path.name, *folder, *names) if text)


def tokenizer_of(vocab_size: int, path: str | Path, override: str | None = None) -> Tokenizer:
    """Like :func:`load_tokenizer`; for a GGUF file, the vocabulary in it."""

    def in_model() -> dict[int, bytes] | None:
        return read_gguf_vocabulary(Path(path)) if str(path).lower().endswith(".gguf") else None

    return load_tokenizer(vocab_size, path, override, in_model=in_model)


def chat_template(info: Inspection) -> str:
    """Its Jinja source; "" if the model has none."""
    if found := info.metadata.get(GGUF_TEMPLATE, ""):
        return found
    for name in TEMPLATE_FILES:
        text = _text(info.path, name)
        found = text if name.endswith(".jinja") else _source(_table(text).get("chat_template"))
        if found:
            return found
    return ""


def generation_config(info: Inspection) -> dict[str, Any]:
    """The content of ``generation_config.json``; {} if there is none."""
    return _table(_text(info.path, GENERATION_FILE))


def _source(value: object) -> str:
    """A template; of several, the one named default."""
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
    except (OSError, ValueError):  # the usual case: the model is a single file
        return ""
    return _read(path, stamp.st_mtime_ns, stamp.st_size)


@functools.lru_cache(maxsize=16)
def _read(path: str, _changed_ns: int, size: int) -> str:
    if size > MAX_BYTES:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(MAX_BYTES)
    except (OSError, ValueError):
        return ""
