"""The body of a chat completion, and its translation into an order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webapp.chat.messages import Message, Role, ThinkMode, ToolCall
from webapp.errors import ParameterInvalid, ParameterUnsupported
from webapp.services.generation.request import ChatPrompt, CompletionOrder, Structure
from webapp.web.api.openai.sampling import SamplingFields, sampling_of, stops_of


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
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
EFFORTS = {
    "none": ThinkMode.NONE,
    "minimal": ThinkMode.FAST,
    "low": ThinkMode.THINK_A_BIT,
    "medium": ThinkMode.THINK,
    "high": ThinkMode.THINK_A_LOT,
    "xhigh": ThinkMode.THINK_A_LOT,
}
MaxTokens = Annotated[int, Meta(ge=1, le=102_400)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]


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


def order_of(asked: ChatRequest, client: str) -> CompletionOrder:
    """ParameterInvalid or ParameterUnsupported for what the types alone cannot tell."""
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
    return CompletionOrder(
        prompts=(prompt,),
        sampling=sampling_of(asked, max_tokens_of(asked), logprobs_of(asked)),
        stop=stops_of(asked.stop),
        choices=asked.n or 1,
        state=asked.state,
        client=client,
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
            raise ParameterUnsupported(param=name, reason="OpenAI has replaced it by tools")
    if asked.audio is not None or any(kind != "text" for kind in asked.modalities or ()):
        raise ParameterUnsupported(param="modalities", reason="Roost's models read and write text")
    if asked.web_search_options not in (UNSET, None):
        raise ParameterUnsupported(param="web_search_options", reason="Roost does not search the web")


def check_results(messages: Sequence[ChatMessage]) -> None:
    """A tool message answers a call before it, by its id."""
    called: set[str] = set()
    for place, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            called.update(call.id for call in message.tool_calls or ())
        elif isinstance(message, ToolMessage) and message.tool_call_id not in called:
            reason = f"no call before it has the id {message.tool_call_id[:80]!r}"
            raise ParameterInvalid(param=f"messages[{place}].tool_call_id", reason=reason)


def max_tokens_of(asked: ChatRequest) -> int | None:
    return asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens


def logprobs_of(asked: ChatRequest) -> int | None:
    """How many alternatives; None when no logprobs are asked for."""
    if asked.logprobs:
        return asked.top_logprobs or 0
    if asked.top_logprobs:
        raise ParameterInvalid(param="top_logprobs", reason="it needs logprobs to be true")
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
        raise ParameterInvalid(param=f"{place}.content", reason="it is missing")
    reasoning = message.reasoning_content or "" if message.prefix else ""
    return Message(Role.ASSISTANT, text, reasoning=reasoning, tool_calls=calls)


def text_of(content: Content, place: str) -> str:
    """The text of all parts, joined by line ends."""
    if isinstance(content, str):
        return content
    texts = []
    for number, part in enumerate(content):
        if isinstance(part, TextPart):
            texts.append(part.text)
        elif isinstance(part, RefusalPart):
            texts.append(part.refusal)
        else:
            kind = part.__struct_config__.tag
            raise ParameterUnsupported(param=f"{place}[{number}]", reason=f"Roost's models read text, not {kind}")
    return "\n".join(texts)
