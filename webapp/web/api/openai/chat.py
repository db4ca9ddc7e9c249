"""``POST /v1/chat/completions``: the request's body, and the answer as a document or a stream."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from flask import Response
from msgspec import UNSET, Meta, UnsetType

from webapp.chat.events import AnswerEvent, CallDelta, ContentDelta, Finished, ReasoningDelta
from webapp.chat.messages import Message, Role, ThinkMode, ToolCall
from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.services.generation.generation import AnswerText
from webapp.services.generation.request import AnswerRequest, ChatPrompt, Structure
from webapp.tokenizer import Tokenizer
from webapp.web.api.answering import (
    Answering,
    StreamWriter,
    UsageSum,
    answer,
    begin,
    data_event,
    served_model,
    stream,
    the_manager,
    whole_answers,
)
from webapp.web.api.body import MAX_STOPS, OpenAiSampling, Stop, asked_sampling, read_body, stops_of, text_of
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
    chat_logprobs,
)


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class RefusalPart(msgspec.Struct, tag_field="type", tag="refusal"):
    refusal: str


class ImagePart(msgspec.Struct, tag_field="type", tag="image_url"):
    """Refused: Roost's models read text."""

    image_url: Any = None


class AudioPart(msgspec.Struct, tag_field="type", tag="input_audio"):
    """Refused."""

    input_audio: Any = None


class FilePart(msgspec.Struct, tag_field="type", tag="file"):
    """Refused."""

    file: Any = None


Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart
Content = str | list[Part]


class FunctionCall(msgspec.Struct):
    """``arguments`` is JSON text."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    arguments: str


class ToolCallIn(msgspec.Struct, kw_only=True):
    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class SystemMessage(msgspec.Struct, tag_field="role", tag="system"):
    content: Content
    name: str | None = None


class DeveloperMessage(msgspec.Struct, tag_field="role", tag="developer"):
    """The same as system."""

    content: Content
    name: str | None = None


class UserMessage(msgspec.Struct, tag_field="role", tag="user"):
    content: Content
    name: str | None = None


class AssistantMessage(msgspec.Struct, tag_field="role", tag="assistant"):
    """``prefix`` on the last message: the answer begins with its content, and only what follows comes back."""

    content: Content | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallIn] | None = None
    refusal: str | None = None
    name: str | None = None
    prefix: bool | None = None


class ToolMessage(msgspec.Struct, tag_field="role", tag="tool"):
    content: Content
    tool_call_id: str
    name: str | None = None


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS = {
    "none": ThinkMode.NONE,
    "minimal": ThinkMode.FAST,
    "low": ThinkMode.THINK_A_BIT,
    "medium": ThinkMode.THINK,
    "high": ThinkMode.THINK_A_LOT,
    "xhigh": ThinkMode.THINK_A_LOT,
    "max": ThinkMode.THINK_A_LOT,
}
MaxTokens = Annotated[int, Meta(ge=1, le=102_400)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Bias = Annotated[float, Meta(ge=-100, le=100)]


class StreamOptions(msgspec.Struct, kw_only=True):
    """``include_usage``: one more chunk before the end, with the token counts and no choices."""

    include_usage: bool | None = None


class SamplingFields(OpenAiSampling, kw_only=True):
    """What is left out, or null, is as the active preset has it. Names not listed here are ignored."""

    model: str | None = None
    logit_bias: Annotated[dict[str, Bias], Meta(description="Token id -> number added to its logit.")] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[int], Meta(max_length=64)] | None = None
    n: Annotated[int, Meta(ge=1, le=1024)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    state: Annotated[str, Meta(max_length=500, description='A state file; "" is none.')] | None = None


def sampling_of(fields: SamplingFields, max_tokens: int | None, logprobs: int | None) -> dict[str, Any]:
    """Names of SamplingParams, only what was asked for."""
    given = {**asked_sampling(fields, "openai"), "max_tokens": max_tokens, "logprobs": logprobs}
    if fields.logit_bias:
        given["logit_bias"] = biases_of(fields.logit_bias)
    if fields.stop_token_ids is not None:
        given["stop_token_ids"] = tuple({0, *fields.stop_token_ids})
    return {name: value for name, value in given.items() if value is not None}


def biases_of(biases: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token_id): bias for token_id, bias in biases.items()}
    except ValueError as exc:
        raise RoostError(
            "invalid_parameter", param="logit_bias", reason=Text("reason.web.names_must_be_token_ids")
        ) from exc


def includes_usage(fields: SamplingFields) -> bool:
    if fields.stream_options is not None and not fields.stream:
        raise RoostError("invalid_parameter", param="stream_options", reason=Text("reason.web.is_only_for_streams"))
    return fields.stream_options is not None and bool(fields.stream_options.include_usage)


class ChatRequest(SamplingFields, kw_only=True):
    """A conversation to answer."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=4096)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=102_400, description="The same as max_tokens.")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    reasoning_effort: Annotated[Effort, Meta(description="How long to think, where the model can.")] | None = None
    template: Annotated[str, Meta(max_length=64, description="A prompt template of Roost's.")] | None = None
    user_name: Name | None = None
    assistant_name: Name | None = None
    system_name: Name | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    tool_dialect: Annotated[str, Meta(max_length=64, description="How calls are written in the prompt.")] | None = None
    tool_decoding: (
        Annotated[Literal["constrained", "free"], Meta(description="Whether calls are held to their schemas.")] | None
    ) = None
    response_format: dict[str, Any] | None = None
    functions: Annotated[Any, Meta(description="Refused: use tools.")] = None
    function_call: Annotated[Any, Meta(description="Refused: use tools.")] = None
    modalities: list[str] | None = None
    audio: Annotated[Any, Meta(description="Refused.")] = None
    web_search_options: Annotated[Any, Meta(description="Refused.")] | UnsetType = UNSET


