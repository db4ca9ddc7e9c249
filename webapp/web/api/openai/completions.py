"""``POST /v1/completions``: continues a plain text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from flask import Response
from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.structs import replace

from webapp.chat.messages import AnswerEvent, ContentDelta, Finished
from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.services.generation.request import AnswerRequest, Structure, TextPrompt
from webapp.web.api import answering as api
from webapp.web.api.openai.answers import (
    TextChoice,
    TextCompletion,
    TextLogprobs,
    Usage,
    joined,
    prompt_logprobs,
    text_logprobs,
)
from webapp.web.api.openai.chat import (
    FormFields,
    StateKeeper,
    form_of,
    heading,
    includes_usage,
    sampling_of,
    state_keeper,
    usage_of,
)
from webapp.web.api.openai.models import decoded
from webapp.web.api.states import continuing_from

TokenId = Annotated[int, Meta(ge=0)]
PromptItem = str | TokenId | Annotated[list[TokenId], Meta(min_length=1)]


class CompletionRequest(FormFields, kw_only=True):
    """``prompt``: a text or several, a list of token ids or several; null means the beginning of a text."""

    prompt: str | Annotated[list[PromptItem], Meta(min_length=1)] | None
    max_tokens: Annotated[int, Meta(ge=-1, description="0 only with echo.")] | None = None
    echo: Annotated[bool, Meta(description="The prompt before the answer.")] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20, description="How many alternatives a token.")] | None = None
    best_of: Annotated[int, Meta(ge=1, description="Refused unless it equals n.")] | None = None
    suffix: Annotated[str, Meta(description="What follows the answer: G1 models from c on fill the gap.")] | None = None


class Echo(Struct, frozen=True):
    """The text before each answer, in the order of the prompts, for ``n`` answers each: "" and None without echo."""

    texts: tuple[str, ...]
    logprobs: tuple[TextLogprobs | None, ...]
    n: int

    def before(self, choice: int) -> str:
        return self.texts[choice // self.n]

    def logprobs_before(self, choice: int) -> TextLogprobs | None:
        return self.logprobs[choice // self.n]


def create() -> Response:
    asked = api.read_body(CompletionRequest)
    has_usage = includes_usage(asked)
    check_supported(asked)
    model = api.served_model(asked.model)
    prompts = tuple(replace(prompt, suffix=asked.suffix or "") for prompt in prompts_of(asked.prompt))
    api.check_count(len(prompts) * (asked.n or 1))  # before an echoed prompt is processed
    echo = Echo(
        texts=tuple(shown(prompt) if asked.echo else "" for prompt in prompts),
        logprobs=tuple(scored(prompt, asked) for prompt in prompts),
        n=asked.n or 1,
    )
    head = heading("cmpl", model)
    if asked.max_tokens == 0:
        return api.answer(only_prompts(head, echo, prompts))
    wanted = answer_request(asked, prompts, api.most_tokens(limit_of(asked)), asked.logprobs)
    if asked.state_id is not None:
        wanted = continuing_from(wanted, asked.state_id)
    answering = api.begin(wanted)
    keep = state_keeper(answering, wanted, asked)
    chunks = TextChunks(head, answering, echo, has_usage, asked.logprobs is not None, keep=keep)
    if asked.stream:
        return api.stream(answering, chunks)
    return api.answer(whole(chunks))


def check_supported(asked: CompletionRequest) -> None:
    if asked.best_of is not None and asked.best_of != (asked.n or 1):
        raise RoostError("unsupported_parameter", param="best_of", reason=Text("reason.web.best_of_is_n"))
    if asked.max_tokens == 0 and (not asked.echo or asked.stream):
        raise RoostError("invalid_parameter", param="max_tokens", reason=Text("reason.web.zero_only_for_echo"))


def prompts_of(given: str | list[Any] | None) -> tuple[TextPrompt, ...]:
    """A list of numbers is one prompt of token ids; texts and lists of ids cannot be mixed with numbers."""
    if given is None or isinstance(given, str):
        return (text_prompt(given or ""),)
    if all(isinstance(item, int) for item in given):
        return (TextPrompt(token_ids=tuple(given)),)
    if any(isinstance(item, int) for item in given):
        raise RoostError("invalid_parameter", param="prompt", reason=Text("reason.web.mixed_list"))
    return tuple(text_prompt(item) if isinstance(item, str) else TextPrompt(token_ids=tuple(item)) for item in given)


def text_prompt(text: str) -> TextPrompt:
    """An empty prompt means the beginning of a text: token 0, which ends the previous text."""
    return TextPrompt(text) if text else TextPrompt(token_ids=(0,))


def shown(prompt: TextPrompt) -> str:
    return prompt.text or decoded(prompt.token_ids)


def token_ids_of(prompt: TextPrompt) -> tuple[int, ...]:
    return prompt.token_ids or tuple(api.the_manager().tokenizer().encode(prompt.text))


def scored(prompt: TextPrompt, asked: CompletionRequest) -> TextLogprobs | None:
    """The logprobs of the prompt's own tokens, if it is echoed with logprobs; needs a second prefill."""
    if not asked.echo or asked.logprobs is None:
        return None
    api.client_check()()
    manager, token_ids = api.the_manager(), token_ids_of(prompt)
    found = manager.score_tokens(token_ids, asked.logprobs, asked.state) if len(token_ids) > 1 else ()
    return prompt_logprobs(token_ids, found, manager.tokenizer())


