"""Anthropic's dialect: ``POST /v1/messages`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from flask import Response
from msgspec import Meta, Struct, field

from webapp.chat.lenient_json import read_arguments
from webapp.chat.messages import (
    AnswerEvent,
    CallDelta,
    ContentDelta,
    Finished,
    Message,
    ReasoningDelta,
    Role,
    ThinkMode,
    ToolCall,
    Usage,
)
from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.services.generation.request import AnswerRequest, ChatPrompt, Structure
from webapp.web.api import answering as api

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class TextOut(Struct, tag_field="type", tag="text"):
    """``citations`` is an empty list, because some clients do not accept null."""

    text: str
    citations: list[Any] = []


class ThinkingOut(Struct, tag_field="type", tag="thinking"):
    """``signature`` is empty: nothing is encrypted here."""

    thinking: str
    signature: str = ""


class ToolUseOut(Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]
    caller: dict[str, str] = field(default_factory=lambda: {"type": "direct"})


class CacheCreation(Struct):
    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class ThinkingTokens(Struct):
    thinking_tokens: int = 0


class MessageUsage(Struct, kw_only=True):
    """``input_tokens``: the tokens that were prefilled. Those restored from a snapshot are counted in
    ``cache_read_input_tokens``."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_creation: CacheCreation = field(default_factory=CacheCreation)
    output_tokens_details: ThinkingTokens = field(default_factory=ThinkingTokens)
    server_tool_use: None = None
    service_tier: str = "standard"
    inference_geo: None = None


class MessageAnswer(Struct, kw_only=True):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[TextOut | ThinkingOut | ToolUseOut]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
    stop_details: None = None
    container: None = None


class TokenCount(Struct):
    input_tokens: int


class AnthropicErrorObject(Struct):
    type: str
    message: str


class AnthropicError(Struct):
    type: Literal["error"]
    error: AnthropicErrorObject
    request_id: str | None = None


CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class TextBlock(Struct, tag_field="type", tag="text"):
    text: str
    cache_control: Any = None
    citations: Any = None


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    """Of an earlier answer; not used."""

    thinking: str
    signature: str = ""


class RedactedBlock(Struct, tag_field="type", tag="redacted_thinking"):
    data: str = ""


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]
    cache_control: Any = None


class ImageBlock(Struct, tag_field="type", tag="image"):
    """Refused: Roost's models read text."""

    source: Any = None


class DocumentBlock(Struct, tag_field="type", tag="document"):
    """Its text, below its title. A PDF or another file is refused."""

    source: dict[str, Any] | None = None
    title: str | None = None

    @property
    def text(self) -> str | None:
        source = self.source or {}
        content = source.get("data") if source.get("type") == "text" else source.get("content")
        return titled(self.title, content)


class SearchResultBlock(Struct, tag_field="type", tag="search_result"):
    """A program's search result, as text below its title and address."""

    source: str = ""
    title: str = ""
    content: list[dict[str, Any]] = []

    @property
    def text(self) -> str | None:
        return titled("\n".join(filter(None, (self.title, self.source))), self.content)


def titled(title: str | None, content: Any) -> str | None:
    """None if the content is not only text."""
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        known = [text for text in texts if isinstance(text, str)]
        content = "\n".join(known) if len(known) == len(texts) else None
    if not isinstance(content, str):
        return None
    return f"{title}\n{content}" if title else content


class ToolResultBlock(Struct, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock] | None = None
    is_error: bool | None = None
    cache_control: Any = None


Block = (
    TextBlock
    | ThinkingBlock
    | RedactedBlock
    | ToolUseBlock
    | ToolResultBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
)