def answer_request(asked: ChatRequest) -> AnswerRequest:
    """Raises ``invalid_parameter`` or ``unsupported_parameter`` for what the types alone cannot tell."""
    check_supported(asked)
    check_results(asked.messages)
    last = asked.messages[-1]
    prompt = ChatPrompt(
        messages=tuple(message_of(message, f"messages[{place}]") for place, message in enumerate(asked.messages)),
        think_mode=EFFORTS[asked.reasoning_effort] if asked.reasoning_effort else None,
        continue_last=isinstance(last, AssistantMessage) and bool(last.prefix),
        template=asked.template or "",
        names=(asked.user_name or "", asked.assistant_name or "", asked.system_name or ""),
    )
    return AnswerRequest(
        prompts=(prompt,),
        sampling=sampling_of(asked, max_tokens_of(asked), logprobs_of(asked)),
        stop=stops_of(asked.stop),
        choices=asked.n or 1,
        state=asked.state,
        structure=structure_of(asked),
        streams_calls=True,
    )


def structure_of(asked: ChatRequest) -> Structure:
    return Structure(
        tools=tuple(asked.tools or ()),
        tool_choice=asked.tool_choice,
        response_format=asked.response_format,
        is_parallel=asked.parallel_tool_calls is not False,
        is_constrained=asked.tool_decoding != "free",
        dialect=asked.tool_dialect or "",
    )


def check_supported(asked: ChatRequest) -> None:
    for name in ("functions", "function_call"):
        if getattr(asked, name):
            raise RoostError(
                "unsupported_parameter", param=name, reason=Text("reason.web.openai_has_replaced_it_by_tools")
            )
    if asked.audio is not None or any(kind != "text" for kind in asked.modalities or ()):
        raise RoostError("unsupported_parameter", param="modalities", reason=Text("reason.web.only_text"))
    if asked.web_search_options not in (UNSET, None):
        raise RoostError(
            "unsupported_parameter", param="web_search_options", reason=Text("reason.web.roost_does_not_search_the_web")
        )


def check_results(messages: Sequence[ChatMessage]) -> None:
    """A tool message answers a call before it, by its id."""
    called: set[str] = set()
    for place, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            called.update(call.id for call in message.tool_calls or ())
        elif isinstance(message, ToolMessage) and message.tool_call_id not in called:
            reason = f"no call before it has the id {message.tool_call_id[:80]!r}"
            raise RoostError("invalid_parameter", param=f"messages[{place}].tool_call_id", reason=reason)


