"""Tokens of an answer as OpenAI shows them, in the form of chats and in the older one of text completions."""

from __future__ import annotations

from collections.abc import Iterable

from webapp.services.completion_events import AnswerToken
from webapp.tokenizer import Tokenizer
from webapp.web.api.openai.answers import ChoiceLogprobs, TextLogprobs, TokenLogprobs, TopLogprob


def chat_logprobs(tokens: Iterable[AnswerToken], tokenizer: Tokenizer) -> ChoiceLogprobs:
    return ChoiceLogprobs([_described(token, tokenizer) for token in tokens])


def _described(token: AnswerToken, tokenizer: Tokenizer) -> TokenLogprobs:
    own, *others = (_named(found.token_id, found.logprob, tokenizer) for found in token.logprobs)
    return TokenLogprobs(own.token, own.logprob, own.bytes, others)


def _named(token_id: int, logprob: float, tokenizer: Tokenizer) -> TopLogprob:
    data = tokenizer.token_bytes(token_id)
    return TopLogprob(text_of(token_id, tokenizer), logprob, None if data is None else list(data))


def text_of(token_id: int, tokenizer: Tokenizer) -> str:
    """A token that is part of a character only is shown by its bytes, as OpenAI does; the end of a text by name."""
    data = tokenizer.token_bytes(token_id)
    if data is None:
        return "<|endoftext|>" if token_id == 0 else tokenizer.decode([token_id])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def text_logprobs(tokens: Iterable[AnswerToken], tokenizer: Tokenizer, start: int = 0) -> TextLogprobs:
    """``start``: how much text stands before the answer (the prompt, where it is echoed)."""
    found = TextLogprobs([], [], [], [])
    for token in tokens:
        own, *others = token.logprobs
        found.tokens.append(text_of(own.token_id, tokenizer))
        found.token_logprobs.append(own.logprob)
        found.top_logprobs.append({text_of(other.token_id, tokenizer): other.logprob for other in others})
        found.text_offset.append(start + token.offset)
    return found
