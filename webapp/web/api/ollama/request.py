"""The bodies of Ollama's chat and generate, and their translation into orders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from webapp.chat.messages import Message, Role, ThinkMode, ToolCall
from webapp.errors import ParameterUnsupported
from webapp.services.generation.request import ChatPrompt, CompletionOrder, Prompt, Structure, TextPrompt
from webapp.web.api.openai.sampling import MAX_STOPS, Stop, asked_sampling, sampling_struct

THINK_MODES = {
    True: ThinkMode.THINK,
    False: ThinkMode.NONE,
    "low": ThinkMode.THINK_A_BIT,
    "medium": ThinkMode.THINK,
    "high": ThinkMode.THINK_A_LOT,
}
END_OF_TEXT = 0


class OllamaCall(msgspec.Struct):
    name: str
    arguments: dict[str, Any] = {}


class OllamaToolCall(msgspec.Struct):
    function: OllamaCall


class OllamaMessage(msgspec.Struct, kw_only=True):
    """``images`` are refused, ``thinking`` of earlier answers is not read again."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = ""
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: str | None = None


if TYPE_CHECKING:  # a type checker knows no base class that is made at run time
    OllamaSampling = msgspec.Struct
else:
    OllamaSampling = sampling_struct("OllamaSampling", "ollama")


class Options(OllamaSampling, kw_only=True):
    """Those Roost knows; others (num_ctx, num_gpu, mirostat …) are ignored. ``num_predict`` 0 or less is the
    preset's."""

    stop: Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None


class OllamaRequest(msgspec.Struct, kw_only=True):
    """What chat and generate share. ``keep_alive`` 0 without anything to answer unloads the model; otherwise it is
    ignored, as the setting idle_unload_s decides."""

    model: str | None = None
    stream: bool | None = None
    options: Options | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    keep_alive: Any = None
    state: Annotated[str, Meta(max_length=500)] | None = None


class OllamaChat(OllamaRequest, kw_only=True):
    messages: Annotated[list[OllamaMessage], Meta(max_length=4096)] = []
    tools: list[dict[str, Any]] | None = None


class OllamaGenerate(OllamaRequest, kw_only=True):
    """``raw``: the prompt as it is, without template. ``template`` and ``context`` are refused."""

    prompt: str | None = ""
    system: str | None = None
    suffix: str | None = None
    raw: bool | None = None
    template: str | None = None
    context: list[int] | None = None
    images: list[Any] | None = None


def chat_order(asked: OllamaChat, client: str) -> CompletionOrder:
    messages = tuple(message_of(message, place) for place, message in enumerate(asked.messages))
    is_begun = asked.messages[-1].role == "assistant" and not asked.messages[-1].tool_calls
    prompt = ChatPrompt(messages, think_mode_of(asked), continue_last=is_begun)
    return order_of(asked, prompt, client, tuple(asked.tools or ()))


def generate_order(asked: OllamaGenerate, client: str) -> CompletionOrder:
    for name, reason in (
        ("suffix", "RWKV reads from left to right and cannot fill a gap"),
        ("template", "a preset decides the template; raw takes the prompt as it is"),
        ("context", "send the whole prompt; Roost remembers what it has read of it"),
        ("images", "Roost's models read and write text"),
    ):
        if getattr(asked, name):
            raise ParameterUnsupported(param=name, reason=reason)
    if asked.raw:
        return order_of(asked, TextPrompt(asked.prompt or ""), client)
    system = [Message(Role.SYSTEM, asked.system)] if asked.system else []
    messages = (*system, Message(Role.USER, asked.prompt or ""))
    return order_of(asked, ChatPrompt(messages, think_mode_of(asked)), client)


def order_of(
    asked: OllamaRequest, prompt: Prompt, client: str, tools: tuple[dict[str, Any], ...] = ()
) -> CompletionOrder:
    options = asked.options or Options()
    stop = (options.stop,) if isinstance(options.stop, str) else options.stop
    return CompletionOrder(
        prompts=(prompt,),
        sampling=asked_sampling(options, "ollama"),
        stop=None if stop is None else tuple(stop),
        state=asked.state,
        client=client,
        structure=Structure(tools, None, format_of(asked.format)),
    )


def format_of(wanted: str | dict[str, Any] | None) -> dict[str, Any] | None:
    """Ollama's format as OpenAI's response_format."""
    if not wanted:
        return None
    if wanted == "json":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": wanted}}


def think_mode_of(asked: OllamaRequest) -> ThinkMode | None:
    return None if asked.think is None else THINK_MODES[asked.think]


def message_of(message: OllamaMessage, place: int) -> Message:
    if message.images:
        raise ParameterUnsupported(param=f"messages[{place}].images", reason="Roost's models read and write text")
    calls = tuple(
        ToolCall("", call.function.name, msgspec.json.encode(call.function.arguments).decode())
        for call in message.tool_calls or ()
    )
    return Message(Role(message.role), message.content or "", tool_calls=calls, name=message.tool_name or "")
