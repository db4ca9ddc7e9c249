"""Types of OpenAI's response objects, from which the OpenAPI document is made, and tokens with their logprobs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from webapp.chat.messages import AnswerEvent, AnswerToken, Finished, Waiting
from webapp.engine.outputs import TokenLogprob
from webapp.tokenizer import StreamDecoder, Tokenizer

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptDetails(Struct):
    cached_tokens: int = 0


class CompletionDetails(Struct):
    reasoning_tokens: int = 0


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class Timings(Struct):
    """As in llama.cpp, in milliseconds. ``prompt_n``: tokens that were prefilled; ``cache_n``: tokens restored from a
    snapshot. The time of the answer counts from its first token."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class ReadingProgress(Struct):
    """Progress of a prefill, as in llama.cpp; ``processed`` includes tokens restored from a snapshot."""

    total: int
    cache: int
    processed: int
    time_ms: int


class TopLogprob(Struct):
    """``bytes``: those of the token; a character may consist of several tokens."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprobs(Struct):
    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(Struct):
    content: list[TokenLogprobs] | None
    refusal: None = None


class CalledFunction(Struct):
    """``arguments`` is JSON text."""

    name: str
    arguments: str


class ToolCallOut(Struct):
    id: str
    type: Literal["function"]
    function: CalledFunction


class FunctionDelta(Struct, kw_only=True, omit_defaults=True):
    name: str | None = None
    arguments: str


class ToolCallDelta(Struct, kw_only=True, omit_defaults=True):
    """The first piece of a call has ``id``, ``type`` and the name; its arguments follow."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class ChatAnswer(Struct, kw_only=True, omit_defaults=True):
    """``refusal`` and ``annotations`` are always empty; clients require them."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[Any]
    reasoning_content: str | None = None
    tool_calls: list[ToolCallOut] | None = None


class ChatChoice(Struct, kw_only=True):
    index: int
    message: ChatAnswer
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason
    state_id: str | msgspec.UnsetType = msgspec.UNSET


class Heading(Struct, kw_only=True, omit_defaults=True):
    """The first fields of all answers. ``system_fingerprint`` changes with model, strategy and state; if it is the
    same, a seed gives the same text."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(Heading, kw_only=True, omit_defaults=True):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings | None = None


class ChatDelta(Struct, kw_only=True, omit_defaults=True):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(Struct, kw_only=True):
    index: int
    delta: ChatDelta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason | None = None
    state_id: str | msgspec.UnsetType = msgspec.UNSET


class ChatChunk(Heading, kw_only=True, omit_defaults=True):
    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    timings: Timings | None = None
    prompt_progress: ReadingProgress | None = None


