"""llama.cpp's own endpoints: ``/completion`` and ``/infill``, ``/apply-template``, ``/props`` and ``/slots``.

Its server's README (tools/server) defines the fields. Fields that Roost does not need are accepted and ignored:
``cache_prompt`` (states are always cached), ``id_slot`` (the scheduler decides), ``n_keep``. A stream ends with the
piece in which ``stop`` is true, without ``[DONE]``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from flask import Response, request
from msgspec import Meta, Struct, field

from webapp import __version__
from webapp.chat.messages import AnswerEvent, ContentDelta, Finished
from webapp.errors import RoostError
from webapp.services.generation.request import TextPrompt
from webapp.web.api import answering as api
from webapp.web.api.openai.answers import ReadingProgress, Timings, chat_logprobs, progress_of, timings_of
from webapp.web.api.openai.chat import ChatRequest, FormFields
from webapp.web.api.openai.chat import answer_request as chat_request
from webapp.web.api.openai.completions import answer_request, prompts_of, shown
from webapp.weights.inspection import chat_template

TokenId = Annotated[int, Meta(ge=0)]


class WritingFields(FormFields, kw_only=True):
    """``logit_bias``: pairs of a token id or text and a number, false for never; or an object of them. Names not
    listed are ignored."""

    logit_bias: list[tuple[int | str, float | bool]] | dict[str, float | bool] | bool | None = None  # type: ignore[assignment]
    n_probs: Annotated[int, Meta(ge=0, le=20)] | None = None
    return_tokens: bool | None = None
    return_progress: bool | None = None
    cache_prompt: bool | None = None
    id_slot: int | None = None


class LlamaCompletion(WritingFields, kw_only=True):
    """``prompt``: a text, token ids, both mixed, or several of these, which give a list of answers."""

    prompt: str | Annotated[list[str | TokenId | list[TokenId | str]], Meta(min_length=1)]


class ExtraFile(Struct):
    text: str
    filename: str = ""


class LlamaInfill(WritingFields, kw_only=True):
    """The text between ``input_prefix`` and ``input_suffix``; ``prompt`` is its beginning. ``input_extra`` comes before
    the prefix."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[ExtraFile] | None = None
    prompt: str = ""


class LlamaPiece(Struct, kw_only=True, omit_defaults=True):
    """A piece of a stream. ``tokens_predicted`` so far, ``tokens_evaluated`` of the prompt."""

    index: int
    content: str
    tokens: list[int]
    stop: Literal[False]
    id_slot: int
    tokens_predicted: int
    tokens_evaluated: int
    completion_probabilities: list[dict[str, Any]] | None = None
    prompt_progress: ReadingProgress | None = None


class LlamaAnswer(Struct, kw_only=True, omit_defaults=True):
    """``stop_type``: eos (the model ended it), limit, or word (one of ``stop``, in ``stopping_word``)."""

    index: int
    content: str
    tokens: list[int]
    stop: Literal[True]
    id_slot: int
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    generation_settings: dict[str, Any]
    prompt: str
    has_new_line: bool
    truncated: Literal[False]
    stop_type: Literal["eos", "limit", "word"]
    stopping_word: str
    timings: Timings
    completion_probabilities: list[dict[str, Any]] | None = None


LlamaAnswers = LlamaAnswer | list[LlamaAnswer]
"""A list if the prompt was a list."""


class PromptText(Struct):
    prompt: str


class Props(Struct):
    """``model_path`` is the model's name, because paths of this machine are private. ``chat_template`` is the model's
    own."""

    default_generation_settings: dict[str, Any]
    total_slots: int
    model_alias: str
    model_path: str
    chat_template: str
    modalities: dict[str, bool]
    bos_token: str
    eos_token: str
    build_info: str
    is_sleeping: bool


class Slot(Struct):
    id: int
    id_task: int
    n_ctx: int
    speculative: bool
    is_processing: bool


Slots = list[Slot]


def complete() -> Response:
    asked = api.read_body(LlamaCompletion)
    return written(asked, prompts_in(asked.prompt), is_list=is_list_of_prompts(asked.prompt))


