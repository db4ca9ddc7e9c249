"""OpenAI's Responses: ``POST /v1/responses`` and ``/v1/responses/input_tokens``.

An answer is a list of items: thinking, a message, calls. A stream tells of each from its first piece to its end, and
the whole answer is made of the same events. Nothing is stored: a request brings the whole conversation along, the
answer says ``store: false``, and what needs a stored answer (``previous_response_id``, ``conversation``, an
``item_reference``) is refused.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from flask import Response
from msgspec import Meta

from webapp.chat.events import AnswerEvent, CallDelta, ContentDelta, Finished, ReasoningDelta
from webapp.chat.messages import Message, Role, ToolCall
from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.services.generation.request import AnswerRequest, ChatPrompt, Structure
from webapp.tokenizer import Tokenizer
from webapp.web.api.answering import (
    Answering,
    StreamWriter,
    answer,
    begin,
    named_event,
    served_model,
    stream,
    the_completions,
)
from webapp.web.api.body import asked_sampling, most_tokens, read_body, sampling_struct, text_of
from webapp.web.api.openai.answers import TokenLogprobs, chat_logprobs
from webapp.web.api.openai.chat import DONE, EFFORTS, Effort, MaxTokens, arguments_text, content_text


class InputText(msgspec.Struct, tag_field="type", tag="input_text"):
    text: str


class OutputTextIn(msgspec.Struct, tag_field="type", tag="output_text"):
    """Of an earlier answer."""

    text: str


class PlainTextIn(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class RefusalIn(msgspec.Struct, tag_field="type", tag="refusal"):
    refusal: str


class ReasoningText(msgspec.Struct, tag_field="type", tag="reasoning_text"):
    text: str


class InputImage(msgspec.Struct, tag_field="type", tag="input_image"):
    """Refused: Roost's models read text."""


class InputFile(msgspec.Struct, tag_field="type", tag="input_file"):
    """Refused."""


class InputAudio(msgspec.Struct, tag_field="type", tag="input_audio"):
    """Refused."""


Part = InputText | OutputTextIn | PlainTextIn | RefusalIn | ReasoningText | InputImage | InputFile | InputAudio
Content = str | list[Part]


class InputItem(msgspec.Struct, kw_only=True):
    """A message (``role``, ``content``), a call (``call_id``, ``name``, ``arguments``), its result (``call_id``,
    ``output``), or earlier thinking, which is not read again."""

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Content | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    output: Content | dict[str, Any] | None = None


class ReasoningAsked(msgspec.Struct, kw_only=True):
    effort: Effort | None = None
    summary: str | None = None


