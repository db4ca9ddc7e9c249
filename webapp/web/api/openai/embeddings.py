"""``POST /v1/embeddings``: one vector of ``n_embd`` numbers per input.

:mod:`webapp.services.generation.embedding` says which.
"""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from flask import Response, request
from msgspec import Meta

from webapp.errors import ParameterInvalid, ParameterUnsupported
from webapp.services.generation.embedding import embedding
from webapp.web.api.answering import DISCONNECTED, ClientGone, answer, the_record
from webapp.web.api.body import read_body
from webapp.web.api.openai.answers import Embedding, EmbeddingList, EmbeddingUsage
from webapp.web.api.served_model import served_model, the_manager

TokenId = Annotated[int, Meta(ge=0)]
MOST_INPUTS = 2048
InputItem = Annotated[str, Meta(min_length=1)] | TokenId | Annotated[list[TokenId], Meta(min_length=1)]


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """``input``: a text, several, token ids, or several lists of them."""

    input: Annotated[str, Meta(min_length=1)] | Annotated[list[InputItem], Meta(min_length=1)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, description="Refused unless it is the model's own size.")] | None = None
    user: str | None = None


def create() -> Response:
    asked = read_body(EmbeddingRequest)
    inputs = list(inputs_of(asked.input))
    if len(inputs) > MOST_INPUTS:
        raise ParameterInvalid(param="input", reason=f"there are {len(inputs)} texts; the limit is {MOST_INPUTS}")
    model = served_model(asked.model)
    check_dimensions(asked.dimensions)
    count = the_record().prompt_tokens = sum(map(len, inputs))
    rows = [Embedding("embedding", place, encoded(vector, asked)) for place, vector in enumerate(vectors(inputs))]
    return answer(EmbeddingList("list", rows, model, EmbeddingUsage(count, count)))


def inputs_of(given: str | list[Any]) -> Iterator[list[int]]:
    """Token ids of each input."""
    items = [given] if isinstance(given, str) else given
    if all(isinstance(item, int) for item in items):
        items = [items]
    for item in items:
        if isinstance(item, int):
            raise ParameterInvalid(param="input", reason="a list holds texts, or token ids, or lists of token ids")
        yield the_manager().tokenizer().encode(item) if isinstance(item, str) else item


def check_dimensions(dimensions: int | None) -> None:
    config = the_manager().model_info().config
    if dimensions is not None and config is not None and dimensions != config.n_embd:
        raise ParameterUnsupported(param="dimensions", reason=f"this model's vectors have {config.n_embd} numbers")


def vectors(inputs: list[list[int]]) -> Iterator[list[float]]:
    """One after the other, as long as the client is there."""
    is_gone = request.environ.get(DISCONNECTED, lambda: False)
    for token_ids in inputs:
        if is_gone():
            raise ClientGone
        yield embedding(the_manager(), token_ids)


def encoded(vector: list[float], asked: EmbeddingRequest) -> list[float] | str:
    if asked.encoding_format != "base64":
        return vector
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")
