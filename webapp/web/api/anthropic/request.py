"""The body of a message request, and its translation into an order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from webapp.chat.messages import Message, Role, ThinkMode, ToolCall
from webapp.errors import ParameterInvalid, ParameterUnsupported
from webapp.services.generation.request import ChatPrompt, CompletionOrder, Structure
from webapp.web.api.openai.sampling import MAX_STOPS, Stop, asked_sampling, sampling_struct

CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    text: str
    cache_control: Any = None
    citations: Any = None


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    """Of an earlier answer; not read again."""

    thinking: str
    signature: str = ""


class RedactedBlock(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    data: str = ""


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]
    cache_control: Any = None


class ToolResultBlock(msgspec.Struct, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: Any = None


class ImageBlock(msgspec.Struct, tag_field="type", tag="image"):
    """Refused: Roost's models read text."""

    source: Any = None


class DocumentBlock(msgspec.Struct, tag_field="type", tag="document"):
    """Refused."""

    source: Any = None


Block = TextBlock | ThinkingBlock | RedactedBlock | ToolUseBlock | ToolResultBlock | ImageBlock | DocumentBlock


class InMessage(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Thinking(msgspec.Struct):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None


class OutputFormat(msgspec.Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    format: OutputFormat | None = None


class CountRequest(msgspec.Struct, kw_only=True):
    """A conversation whose tokens are to be counted."""

    messages: Annotated[list[InMessage], Meta(min_length=1, max_length=4096)]
    model: str | None = None
    system: str | list[TextBlock] | None = None
    thinking: Thinking | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    output_config: OutputConfig | None = None


if TYPE_CHECKING:  # a type checker knows no base class that is made at run time
    AnthropicSampling = CountRequest
else:
    AnthropicSampling = sampling_struct("AnthropicSampling", "anthropic", CountRequest)


class MessageRequest(AnthropicSampling, kw_only=True):
    """A conversation to answer. A last message by the assistant is the beginning of the answer."""

    max_tokens: Annotated[int, Meta(ge=1, le=102_400)]
    stop_sequences: Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    metadata: Any = None
    state: Annotated[str, Meta(max_length=500)] | None = None


def order_of(asked: MessageRequest, client: str) -> CompletionOrder:
    return CompletionOrder(
        prompts=(prompt_of(asked),),
        sampling={"max_tokens": asked.max_tokens, **asked_sampling(asked, "anthropic")},
        stop=None if asked.stop_sequences is None else tuple(asked.stop_sequences),
        state=asked.state,
        client=client,
        structure=structure_of(asked),
        streams_calls=True,
    )


def structure_of(asked: CountRequest) -> Structure:
    """Anthropic's tools and output format in OpenAI's form."""
    tools = tuple(function_of(tool, f"tools[{place}]") for place, tool in enumerate(asked.tools or ()))
    choice = asked.tool_choice or {"type": "auto"}
    is_parallel = choice.get("disable_parallel_tool_use") is not True
    return Structure(tools, choice_of(choice), form_of(asked.output_config), is_parallel)


def function_of(tool: dict[str, Any], place: str) -> dict[str, Any]:
    """Only tools of the client's own: Anthropic's (bash_20250124, web_search_20250305 …) come without a schema, and
    some would have to run on the server."""
    if tool.get("type") not in (None, "custom"):
        reason = "this tool is Anthropic's own; name, description and input_schema make one Roost can offer"
        raise ParameterUnsupported(param=f"{place}.type", reason=reason)
    parameters = tool.get("input_schema", {})
    described = {"name": tool.get("name"), "description": tool.get("description", ""), "parameters": parameters}
    return {"type": "function", "function": described}


def form_of(config: OutputConfig | None) -> dict[str, Any] | None:
    if config is None or config.format is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": config.format.schema, "strict": True}}


def choice_of(choice: dict[str, Any]) -> Any:
    """Anthropic's ``tool_choice`` in OpenAI's words."""
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if kind not in CHOICES:
        raise ParameterInvalid(param="tool_choice.type", reason="it is none of auto, any, tool and none")
    return CHOICES[kind]


def prompt_of(asked: CountRequest) -> ChatPrompt:
    system = text_of(asked.system, "system") if asked.system else ""
    messages = [Message(Role.SYSTEM, system)] if system else []
    for place, message in enumerate(asked.messages):
        found = messages_of(message, f"messages[{place}].content")
        check_results(found, messages, f"messages[{place}].content")
        messages += found
    is_begun = asked.messages[-1].role == "assistant"
    return ChatPrompt(tuple(messages), think_mode_of(asked.thinking), continue_last=is_begun)


def check_results(found: list[Message], before: list[Message], place: str) -> None:
    """A result belongs to a call before it, by its id."""
    called = {call.id for message in before for call in message.tool_calls}
    for message in found:
        if message.role is Role.TOOL and message.tool_call_id not in called:
            reason = f"no tool_use before it has the id {message.tool_call_id[:80]!r}"
            raise ParameterInvalid(param=f"{place}.tool_use_id", reason=reason)


def think_mode_of(thinking: Thinking | None) -> ThinkMode | None:
    """A budget under 1,024 tokens, Anthropic's least, is a short thought; from 4,096 on it is a long one."""
    if thinking is None:
        return None
    if thinking.type == "disabled":
        return ThinkMode.NONE
    budget = thinking.budget_tokens or 2048
    return ThinkMode.THINK_A_BIT if budget < 1024 else ThinkMode.THINK_A_LOT if budget >= 4096 else ThinkMode.THINK


def messages_of(message: InMessage, place: str) -> list[Message]:
    """One message, and before it those of the tool results it carries."""
    if isinstance(message.content, str):
        return [Message(Role(message.role), message.content)]
    results = [block for block in message.content if isinstance(block, ToolResultBlock)]
    found = [
        Message(Role.TOOL, text_of(block.content or "", place), tool_call_id=block.tool_use_id) for block in results
    ]
    calls = tuple(
        ToolCall(block.id, block.name, msgspec.json.encode(block.input).decode())
        for block in message.content
        if isinstance(block, ToolUseBlock)
    )
    text = text_of([block for block in message.content if block not in results], place)
    if text or calls or not results:
        found.append(Message(Role(message.role), text, tool_calls=calls))
    return found


def text_of(content: Any, place: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for number, block in enumerate(content):
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, (ImageBlock, DocumentBlock)):
            kind = block.__struct_config__.tag
            raise ParameterUnsupported(param=f"{place}[{number}]", reason=f"Roost's models read text, not {kind}")
        elif isinstance(block, ToolResultBlock):
            raise ParameterInvalid(param=f"{place}[{number}]", reason="a result stands in a message of the user")
    return "\n".join(texts)