class TextAsked(msgspec.Struct, kw_only=True):
    """``format``: text, json_object, or json_schema with name and schema."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class InputRequest(msgspec.Struct, kw_only=True):
    """A conversation whose tokens are to be counted. ``input``: a text, or items."""

    input: str | list[InputItem]
    model: str | None = None
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningAsked | None = None
    text: TextAsked | None = None
    previous_response_id: str | None = None
    conversation: Any = None


if TYPE_CHECKING:  # a type checker knows no base class that is made at run time
    SampledInput = InputRequest
else:
    SampledInput = sampling_struct("SampledInput", "openai", InputRequest)


class ResponseRequest(SampledInput, kw_only=True):
    """A conversation to answer. ``include``: message.output_text.logprobs; anything else in it is passed over."""

    max_output_tokens: MaxTokens | None = None
    stream: bool | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    background: bool | None = None
    prompt: Annotated[Any, Meta(description="Refused: a prompt kept at OpenAI.")] = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    state: Annotated[str, Meta(max_length=500, description='A state file; "" is none.')] | None = None


LOGPROBS = "message.output_text.logprobs"
PASSED_OVER = ("reasoning", "compaction", "additional_tools")
"""Items that hold nothing a model should read: of earlier thinking only what came of it counts."""


def answer_request(asked: ResponseRequest) -> AnswerRequest:
    """Raises ``invalid_parameter`` or ``unsupported_parameter`` for what the types alone cannot tell."""
    if asked.background:
        raise RoostError("unsupported_parameter", param="background", reason=Text("reason.web.nothing_is_stored"))
    if asked.prompt is not None:
        raise RoostError("unsupported_parameter", param="prompt", reason=Text("reason.web.nothing_is_stored"))
    most = most_tokens(asked.max_output_tokens, "max_output_tokens")
    given = {"max_tokens": most, "logprobs": logprobs_of(asked)}
    return AnswerRequest(
        prompts=(prompt_of(asked),),
        sampling={**asked_sampling(asked, "openai"), **{name: n for name, n in given.items() if n is not None}},
        state=asked.state,
        structure=structure_of(asked),
        streams_calls=True,
    )


def logprobs_of(asked: ResponseRequest) -> int | None:
    """How many alternatives; None when no logprobs are asked for."""
    is_wanted = LOGPROBS in (asked.include or ()) or bool(asked.top_logprobs)
    return asked.top_logprobs or 0 if is_wanted else None


def structure_of(asked: InputRequest) -> Structure:
    """The format in the words of chat completions, where name and schema stand one level deeper."""
    form = asked.text.format if asked.text else None
    if form is not None and form.get("type") == "json_schema" and "json_schema" not in form:
        form = {"type": "json_schema", "json_schema": {name: value for name, value in form.items() if name != "type"}}
    return Structure(
        tools=tuple(asked.tools or ()),
        tool_choice=asked.tool_choice,
        response_format=form,
        is_parallel=asked.parallel_tool_calls is not False,
    )


def prompt_of(asked: InputRequest) -> ChatPrompt:
    for name in ("previous_response_id", "conversation"):
        if getattr(asked, name) is not None:
            raise RoostError("unsupported_parameter", param=name, reason=Text("reason.web.nothing_is_stored"))
    messages = [Message(Role.SYSTEM, asked.instructions)] if asked.instructions else []
    if asked.input and isinstance(asked.input, str):
        messages.append(Message(Role.USER, asked.input))
    elif not isinstance(asked.input, str):
        messages += messages_of(asked.input)
    if not any(message.role is not Role.SYSTEM for message in messages):
        raise RoostError("invalid_parameter", param="input", reason=Text("reason.common.is_empty"))
    effort = asked.reasoning.effort if asked.reasoning else None
    return ChatPrompt(tuple(messages), EFFORTS[effort] if effort else None)


def messages_of(items: list[InputItem]) -> list[Message]:
    """Calls belong to the assistant's message they follow; without one they are a message of their own."""
    messages: list[Message] = []
    called: set[str] = set()
    for number, item in enumerate(items):
        place = f"input[{number}]"
        if item.type == "message":
            messages.append(message_of(item, place))
        elif item.type == "function_call":
            call = ToolCall(needed(item, "call_id", place), needed(item, "name", place), arguments_text(item.arguments))
            called.add(call.id)
            before = messages.pop() if messages and messages[-1].role is Role.ASSISTANT else None
            calls = (*before.tool_calls, call) if before else (call,)
            messages.append(Message(Role.ASSISTANT, before.content if before else "", tool_calls=calls))
        elif item.type == "function_call_output":
            messages.append(result_of(item, called, place))
        elif item.type == "item_reference":
            raise RoostError("unsupported_parameter", param=place, reason=Text("reason.web.nothing_is_stored"))
        elif item.type not in PASSED_OVER:
            names = "message, function_call, function_call_output, reasoning"
            reason = Text("reason.api.is_not_one_of", name=repr(item.type[:80]), names=names)
            raise RoostError("invalid_parameter", param=f"{place}.type", reason=reason)
    return messages


def message_of(item: InputItem, place: str) -> Message:
    role = needed(item, "role", place)
    text = text_of(needed(item, "content", place), f"{place}.content")
    return Message(Role.SYSTEM if role == "developer" else Role(role), text)


def result_of(item: InputItem, called: set[str], place: str) -> Message:
    call_id = needed(item, "call_id", place)
    if call_id not in called:
        reason = f"no call before it has the id {call_id[:80]!r}"
        raise RoostError("invalid_parameter", param=f"{place}.call_id", reason=reason)
    return Message(Role.TOOL, content_text(needed(item, "output", place), f"{place}.output"), tool_call_id=call_id)


def needed(item: InputItem, name: str, place: str) -> Any:
    """The field; ``invalid_parameter`` where this kind of item lacks it."""
    value = getattr(item, name)
    if value is None:
        raise RoostError("invalid_parameter", param=f"{place}.{name}", reason=Text("reason.common.is_missing"))
    return value


Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(msgspec.Struct, tag_field="type", tag="output_text", kw_only=True):
    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprobs] = []