def answer_request(
    asked: FormFields, prompts: tuple[TextPrompt, ...], max_tokens: int | None, logprobs: int | None
) -> AnswerRequest:
    return AnswerRequest(
        prompts=prompts,
        sampling=sampling_of(asked, max_tokens, logprobs),
        stop=api.stops_of(asked.stop),
        choices=asked.n or 1,
        state=asked.state,
        prefix_id=asked.prefix_id,
        structure=Structure(response_format=form_of(asked)),
        is_kept=bool(asked.return_state),
    )


def limit_of(asked: CompletionRequest) -> int | None:
    return asked.n_predict if asked.max_tokens is None else asked.max_tokens


def only_prompts(head: dict[str, Any], echo: Echo, prompts: tuple[TextPrompt, ...]) -> TextCompletion:
    count = sum(len(token_ids_of(prompt)) for prompt in prompts)
    choices = [
        TextChoice(
            index=number,
            text=echo.before(number),
            logprobs=echo.logprobs_before(number),
            finish_reason="length",
        )
        for number in range(len(prompts) * echo.n)
    ]
    return completion_of(head, choices, usage_of(api.UsageSum(count)))


def completion_of(head: dict[str, Any], choices: list[TextChoice], usage: Usage | UnsetType | None) -> TextCompletion:
    return TextCompletion(**head, object="text_completion", choices=choices, usage=usage)


def whole(chunks: TextChunks) -> TextCompletion:
    choices = []
    for number, (text, end) in enumerate(api.whole_answers(chunks.answering)):
        chunks.counted.add(end.usage)
        choices.append(
            TextChoice(
                index=number,
                text=chunks.echo.before(number) + text.content,
                logprobs=joined(chunks.echo.logprobs_before(number), chunks.logprobs(number, text.tokens)),
                finish_reason=end.finish_reason,  # type: ignore[arg-type]
                state_id=chunks.keep(number),
            )
        )
    return completion_of(chunks.head, choices, usage_of(chunks.counted))


class TextChunks(api.StreamWriter):
    """The stream of a text completion; the echoed prompt is its first piece."""

    head: dict[str, Any]
    answering: api.Answering
    echo: Echo
    has_usage: bool
    has_logprobs: bool
    counted: api.UsageSum = field(default_factory=api.UsageSum)
    keep: StateKeeper = lambda number: UNSET

    def __post_init__(self) -> None:
        self.counted.prompt = self.answering.completion.prompt_tokens

    def begin(self) -> Iterator[bytes]:
        for number in range(len(self.echo.texts) * self.echo.n):
            if self.echo.before(number):
                found = self.echo.logprobs_before(number)
                yield self._chunk(TextChoice(index=number, text=self.echo.before(number), logprobs=found))

    def write(self, number: int, event: AnswerEvent) -> Iterator[bytes]:
        if isinstance(event, ContentDelta):
            found = self.logprobs(number, event.tokens)
            yield self._chunk(TextChoice(index=number, text=event.text, logprobs=found))
        elif isinstance(event, Finished):
            self.counted.add(event.usage)
            yield self._chunk(
                TextChoice(
                    index=number,
                    text="",
                    finish_reason=event.finish_reason,  # type: ignore[arg-type]
                    state_id=self.keep(number),
                )
            )

    def end(self) -> Iterator[bytes]:
        if self.has_usage:
            yield api.data_event(completion_of(self.head, [], usage_of(self.counted)))
        yield api.DONE

    def logprobs(self, choice: int, tokens: Any) -> TextLogprobs | None:
        if not self.has_logprobs:
            return None
        return text_logprobs(tokens, self.answering.completion.tokenizer, len(self.echo.before(choice)))

    def _chunk(self, choice: TextChoice) -> bytes:
        return api.data_event(completion_of(self.head, [choice], None if self.has_usage else UNSET))
