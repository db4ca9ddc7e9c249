"""Ollama's answer objects as types. Durations are nanoseconds."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Literal

import msgspec


class CalledTool(msgspec.Struct):
    name: str
    arguments: dict[str, Any]


class OllamaCallOut(msgspec.Struct):
    function: CalledTool


class OllamaText(msgspec.Struct, kw_only=True, omit_defaults=True):
    role: Literal["assistant"]
    content: str
    thinking: str = ""
    tool_calls: list[OllamaCallOut] = []


class Figures(msgspec.Struct, kw_only=True, omit_defaults=True):
    model: str
    created_at: str
    done: bool
    done_reason: str = ""
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class ChatLine(Figures, kw_only=True, omit_defaults=True):
    """One line of a chat's stream; the last has the figures. The whole answer is one such line."""

    message: OllamaText


class GenerateLine(Figures, kw_only=True, omit_defaults=True):
    response: str
    thinking: str = ""


class Details(msgspec.Struct, kw_only=True):
    parent_model: str = ""
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Tag(msgspec.Struct, kw_only=True):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(msgspec.Struct):
    models: list[Tag]


class Running(Tag, kw_only=True):
    expires_at: str
    size_vram: int


class RunningModels(msgspec.Struct):
    models: list[Running]


class ShowAnswer(msgspec.Struct, kw_only=True):
    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class EmbedAnswer(msgspec.Struct):
    """``embeddings`` are of length 1, in the order of the texts."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class VersionAnswer(msgspec.Struct):
    version: str


class OllamaError(msgspec.Struct):
    error: str


def timestamp(seconds: float | None = None) -> str:
    """Now, or then, as RFC 3339 in UTC."""
    then = datetime.now(timezone.utc) if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    return then.isoformat().replace("+00:00", "Z")
