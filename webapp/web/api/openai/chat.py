"""``POST /v1/chat/completions``: the request's body, and the response as a document or a stream."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from flask import Response
from msgspec import UNSET, Meta, Struct, UnsetType, field

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
)
from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.services.generation.generation import AnswerText
from webapp.services.generation.request import AnswerRequest, ChatPrompt, Structure
from webapp.tokenizer import Tokenizer
from webapp.web.api import answering as api
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
    progress_of,
    timings_of,
)
from webapp.web.api.states import Keeper, continuing_from


class TextPart(Struct, tag_field="type", tag="text"):
    text: str


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    refusal: str


class ImagePart(Struct, tag_field="type", tag="image_url"):
    """Refused: Roost's models read text."""

    image_url: Any = None


class AudioPart(Struct, tag_field="type", tag="input_audio"):
    """Refused."""

    input_audio: Any = None


class FilePart(Struct, tag_field="type", tag="file"):
    """Refused."""

    file: Any = None


Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart
Content = str | list[Part]


class FunctionCall(Struct):
    """``arguments`` is JSON text; some programs send it back as an object."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    arguments: str | dict[str, Any] | None = None


class ToolCallIn(Struct, kw_only=True):
    id: str | None = None
    function: FunctionCall
    type: Literal["function"] | None = "function"


class SystemMessage(Struct, tag_field="role", tag="system"):
    content: Content | None
    name: str | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer"):
    """Same as a system message."""

    content: Content | None
    name: str | None = None


class UserMessage(Struct, tag_field="role", tag="user"):
    content: Content | None
    name: str | None = None


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    """``prefix`` in the last message: the answer begins with its content, and only the rest is returned."""

    content: Content | UnsetType | None = UNSET
    reasoning_content: str | None = None
    tool_calls: list[ToolCallIn] | None = None
    refusal: str | None = None
    name: str | None = None
    prefix: bool | None = None


class ToolMessage(Struct, tag_field="role", tag="tool"):
    """Without a ``tool_call_id``, the result of the first earlier call that has none yet."""

    content: Content | dict[str, Any] | None
    tool_call_id: str | None = None
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
MaxTokens = Annotated[int, Meta(ge=-1)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Bias = Annotated[float, Meta(ge=-100, le=100)]


class StreamOptions(Struct, kw_only=True):
    """``include_usage``: adds a last chunk with the token counts and no choices."""

    include_usage: bool | None = None


class SamplingFields(api.OpenAiSampling, kw_only=True):
    """Missing and null fields have the value of the active preset. Unknown names are ignored."""

    model: str | None = None
    logit_bias: (
        Annotated[dict[str, Bias], Meta(description="Token id -> number added to its logit.")]
        | list[tuple[int | str, Bias]]
        | None
    ) = None
    stop: api.Stop | api.Stops | None = None
    stop_token_ids: Annotated[list[api.Whole], Meta(max_length=64)] | None = None
    n: Annotated[int, Meta(ge=1, le=1024)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    state: api.StateName | None = None
    prefix_id: api.PrefixId | None = None
    state_id: Annotated[str, Meta(max_length=200, description="A state of /v1/states to go on from.")] | None = None
    return_state: Annotated[bool, Meta(description="Each answer comes with the state_id after it.")] | None = None


class FormFields(SamplingFields, kw_only=True):
    """The answer's form in the fields of llama.cpp and vLLM, including their fields that Roost does not support."""

    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: Annotated[dict[str, Any], Meta(description="vLLM's json, regex, choice or grammar.")] | None = (
        None
    )
    n_predict: MaxTokens | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=102_400)] | None = None


VLLM_FORMS = ("json", "regex", "choice", "grammar")


