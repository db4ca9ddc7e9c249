"""``POST /api/chat`` and ``/api/generate`` (one prompt, with the template unless ``raw``). They stream by default."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

import msgspec
from flask import Response
from msgspec import Meta, Struct, field

from webapp.chat.lenient_json import read_arguments
from webapp.chat.messages import (
    AnswerEvent,
    AnswerToken,
    CallDelta,
    ContentDelta,
    Finished,
    Message,
    ReasoningDelta,
    Role,
    ThinkMode,
    ToolCall,
)
from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.services.generation.request import AnswerRequest, ChatPrompt, Prompt, Structure, TextPrompt
from webapp.web import roles
from webapp.web.api import answering as api
from webapp.web.api.openai.answers import TokenLogprobs, chat_logprobs
from webapp.web.guard import require

THINK_MODES = {
    True: ThinkMode.THINK,
    False: ThinkMode.NONE,
    "low": ThinkMode.THINK_A_BIT,
    "medium": ThinkMode.THINK,
    "high": ThinkMode.THINK_A_LOT,
    "max": ThinkMode.THINK_A_LOT,
}


class OllamaCall(Struct):
    name: str
    arguments: dict[str, Any] = {}


class OllamaToolCall(Struct):
    function: OllamaCall
    id: str | None = None


class OllamaMessage(Struct, kw_only=True):
    """``images`` are refused; ``thinking`` of earlier answers is not used."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = ""
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Options(api.OllamaSampling, kw_only=True):
    """The options that Roost supports; others (num_ctx, num_gpu, mirostat …) are ignored. ``num_predict`` 0 or less
    means the preset's value."""

    stop: api.Stop | api.Stops | None = None


class OllamaRequest(Struct, kw_only=True):
    """The fields of both chat and generate. ``keep_alive`` 0 without a question unloads the model; otherwise it is
    ignored, as the setting idle_unload_s decides."""

    model: str | None = None
    stream: bool | None = None
    options: Options | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    keep_alive: Any = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    state: api.StateName | None = None
    prefix_id: api.PrefixId | None = None


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


def chat_request(asked: OllamaChat) -> AnswerRequest:
    messages = tuple(message_of(message, place) for place, message in enumerate(asked.messages))
    is_begun = asked.messages[-1].role == "assistant" and not asked.messages[-1].tool_calls
    prompt = ChatPrompt(messages, think_mode_of(asked), continue_last=is_begun)
    return answer_request(asked, prompt, tuple(asked.tools or ()))


def generate_request(asked: OllamaGenerate) -> AnswerRequest:
    for name, reason in (
        ("template", Text("reason.api.preset_decides_template")),
        ("context", Text("reason.api.send_whole_prompt")),
        ("images", Text("reason.web.only_text")),
    ):
        if getattr(asked, name):
            raise RoostError("unsupported_parameter", param=name, reason=reason)
    if asked.raw or asked.suffix:
        return answer_request(asked, TextPrompt(asked.prompt or "", suffix=asked.suffix or ""))
    system = [Message(Role.SYSTEM, asked.system)] if asked.system else []
    messages = (*system, Message(Role.USER, asked.prompt or ""))
    return answer_request(asked, ChatPrompt(messages, think_mode_of(asked)))


def answer_request(asked: OllamaRequest, prompt: Prompt, tools: tuple[dict[str, Any], ...] = ()) -> AnswerRequest:
    options = asked.options or Options()
    sampling = api.asked_sampling(options, "ollama")
    if "max_tokens" in sampling:
        sampling["max_tokens"] = api.most_tokens(sampling["max_tokens"])
    if asked.logprobs:
        sampling["logprobs"] = asked.top_logprobs or 0
    return AnswerRequest(
        prompts=(prompt,),
        sampling=sampling,
        stop=api.stops_of(options.stop),
        state=asked.state,
        prefix_id=asked.prefix_id,
        structure=Structure(tools, None, format_of(asked.format)),
    )


def format_of(wanted: str | dict[str, Any] | None) -> dict[str, Any] | None:
    """Converts Ollama's format to OpenAI's response_format."""
    if not wanted:
        return None
    if wanted == "json":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": wanted}}


def think_mode_of(asked: OllamaRequest) -> ThinkMode | None:
    return None if asked.think is None else THINK_MODES[asked.think]


def message_of(message: OllamaMessage, place: int) -> Message:
    if message.images:
        raise RoostError(
            "unsupported_parameter", param=f"messages[{place}].images", reason=Text("reason.web.only_text")
        )
    calls = tuple(
        ToolCall(call.id or "", call.function.name, msgspec.json.encode(call.function.arguments).decode())
        for call in message.tool_calls or ()
    )
    return Message(
        Role(message.role),
        message.content or "",
        tool_calls=calls,
        tool_call_id=message.tool_call_id or "",
        name=message.tool_name or "",
    )


class CalledTool(Struct):
    """``index``: its position among the calls of the answer."""

    index: int
    name: str
    arguments: dict[str, Any]


class OllamaCallOut(Struct):
    id: str
    function: CalledTool


class OllamaText(Struct, kw_only=True, omit_defaults=True):
    role: Literal["assistant"]
    content: str
    thinking: str = ""
    tool_calls: list[OllamaCallOut] = []


class Figures(Struct, kw_only=True, omit_defaults=True):
    model: str
    created_at: str
    done: bool
    logprobs: list[TokenLogprobs] = []
    done_reason: str = ""
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class ChatLine(Figures, kw_only=True, omit_defaults=True):
    """One line of a chat's stream; the last one contains the figures. A whole answer is one such line."""

    message: OllamaText


