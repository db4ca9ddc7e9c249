"""OpenAI's endpoints besides text: ``/v1/models``, ``/v1/embeddings``, ``/v1/tokenize`` and ``/v1/detokenize``.

Tokenize and detokenize accept and return the names of vLLM and llama.cpp.
"""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from flask import Response, request
from msgspec import Meta, Struct

from webapp.errors import ModelNotFound, RequestError, RoostError
from webapp.i18n import Text
from webapp.services.generation.completions import embeddings
from webapp.services.generation.request import ChatPrompt
from webapp.web.api import answering as api
from webapp.web.api.openai.answers import (
    Embedding,
    EmbeddingList,
    EmbeddingUsage,
    Model,
    ModelList,
    PlainText,
    Tokens,
    piece_of,
    text_of,
)
from webapp.web.api.openai.chat import ChatMessage, messages_of


def index() -> Response:
    """In Anthropic's form for its clients, which send the version of their API with every request."""
    served = [model_of(entry) for entry in api.served_models()]
    if is_anthropics():
        return api.answer(anthropic_list(served))
    return api.answer(ModelList("list", served))


def show(name: str) -> Response:
    served = api.served_entry(name)
    if served is None:
        raise ModelNotFound(name=name, param="model")
    found = model_of(served)
    return api.answer(anthropic_model(found) if is_anthropics() else found)


def is_anthropics() -> bool:
    return "anthropic-version" in request.headers


def anthropic_list(models: Sequence[Model]) -> dict[str, Any]:
    found = [anthropic_model(model) for model in models]
    ends: list[str | None] = [model.id for model in models] or [None]
    return {"data": found, "has_more": False, "first_id": ends[0], "last_id": ends[-1]}


def anthropic_model(model: Model) -> dict[str, Any]:
    created = datetime.fromtimestamp(model.created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": model.id, "display_name": model.id, "created_at": created}


def model_of(served: api.ServedEntry) -> Model:
    found = served.entry.inspection if served.entry else None
    created = 0
    if served.entry is not None:
        with suppress(OSError):
            created = int(served.entry.path.stat().st_mtime)
    return Model(
        id=served.name,
        object="model",
        created=created,
        owned_by="roost",
        loaded=served.is_loaded,
        context_length=api.the_settings().max_prompt_tokens,
        max_model_len=api.the_settings().max_prompt_tokens,
        architecture=f"rwkv-{found.config.architecture}" if found and found.config else None,
        parameters=found.parameters if found else None,
    )


class StudioModel(Struct, kw_only=True):
    """A model in LM Studio's form. Zed accepts no ``compatibility_type`` but gguf and mlx."""

    id: str
    arch: str | None
    quantization: str | None
    state: Literal["loaded", "not-loaded"]
    max_context_length: int
    loaded_context_length: int | None
    object: Literal["model"] = "model"
    type: Literal["llm"] = "llm"
    publisher: str = "roost"
    compatibility_type: Literal["gguf"] = "gguf"
    capabilities: tuple[Literal["tool_use"]] = ("tool_use",)


class StudioModelList(Struct):
    object: Literal["list"]
    data: list[StudioModel]


def studio_index() -> Response:
    return api.answer(StudioModelList("list", [studio_model(entry) for entry in api.served_models()]))


def studio_model(served: api.ServedEntry) -> StudioModel:
    model, found = model_of(served), served.entry.inspection if served.entry else None
    return StudioModel(
        id=model.id,
        arch=model.architecture,
        quantization=str(found.dtype) if found else None,
        state="loaded" if model.loaded else "not-loaded",
        max_context_length=model.context_length,
        loaded_context_length=model.context_length if model.loaded else None,
    )


TokenId = Annotated[int, Meta(ge=0)]
MAX_INPUTS = 2048
InputItem = Annotated[str, Meta(min_length=1)] | TokenId | Annotated[list[TokenId], Meta(min_length=1)]


class EmbeddingRequest(Struct, kw_only=True):
    """``input``: a text or several, a list of token ids or several."""

    input: Annotated[str, Meta(min_length=1)] | Annotated[list[InputItem], Meta(min_length=1)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, description="Refused unless it is the model's own size.")] | None = None
    user: str | None = None