class InMessage(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Thinking(Struct):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None


class OutputFormat(Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


EFFORTS = {"low": ThinkMode.THINK_A_BIT, "medium": ThinkMode.THINK}


class OutputConfig(Struct):
    """``effort``: how long a thinking model thinks."""

    format: OutputFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class CountRequest(Struct, kw_only=True):
    """A conversation whose tokens are counted."""

    messages: Annotated[list[InMessage], Meta(min_length=1, max_length=4096)]
    model: str | None = None
    system: str | list[TextBlock] | None = None
    thinking: Thinking | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    output_config: OutputConfig | None = None


if TYPE_CHECKING:  # a type checker does not know a base class created at run time
    AnthropicSampling = CountRequest
else:
    AnthropicSampling = api.sampling_struct("AnthropicSampling", "anthropic", CountRequest)


class MessageRequest(AnthropicSampling, kw_only=True):
    """A conversation to answer. A last message by the assistant is the beginning of the answer."""

    max_tokens: Annotated[int, Meta(ge=1)]
    stop_sequences: api.Stops | None = None
    stream: bool | None = None
    metadata: Any = None
    state: api.StateName | None = None
    prefix_id: api.PrefixId | None = None


def answer_request(asked: MessageRequest) -> AnswerRequest:
    return AnswerRequest(
        prompts=(prompt_of(asked),),
        sampling={"max_tokens": api.most_tokens(asked.max_tokens), **api.asked_sampling(asked, "anthropic")},
        stop=api.stops_of(asked.stop_sequences),
        state=asked.state,
        prefix_id=asked.prefix_id,
        structure=structure_of(asked),
        streams_calls=True,
    )


def structure_of(asked: CountRequest) -> Structure:
    """Anthropic's tools and output format, converted to OpenAI's form."""
    tools = tuple(map(function_of, asked.tools or ()))
    choice = asked.tool_choice or {"type": "auto"}
    is_parallel = choice.get("disable_parallel_tool_use") is not True
    budget = asked.thinking.budget_tokens if asked.thinking and asked.thinking.type == "enabled" else None
    form = form_of(asked.output_config)
    return Structure(tools, choice_of(choice), form, is_parallel, thinking_tokens=budget)


def function_of(tool: dict[str, Any]) -> dict[str, Any]:
    """Converts the client's own tools; Anthropic's (bash_20250124, web_search_20250305 …) stay unchanged."""
    if tool.get("type") not in (None, "custom"):
        return {"type": tool["type"]}
    names = {"name": "name", "description": "description", "parameters": "input_schema", "strict": "strict"}
    described = {name: tool[theirs] for name, theirs in names.items() if tool.get(theirs) is not None}
    return {"type": "function", "function": described}


def form_of(config: OutputConfig | None) -> dict[str, Any] | None:
    if config is None or config.format is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": config.format.schema, "strict": True}}


def choice_of(choice: dict[str, Any]) -> Any:
    """Converts Anthropic's ``tool_choice`` to OpenAI's."""
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if kind not in CHOICES:
        raise RoostError(
            "invalid_parameter",
            param="tool_choice.type",
            reason=Text("reason.common.must_be_one_of", names="auto, any, tool, none"),
        )
    return CHOICES[kind]


def prompt_of(asked: CountRequest) -> ChatPrompt:
    system = api.text_of(asked.system, "system") if asked.system else ""
    messages = [Message(Role.SYSTEM, system)] if system else []
    for place, message in enumerate(asked.messages):
        found = messages_of(message, f"messages[{place}].content")
        check_results(found, messages, f"messages[{place}].content")
        messages += found
    is_begun = asked.messages[-1].role == "assistant"
    return ChatPrompt(tuple(messages), think_mode_of(asked), continue_last=is_begun)


def check_results(found: list[Message], before: list[Message], place: str) -> None:
    """A result must belong to an earlier call, by its id."""
    called = {call.id for message in before for call in message.tool_calls}
    for message in found:
        if message.role is Role.TOOL and message.tool_call_id not in called:
            reason = Text("reason.api.no_such_call", id=repr(message.tool_call_id[:80]))
            raise RoostError("invalid_parameter", param=f"{place}.tool_use_id", reason=reason)


def think_mode_of(asked: CountRequest) -> ThinkMode | None:
    """The effort alone does not switch thinking on."""
    thinking, effort = asked.thinking, asked.output_config.effort if asked.output_config else None
    if thinking is None:
        return None
    if thinking.type == "disabled":
        return ThinkMode.NONE
    if effort is not None and thinking.budget_tokens is None:
        return EFFORTS.get(effort, ThinkMode.THINK_A_LOT)
    return api.budget_mode(thinking.budget_tokens or 2048)


def messages_of(message: InMessage, place: str) -> list[Message]:
    """The messages for its tool results, then the message itself."""
    if isinstance(message.content, str):
        return [Message(Role(message.role), message.content)]
    results = [block for block in message.content if isinstance(block, ToolResultBlock)]
    found = [
        Message(Role.TOOL, api.text_of(block.content or "", place), tool_call_id=block.tool_use_id) for block in results
    ]
    calls = tuple(
        ToolCall(block.id, block.name, msgspec.json.encode(block.input).decode())
        for block in message.content
        if isinstance(block, ToolUseBlock)
    )
    text = api.text_of([block for block in message.content if block not in results], place)
    if text or calls or not results:
        found.append(Message(Role(message.role), text, tool_calls=calls))
    return found


OutBlock = TextOut | ThinkingOut | ToolUseOut


def create() -> Response:
    asked = api.read_body(MessageRequest)
    wanted = answer_request(asked)
    model = api.served_model(asked.model)
    answering = api.begin(wanted)
    if asked.stream:
        return api.stream(answering, Blocks(model, answering.completion.prompt_tokens))
    return api.answer(whole(answering, model))


def count_tokens() -> Response:
    asked = api.read_body(CountRequest)
    prompt = prompt_of(asked)
    api.served_model(asked.model)
    return api.answer(TokenCount(len(api.the_completions().prompt_token_ids(prompt, structure_of(asked)))))


def whole(answering: api.Answering, model: str) -> MessageAnswer:
    [(text, end)] = api.whole_answers(answering)
    content: list[OutBlock] = [ThinkingOut(text.reasoning)] if text.reasoning else []
    if text.content or not (content or text.tool_calls):
        content.append(TextOut(text.content))
    content += [ToolUseOut(call.id, call.name, read_arguments(call.arguments)) for call in text.tool_calls]
    return message_of(model, content, usage_of(end.usage), reason_of(end), end.stop)


def message_of(
    model: str,
    content: list[OutBlock],
    usage: MessageUsage,
    reason: StopReason | None,
    stop: str,
) -> MessageAnswer:
    return MessageAnswer(
        id=f"msg_{uuid.uuid4().hex}",
        model=model,
        content=content,
        stop_reason=reason,
        stop_sequence=stop or None,
        usage=usage,
    )


def usage_of(usage: Usage) -> MessageUsage:
    return MessageUsage(
        input_tokens=usage.prompt - usage.cached,
        output_tokens=usage.completion,
        cache_read_input_tokens=usage.cached,
        output_tokens_details=ThinkingTokens(usage.reasoning),
    )


def reason_of(end: Finished) -> StopReason:
    if end.stop:
        return "stop_sequence"
    if end.finish_reason == "tool_calls":
        return "tool_use"
    return "max_tokens" if end.finish_reason == "length" else "end_turn"


class Blocks(api.StreamWriter):
    """The stream of a message: head, each block from start to stop, end. Thinking, text, then calls."""

    model: str
    prompt_tokens: int
    index: int = -1
    kind: str = ""
    comment = b'event: ping\ndata: {"type":"ping"}\n\n'

    def begin(self) -> Iterator[bytes]:
        usage = MessageUsage(input_tokens=self.prompt_tokens, output_tokens=0)
        yield api.named_event(
            "message_start", {"type": "message_start", "message": message_of(self.model, [], usage, None, "")}
        )

    def write(self, _: int, event: AnswerEvent) -> Iterator[bytes]:
        if isinstance(event, ReasoningDelta):
            yield from self._delta("thinking", event.text)
        elif isinstance(event, ContentDelta):
            yield from self._delta("text", event.text)
        elif isinstance(event, CallDelta):
            yield from self._call(event)
        elif isinstance(event, Finished):
            if self.index < 0:
                yield from self._open("text")
            yield self._event("content_block_stop", index=self.index)
            ending = {"stop_reason": reason_of(event), "stop_sequence": event.stop or None}
            yield self._event("message_delta", delta=ending, usage=usage_of(event.usage))

    def end(self) -> Iterator[bytes]:
        yield self._event("message_stop")

    def error(self, body: dict[str, Any]) -> bytes:
        return api.named_event("error", body)

    def _delta(self, kind: str, text: str) -> Iterator[bytes]:
        if self.kind != kind:
            yield from self._open(kind)
        yield self._event("content_block_delta", index=self.index, delta={"type": f"{kind}_delta", kind: text})

    def _call(self, piece: CallDelta) -> Iterator[bytes]:
        if piece.name:
            yield from self._open("tool_use", ToolUseOut(piece.call_id, piece.name, {}))
        if piece.arguments:
            delta = {"type": "input_json_delta", "partial_json": piece.arguments}
            yield self._event("content_block_delta", index=self.index, delta=delta)

    def _open(self, kind: str, block: ToolUseOut | None = None) -> Iterator[bytes]:
        if self.kind == "thinking":
            yield self._event(
                "content_block_delta", index=self.index, delta={"type": "signature_delta", "signature": ""}
            )
        if self.index >= 0:
            yield self._event("content_block_stop", index=self.index)
        self.index, self.kind = self.index + 1, kind
        shown = block or (TextOut("") if kind == "text" else ThinkingOut(""))
        yield self._event("content_block_start", index=self.index, content_block=shown)

    @staticmethod
    def _event(name: str, **fields: Any) -> bytes:
        return api.named_event(name, {"type": name, **fields})