def infill() -> Response:
    asked = api.read_body(LlamaInfill)
    extra = "".join(f"\n\n--- snippet ---\n\n{file.text}" for file in asked.input_extra or ())
    try:
        return written(asked, (TextPrompt(extra + asked.input_prefix + asked.prompt, suffix=asked.input_suffix),))
    except RoostError as exc:
        if exc.params.get("param") != "suffix":
            raise
        raise RoostError("unsupported_parameter", param="input_suffix", reason=exc.params["reason"]) from exc


def apply_template() -> Response:
    """The prompt of an answer to this conversation, as text."""
    asked = api.read_body(ChatRequest)
    api.served_model(asked.model)
    wanted = chat_request(asked)
    ids = api.the_completions().prompt_token_ids(wanted.prompts[0], wanted.structure)
    return api.answer(PromptText(api.the_manager().tokenizer().decode(ids)))


def props() -> Response:
    manager = api.the_manager()
    status = manager.status()
    defaults = {
        "params": settings_of(api.the_completions().default_sampling()),
        "n_ctx": api.the_settings().max_prompt_tokens,
    }
    return api.answer(
        Props(
            default_generation_settings=defaults,
            total_slots=api.the_settings().max_sequences,
            model_alias=status.model,
            model_path=status.model,
            chat_template=chat_template(manager.model_info()) if status.model else "",
            modalities={"vision": False, "audio": False},
            bos_token="",
            eos_token="<|endoftext|>",
            build_info=f"roost-{__version__}",
            is_sleeping=status.phase not in ("ready", "answering"),
        )
    )


def slots() -> Response:
    """Which slots are busy, without their content. With ``fail_on_no_slot=1``, 503 if none is free."""
    most, n_ctx = api.the_settings().max_sequences, api.the_settings().max_prompt_tokens
    running = api.the_manager().status().running
    if request.args.get("fail_on_no_slot") == "1" and running >= most:
        raise RoostError("server_busy", limit=most)
    return api.answer([Slot(place, -1, n_ctx, False, place < running) for place in range(most)])


def is_list_of_prompts(given: str | list[Any]) -> bool:
    return (isinstance(given, list) and any(isinstance(item, list) for item in given)) or is_texts(given)


def is_texts(given: str | list[Any]) -> bool:
    return isinstance(given, list) and all(isinstance(item, str) for item in given)


def prompts_in(given: str | list[Any]) -> tuple[TextPrompt, ...]:
    if isinstance(given, str) or is_texts(given):
        return prompts_of(given)
    if not is_list_of_prompts(given):
        return prompts_of(ids_of(given))
    return prompts_of([ids_of(item) if isinstance(item, list) else item for item in given])


def ids_of(items: list[int | str]) -> list[int]:
    """Converts a mix of token ids and texts; for nothing, the beginning of a text."""
    tokenizer = api.the_manager().tokenizer()
    found = [number for item in items for number in ([item] if isinstance(item, int) else tokenizer.encode(item))]
    return found or [0]


def written(asked: WritingFields, prompts: tuple[TextPrompt, ...], is_list: bool = False) -> Response:
    asked.logit_bias = biases_in(asked.logit_bias)  # type: ignore[assignment]
    if asked.seed is not None and asked.seed < 0:  # type: ignore[attr-defined]
        asked.seed = None  # type: ignore[attr-defined]
    model = api.served_model(asked.model)
    n_probs = asked.n_probs or None
    wanted = answer_request(asked, prompts, api.most_tokens(asked.n_predict, "n_predict"), n_probs)
    answering = api.begin(wanted)
    pieces = LlamaPieces(asked, model, answering, [shown(prompt) for prompt in prompts])
    if asked.stream:
        return api.stream(answering, pieces)
    found = [
        pieces.whole(number, end, text.content, pieces.probabilities(text.tokens))
        for number, (text, end) in enumerate(api.whole_answers(answering))
    ]
    return api.answer(found if is_list else found[0])