def embed() -> Response:
    asked = api.read_body(EmbeddingRequest)
    inputs = list(inputs_of(asked.input))
    if len(inputs) > MAX_INPUTS:
        raise RoostError(
            "invalid_parameter",
            param="input",
            reason=Text("reason.api.there_are_too_many", found=len(inputs), limit=MAX_INPUTS),
        )
    model = api.served_model(asked.model)
    check_dimensions(asked.dimensions)
    count = api.the_record().prompt_tokens = sum(map(len, inputs))
    rows = [Embedding("embedding", place, encoded(vector, asked)) for place, vector in enumerate(vectors(inputs))]
    return api.answer(EmbeddingList("list", rows, model, EmbeddingUsage(count, count)))


def inputs_of(given: str | list[Any]) -> Iterator[list[int]]:
    """Token ids of each input."""
    items = [given] if isinstance(given, str) else given
    if all(isinstance(item, int) for item in items):
        items = [items]
    for item in items:
        if isinstance(item, int):
            raise RoostError("invalid_parameter", param="input", reason=Text("reason.web.mixed_list"))
        yield ids_to_embed(item) if isinstance(item, str) else item


def ids_to_embed(text: str) -> list[int]:
    api.the_manager().check_length(text)
    return api.the_manager().tokenizer().encode(text)


def check_dimensions(dimensions: int | None) -> None:
    config = api.the_manager().model_info().config
    if dimensions is not None and config is not None and dimensions != config.n_embd:
        raise RoostError(
            "unsupported_parameter",
            param="dimensions",
            reason=Text("reason.api.vectors_have_a_size", size=config.n_embd),
        )


def vectors(inputs: list[list[int]]) -> Iterator[list[float]]:
    """While the client is connected."""
    check = api.client_check()
    for vector in embeddings(api.the_manager(), inputs):
        check()
        yield vector


def encoded(vector: list[float], asked: EmbeddingRequest) -> list[float] | str:
    if asked.encoding_format != "base64":
        return vector
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")


class TokenizeRequest(Struct, kw_only=True):
    """One of ``prompt``, ``content``, ``text`` (the same) or ``messages`` (converted to a prompt)."""

    prompt: str | None = None
    content: str | None = None
    text: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    model: str | None = None
    with_pieces: Annotated[bool, Meta(description="Each token's text as well.")] = False


class DetokenizeRequest(Struct, kw_only=True):
    tokens: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=1_000_000)]
    model: str | None = None


def tokenize() -> Response:
    asked = api.read_body(TokenizeRequest)
    model = api.served_model(asked.model)
    tokenizer = api.the_manager().tokenizer()
    token_ids = token_ids_of(asked)
    if asked.with_pieces and asked.content is not None:
        return api.answer(Tokens([piece_of(token_id, tokenizer) for token_id in token_ids], len(token_ids), model))
    pieces = [text_of(token_id, tokenizer) for token_id in token_ids] if asked.with_pieces else None
    return api.answer(Tokens([*token_ids], len(token_ids), model, pieces))


def token_ids_of(asked: TokenizeRequest) -> list[int]:
    texts = [text for text in (asked.prompt, asked.content, asked.text) if text is not None]
    if len(texts) + (asked.messages is not None) != 1:
        raise RoostError("invalid_parameter", param="prompt", reason=Text("reason.web.not_exactly_one_source"))
    if asked.messages is None:
        return api.the_manager().tokenizer().encode(texts[0])
    return list(api.the_completions().prompt_token_ids(ChatPrompt(messages_of(asked.messages))))


def detokenize() -> Response:
    asked = api.read_body(DetokenizeRequest)
    api.served_model(asked.model)
    text = decoded(asked.tokens)
    return api.answer(PlainText(text, text, text))


def decoded(token_ids: Sequence[int]) -> str:
    """Raises ``token_out_of_range`` for an id that is not in the vocabulary."""
    tokenizer = api.the_manager().tokenizer()
    largest = max(token_ids, default=0)
    if largest >= tokenizer.vocab_size:
        raise RequestError("token_out_of_range", found=largest, vocab_size=tokenizer.vocab_size)
    return tokenizer.decode(token_ids)
