"""``/api/tags``, ``/api/ps``, ``/api/show``, ``/api/version``, ``/api/pull``, ``/api/delete`` and embeddings: the
library in Ollama's form."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from flask import Response, current_app
from msgspec import Meta, Struct

from webapp import __version__
from webapp.chat.formats import fills_gaps
from webapp.errors import DownloadError, ModelNotFound, RoostError, translate_error
from webapp.i18n import Text, sentences
from webapp.services.downloads.downloads import Downloads
from webapp.services.jobs import DONE, PAUSED, Job, Jobs
from webapp.services.library.model_files import ModelFiles
from webapp.web.api import answering as api
from webapp.web.api.ollama.chat import nanoseconds, timestamp
from webapp.web.api.openai.models import MAX_INPUTS, check_dimensions, ids_to_embed, vectors
from webapp.web.kit.page import current_locale
from webapp.weights.inspection import Inspection, model_name

NEVER = "9999-12-31T23:59:59Z"


class Details(Struct, kw_only=True):
    parent_model: str = ""
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Tag(Struct, kw_only=True):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(Struct):
    models: list[Tag]


class Running(Tag, kw_only=True):
    expires_at: str
    size_vram: int
    context_length: int


class RunningModels(Struct):
    models: list[Running]


class ShowAnswer(Struct, kw_only=True):
    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class EmbedAnswer(Struct):
    """``embeddings`` have length 1 and are in the order of the texts."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


OLLAMA_LEVEL = "0.14.0"
"""The version of Ollama's API that this implements, with thinking levels, logprobs, OpenAI's Responses and Anthropic's
messages. Clients refuse older versions (Copilot in VS Code needs 0.6.4, Codex 0.13.4), and would misread Roost's own
version number."""


class VersionAnswer(Struct):
    """``roost`` is Roost's own version."""

    version: str
    roost: str


class ShowRequest(Struct, kw_only=True):
    """``name`` is the older word for ``model``."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


def tags() -> Response:
    return api.answer(Tags([Tag(**tag_fields(served)) for served in api.served_models()]))


def running() -> Response:
    """The loaded model. Roost unloads by its own setting, so nothing expires here."""
    loaded = [served for served in api.served_models() if served.is_loaded]
    common: dict[str, Any] = {
        "expires_at": NEVER,
        "size_vram": 0,
        "context_length": api.the_settings().max_prompt_tokens,
    }
    return api.answer(RunningModels([Running(**tag_fields(one), **common) for one in loaded]))


def show() -> Response:
    asked = api.read_body(ShowRequest)
    wanted = asked.model or asked.name or ""
    served = api.served_entry(wanted)
    if served is None:
        raise ModelNotFound(name=wanted or "without a name", param="model")
    return api.answer(shown(served))


def version() -> Response:
    return api.answer(VersionAnswer(OLLAMA_LEVEL, __version__))


def tag_fields(served: api.ServedEntry) -> dict[str, Any]:
    """``digest`` covers name, size and date: reading gigabytes for a list would take too long."""
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


def size_and_date(served: api.ServedEntry) -> tuple[int, float]:
    if served.entry is not None:
        with suppress(OSError):
            found = Path(served.entry.path).stat()
            return found.st_size, found.st_mtime
    return 0, 0.0


def details_of(served: api.ServedEntry) -> Details:
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


def shown(served: api.ServedEntry) -> ShowAnswer:
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
    """Clients use tools, thinking and a suffix ("insert") only if they are listed here."""
    if found is None or found.config is None:
        return ["completion"]
    template = api.the_completions().template(found)
    tools = [] if template.is_raw else ["tools"]
    gaps = ["insert"] if fills_gaps(model_name(found)) else []
    return ["completion", *tools, *(["thinking"] if template.openings else []), *gaps]


def info_of(found: Inspection) -> dict[str, Any]:
    known: dict[str, Any] = {"general.parameter_count": found.parameters}
    config = found.config
    if config is not None:
        family = f"rwkv{config.architecture}"
        known |= {
            "general.architecture": family,
            "general.basename": Path(found.path).stem,
            f"{family}.block_count": config.n_layer,
            f"{family}.embedding_length": config.n_embd,
            f"{family}.vocab_size": config.vocab_size,
            f"{family}.context_length": api.the_settings().max_prompt_tokens,  # the model itself has no such limit
        }
    return known


class OllamaEmbedding(Struct, kw_only=True):
    """The older form: one text, one vector."""

    model: str | None = None
    prompt: str | None = ""


class EmbeddingAnswer(Struct):
    """``embedding`` is empty without a text."""

    embedding: list[float]


def embed_one() -> Response:
    asked = api.read_body(OllamaEmbedding)
    api.served_model(asked.model)
    if not asked.prompt:
        api.the_manager().load()
        return api.answer(EmbeddingAnswer([]))
    token_ids = ids_to_embed(asked.prompt)
    api.the_record().prompt_tokens = len(token_ids)
    [vector] = vectors([token_ids])
    return api.answer(EmbeddingAnswer(vector))


class ModelRequest(Struct, kw_only=True):
    """``name`` is the older word for ``model``."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None

    @property
    def wanted(self) -> str:
        """``model_not_found`` without a name."""
        found = self.model or self.name
        if not found:
            raise ModelNotFound(name="without a name", param="model")
        return found