class GenerateLine(Figures, kw_only=True, omit_defaults=True):
    response: str
    thinking: str = ""


class OllamaError(Struct):
    error: str


def timestamp(seconds: float | None = None) -> str:
    """Now or the given time, as RFC 3339 in UTC."""
    then = datetime.now(timezone.utc) if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    return then.isoformat().replace("+00:00", "Z")


MakeLine = Callable[..., Figures]
"""``make(content, thinking, calls, **figures)`` -> the dialect's object."""
ZERO = re.compile(r"0(\.0+)?([a-zµ]+)?")


def respond(
    asked: OllamaRequest, has_question: object, translate: Callable[[Any], AnswerRequest], make: MakeLine
) -> Response:
    """``translate`` converts the dialect's body to a request, ``make`` creates its lines."""
    if not has_question:
        return load_or_unload(asked, make)
    model = api.served_model(asked.model)
    answering = api.begin(translate(asked))
    lines = Lines(answering, model, make, bool(asked.logprobs))
    if asked.stream is not False:
        return api.stream(answering, lines)
    [(text, end)] = api.whole_answers(answering)
    extra = {**lines.figures(end), "logprobs": lines.logprobs(text.tokens)}
    return api.answer(lines.line(text.content, text.reasoning, text.tool_calls, **extra))


def load_or_unload(asked: OllamaRequest, make: MakeLine) -> Response:
    """For a request without a question: loads the model or, with ``keep_alive`` 0, unloads it."""
    if is_zero(asked.keep_alive):
        return unload(asked.model, make)
    model = api.served_model(asked.model)
    api.the_manager().load()
    return empty(model, make, "load")


def is_zero(keep_alive: Any) -> bool:
    """A number of seconds, or a duration such as "0s" or "5m"."""
    return keep_alive is not None and ZERO.fullmatch(str(keep_alive)) is not None


def unload(asked: str | None, make: MakeLine) -> Response:
    """Ignores a name that belongs to another model than the served one."""
    require(roles.Role.LOCAL)
    manager = api.the_manager()
    served = manager.status().model
    if not asked or api.is_name_of(asked, served) or api.known_name(manager, asked) is None:
        manager.unload()
    return empty(asked or served, make, "unload")


def empty(model: str, make: MakeLine, reason: str) -> Response:
    return api.answer(make("", "", (), model=model, created_at=timestamp(), done=True, done_reason=reason))


class Lines(api.StreamWriter):
    media_type = api.JSON_LINES
    comment = b""

    answering: api.Answering
    model: str
    make: MakeLine
    has_logprobs: bool
    began_at: float = field(default_factory=time.monotonic)
    calls: int = 0

    def write(self, _: int, event: AnswerEvent) -> Iterator[bytes]:
        if isinstance(event, ReasoningDelta):
            yield api.json_line(self.line("", event.text, (), done=False))
        elif isinstance(event, ContentDelta):
            yield api.json_line(self.line(event.text, "", (), done=False, logprobs=self.logprobs(event.tokens)))
        elif isinstance(event, CallDelta):  # complete: Ollama's requests do not use partial calls
            call = ToolCall(event.call_id, event.name, event.arguments)
            yield api.json_line(self.line("", "", (call,), first_call=self.calls, done=False))
            self.calls += 1
        elif isinstance(event, Finished):
            yield api.json_line(self.line("", "", (), **self.figures(event)))

    def error(self, body: dict[str, Any]) -> bytes:
        return api.json_line(body)

    def logprobs(self, tokens: Iterable[AnswerToken]) -> list[TokenLogprobs]:
        """Empty if they were not requested."""
        return chat_logprobs(tokens, self.answering.completion.tokenizer).content or [] if self.has_logprobs else []

    def line(self, content: str, thinking: str, calls: Sequence[ToolCall], **fields: Any) -> Figures:
        return self.make(content, thinking, calls, model=self.model, created_at=timestamp(), **fields)

    def figures(self, end: Finished) -> dict[str, Any]:
        total, record = time.monotonic() - self.began_at, self.answering.record
        reading = min(record.first_token_s or total, total)
        return {
            "done": True,
            "done_reason": "length" if end.finish_reason == "length" else "stop",
            "total_duration": nanoseconds(total),
            "load_duration": nanoseconds(record.loading_s),
            "prompt_eval_count": end.usage.prompt,
            "prompt_eval_duration": nanoseconds(reading),
            "eval_count": end.usage.completion,
            "eval_duration": nanoseconds(total - reading),
        }


def nanoseconds(seconds: float) -> int:
    return max(1, int(seconds * 1e9))


def chat() -> Response:
    asked = api.read_body(OllamaChat)
    return respond(asked, asked.messages, chat_request, chat_line)


def chat_line(content: str, thinking: str, calls: Sequence[ToolCall], first_call: int = 0, **fields: Any) -> ChatLine:
    """``first_call``: the index of the first of ``calls`` in the answer."""
    called = [
        OllamaCallOut(call.id, CalledTool(place, call.name, read_arguments(call.arguments)))
        for place, call in enumerate(calls, first_call)
    ]
    text = OllamaText(role="assistant", content=content, thinking=thinking, tool_calls=called)
    return ChatLine(message=text, **fields)


def generate() -> Response:
    asked = api.read_body(OllamaGenerate)
    return respond(asked, asked.prompt, generate_request, generate_line)


def generate_line(content: str, thinking: str, calls: Sequence[ToolCall], **fields: Any) -> GenerateLine:
    return GenerateLine(response=content, thinking=thinking, **fields)