class TextLogprobs(Struct):
    """OpenAI's older form; ``top_logprobs`` per token: text -> logprob. The first token of a prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Struct, kw_only=True):
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None = None
    state_id: str | msgspec.UnsetType = msgspec.UNSET


class TextCompletion(Heading, kw_only=True, omit_defaults=True):
    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


class ErrorObject(Struct):
    """``code`` is stable; ``param`` is the path of the invalid field. The two counts are given if a prompt is too
    long."""

    message: str
    type: str
    code: str | None
    param: str | None
    n_prompt_tokens: int | msgspec.UnsetType = msgspec.UNSET
    n_ctx: int | msgspec.UnsetType = msgspec.UNSET


class ErrorAnswer(Struct):
    error: ErrorObject


class Embedding(Struct):
    """``embedding``: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Model(Struct, kw_only=True):
    """``created``: the file's date. ``context_length``: the maximum number of tokens of a prompt here, also under
    vLLM's name; the model itself has no limit."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    loaded: bool
    context_length: int
    max_model_len: int
    architecture: str | None = None
    parameters: int | None = None


class ModelList(Struct):
    object: Literal["list"]
    data: list[Model]


class TokenPiece(Struct):
    """``piece``: its text, or its bytes if they are only a part of a character."""

    id: int
    piece: str | list[int]


class Tokens(Struct):
    """For texts given as ``content``, with pieces: ``tokens`` as in llama.cpp."""

    tokens: list[int | TokenPiece]
    count: int
    model: str
    pieces: list[str] | None = None


class PlainText(Struct):
    """One text, under the names that vLLM and llama.cpp use."""

    text: str
    prompt: str
    content: str


def timings_of(end: Finished) -> Timings:
    """Zeros if the engine gave no figures."""
    found = end.stats or {"prefill_s": 0.0, "decode_s": 0.0, "tokens_per_s": 0.0}
    read, read_s, speed = end.usage.prompt - end.usage.cached, found["prefill_s"], found["tokens_per_s"]
    return Timings(
        cache_n=end.usage.cached,
        prompt_n=read,
        prompt_ms=1000 * read_s,
        prompt_per_token_ms=1000 * read_s / read if read else 0.0,
        prompt_per_second=read / read_s if read_s else 0.0,
        predicted_n=end.usage.completion,
        predicted_ms=1000 * found["decode_s"],
        predicted_per_token_ms=1000 / speed if speed else 0.0,
        predicted_per_second=speed,
    )


def progress_of(event: AnswerEvent, began_at: float) -> ReadingProgress | None:
    """``began_at``: from :func:`time.monotonic`, in seconds. None for other events than prefill progress."""
    if not isinstance(event, Waiting) or event.phase != "reading":
        return None
    return ReadingProgress(event.total, 0, event.done, round(1000 * (time.monotonic() - began_at)))


def chat_logprobs(tokens: Iterable[AnswerToken], tokenizer: Tokenizer) -> ChoiceLogprobs:
    return ChoiceLogprobs([_described(token, tokenizer) for token in tokens])


def _described(token: AnswerToken, tokenizer: Tokenizer) -> TokenLogprobs:
    """The part of the token that belongs to the content, so that the tokens join to it; the same for its
    alternatives."""
    own, *others = (
        _named(found.token_id, found.logprob, tokenizer, token.cut if found.token_id == token.token_id else (0, 0))
        for found in token.logprobs
    )
    return TokenLogprobs(own.token, own.logprob, own.bytes, others)


def _named(token_id: int, logprob: float, tokenizer: Tokenizer, cut: tuple[int, int]) -> TopLogprob:
    data = bytes_of(token_id, tokenizer, cut)
    return TopLogprob(text_of(token_id, tokenizer, cut), logprob, None if data is None else list(data))


def bytes_of(token_id: int, tokenizer: Tokenizer, cut: tuple[int, int] = (0, 0)) -> bytes | None:
    """``cut`` as in :class:`AnswerToken`."""
    data = tokenizer.token_bytes(token_id)
    return None if data is None else data[cut[0] : len(data) - cut[1]]


def text_of(token_id: int, tokenizer: Tokenizer, cut: tuple[int, int] = (0, 0)) -> str:
    """A token with only a part of a character is shown as bytes, as at OpenAI; the end of a text by name."""
    data = bytes_of(token_id, tokenizer, cut)
    if data is None:
        return "<|endoftext|>" if token_id == 0 else tokenizer.decode([token_id])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def piece_of(token_id: int, tokenizer: Tokenizer) -> TokenPiece:
    data = tokenizer.token_bytes(token_id)
    try:
        return TokenPiece(token_id, text_of(token_id, tokenizer) if data is None else data.decode())
    except UnicodeDecodeError:
        return TokenPiece(token_id, list(data or b""))


def text_logprobs(tokens: Iterable[AnswerToken], tokenizer: Tokenizer, start: int = 0) -> TextLogprobs:
    """``start``: the length of the text before the answer (the prompt, if it is echoed)."""
    found = TextLogprobs([], [], [], [])
    for token in tokens:
        _add(found, token.logprobs, start + token.offset, tokenizer, token.cut)
    return found


def prompt_logprobs(
    token_ids: tuple[int, ...], scored: Iterable[tuple[TokenLogprob, ...]], tokenizer: Tokenizer
) -> TextLogprobs:
    """For an echoed prompt: ``scored`` has every token except the first, which has no context."""
    found = TextLogprobs([text_of(token_ids[0], tokenizer)], [None], [None], [0])
    decoder, offset = StreamDecoder(tokenizer), 0
    for before, logprobs in zip(token_ids, scored, strict=False):
        offset += len(decoder.feed((before,)))
        _add(found, logprobs, offset, tokenizer)
    return found


def _add(
    found: TextLogprobs,
    logprobs: tuple[TokenLogprob, ...],
    offset: int,
    tokenizer: Tokenizer,
    cut: tuple[int, int] = (0, 0),
) -> None:
    own, *others = logprobs
    found.tokens.append(text_of(own.token_id, tokenizer, cut))
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