class Progress(Struct, kw_only=True, omit_defaults=True):
    """``total`` and ``completed`` are bytes."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


SUCCESS = Progress(status="success")
PULL_EVERY_S = 0.5


def pull() -> Response:
    """Downloads a published model, ``OWNER/REPOSITORY/FILE`` or a URL. It continues if the client disconnects, as the
    page Models shows; another pull of the same name follows it again."""
    asked = api.read_body(ModelRequest)
    if api.known_name(api.the_manager(), asked.wanted) is not None:
        return progress_response(iter([SUCCESS]), asked)
    downloads: Downloads = current_app.extensions["downloads"]
    job = downloads.start(downloads.named(asked.wanted))
    return progress_response(progress(downloads.jobs, job), asked)


def progress(jobs: Jobs, job: Job) -> Iterator[Progress]:
    """Until the job is finished; raises its error."""
    while True:
        job = jobs.wait(job.id, PULL_EVERY_S)
        if job.is_over or job.status == PAUSED:
            break
        yield Progress(status=f"pulling {job.title}", digest=job.title, total=job.total, completed=job.done)
    if job.status != DONE:
        raise job.error or DownloadError("download_interrupted", name=job.title, host="")
    yield SUCCESS


def progress_response(lines: Iterator[Progress], asked: ModelRequest) -> Response:
    """As lines, or only the last of them; Ollama streams by default."""
    if asked.stream is False:
        return api.answer(list(lines)[-1])
    locale = current_locale()

    def body() -> Iterator[bytes]:
        try:
            yield from map(api.json_line, lines)
        except RoostError as exc:
            yield api.json_line({"error": sentences(*translate_error(exc, locale))})

    return Response(body(), content_type=api.JSON_LINES)


def delete() -> Response:
    """Moves it to the trash of the models folder, from which the page Models can restore it."""
    asked = api.read_body(ModelRequest)
    name = api.known_name(api.the_manager(), asked.wanted)
    if name is None:
        raise ModelNotFound(name=asked.wanted, param="model")
    files: ModelFiles = current_app.extensions["model_files"]
    files.delete(name)
    return api.answer(SUCCESS)


def refuse_making() -> Response:
    """Model files are created by conversion here; a named set of options is a preset."""
    raise RoostError("unsupported_parameter", param="model", reason=Text("reason.api.models_are_made_elsewhere"))


class OllamaEmbed(Struct, kw_only=True):
    """``truncate`` is ignored: a text that is too long is refused. ``options`` and ``keep_alive`` are ignored too."""

    model: str | None = None
    input: str | Annotated[list[str], Meta(max_length=MAX_INPUTS)] = ""
    dimensions: Annotated[int, Meta(ge=1, description="Refused unless it is the model's own size.")] | None = None


def embed() -> Response:
    """Without a text it only loads the model, as Ollama does."""
    began = time.monotonic()
    asked = api.read_body(OllamaEmbed)
    model = api.served_model(asked.model)
    check_dimensions(asked.dimensions)
    texts = asked.input if isinstance(asked.input, list) else [asked.input] if asked.input else []
    if not texts:
        api.the_manager().load()
    inputs = [ids_to_embed(text) for text in texts]
    count = api.the_record().prompt_tokens = sum(map(len, inputs))
    rows = list(vectors(inputs))
    return api.answer(EmbedAnswer(model, rows, nanoseconds(time.monotonic() - began), 0, count))
