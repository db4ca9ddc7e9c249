"""``POST /v1/messages`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import Response

from webapp.chat.events import AnswerEvent, CallDelta, ContentDelta, Finished, ReasoningDelta, Usage
from webapp.web.api.answering import (
    Answering,
    answer,
    begin,
    client_name,
    named_event,
    stream,
    the_completions,
    whole_choices,
)
from webapp.web.api.anthropic.answers import (
    MessageAnswer,
    MessageUsage,
    StopReason,
    TextOut,
    ThinkingOut,
    TokenCount,
    ToolUseOut,
)
from webapp.web.api.anthropic.request import CountRequest, MessageRequest, order_of, prompt_of, structure_of
from webapp.web.api.body import read_body
from webapp.web.api.call_arguments import read_arguments
from webapp.web.api.served_model import served_model

OutBlock = TextOut | ThinkingOut | ToolUseOut
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


def create() -> Response:
    asked = read_body(MessageRequest)
    order = order_of(asked, client_name())
    model = served_model(asked.model)
    answering = begin(order)
    if not asked.stream:
        return answer(whole(answering, model))
    blocks = Blocks(model, answering.completion.prompt_tokens)
    return stream(answering, blocks.write, error_event, blocks.begin, blocks.end, comment=PING)


def count_tokens() -> Response:
    asked = read_body(CountRequest)
    prompt = prompt_of(asked)
    served_model(asked.model)
    return answer(TokenCount(len(the_completions().prompt_token_ids(prompt, structure_of(asked)))))


def whole(answering: Answering, model: str) -> MessageAnswer:
    [choice] = whole_choices(answering)
    content: list[OutBlock] = [ThinkingOut(choice.reasoning)] if choice.reasoning else []
    if choice.content or not (content or choice.calls):
        content.append(TextOut(choice.content))
    content += [ToolUseOut(call.id, call.name, read_arguments(call.arguments)) for call in choice.calls]
    return message_of(model, content, usage_of(choice.end.usage), reason_of(choice.end), choice.end.stop)


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
    )


def reason_of(end: Finished) -> StopReason:
    if end.stop:
        return "stop_sequence"
    if end.finish_reason == "tool_calls":
        return "tool_use"
    return "max_tokens" if end.finish_reason == "length" else "end_turn"


def error_event(body: dict[str, Any]) -> bytes:
    return named_event("error", body)


@dataclass
class Blocks:
    """The stream of a message: its head, each block from start to stop, its end. Thinking, text, then calls."""

    model: str
    prompt_tokens: int
    index: int = -1
    kind: str = ""

    def begin(self) -> Iterator[bytes]:
        usage = MessageUsage(input_tokens=self.prompt_tokens, output_tokens=0)
        yield named_event(
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
        return named_event(name, {"type": name, **fields})
