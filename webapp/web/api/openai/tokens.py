"""``POST /v1/tokenize`` and ``/v1/detokenize``: the same words as vLLM's and llama.cpp's routes of these names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from flask import Response
from msgspec import Meta

from webapp.errors import ParameterInvalid, TokenOutOfRange
from webapp.services.generation.request import ChatPrompt
from webapp.web.api.answering import answer, the_completions
from webapp.web.api.body import read_body
from webapp.web.api.openai.answers import Text, Tokens
from webapp.web.api.openai.chat_request import ChatMessage, message_of
from webapp.web.api.openai.logprobs import text_of
from webapp.web.api.served_model import served_model, the_manager


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """One of ``prompt``, ``content``, ``text`` (the same) or ``messages`` (the prompt made of them)."""

    prompt: str | None = None
    content: str | None = None
    text: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    model: str | None = None
    with_pieces: Annotated[bool, Meta(description="Each token's text as well.")] = False


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    tokens: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=1_000_000)]
    model: str | None = None


def tokenize() -> Response:
    asked = read_body(TokenizeRequest)
    model = served_model(asked.model)
    tokenizer = the_manager().tokenizer()
    token_ids = token_ids_of(asked)
    pieces = [text_of(token_id, tokenizer) for token_id in token_ids] if asked.with_pieces else None
    return answer(Tokens(token_ids, len(token_ids), model, pieces))


def token_ids_of(asked: TokenizeRequest) -> list[int]:
    texts = [text for text in (asked.prompt, asked.content, asked.text) if text is not None]
    if len(texts) + (asked.messages is not None) != 1:
        raise ParameterInvalid(param="prompt", reason="give exactly one of prompt, content, text and messages")
    if asked.messages is None:
        return the_manager().tokenizer().encode(texts[0])
    messages = tuple(message_of(message, f"messages[{place}]") for place, message in enumerate(asked.messages))
    return list(the_completions().prompt_token_ids(ChatPrompt(messages)))


def detokenize() -> Response:
    asked = read_body(DetokenizeRequest)
    served_model(asked.model)
    text = decoded(asked.tokens)
    return answer(Text(text, text, text))


def decoded(token_ids: Sequence[int]) -> str:
    """TokenOutOfRange for one that the vocabulary does not have."""
    tokenizer = the_manager().tokenizer()
    largest = max(token_ids, default=0)
    if largest >= tokenizer.vocab_size:
        raise TokenOutOfRange(found=largest, vocab_size=tokenizer.vocab_size)
    return tokenizer.decode(token_ids)
