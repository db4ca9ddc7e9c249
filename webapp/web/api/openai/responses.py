"""OpenAI's Responses: ``POST /v1/responses``, stored responses, and ``/v1/responses/input_tokens``.

A response is a list of items: thinking, a message, calls. A stream reports each from its first piece to its end, and a
complete response is made from the same events. Unless ``store`` is false, responses are stored in the database for
``response_days`` (:class:`ResponseStore`). ``previous_response_id`` continues one with exactly its sampled tokens, so
that only the new part is prefilled, even after a restart; an ``item_reference`` stands for one of its items. A
conversation that began with a ``state_id`` stores it with its first message and continues from it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from flask import Response, current_app, g
from msgspec import UNSET, Struct, field
from msgspec.structs import replace

from webapp.chat.messages import AnswerEvent, CallDelta, ContentDelta, Finished, Message, ReasoningDelta, Role, ToolCall
from webapp.chat.prompts import SEPARATOR_INCLUDED
from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.services.generation.generation import Generation
from webapp.services.generation.request import AnswerRequest, ChatPrompt, Structure
from webapp.storage.database import Database
from webapp.storage.programs import ResponseStore
from webapp.tokenizer import Tokenizer
from webapp.web.api import answering as api
from webapp.web.api.openai.answers import TokenLogprobs, chat_logprobs
from webapp.web.api.openai.chat import EFFORTS, arguments_text, content_text
from webapp.web.api.openai.response_types import (
    CallItem,
    Deleted,
    IncompleteDetails,
    InputDetails,
    InputItem,
    InputRequest,
    InputTokens,
    ItemList,
    ItemQuery,
    MessageItem,
    OutputDetails,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    ResponseFailure,
    ResponseObject,
    ResponseQuery,
    ResponseRequest,
    ResponseUsage,
    Status,
)
from webapp.web.api.states import Keeper, continuing_from, the_handles

LOGPROBS = "message.output_text.logprobs"
PASSED_OVER = ("reasoning", "compaction", "additional_tools")
"""Items without content for a model: of earlier thinking, only the answer counts."""
STATE_ID = "state_id"
"""Key in the metadata of a conversation's first message: the state that it follows."""


def answer_request(asked: ResponseRequest) -> AnswerRequest:
    """Raises ``invalid_parameter`` or ``unsupported_parameter`` for errors that the types cannot detect."""
    if asked.background:
        raise RoostError("unsupported_parameter", param="background", reason=Text("reason.web.nothing_is_stored"))
    if asked.prompt is not None:
        raise RoostError("unsupported_parameter", param="prompt", reason=Text("reason.web.nothing_is_stored"))
    most = api.most_tokens(asked.max_output_tokens, "max_output_tokens")
    given = {"max_tokens": most, "logprobs": logprobs_of(asked)}
    return AnswerRequest(
        prompts=(prompt_of(asked),),
        sampling={**api.asked_sampling(asked, "openai"), **{name: n for name, n in given.items() if n is not None}},
        state=asked.state,
        prefix_id=asked.prefix_id,
        structure=structure_of(asked),
        streams_calls=True,
        is_kept=is_stored(asked) or bool(asked.return_state),
    )


def is_stored(asked: ResponseRequest) -> bool:
    return asked.store is not False and api.the_settings().response_days > 0


def logprobs_of(asked: ResponseRequest) -> int | None:
    """The number of alternatives; None if no logprobs are requested."""
    is_wanted = LOGPROBS in (asked.include or ()) or bool(asked.top_logprobs)
    return asked.top_logprobs or 0 if is_wanted else None


def structure_of(asked: InputRequest) -> Structure:
    """Converts the format to that of chat completions, where name and schema are one level deeper."""
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
    if asked.conversation is not None:
        raise RoostError("unsupported_parameter", param="conversation", reason=Text("reason.web.nothing_is_stored"))
    instructions = [Message(Role.SYSTEM, asked.instructions)] if asked.instructions else []
    effort = asked.reasoning.effort if asked.reasoning else None
    return ChatPrompt((*instructions, *conversation_of(asked)), EFFORTS[effort] if effort else None)


