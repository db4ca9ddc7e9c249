"""From an order to its events, for as long as the client is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from flask import current_app, g, request

from webapp.chat.events import AnswerEvent, AnswerToken, Finished, Usage, Waiting
from webapp.chat.messages import ToolCall
from webapp.errors import ParameterInvalid
from webapp.services.generation.completions import Completion, Completions
from webapp.services.generation.request import CompletionOrder
from webapp.settings import Settings
from webapp.web.api.record import Record

POLL_S = 0.05
"""How soon a client that left while nothing is written is noticed."""
DISCONNECTED = "waitress.client_disconnected"


class ClientGone(Exception):
    """Nobody reads the answer any more."""


def the_settings() -> Settings:
    settings: Settings = current_app.extensions["settings"]
    return settings


def the_completions() -> Completions:
    completions: Completions = current_app.extensions["completions"]
    return completions


def the_record() -> Record:
    record: Record = g.api_record
    return record


def client_name() -> str:
    """Who asks, for fairness: programs at one address share, and do not share with its pages."""
    return f"api {request.remote_addr or ''}"


def begin(order: CompletionOrder) -> Answering:
    """Queues the order; raises what is wrong with it."""
    asked, most = len(order.prompts) * order.choices, the_settings().api_max_choices
    if asked > most:
        raise ParameterInvalid(param="n", reason=f"{asked} answers are asked for at once; the limit is {most}")
    is_gone = request.environ.get(DISCONNECTED, lambda: False)
    return Answering(the_completions().start(order), is_gone, the_record())


class Answering:
    """The events of a completion, each noted in the call's record. ClientGone ends them, and the completion."""

    def __init__(self, completion: Completion, is_gone: Callable[[], bool], record: Record) -> None:
        self.completion = completion
        self.record = record
        self._is_gone = is_gone
        record.prompt_tokens = completion.prompt_tokens

    def events(self) -> Iterator[tuple[int, AnswerEvent] | None]:
        """(number of the answer, event); None now and then while nothing happens."""
        try:
            for event in self.completion.events(POLL_S):
                if self._is_gone():
                    self.record.is_gone = True
                    raise ClientGone
                if event is not None:
                    self._note(event[1])
                yield event
        finally:
            self.close()

    def close(self) -> None:
        self.completion.close()

    def _note(self, event: AnswerEvent) -> None:
        if isinstance(event, Finished):
            self.record.completion_tokens += event.usage.completion
            self.record.cached_tokens += event.usage.cached
            self.record.finish_reasons.append(event.finish_reason)
        elif not isinstance(event, Waiting):
            self.record.note_token()


@dataclass(frozen=True)
class WholeChoice:
    """One answer, complete."""

    content: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    tokens: Sequence[AnswerToken]
    end: Finished


def whole_choices(answering: Answering) -> list[WholeChoice]:
    """All answers of the completion, in order. Raises what broke one of them."""
    for _ in answering.events():
        pass
    found = [(answer.text, answer.end) for answer in answering.completion.answers]
    return [
        WholeChoice(text.content, text.reasoning, text.tool_calls, text.tokens, end)
        for text, end in found
        if isinstance(end, Finished)
    ]


class UsageSum:
    """Tokens of several choices; a prompt counts once, however many answers it got."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt = prompt_tokens
        self.completion = self.cached = self.reasoning = 0

    def add(self, usage: Usage) -> None:
        self.completion += usage.completion
        self.reasoning += usage.reasoning
        self.cached = min(self.prompt, self.cached + usage.cached)