def max_tokens_of(asked: ChatRequest) -> int | None:
    return asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens


def logprobs_of(asked: ChatRequest) -> int | None:
    """How many alternatives; None when no logprobs are asked for."""
    if asked.logprobs:
        return asked.top_logprobs or 0
    if asked.top_logprobs:
        raise RoostError("invalid_parameter", param="top_logprobs", reason=Text("reason.web.needs_logprobs_to_be_true"))
    return None


def message_of(message: ChatMessage, place: str) -> Message:
    if isinstance(message, AssistantMessage):
        return assistant_message(message, place)
    text = text_of(message.content, f"{place}.content")
    name = message.name or ""
    if isinstance(message, ToolMessage):
        return Message(Role.TOOL, text, tool_call_id=message.tool_call_id, name=name)
    return Message(Role.USER if isinstance(message, UserMessage) else Role.SYSTEM, text, name=name)


def assistant_message(message: AssistantMessage, place: str) -> Message:
    text = text_of(message.content or message.refusal or "", f"{place}.content")
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ())
    if not calls and message.content is None and message.refusal is None and not message.reasoning_content:
        raise RoostError("invalid_parameter", param=f"{place}.content", reason=Text("reason.common.is_missing"))
    reasoning = message.reasoning_content or "" if message.prefix else ""
    return Message(Role.ASSISTANT, text, reasoning=reasoning, tool_calls=calls)


DONE = b"data: [DONE]\n\n"


def create() -> Response:
    asked = read_body(ChatRequest)
    has_usage = includes_usage(asked)
    wanted = answer_request(asked)
    model = served_model(asked.model)
    answering = begin(wanted)
    head = heading("chatcmpl", model)
    if asked.stream:
        return stream(answering, Chunks(head, answering, wanted.choices, has_usage, bool(asked.logprobs)))
    answers, counted = whole_answers(answering), UsageSum(answering.completion.prompt_tokens)
    for _, end in answers:
        counted.add(end.usage)
    tokenizer = answering.completion.tokenizer if asked.logprobs else None
    return answer(
        ChatCompletion(
            **head,
            object="chat.completion",
            choices=[chat_choice(number, text, end, tokenizer) for number, (text, end) in enumerate(answers)],
            usage=usage_of(counted),
        )
    )


def chat_choice(number: int, text: AnswerText, end: Finished, tokenizer: Tokenizer | None) -> ChatChoice:
    """With logprobs where ``tokenizer`` is given."""
    calls = [ToolCallOut(call.id, "function", CalledFunction(call.name, call.arguments)) for call in text.tool_calls]
    return ChatChoice(
        index=number,
        message=ChatAnswer(
            role="assistant",
            content=None if calls and not text.content else text.content,
            reasoning_content=text.reasoning or None,
            tool_calls=calls or None,
        ),
        logprobs=chat_logprobs(text.tokens, tokenizer) if tokenizer else None,
        finish_reason=end.finish_reason,  # type: ignore[arg-type]
    )


@dataclass
class Chunks(StreamWriter):
    """A chat completion's stream: the role first, then pieces, the reason last, the usage where it is wanted."""

    head: dict[str, Any]
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
                **self.head,
                object="chat.completion.chunk",
                choices=choices,
                usage=usage,
            )
        )


def heading(prefix: str, model: str) -> dict[str, Any]:
    """The fields of :class:`~.answers.Heading`."""
    status = the_manager().status()
    made_of = f"{status.model_path}\n{status.strategy}\n{status.adapter}\n{status.state}"
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"fp_{hashlib.sha256(made_of.encode()).hexdigest()[:12]}",
    }


def usage_of(counted: UsageSum) -> Usage:
    return Usage(
        prompt_tokens=counted.prompt,
        completion_tokens=counted.completion,
        total_tokens=counted.prompt + counted.completion,
        prompt_tokens_details=PromptDetails(counted.cached),
        completion_tokens_details=CompletionDetails(counted.reasoning),
    )