class MessageItem(msgspec.Struct, tag_field="type", tag="message", kw_only=True):
    id: str
    status: Status = "in_progress"
    role: Literal["assistant"] = "assistant"
    content: list[OutputText] = []


class ReasoningItem(msgspec.Struct, tag_field="type", tag="reasoning", kw_only=True):
    """The thought itself is ``content``; nobody sums it up."""

    id: str
    status: Status = "in_progress"
    summary: list[Any] = []
    content: list[ReasoningText] = []
    encrypted_content: None = None


class CallItem(msgspec.Struct, tag_field="type", tag="function_call", kw_only=True):
    """``arguments`` is JSON text."""

    id: str
    status: Status = "in_progress"
    call_id: str
    name: str
    arguments: str = ""


OutputItem = MessageItem | ReasoningItem | CallItem


class InputDetails(msgspec.Struct):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseFailure(msgspec.Struct):
    code: str
    message: str


class IncompleteDetails(msgspec.Struct):
    reason: Literal["max_output_tokens"]


class ResponseObject(msgspec.Struct, kw_only=True):
    """``temperature`` and the other figures are those the answer was made with."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status = "in_progress"
    background: bool = False
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    previous_response_id: None = None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: str = "default"
    store: bool = False
    temperature: float
    presence_penalty: float
    frequency_penalty: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    metadata: dict[str, Any]


class InputTokens(msgspec.Struct):
    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def create() -> Response:
    asked = read_body(ResponseRequest)
    wanted = answer_request(asked)
    model = served_model(asked.model)
    answering = begin(wanted)
    response = begun(asked, model, answering)
    has_logprobs = "logprobs" in wanted.sampling
    output = Output(response.output, answering.completion.tokenizer if has_logprobs else None)
    if asked.stream:
        return stream(answering, ResponseEvents(response, output))
    for told in answering.events():
        for _ in output.take(told[1]) if told else ():
            pass
    return answer(ended(response, output.end))


def count_tokens() -> Response:
    asked = read_body(InputRequest)
    prompt = prompt_of(asked)
    served_model(asked.model)
    return answer(InputTokens(len(the_completions().prompt_token_ids(prompt, structure_of(asked)))))


def begun(asked: ResponseRequest, model: str, answering: Answering) -> ResponseObject:
    params = answering.completion.prompts[0].params
    offered = answering.completion.prompts[0].rendered.tools
    names = offered.names if offered else ()
    form = asked.text.format if asked.text else None
    return ResponseObject(
        id=new_id("resp"),
        created_at=int(time.time()),
        instructions=asked.instructions,
        max_output_tokens=asked.max_output_tokens,
        model=model,
        output=[],
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        prompt_cache_key=asked.prompt_cache_key,
        reasoning={"effort": asked.reasoning.effort if asked.reasoning else None, "summary": None},
        safety_identifier=asked.safety_identifier,
        temperature=params.temperature,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        text={"format": form or {"type": "text"}},
        tool_choice=asked.tool_choice or "auto",
        tools=[{"strict": None, **tool} for tool in asked.tools or () if tool.get("name") in names],
        top_logprobs=asked.top_logprobs or 0,
        top_p=params.top_p,
        metadata=asked.metadata or {},
    )


def ended(response: ResponseObject, end: Finished) -> ResponseObject:
    usage = end.usage
    is_cut = end.finish_reason == "length"
    response.status = "incomplete" if is_cut else "completed"
    response.incomplete_details = IncompleteDetails("max_output_tokens") if is_cut else None
    response.completed_at = None if is_cut else int(time.time())
    response.usage = ResponseUsage(
        input_tokens=usage.prompt,
        input_tokens_details=InputDetails(usage.cached),
        output_tokens=usage.completion,
        output_tokens_details=OutputDetails(usage.reasoning),
        total_tokens=usage.prompt + usage.completion,
    )
    return response


@dataclass
class Output:
    """The items of an answer. ``tokenizer`` where logprobs are wanted."""

    items: list[OutputItem]
    tokenizer: Tokenizer | None = None
    end: Finished = field(default_factory=lambda: Finished("abort"))
    _pieces: list[str] = field(default_factory=list)
    _logprobs: list[TokenLogprobs] = field(default_factory=list)

    def take(self, event: AnswerEvent) -> Iterator[dict[str, Any]]:
        """Adds the event to the items, and gives the events of a stream for it."""
        if isinstance(event, ReasoningDelta):
            if self._open(ReasoningItem) is None:
                yield from self._begin(ReasoningItem(id=new_id("rs"), content=[ReasoningText("")]))
            yield self._delta("response.reasoning_text.delta", event.text, content_index=0)
        elif isinstance(event, ContentDelta) and (event.text or not self._open(CallItem)):
            if self._open(MessageItem) is None:
                yield from self._begin(MessageItem(id=new_id("msg"), content=[OutputText(text="")]))
            found = chat_logprobs(event.tokens, self.tokenizer).content or [] if self.tokenizer else []
            self._logprobs += found
            yield self._delta("response.output_text.delta", event.text, content_index=0, logprobs=found)
        elif isinstance(event, CallDelta):
            if event.name:
                yield from self._begin(CallItem(id=new_id("fc"), call_id=event.call_id, name=event.name))
            if event.arguments:
                yield self._delta("response.function_call_arguments.delta", event.arguments)
        elif isinstance(event, Finished):
            self.end = event
            if not self.items:
                yield from self._begin(MessageItem(id=new_id("msg"), content=[OutputText(text="")]))
            yield from self._finish("incomplete" if event.finish_reason == "length" else "completed")

    def _open(self, kind: type[OutputItem]) -> OutputItem | None:
        """The last item, where it is of this kind."""
        return self.items[-1] if self.items and isinstance(self.items[-1], kind) else None

    def _begin(self, item: OutputItem) -> Iterator[dict[str, Any]]:
        if self.items:
            yield from self._finish("completed")
        parts = [] if isinstance(item, CallItem) else item.content
        self.items.append(item)
        empty = item if isinstance(item, CallItem) else msgspec.structs.replace(item, content=[])
        yield self._event("response.output_item.added", item=empty)
        for part in parts:
            yield self._event("response.content_part.added", item_id=item.id, content_index=0, part=part)

    def _delta(self, name: str, text: str, **fields: Any) -> dict[str, Any]:
        self._pieces.append(text)
        return self._event(name, item_id=self.items[-1].id, delta=text, **fields)

    def _finish(self, status: Status) -> Iterator[dict[str, Any]]:
        """Completes the last item."""
        item, text = self.items[-1], "".join(self._pieces)
        item.status = status
        if isinstance(item, CallItem):
            item.arguments = text
            yield self._event("response.function_call_arguments.done", item_id=item.id, name=item.name, arguments=text)
        else:
            part = item.content[0]
            part.text = text
            fields: dict[str, Any] = {"item_id": item.id, "content_index": 0}
            if isinstance(part, OutputText):
                part.logprobs = self._logprobs
                yield self._event("response.output_text.done", text=text, logprobs=part.logprobs, **fields)
            else:
                yield self._event("response.reasoning_text.done", text=text, **fields)
            yield self._event("response.content_part.done", part=part, **fields)
        yield self._event("response.output_item.done", item=item)
        self._pieces, self._logprobs = [], []

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": kind, "output_index": len(self.items) - 1, **fields}


@dataclass
class ResponseEvents(StreamWriter):
    """The stream of a response: its head, its items from beginning to end, and the whole of it once more."""

    response: ResponseObject
    output: Output
    sequence_number: int = 0

    def begin(self) -> Iterator[bytes]:
        yield self._told({"type": "response.created", "response": self.response})
        yield self._told({"type": "response.in_progress", "response": self.response})

    def write(self, _: int, event: AnswerEvent) -> Iterator[bytes]:
        for told in self.output.take(event):
            yield self._told(told)

    def end(self) -> Iterator[bytes]:
        response = ended(self.response, self.output.end)
        yield self._told({"type": f"response.{response.status}", "response": response})
        yield DONE

    def error(self, body: dict[str, Any]) -> bytes:
        """Both ways in which clients look for it."""
        found = body["error"]
        self.response.status = "failed"
        self.response.error = ResponseFailure("server_error", found["message"])
        words = {name: found[name] for name in ("code", "message", "param")}
        told = self._told({"type": "error", **words})
        return told + self._told({"type": "response.failed", "response": self.response})

    def _told(self, event: dict[str, Any]) -> bytes:
        numbered = {**event, "sequence_number": self.sequence_number}
        self.sequence_number += 1
        return named_event(event["type"], numbered)
