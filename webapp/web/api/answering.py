"""From an order to its events, for as long as the client is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from flask import current_app, g, request

from webapp.chat.messages import ToolCall
from webapp.errors import ParameterInvalid
from webapp.services.completion.completions import Completion, Completions
from webapp.services.completion.events import (
    AnswerToken,
    CallPiece,
    ChoiceDelta,
    ChoiceFinished,
    ChoiceUsage,
    CompletionEvent,
)
from webapp.services.completion.order import CompletionOrder
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

    def events(self) -> Iterator[CompletionEvent | None]:
        """None now and then while nothing happens."""
        try:
            for event in self.completion.events(POLL_S):
                if self._is_gone():
                    self.record.is_gone = True
                    raise ClientGone
                if event is not None:
                    self._note(event)
                yield event
        finally:
            self.close()

    def close(self) -> None:
        self.completion.close()

    def _note(self, event: CompletionEvent) -> None:
        if isinstance(event, ChoiceDelta):
            self.record.note_token()
        elif isinstance(event, ChoiceFinished):
            self.record.completion_tokens += event.usage.completion
            self.record.cached_tokens += event.usage.cached
            self.record.finish_reasons.append(event.reason)


@dataclass
class WholeChoice:
    """One answer added up. ``call_pieces`` in the order in which they came."""

    content: str = ""
    reasoning: str = ""
    tokens: list[AnswerToken] = field(default_factory=list)
    call_pieces: list[CallPiece] = field(default_factory=list)
    reason: str = ""
    stop: str = ""
    usage: ChoiceUsage = field(default_factory=ChoiceUsage)

    @property
    def calls(self) -> list[ToolCall]:
        return joined_calls(self.call_pieces)


def joined_calls(pieces: Iterable[CallPiece]) -> list[ToolCall]:
    """The calls of an answer, or of a part of it in which they are whole."""
    names: dict[str, str] = {}
    texts: dict[str, list[str]] = {}
    for piece in pieces:
        names.setdefault(piece.call_id, piece.name)
        texts.setdefault(piece.call_id, []).append(piece.arguments)
    return [ToolCall(call_id, name, "".join(texts[call_id])) for call_id, name in names.items()]


def whole_choices(answering: Answering) -> list[WholeChoice]:
    """All choices of the completion, in order. Raises what broke one of them."""
    found: dict[int, WholeChoice] = {}
    for event in answering.events():
        if isinstance(event, ChoiceDelta):
            choice = found.setdefault(event.choice, WholeChoice())
            choice.content += event.piece.content
            choice.reasoning += event.piece.reasoning
            choice.tokens += event.piece.tokens
            choice.call_pieces += event.piece.calls
        elif isinstance(event, ChoiceFinished):
            choice = found.setdefault(event.choice, WholeChoice())
            choice.reason, choice.stop, choice.usage = event.reason, event.stop, event.usage
    return [found[number] for number in sorted(found)]


class UsageSum:
    """Tokens of several choices; a prompt counts once, however many answers it got."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt = prompt_tokens
        self.completion = self.cached = self.reasoning = 0

    def add(self, usage: ChoiceUsage) -> None:
        self.completion += usage.completion
        self.reasoning += usage.reasoning
        self.cached = min(self.prompt, self.cached + usage.cached)