def form_of(fields: FormFields, response_format: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The requested output form, as a ``response_format``; raises ``invalid_parameter`` for two."""
    inner = fields.structured_outputs or {}
    for name in inner:
        if inner[name] is not None and name not in VLLM_FORMS:
            raise RoostError(
                "unsupported_parameter", param=f"structured_outputs.{name}", reason=Text("reason.web.no_such_form")
            )
    found: dict[str, dict[str, Any]] = {}
    if response_format is not None and response_format.get("type", "text") != "text":
        found["response_format"] = response_format
    for name, given in (
        ("json_schema", fields.json_schema),
        ("guided_json", fields.guided_json),
        ("json", inner.get("json")),
    ):
        if given is not None:
            found[name] = {"type": "json_schema", "json_schema": {"schema": schema_in(given, name)}}
    for kind, names in (("regex", "guided_regex"), ("choice", "guided_choice"), ("grammar", "guided_grammar")):
        for name, given in ((names, getattr(fields, names)), (kind, inner.get(kind))):
            if given is not None:
                found[name] = {"type": kind, kind: given}
    if fields.grammar:
        found["grammar"] = {"type": "grammar", "grammar": fields.grammar}
    if len(found) > 1:
        raise RoostError("invalid_parameter", param=list(found)[-1], reason=Text("reason.web.only_one_form"))
    return next(iter(found.values()), None)


def schema_in(given: Any, name: str) -> Any:
    """vLLM's clients may send a schema as JSON text."""
    if not isinstance(given, str):
        return given
    try:
        return msgspec.json.decode(given)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise RoostError("invalid_parameter", param=name, reason=str(exc)) from exc


def sampling_of(fields: FormFields, max_tokens: int | None, logprobs: int | None) -> dict[str, Any]:
    """Names of SamplingParams, only the requested ones."""
    given = {**api.asked_sampling(fields, "openai"), "max_tokens": max_tokens, "logprobs": logprobs}
    given |= {"min_tokens": fields.min_tokens, "ignore_eos": fields.ignore_eos}
    if fields.logit_bias:
        given["logit_bias"] = biases_of(fields.logit_bias)
    if fields.stop_token_ids is not None:
        given["stop_token_ids"] = tuple({0, *fields.stop_token_ids})
    return {name: value for name, value in given.items() if value is not None}


def biases_of(biases: dict[str, float] | list[tuple[int | str, float]]) -> dict[int, float]:
    """From an object, or from llama.cpp's pairs."""
    try:
        return {int(token_id): bias for token_id, bias in (biases if isinstance(biases, list) else biases.items())}
    except ValueError as exc:
        raise RoostError(
            "invalid_parameter", param="logit_bias", reason=Text("reason.web.names_not_token_ids")
        ) from exc


def includes_usage(fields: SamplingFields) -> bool:
    if fields.stream_options is not None and not fields.stream:
        raise RoostError("invalid_parameter", param="stream_options", reason=Text("reason.web.is_only_for_streams"))
    return fields.stream_options is not None and bool(fields.stream_options.include_usage)


class ChatRequest(FormFields, kw_only=True):
    """A conversation to answer."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=4096)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: Annotated[int, Meta(ge=-1, description="The same as max_tokens.")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    reasoning_effort: Annotated[Effort, Meta(description="How long to think, where the model can.")] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    thinking_budget_tokens: Annotated[int, Meta(ge=-1)] | None = None
    return_progress: bool | None = None
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
    """Raises ``invalid_parameter`` or ``unsupported_parameter`` for errors that the types cannot detect."""
    check_supported(asked)
    last = asked.messages[-1]
    prompt = ChatPrompt(
        messages=messages_of(asked.messages),
        think_mode=think_mode_of(asked),
        continue_last=isinstance(last, AssistantMessage) and bool(last.prefix),
        template=asked.template or "",
        names=(asked.user_name or "", asked.assistant_name or "", asked.system_name or ""),
    )
    return AnswerRequest(
        prompts=(prompt,),
        sampling=sampling_of(asked, max_tokens_of(asked), logprobs_of(asked)),
        stop=api.stops_of(asked.stop),
        choices=asked.n or 1,
        state=asked.state,
        prefix_id=asked.prefix_id,
        structure=structure_of(asked),
        streams_calls=True,
        is_kept=bool(asked.return_state),
    )


def think_mode_of(asked: ChatRequest) -> ThinkMode | None:
    """From OpenAI's effort, llama.cpp's budget, or the template switch of vLLM and llama.cpp."""
    if asked.reasoning_effort:
        return EFFORTS[asked.reasoning_effort]
    if asked.thinking_budget_tokens is not None and asked.thinking_budget_tokens >= 0:
        return api.budget_mode(asked.thinking_budget_tokens)
    switches = asked.chat_template_kwargs or {}
    is_on = switches.get("enable_thinking", switches.get("thinking"))
    return None if not isinstance(is_on, bool) else ThinkMode.THINK if is_on else ThinkMode.NONE


def structure_of(asked: ChatRequest) -> Structure:
    return Structure(
        tools=tuple(asked.tools or ()),
        tool_choice=asked.tool_choice,
        response_format=form_of(asked, asked.response_format),
        is_parallel=asked.parallel_tool_calls is not False,
        is_constrained=asked.tool_decoding != "free",
        thinking_tokens=asked.thinking_budget_tokens if (asked.thinking_budget_tokens or -1) > 0 else None,
        dialect=asked.tool_dialect or "",
    )


def check_supported(asked: ChatRequest) -> None:
    for name in ("functions", "function_call"):
        if getattr(asked, name):
            raise RoostError("unsupported_parameter", param=name, reason=Text("reason.web.replaced_by_tools"))
    if asked.audio is not None or any(kind != "text" for kind in asked.modalities or ()):
        raise RoostError("unsupported_parameter", param="modalities", reason=Text("reason.web.only_text"))
    if asked.web_search_options not in (UNSET, None):
        raise RoostError("unsupported_parameter", param="web_search_options", reason=Text("reason.web.no_web_search"))


def messages_of(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """A tool message answers an earlier call, by its id; calls and results without id are matched in order."""
    found: list[Message] = []
    called: set[str] = set()
    open_calls: list[str] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if isinstance(message, AssistantMessage):
            found.append(assistant_message(message, place))
            open_calls = [call.id for call in found[-1].tool_calls]
            called.update(open_calls)
        elif isinstance(message, ToolMessage):
            call_id = message.tool_call_id or next(iter(open_calls), "")
            if call_id not in called:
                unknown = Text("reason.api.no_such_call", id=repr(call_id[:80]))
                reason = unknown if call_id else Text("reason.common.is_missing")
                raise RoostError("invalid_parameter", param=f"{place}.tool_call_id", reason=reason)
            if call_id in open_calls:
                open_calls.remove(call_id)
            text = content_text(message.content, f"{place}.content")
            found.append(Message(Role.TOOL, text, tool_call_id=call_id, name=message.name or ""))
        else:
            role = Role.USER if isinstance(message, UserMessage) else Role.SYSTEM
            found.append(Message(role, content_text(message.content, f"{place}.content"), name=message.name or ""))
    return tuple(found)


def content_text(content: Any, place: str) -> str:
    """Null becomes "", an object its JSON."""
    if isinstance(content, dict):
        return msgspec.json.encode(content).decode()
    return api.text_of(content or "", place)


def max_tokens_of(asked: ChatRequest) -> int | None:
    for name in ("max_completion_tokens", "max_tokens", "n_predict"):
        if (value := getattr(asked, name)) is not None:
            return api.most_tokens(value, name)
    return None


def logprobs_of(asked: ChatRequest) -> int | None:
    """The number of alternatives; None if no logprobs are requested."""
    if asked.logprobs:
        return asked.top_logprobs or 0
    if asked.top_logprobs:
        raise RoostError("invalid_parameter", param="top_logprobs", reason=Text("reason.web.needs_logprobs_to_be_true"))
    return None


def assistant_message(message: AssistantMessage, place: str) -> Message:
    content = None if message.content is UNSET else message.content
    text = api.text_of(content or message.refusal or "", f"{place}.content")
    calls = tuple(
        ToolCall(call.id or f"{place}.{number}", call.function.name, arguments_text(call.function.arguments))
        for number, call in enumerate(message.tool_calls or ())
    )
    if not calls and message.content is UNSET and message.refusal is None and not message.reasoning_content:
        raise RoostError("invalid_parameter", param=f"{place}.content", reason=Text("reason.common.is_missing"))
    reasoning = message.reasoning_content or "" if message.prefix else ""
    return Message(Role.ASSISTANT, text, reasoning=reasoning, tool_calls=calls)


def arguments_text(arguments: str | dict[str, Any] | None) -> str:
    return msgspec.json.encode(arguments).decode() if isinstance(arguments, dict) else arguments or "{}"


def create() -> Response:
    asked = api.read_body(ChatRequest)
    has_usage = includes_usage(asked)
    wanted = answer_request(asked)
    model = api.served_model(asked.model)
    if asked.state_id is not None:
        wanted = continuing_from(wanted, asked.state_id)
    answering = api.begin(wanted)
    head = heading("chatcmpl", model)
    keep = state_keeper(answering, wanted, asked)
    if asked.stream:
        has_logprobs, has_progress = bool(asked.logprobs), bool(asked.return_progress)
        chunks = Chunks(head, answering, wanted.choices, has_usage, has_logprobs, has_progress, keep=keep)
        return api.stream(answering, chunks)
    answers, counted = api.whole_answers(answering), api.UsageSum(answering.completion.prompt_tokens)
    for _, end in answers:
        counted.add(end.usage)
    tokenizer = answering.completion.tokenizer if asked.logprobs else None
    return api.answer(
        ChatCompletion(
            **head,
            object="chat.completion",
            choices=[
                msgspec.structs.replace(chat_choice(number, text, end, tokenizer), state_id=keep(number))
                for number, (text, end) in enumerate(answers)
            ],
            usage=usage_of(counted),
            timings=timings_of(answers[0][1]) if len(answers) == 1 else None,
        )
    )


def state_keeper(answering: api.Answering, wanted: AnswerRequest, asked: SamplingFields) -> StateKeeper:
    """Returns the id of the state after the answer with a given number; UNSET if it was not requested."""
    if not asked.return_state:
        return lambda number: UNSET
    keeper = Keeper()
    return lambda number: keeper.keep(answering.completion.answers[number], wanted, asked.state_id)


StateKeeper = Callable[[int], str | UnsetType]


def chat_choice(number: int, text: AnswerText, end: Finished, tokenizer: Tokenizer | None) -> ChatChoice:
    """With logprobs if ``tokenizer`` is given."""
    calls = [ToolCallOut(call.id, "function", CalledFunction(call.name, call.arguments)) for call in text.tool_calls]
    return ChatChoice(
        index=number,
        message=ChatAnswer(
            role="assistant",
            content=None if calls and not text.content else text.content,
            refusal=None,
            annotations=[],
            reasoning_content=text.reasoning or None,
            tool_calls=calls or None,
        ),
        logprobs=chat_logprobs(text.tokens, tokenizer) if tokenizer else None,
        finish_reason=end.finish_reason,  # type: ignore[arg-type]
    )


class Chunks(api.StreamWriter):
    """The stream of a chat completion: the role first, then pieces, the finish reason, and the usage if requested."""

    head: dict[str, Any]
    answering: api.Answering
    choices: int
    has_usage: bool
    has_logprobs: bool
    has_progress: bool = False
    began_at: float = field(default_factory=time.monotonic)
    keep: StateKeeper = lambda number: UNSET
    counted: api.UsageSum = field(default_factory=api.UsageSum)
    calls: Counter[int] = field(default_factory=Counter)
    """How many calls each choice has made so far."""

    def __post_init__(self) -> None:
        self.counted.prompt = self.answering.completion.prompt_tokens

    def is_begun_by(self, event: AnswerEvent) -> bool:
        return super().is_begun_by(event) or (self.has_progress and progress_of(event, 0) is not None)

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
            choice = ChunkChoice(
                index=number,
                delta=ChatDelta(),
                finish_reason=event.finish_reason,  # type: ignore[arg-type]
                state_id=self.keep(number),
            )
            yield self._chunk(choice, timings=timings_of(event) if self.choices == 1 else None)
        elif self.has_progress and (read := progress_of(event, self.began_at)):
            yield self._chunk(ChunkChoice(index=number, delta=ChatDelta()), prompt_progress=read)

    def end(self) -> Iterator[bytes]:
        if self.has_usage:
            yield self._event([], usage_of(self.counted))
        yield api.DONE

    def _call_deltas(self, number: int, piece: CallDelta) -> Iterator[ToolCallDelta]:
        if piece.name:
            begun = FunctionDelta(name=piece.name, arguments="")
            yield ToolCallDelta(index=self.calls[number], id=piece.call_id, type="function", function=begun)
            self.calls[number] += 1
        if piece.arguments:
            more = FunctionDelta(arguments=piece.arguments)
            yield ToolCallDelta(index=self.calls[number] - 1, function=more)

    def _chunk(self, choice: ChunkChoice, **more: Any) -> bytes:
        return self._event([choice], None if self.has_usage else UNSET, **more)

    def _event(self, choices: list[ChunkChoice], usage: Usage | UnsetType | None, **more: Any) -> bytes:
        chunk = ChatChunk(**self.head, object="chat.completion.chunk", choices=choices, usage=usage, **more)
        return api.data_event(chunk)


def heading(prefix: str, model: str) -> dict[str, Any]:
    """The fields of :class:`~.answers.Heading`."""
    status = api.the_manager().status()
    made_of = f"{status.model_path}\n{status.strategy}\n{status.adapter}\n{status.state}"
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"fp_{hashlib.sha256(made_of.encode()).hexdigest()[:12]}",
    }


def usage_of(counted: api.UsageSum) -> Usage:
    return Usage(
        prompt_tokens=counted.prompt,
        completion_tokens=counted.completion,
        total_tokens=counted.prompt + counted.completion,
        prompt_tokens_details=PromptDetails(counted.cached),
        completion_tokens_details=CompletionDetails(counted.reasoning),
    )
