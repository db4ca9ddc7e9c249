"""Tokens of an answer as OpenAI shows them, in the form of chats and in the older one of text completions."""

from __future__ import annotations

from collections.abc import Iterable

from webapp.chat.events import AnswerToken
from webapp.engine.outputs import TokenLogprob
from webapp.tokenizer import StreamDecoder, Tokenizer
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
        _add(found, token.logprobs, start + token.offset, tokenizer)
    return found


def prompt_logprobs(
    token_ids: tuple[int, ...], scored: Iterable[tuple[TokenLogprob, ...]], tokenizer: Tokenizer
) -> TextLogprobs:
    """Of an echoed prompt: ``scored`` are those of every token but the first, which nothing comes before."""
    found = TextLogprobs([text_of(token_ids[0], tokenizer)], [None], [None], [0])
    decoder, offset = StreamDecoder(tokenizer), 0
    for before, logprobs in zip(token_ids, scored, strict=False):
        offset += len(decoder.feed((before,)))
        _add(found, logprobs, offset, tokenizer)
    return found


def _add(found: TextLogprobs, logprobs: tuple[TokenLogprob, ...], offset: int, tokenizer: Tokenizer) -> None:
    own, *others = logprobs
    found.tokens.append(text_of(own.token_id, tokenizer))
    found.token_logprobs.append(own.logprob)
    found.top_logprobs.append({text_of(other.token_id, tokenizer): other.logprob for other in others})
    found.text_offset.append(offset)


def joined(first: TextLogprobs | None, then: TextLogprobs | None) -> TextLogprobs | None:
    if first is None or then is None:
        return first or then
    return TextLogprobs(
        first.tokens + then.tokens,
        first.token_logprobs + then.token_logprobs,
        first.top_logprobs + then.top_logprobs,
        first.text_offset + then.text_offset,
    )