def state_before(asked: InputRequest, prompt: ChatPrompt) -> str | None:
    """The id of the state before the conversation: the requested one, or the one it began with."""
    if asked.state_id is None:
        return next((str(m.metadata[STATE_ID]) for m in prompt.messages if STATE_ID in m.metadata), None)
    if asked.previous_response_id is not None:
        raise RoostError("invalid_parameter", param="state_id", reason=Text("reason.api.state_id_alone"))
    return asked.state_id


def conversation_of(asked: InputRequest) -> list[Message]:
    """Without the instructions, which apply to one answer only."""
    before: list[Message] = []
    if asked.previous_response_id is not None:
        before = conversation_before(asked.previous_response_id, api.the_manager().tokenizer().name)
    if isinstance(asked.input, str):
        messages = [*before, Message(Role.USER, asked.input)] if asked.input else before
    else:
        messages = messages_of(asked.input, before)
    if len(messages) == len(before) or all(message.role is Role.SYSTEM for message in messages):
        raise RoostError("invalid_parameter", param="input", reason=Text("reason.common.is_empty"))
    return messages


def messages_of(items: list[InputItem], before: list[Message]) -> list[Message]:
    """``before`` and the items. Calls belong to the preceding assistant message; without one they form a separate
    message."""
    messages = list(before)
    called = {call.id for message in before for call in message.tool_calls}
    for number, item in enumerate(items):
        place = f"input[{number}]"
        if item.type == "item_reference":
            item = referred_item(needed(item, "id", place), place)
        if item.type == "message":
            messages.append(message_of(item, place))
        elif item.type == "function_call":
            call = ToolCall(needed(item, "call_id", place), needed(item, "name", place), arguments_text(item.arguments))
            called.add(call.id)
            said = messages.pop() if len(messages) > len(before) and messages[-1].role is Role.ASSISTANT else None
            calls = (*said.tool_calls, call) if said else (call,)
            messages.append(Message(Role.ASSISTANT, said.content if said else "", tool_calls=calls))
        elif item.type == "function_call_output":
            messages.append(result_of(item, called, place))
        elif item.type not in PASSED_OVER:
            names = "message, function_call, function_call_output, reasoning"
            reason = Text("reason.api.is_not_one_of", name=repr(item.type[:80]), names=names)
            raise RoostError("invalid_parameter", param=f"{place}.type", reason=reason)
    return messages


def message_of(item: InputItem, place: str) -> Message:
    role = needed(item, "role", place)
    text = api.text_of(needed(item, "content", place), f"{place}.content")
    return Message(Role.SYSTEM if role == "developer" else Role(role), text)


def result_of(item: InputItem, called: set[str], place: str) -> Message:
    call_id = needed(item, "call_id", place)
    if call_id not in called:
        reason = Text("reason.api.no_such_call", id=repr(call_id[:80]))
        raise RoostError("invalid_parameter", param=f"{place}.call_id", reason=reason)
    return Message(Role.TOOL, content_text(needed(item, "output", place), f"{place}.output"), tool_call_id=call_id)


def needed(item: InputItem, name: str, place: str) -> Any:
    """The field; raises ``invalid_parameter`` if this kind of item lacks it."""
    value = getattr(item, name)
    if value is None:
        raise RoostError("invalid_parameter", param=f"{place}.{name}", reason=Text("reason.common.is_missing"))
    return value


def kept_answers() -> ResponseStore:
    """The stored responses of the client."""
    database: Database = current_app.extensions["database"]
    return ResponseStore(database, api.the_settings().response_days, g.person.id)


def conversation_before(response_id: str, tokenizer: str) -> list[Message]:
    """Up to and including that answer. Sampled ids of another vocabulary are left out."""
    return [
        message if message.metadata.get("tokenizer") == tokenizer else replace(message, token_ids=())
        for message in kept_answers().messages(response_id, "previous_response_id")
    ]


def referred_item(item_id: str, place: str) -> InputItem:
    """An item of an earlier response, as if it were sent again."""
    found = kept_answers().item(item_id, f"{place}.id")
    if found["type"] == "function_call":
        names = ("id", "call_id", "name", "arguments")
        return InputItem(type="function_call", **{name: found[name] for name in names})
    if found["type"] == "reasoning":
        return InputItem(type="reasoning", id=item_id)
    return InputItem(role="assistant", id=item_id, content=found["content"][0]["text"])


