"""``/api/tags``, ``/api/ps``, ``/api/show`` and ``/api/version``: the library in Ollama's form."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
from flask import Response
from msgspec import Meta

from webapp import __version__
from webapp.errors import ModelNotFound
from webapp.web.api.answering import (
    ServedEntry,
    answer,
    is_name_of,
    served_model,
    served_models,
    the_completions,
    the_manager,
    the_record,
    the_settings,
)
from webapp.web.api.body import read_body
from webapp.web.api.ollama.chat import nanoseconds, timestamp
from webapp.web.api.openai.models import MOST_INPUTS, check_dimensions, vectors
from webapp.weights.inspection import Inspection

NEVER = "9999-12-31T23:59:59Z"


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


class ShowRequest(msgspec.Struct, kw_only=True):
    """``name`` is the older word for ``model``."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


def tags() -> Response:
    return answer(Tags([Tag(**tag_fields(served)) for served in served_models()]))


def running() -> Response:
    """The loaded model. Roost unloads by its own setting, so nothing here expires."""
    loaded = [served for served in served_models() if served.is_loaded]
    return answer(RunningModels([Running(**tag_fields(one), expires_at=NEVER, size_vram=0) for one in loaded]))


def show() -> Response:
    asked = read_body(ShowRequest)
    wanted = asked.model or asked.name or ""
    for served in served_models():
        if is_name_of(wanted, served.name):
            return answer(shown(served))
    raise ModelNotFound(name=wanted or "without a name", param="model")


def version() -> Response:
    return answer(VersionAnswer(__version__))


def tag_fields(served: ServedEntry) -> dict[str, Any]:
    """``digest`` is of name, size and date: reading gigabytes for a list would be too much."""
    size, changed = size_and_date(served)
    digest = hashlib.sha256(f"{served.name} {size} {changed}".encode()).hexdigest()
    return {
        "name": served.name,
        "model": served.name,
        "modified_at": timestamp(changed),
        "size": size,
        "digest": digest,
        "details": details_of(served),
    }


def size_and_date(served: ServedEntry) -> tuple[int, float]:
    if served.entry is not None:
        with suppress(OSError):
            found = Path(served.entry.path).stat()
            return found.st_size, found.st_mtime
    return 0, 0.0


def details_of(served: ServedEntry) -> Details:
    found = served.entry.inspection if served.entry else None
    family = f"rwkv{found.config.architecture}" if found and found.config else "rwkv"
    return Details(
        format=Path(served.name).suffix.lstrip(".") or "unknown",
        family=family,
        families=[family],
        parameter_size=size_words(found.parameters) if found else "",
        quantization_level=str(found.dtype) if found else "",
    )


def size_words(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


def shown(served: ServedEntry) -> ShowAnswer:
    found = served.entry.inspection if served.entry else None
    return ShowAnswer(
        modelfile="",
        parameters="",
        template="",
        details=details_of(served),
        model_info=info_of(found) if found else {},
        capabilities=capabilities_of(found),
        modified_at=timestamp(size_and_date(served)[1]),
    )


def capabilities_of(found: Inspection | None) -> list[str]:
    """Clients offer tools and thinking only where they are named here."""
    if found is None or found.config is None:
        return ["completion"]
    template = the_completions().template(found)
    tools = [] if template.is_raw else ["tools"]
    return ["completion", *tools, *(["thinking"] if template.openings else [])]


def info_of(found: Inspection) -> dict[str, Any]:
    known: dict[str, Any] = {"general.parameter_count": found.parameters}
    config = found.config
    if config is not None:
        family = f"rwkv{config.architecture}"
        known |= {
            "general.architecture": family,
            f"{family}.block_count": config.n_layer,
            f"{family}.embedding_length": config.n_embd,
            f"{family}.vocab_size": config.vocab_size,
            f"{family}.context_length": the_settings().max_prompt_tokens,  # the model itself has no such limit
        }
    return known


class OllamaEmbed(msgspec.Struct, kw_only=True):
    """``truncate`` is ignored: a text that is too long is refused. ``options`` and ``keep_alive`` are ignored too."""

    model: str | None = None
    input: str | Annotated[list[str], Meta(max_length=MOST_INPUTS)] = ""
    dimensions: Annotated[int, Meta(ge=1, description="Refused unless it is the model's own size.")] | None = None


def embed() -> Response:
    """Without a text it only loads the model, as Ollama does."""
    began = time.monotonic()
    asked = read_body(OllamaEmbed)
    model = served_model(asked.model)
    check_dimensions(asked.dimensions)
    texts = asked.input if isinstance(asked.input, list) else [asked.input] if asked.input else []
    if not texts:
        the_manager().load()
    inputs = [the_manager().tokenizer().encode(text) for text in texts]
    count = the_record().prompt_tokens = sum(map(len, inputs))
    rows = list(vectors(inputs))
    return answer(EmbedAnswer(model, rows, nanoseconds(time.monotonic() - began), 0, count))
