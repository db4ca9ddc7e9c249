"""One answer as Ollama's lines of JSON, for chat and generate alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flask import Response

from webapp.chat.messages import ToolCall
from webapp.services.completion.events import ChoiceDelta, ChoiceFinished, ChoiceUsage, CompletionEvent
from webapp.services.completion.order import CompletionOrder
from webapp.web.api.answering import Answering, begin, joined_calls, whole_choices
from webapp.web.api.ollama.answers import Figures, timestamp
from webapp.web.api.streaming import JSON_LINES, answer, json_line, stream

MakeLine = Callable[..., Figures]
"""``make(content, thinking, calls, **figures)`` -> the dialect's object."""


def respond(order: CompletionOrder, model: str, is_stream: bool, make: MakeLine) -> Response:
    answering = begin(order)
    lines = Lines(answering, model, make)
    if is_stream:
        return stream(answering, lines.write, json_line, media_type=JSON_LINES, comment=b"")
    [choice] = whole_choices(answering)
    return answer(
        lines.line(choice.content, choice.reasoning, choice.calls, **lines.figures(choice.reason, choice.usage))
    )


def empty(model: str, make: MakeLine, reason: str) -> Response:
    """To a request without anything to answer, which in Ollama loads (or unloads) the model."""
    return answer(make("", "", (), model=model, created_at=timestamp(), done=True, done_reason=reason))


class Lines:
    def __init__(self, answering: Answering, model: str, make: MakeLine) -> None:
        self._record = answering.record
        self._model = model
        self._make = make
        self._began_at = time.monotonic()

    def write(self, event: CompletionEvent) -> Iterator[bytes]:
        if isinstance(event, ChoiceDelta) and event.piece:
            piece = event.piece
            yield json_line(self.line(piece.content, piece.reasoning, joined_calls(piece.calls), done=False))
        elif isinstance(event, ChoiceFinished):
            yield json_line(self.line("", "", (), **self.figures(event.reason, event.usage)))

    def line(self, content: str, thinking: str, calls: Sequence[ToolCall], **fields: Any) -> Figures:
        return self._make(content, thinking, calls, model=self._model, created_at=timestamp(), **fields)

    def figures(self, reason: str, usage: ChoiceUsage) -> dict[str, Any]:
        total = time.monotonic() - self._began_at
        reading = min(self._record.first_token_s or total, total)
        return {
            "done": True,
            "done_reason": "length" if reason == "length" else "stop",
            "total_duration": nanoseconds(total),
            "prompt_eval_count": usage.prompt,
            "prompt_eval_duration": nanoseconds(reading),
            "eval_count": usage.completion,
            "eval_duration": nanoseconds(total - reading),
        }


def nanoseconds(seconds: float) -> int:
    return max(1, int(seconds * 1e9))
