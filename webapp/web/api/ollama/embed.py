"""``POST /api/embed``: the vectors of ``/v1/embeddings`` in Ollama's words."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from flask import Response
from msgspec import Meta

from webapp.web.api.answering import answer, the_record
from webapp.web.api.body import read_body
from webapp.web.api.ollama.answers import EmbedAnswer
from webapp.web.api.ollama.lines import nanoseconds
from webapp.web.api.openai.embeddings import MOST_INPUTS, check_dimensions, vectors
from webapp.web.api.served_model import served_model, the_manager


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
