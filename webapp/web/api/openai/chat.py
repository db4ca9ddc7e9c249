"""``POST /v1/chat/completions``."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from flask import Response
from msgspec import UNSET, UnsetType

from webapp.chat.events import AnswerEvent, CallDelta, ContentDelta, Finished, ReasoningDelta
from webapp.chat.messages import ToolCall
from webapp.manager.model_status import ModelStatus
from webapp.tokenizer import Tokenizer
from webapp.web.api.answering import (
    Answering,
    UsageSum,
    WholeChoice,
    answer,
    begin,
    client_name,
    data_event,
    stream,
    whole_choices,
)
from webapp.web.api.body import read_body
from webapp.web.api.openai.answers import (
    CalledFunction,
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChunkChoice,
    CompletionDetails,
    FunctionDelta,
    PromptDetails,
    ToolCallDelta,
    ToolCallOut,
    Usage,
)
from webapp.web.api.openai.chat_request import ChatRequest, order_of
from webapp.web.api.openai.logprobs import chat_logprobs
from webapp.web.api.openai.sampling import includes_usage
from webapp.web.api.served_model import served_model, the_manager

DONE = b"data: [DONE]\n\n"


def create() -> Response:
    asked = read_body(ChatRequest)
    has_usage = includes_usage(asked)
    order = order_of(asked, client_name())
    model = served_model(asked.model)
    answering = begin(order)
    head = heading("chatcmpl", model)
    if not asked.stream:
        return answer(whole(answering, head, bool(asked.logprobs)))
    chunks = Chunks(head, answering, order.choices, has_usage, bool(asked.logprobs))
    return stream(answering, chunks.write, data_event, chunks.begin, chunks.end)


def whole(answering: Answering, head: Heading, has_logprobs: bool) -> ChatCompletion:
    choices = whole_choices(answering)
    counted = UsageSum(answering.completion.prompt_tokens)
    for choice in choices:
        counted.add(choice.end.usage)
    tokenizer = answering.completion.tokenizer
    return ChatCompletion(
        id=head.id,
        object="chat.completion",
        created=head.created,
        model=head.model,
        choices=[chat_choice(number, choice, tokenizer, has_logprobs) for number, choice in enumerate(choices)],
        usage=usage_of(counted),
        system_fingerprint=head.fingerprint,
    )


def chat_choice(number: int, choice: WholeChoice, tokenizer: Tokenizer, has_logprobs: bool) -> ChatChoice:
    return ChatChoice(
        index=number,
        message=ChatAnswer(
            role="assistant",
            content=None if choice.calls and not choice.content else choice.content,
            reasoning_content=choice.reasoning or None,
            tool_calls=[called(call) for call in choice.calls] or None,
        ),
        logprobs=chat_logprobs(choice.tokens, tokenizer) if has_logprobs else None,
        finish_reason=choice.end.finish_reason,  # type: ignore[arg-type]
    )


def called(call: ToolCall) -> ToolCallOut:
    return ToolCallOut(call.id, "function", CalledFunction(call.name, call.arguments))


@dataclass
class Chunks:
    """A chat completion's stream: the role first, then pieces, the reason last, the usage where it is wanted."""

    head: Heading
    answering: Answering
    choices: int
    has_usage: bool
    has_logprobs: bool
    counted: UsageSum = field(init=False)
    calls: Counter[int] = field(default_factory=Counter)
    """How many calls each choice has made so far."""

    def __post_init__(self) -> None:
        self.counted = UsageSum(self.answering.completion.prompt_tokens)

    def begin(self) -> Iterator[bytes]:
        for number in range(self.choices):
            yield self._chunk(ChunkChoice(index=number, delta=ChatDelta(role="assistant", content="")))

    def write(self, number: int, event: AnswerEvent) -> Iterator[bytes]:
        if isinstance(event, ReasoningDelta):
            yield self._chunk(ChunkChoice(index=number, delta=ChatDelta(reasoning_content=event.text)))
        elif isinstance(event, ContentDelta):
            found = chat_logprobs(event.tokens, self.answering.completion.tokenizer) if self.has_logprobs else None
            yield self._chunk(ChunkChoice(index=number, delta=ChatDelta(content=event.text), logprobs=found))
        elif isinstance(event, CallDelta):
            for delta in self._call_deltas(number, event):
                yield self._chunk(ChunkChoice(index=number, delta=ChatDelta(tool_calls=[delta])))
        elif isinstance(event, Finished):
            self.counted.add(event.usage)
            reason = event.finish_reason
            yield self._chunk(ChunkChoice(index=number, delta=ChatDelta(), finish_reason=reason))  # type: ignore[arg-type]

    def end(self) -> Iterator[bytes]:
        if self.has_usage:
            yield self._event([], usage_of(self.counted))
        yield DONE

    def _call_deltas(self, number: int, piece: CallDelta) -> Iterator[ToolCallDelta]:
        if piece.name:
            begun = FunctionDelta(name=piece.name, arguments="")
            yield ToolCallDelta(index=self.calls[number], id=piece.call_id, type="function", function=begun)
            self.calls[number] += 1
        if piece.arguments:
            more = FunctionDelta(arguments=piece.arguments)
            yield ToolCallDelta(index=self.calls[number] - 1, function=more)

    def _chunk(self, choice: ChunkChoice) -> bytes:
        return self._event([choice], None if self.has_usage else UNSET)

    def _event(self, choices: list[ChunkChoice], usage: Usage | UnsetType | None) -> bytes:
        return data_event(
            ChatChunk(
                id=self.head.id,
                object="chat.completion.chunk",
                created=self.head.created,
                model=self.head.model,
                choices=choices,
                system_fingerprint=self.head.fingerprint,
                usage=usage,
            )
        )


@dataclass(frozen=True)
class Heading:
    """``fingerprint`` changes with model, strategy and state: with the same one, a seed gives the same text."""

    id: str
    model: str
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))


def heading(prefix: str, model: str) -> Heading:
    return Heading(f"{prefix}-{uuid.uuid4().hex}", model, fingerprint_of(the_manager().status()))


def fingerprint_of(status: ModelStatus) -> str:
    made_of = f"{status.model_path}\n{status.strategy}\n{status.state}"
    return f"fp_{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def usage_of(counted: UsageSum) -> Usage:
    return Usage(
        prompt_tokens=counted.prompt,
        completion_tokens=counted.completion,
        total_tokens=counted.prompt + counted.completion,
        prompt_tokens_details=PromptDetails(counted.cached),
        completion_tokens_details=CompletionDetails(counted.reasoning),
    )
