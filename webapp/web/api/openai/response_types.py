"""The types of OpenAI's Responses: fields of requests and of responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from webapp.web.api import answering as api
from webapp.web.api.openai.answers import TokenLogprobs
from webapp.web.api.openai.chat import Effort, MaxTokens


class InputText(Struct, tag_field="type", tag="input_text"):
    text: str


class OutputTextIn(Struct, tag_field="type", tag="output_text"):
    """Of an earlier answer."""

    text: str


class PlainTextIn(Struct, tag_field="type", tag="text"):
    text: str


class RefusalIn(Struct, tag_field="type", tag="refusal"):
    refusal: str


class ReasoningText(Struct, tag_field="type", tag="reasoning_text"):
    text: str


class InputImage(Struct, tag_field="type", tag="input_image"):
    """Refused: Roost's models read text."""


class InputFile(Struct, tag_field="type", tag="input_file"):
    """Refused."""


class InputAudio(Struct, tag_field="type", tag="input_audio"):
    """Refused."""


Part = InputText | OutputTextIn | PlainTextIn | RefusalIn | ReasoningText | InputImage | InputFile | InputAudio
Content = str | list[Part]


class InputItem(Struct, kw_only=True):
    """A message (``role``, ``content``), a call (``call_id``, ``name``, ``arguments``), its result (``call_id``,
    ``output``), earlier thinking, which is not used, or an ``item_reference`` (``id``)."""

    type: str = "message"
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Content | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    output: Content | dict[str, Any] | None = None


class ReasoningAsked(Struct, kw_only=True):
    effort: Effort | None = None
    summary: str | None = None


class TextAsked(Struct, kw_only=True):
    """``format``: text, json_object, or json_schema with name and schema."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class InputRequest(Struct, kw_only=True):
    """A conversation whose tokens are counted. ``input``: a text, or items."""

    input: str | list[InputItem]
    model: str | None = None
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningAsked | None = None
    text: TextAsked | None = None
    previous_response_id: str | None = None
    state_id: Annotated[str, Meta(max_length=200)] | None = None
    conversation: Any = None


if TYPE_CHECKING:  # a type checker does not know a base class created at run time
    SampledInput = InputRequest
else:
    SampledInput = api.sampling_struct("SampledInput", "openai", InputRequest)


class ResponseRequest(SampledInput, kw_only=True):
    """A conversation to answer. ``include``: message.output_text.logprobs; other values are ignored."""

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
    state: api.StateName | None = None
    prefix_id: api.PrefixId | None = None
    return_state: bool | None = None


class ResponseQuery(Struct, kw_only=True):
    """With ``stream``, the events of the answer are sent again, each text as one piece, except those up to number
    ``starting_after``."""

    stream: bool = False
    starting_after: Annotated[int, Meta(ge=0)] | None = None


class ItemQuery(Struct, kw_only=True):
    """``after`` is the id of an item."""

    order: Literal["asc", "desc"] = "desc"
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    after: str | None = None


Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(Struct, tag_field="type", tag="output_text", kw_only=True):
    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprobs] = []


class MessageItem(Struct, tag_field="type", tag="message", kw_only=True):
    id: str
    status: Status = "in_progress"
    role: Literal["assistant"] = "assistant"
    content: list[OutputText] = []


class ReasoningItem(Struct, tag_field="type", tag="reasoning", kw_only=True):
    """``content`` is the thinking; there is no summary."""

    id: str
    status: Status = "in_progress"
    summary: list[Any] = []
    content: list[ReasoningText] = []
    encrypted_content: None = None


class CallItem(Struct, tag_field="type", tag="function_call", kw_only=True):
    """``arguments`` is JSON text."""

    id: str
    status: Status = "in_progress"
    call_id: str
    name: str
    arguments: str = ""


OutputItem = MessageItem | ReasoningItem | CallItem


class InputDetails(Struct):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(Struct):
    reasoning_tokens: int = 0


class ResponseUsage(Struct):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseFailure(Struct):
    code: str
    message: str


class IncompleteDetails(Struct):
    reason: Literal["max_output_tokens"]


class ResponseObject(Struct, kw_only=True):
    """``temperature`` and the other parameters are those of the answer. ``state_id``: given for a complete answer if
    ``return_state`` was set."""

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
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: str = "default"
    store: bool
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
    state_id: str | msgspec.UnsetType = msgspec.UNSET


class Deleted(Struct):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class ItemList(Struct):
    """The items of the input and of the earlier answers."""

    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class InputTokens(Struct):
    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"