def biases_in(given: Any) -> dict[str, float] | None:
    """By token id, as in OpenAI's API. False means never; a text means each of its tokens."""
    if not given or given is True:
        return None
    pairs = given.items() if isinstance(given, dict) else given
    found: dict[str, float] = {}
    for key, bias in pairs:
        value = -100.0 if bias is False else max(-100.0, min(100.0, float(bias)))
        is_id = isinstance(key, int) or key.lstrip("-").isdigit()
        for token_id in (key,) if is_id else api.the_manager().tokenizer().encode(key):
            found[str(token_id)] = value
    return found


def settings_of(params: Any) -> dict[str, Any]:
    """Sampling with llama.cpp's names, as far as Roost supports it."""
    names = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty", "ignore_eos")
    found = {name: getattr(params, name) for name in names}
    return {**found, "seed": -1 if params.seed is None else params.seed, "n_predict": params.max_tokens}


class LlamaPieces(api.StreamWriter):
    asked: WritingFields
    model: str
    answering: api.Answering
    prompts: list[str]
    began_at: float = field(default_factory=time.monotonic)
    sent_counts: Counter[int] = field(default_factory=Counter)
    """How many tokens of each answer were sent."""

    def is_begun_by(self, event: AnswerEvent) -> bool:
        return super().is_begun_by(event) or (bool(self.asked.return_progress) and progress_of(event, 0) is not None)

    def write(self, number: int, event: AnswerEvent) -> Iterator[bytes]:
        read = progress_of(event, self.began_at) if self.asked.return_progress else None
        if isinstance(event, ContentDelta):
            yield self._piece(number, event.text, completion_probabilities=self.probabilities(event.tokens))
        elif read is not None:
            yield self._piece(number, "", prompt_progress=read)
        elif isinstance(event, Finished):
            yield api.data_event(self.whole(number, event, ""))

    def whole(
        self, number: int, end: Finished, content: str, probabilities: list[dict[str, Any]] | None = None
    ) -> LlamaAnswer:
        written = self.answering.completion.answers[number]
        text, ids = written.text.content, written.text.token_ids
        has_ids = self.asked.return_tokens and not self.asked.stream
        return LlamaAnswer(
            index=number,
            content=content,
            tokens=ids if has_ids else [],
            stop=True,
            id_slot=0,
            model=self.model,
            tokens_predicted=end.usage.completion,
            tokens_evaluated=end.usage.prompt,
            tokens_cached=end.usage.prompt + end.usage.completion,
            generation_settings={
                **settings_of(written.prompt.params),
                "stream": bool(self.asked.stream),
                "n_probs": self.asked.n_probs or 0,
            },
            prompt=self.prompts[number // (self.asked.n or 1)],
            has_new_line="\n" in text,
            truncated=False,
            stop_type="limit" if end.finish_reason == "length" else "word" if end.stop else "eos",
            stopping_word=end.stop,
            timings=timings_of(end),
            completion_probabilities=probabilities,
        )

    def probabilities(self, tokens: Any) -> list[dict[str, Any]] | None:
        if not self.asked.n_probs:
            return None
        rows = chat_logprobs(tokens, self.answering.completion.tokenizer).content or []
        return [
            {
                **msgspec.to_builtins(row),
                "id": token.token_id,
                "top_logprobs": [
                    {"id": other.token_id, **msgspec.to_builtins(described)}
                    for other, described in zip(token.logprobs[1:], row.top_logprobs, strict=True)
                ],
            }
            for token, row in zip(tokens, rows, strict=True)
        ]

    def _piece(self, number: int, content: str, **more: Any) -> bytes:
        ids = self.answering.completion.answers[number].text.token_ids
        before, self.sent_counts[number] = self.sent_counts[number], len(ids)
        return api.data_event(
            LlamaPiece(
                index=number,
                content=content,
                tokens=ids[before:],
                stop=False,
                id_slot=0,
                tokens_predicted=len(ids),
                tokens_evaluated=len(self.answering.completion.answers[number].prompt.token_ids),
                **more,
            )
        )
