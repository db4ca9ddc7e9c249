"""One answer as Ollama's lines of JSON, for chat and generate alike."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flask import Response

from webapp.chat.events import AnswerEvent, CallDelta, ContentDelta, Finished, ReasoningDelta
from webapp.chat.messages import ToolCall
from webapp.services.generation.request import CompletionOrder
from webapp.web.api.answering import JSON_LINES, Answering, answer, begin, json_line, stream, whole_choices
from webapp.web.api.ollama.answers import Figures, timestamp
from webapp.web.api.ollama.request import OllamaRequest
from webapp.web.api.served_model import is_name_of, known_name, served_model, the_manager
from webapp.web.guard import require
from webapp.web.roles import Role

MakeLine = Callable[..., Figures]
"""``make(content, thinking, calls, **figures)`` -> the dialect's object."""
ZERO = re.compile(r"0(\.0+)?([a-zµ]+)?")


def respond(order: CompletionOrder, model: str, is_stream: bool, make: MakeLine) -> Response:
    answering = begin(order)
    lines = Lines(answering, model, make)
    if is_stream:
        return stream(answering, lines.write, json_line, media_type=JSON_LINES, comment=b"")
    [choice] = whole_choices(answering)
    return answer(lines.line(choice.content, choice.reasoning, choice.calls, **lines.figures(choice.end)))


def without_question(asked: OllamaRequest, make: MakeLine) -> Response:
    """To a request without anything to answer: it loads the model or, with ``keep_alive`` 0, unloads it."""
    if is_zero(asked.keep_alive):
        return unload(asked.model, make)
    model = served_model(asked.model)
    the_manager().load()
    return empty(model, make, "load")


def is_zero(keep_alive: Any) -> bool:
    """A number of seconds, or a duration such as "0s" or "5m"."""
    return keep_alive is not None and ZERO.fullmatch(str(keep_alive)) is not None


def unload(asked: str | None, make: MakeLine) -> Response:
    """Not for a name that belongs to another model than the one that is served."""
    require(Role.LOCAL)
    manager = the_manager()
    served = manager.status().model
    if not asked or is_name_of(asked, served) or known_name(manager, asked) is None:
        manager.unload()
    return empty(asked or served, make, "unload")


def empty(model: str, make: MakeLine, reason: str) -> Response:
    return answer(make("", "", (), model=model, created_at=timestamp(), done=True, done_reason=reason))


class Lines:
    def __init__(self, answering: Answering, model: str, make: MakeLine) -> None:
        self._record = answering.record
        self._model = model
        self._make = make
        self._began_at = time.monotonic()

    def write(self, _: int, event: AnswerEvent) -> Iterator[bytes]:
        if isinstance(event, ReasoningDelta):
            yield json_line(self.line("", event.text, (), done=False))
        elif isinstance(event, ContentDelta):
            yield json_line(self.line(event.text, "", (), done=False))
        elif isinstance(event, CallDelta):  # whole: Ollama's requests do not ask for pieces
            call = ToolCall(event.call_id, event.name, event.arguments)
            yield json_line(self.line("", "", (call,), done=False))
        elif isinstance(event, Finished):
            yield json_line(self.line("", "", (), **self.figures(event)))

    def line(self, content: str, thinking: str, calls: Sequence[ToolCall], **fields: Any) -> Figures:
        return self._make(content, thinking, calls, model=self._model, created_at=timestamp(), **fields)

    def figures(self, end: Finished) -> dict[str, Any]:
        total = time.monotonic() - self._began_at
        reading = min(self._record.first_token_s or total, total)
        return {
            "done": True,
            "done_reason": "length" if end.finish_reason == "length" else "stop",
            "total_duration": nanoseconds(total),
            "prompt_eval_count": end.usage.prompt,
            "prompt_eval_duration": nanoseconds(reading),
            "eval_count": end.usage.completion,
            "eval_duration": nanoseconds(total - reading),
        }


def nanoseconds(seconds: float) -> int:
    return max(1, int(seconds * 1e9))