def input_items(asked: InputRequest) -> list[dict[str, Any]]:
    """The request's own input for ``GET input_items``: every item with its id, every text as a part."""
    if isinstance(asked.input, str):
        given = [InputItem(role="user", content=asked.input)] if asked.input else []
    else:
        given = asked.input
    items = []
    for number, item in enumerate(given):
        if item.type == "item_reference" and item.id is not None:
            item = referred_item(item.id, f"input[{number}]")
        found = {name: value for name, value in msgspec.to_builtins(item).items() if value is not None}
        if isinstance(found.get("content"), str):
            kind = "output_text" if item.role == "assistant" else "input_text"
            found["content"] = [{"type": kind, "text": found["content"]}]
            if item.role == "assistant":
                found["content"][0]["annotations"] = []
        prefix = {"function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}.get(item.type, "msg")
        items.append({"status": "completed", **found, "id": item.id or new_id(prefix)})
    return items


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def create() -> Response:
    asked = api.read_body(ResponseRequest)
    wanted = answer_request(asked)
    model = api.served_model(asked.model)
    [asked_for] = wanted.prompts
    assert isinstance(asked_for, ChatPrompt)
    state_id = state_before(asked, asked_for)
    if state_id is not None:
        wanted = continuing_from(wanted, state_id)
    answering = api.begin(wanted)
    response = begun(asked, model, answering)
    has_logprobs = "logprobs" in wanted.sampling
    output = Output(response.output, answering.completion.tokenizer if has_logprobs else None)
    given = input_items(asked) if response.store else []
    manager, store, keeper = api.the_manager(), kept_answers(), Keeper()
    known = len(store.messages(asked.previous_response_id)) if asked.previous_response_id else 0
    first, *new = asked_for.messages[bool(asked.instructions) + known :]
    if asked.state_id is not None:
        first = replace(first, metadata={**first.metadata, STATE_ID: asked.state_id})

    def keep() -> None:
        generation = answering.completion.answers[0]
        if asked.return_state:
            response.state_id = keeper.keep(generation, wanted, state_id)
        if response.store:
            snapshots = output.end.stats.get("snapshots", ())
            body = msgspec.to_builtins(response)
            manager.forget_snapshots(store.keep(body, given, (first, *new, answer_message(generation)), snapshots))

    if asked.stream:
        return api.stream(answering, ResponseEvents(response, output, keep))
    for item_event in answering.events():
        for _ in output.take(item_event[1]) if item_event else ():
            pass
    ended(response, output.end)
    keep()
    return api.answer(response)


def show(name: str) -> Response:
    asked = api.read_query(ResponseQuery)
    body = kept_answers().body(name)
    if not asked.stream:
        return api.answer(body)
    events = replayed(api.converted(body, ResponseObject), -1 if (n := asked.starting_after) is None else n)
    return Response(events, content_type=api.SSE, headers=api.HEADERS)


def replayed(whole: ResponseObject, after: int) -> Iterator[bytes]:
    """The stream of a stored response, after that event number."""
    blank = msgspec.structs.replace(
        whole, status="in_progress", completed_at=None, incomplete_details=None, output=[], usage=None, state_id=UNSET
    )
    output = Output(blank.output)

    def events() -> Iterator[dict[str, Any]]:
        yield {"type": "response.created", "response": blank}
        yield {"type": "response.in_progress", "response": blank}
        yield from output.replay(whole.output)
        yield {"type": f"response.{whole.status}", "response": whole}

    for number, event in enumerate(events()):
        if number > after:
            yield api.named_event(event["type"], {**event, "sequence_number": number})
    yield api.DONE


def delete(name: str) -> Response:
    api.the_manager().forget_snapshots(kept_answers().delete(name))
    return api.answer(Deleted(name))


def list_input(name: str) -> Response:
    """Newest first by default, one page at a time, as at OpenAI."""
    asked = api.read_query(ItemQuery)
    items = kept_answers().items(name)
    items = items if asked.order == "asc" else items[::-1]
    if asked.after:
        ids = [item["id"] for item in items]
        if asked.after not in ids:
            raise RoostError("answer_not_found", id=asked.after[:80], param="after")
        items = items[ids.index(asked.after) + 1 :]
    page = items[: asked.limit]
    ids = [item["id"] for item in page]
    return api.answer(ItemList(page, ids[0] if ids else None, ids[-1] if ids else None, len(items) > len(page)))


def answer_message(generation: Generation) -> Message:
    """The answer for continuing: with its sampled ids, unless it contains thinking."""
    text, rendered = generation.text, generation.prompt.rendered
    token_ids, has_separator = text.kept_token_ids()
    is_plain = not (rendered.awaits_tag_end or rendered.starts_in_reasoning or text.reasoning)
    return Message(
        Role.ASSISTANT,
        text.content,
        tool_calls=text.tool_calls,
        token_ids=token_ids if is_plain else (),
        metadata={
            "tokenizer": text.tokenizer_name,
            **({SEPARATOR_INCLUDED: rendered.separator} if has_separator else {}),
        },
    )


def count_tokens() -> Response:
    asked = api.read_body(InputRequest)
    prompt = prompt_of(asked)
    api.served_model(asked.model)
    count = len(api.the_completions().prompt_token_ids(prompt, structure_of(asked)))
    if (state_id := state_before(asked, prompt)) is not None:
        count += len(the_handles().get(state_id, STATE_ID).token_ids)
    return api.answer(InputTokens(count))


def begun(asked: ResponseRequest, model: str, answering: api.Answering) -> ResponseObject:
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
        previous_response_id=asked.previous_response_id,
        store=is_stored(asked),
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


class Output(Struct):
    """The items of a response. ``tokenizer`` is given if logprobs are requested."""

    items: list[OutputItem]
    tokenizer: Tokenizer | None = None
    end: Finished = field(default_factory=lambda: Finished("abort"))
    _pieces: list[str] = field(default_factory=list)
    _logprobs: list[TokenLogprobs] = field(default_factory=list)

    def take(self, event: AnswerEvent) -> Iterator[dict[str, Any]]:
        """Adds the event to the items, and yields the stream events for it."""
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

    def replay(self, items: list[OutputItem]) -> Iterator[dict[str, Any]]:
        """The stream events of existing items, each text as one piece."""
        for item in items:
            if isinstance(item, CallItem):
                yield from self._begin(msgspec.structs.replace(item, status="in_progress", arguments=""))
                yield self._delta("response.function_call_arguments.delta", item.arguments)
                continue
            [part] = item.content
            empty: Any = [OutputText(text="")] if isinstance(part, OutputText) else [ReasoningText("")]
            yield from self._begin(msgspec.structs.replace(item, status="in_progress", content=empty))
            if isinstance(part, OutputText):
                self._logprobs = part.logprobs
                yield self._delta("response.output_text.delta", part.text, content_index=0, logprobs=part.logprobs)
            else:
                yield self._delta("response.reasoning_text.delta", part.text, content_index=0)
        if items:
            yield from self._finish(items[-1].status)

    def _open(self, kind: type[OutputItem]) -> OutputItem | None:
        """The last item if it is of this kind."""
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


class ResponseEvents(api.StreamWriter):
    """The stream of a response: its head, its items from start to end, and finally the complete response."""

    response: ResponseObject
    output: Output
    keep: Callable[[], None]
    sequence_number: int = 0

    def begin(self) -> Iterator[bytes]:
        yield self._numbered({"type": "response.created", "response": self.response})
        yield self._numbered({"type": "response.in_progress", "response": self.response})

    def write(self, _: int, event: AnswerEvent) -> Iterator[bytes]:
        for item_event in self.output.take(event):
            yield self._numbered(item_event)

    def end(self) -> Iterator[bytes]:
        response = ended(self.response, self.output.end)
        self.keep()
        yield self._numbered({"type": f"response.{response.status}", "response": response})
        yield api.DONE

    def error(self, body: dict[str, Any]) -> bytes:
        """In both forms that clients look for."""
        found = body["error"]
        self.response.status = "failed"
        self.response.error = ResponseFailure("server_error", found["message"])
        words = {name: found[name] for name in ("code", "message", "param")}
        item_event = self._numbered({"type": "error", **words})
        return item_event + self._numbered({"type": "response.failed", "response": self.response})

    def _numbered(self, event: dict[str, Any]) -> bytes:
        numbered = {**event, "sequence_number": self.sequence_number}
        self.sequence_number += 1
        return api.named_event(event["type"], numbered)
