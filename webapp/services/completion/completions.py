"""Answers for programs: nothing is stored, every choice is a sequence of the engine's.

The events of :class:`Completion` are the same whether an API streams them or adds them up, so both give the same text.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

from webapp.engine.outputs import FinishReason, GenerationRequest, PrefillProgress, SequenceStats, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import ModelUnloaded, RoostError, error_from_dict
from webapp.manager.handles import LoadingEvent, QueuePosition
from webapp.services.completion.choice_text import ChoiceText
from webapp.services.completion.defaults import CompletionDefaults
from webapp.services.completion.events import (
    ChoiceDelta,
    ChoiceFinished,
    ChoiceUsage,
    ChoiceWaiting,
    CompletionEvent,
)
from webapp.services.completion.order import CompletionOrder
from webapp.services.completion.prompt import PreparedPrompt, prepare_prompt
from webapp.services.completion.structure import constraint_of
from webapp.tokenizer import Tokenizer
from webapp.weights.inspection import Inspection

ABORT_GRACE_S = 5.0
"""How long an engine may take to confirm the end of an answer whose stop the text has shown."""


class Manager(Protocol):
    """What is needed of :class:`webapp.manager.model_manager.ModelManager`."""

    def tokenizer(self) -> Tokenizer: ...

    def model_info(self) -> Inspection: ...

    def submit(
        self, request: GenerationRequest, made_for: Inspection | None = None, state: str | None = None
    ) -> Any: ...


class Completions:
    """``defaults`` fill in what a request leaves open."""

    def __init__(self, manager: Manager, defaults: CompletionDefaults) -> None:
        self._manager = manager
        self.defaults = defaults

    def start(self, order: CompletionOrder) -> Completion:
        """Queues the first choice of every prompt. Raises what is wrong with the order, and what submit raises."""
        info = self._manager.model_info()  # first: submit refuses what was made for a model chosen before
        tokenizer = self._manager.tokenizer()
        prompts = [prepare_prompt(p, self.defaults, info, tokenizer, order.structure) for p in order.prompts]
        params = self.defaults.sampling(order.sampling, info.parameters)
        stops = self.defaults.stop if order.stop is None else order.stop
        choices: list[Choice] = []
        for place, prompt in enumerate(prompts):
            constraint = constraint_of(order.structure, prompt.rendered)
            for number in range(order.choices):
                request = _request(prompt, params, number, order.client, constraint)
                text = ChoiceText(prompt.rendered, tokenizer, stops, order.streams_calls)
                choices.append(Choice(len(choices), place, request, text))
        return Completion(self._manager, info, tokenizer, prompts, choices, order.state)


def _request(
    prompt: PreparedPrompt, params: SamplingParams, number: int, client: str, constraint: dict[str, Any] | None
) -> GenerationRequest:
    """The ``number``-th answer to a prompt; with a seed, each has its own."""
    seed = None if params.seed is None else params.seed + number
    sequences = (*params.stop_token_sequences, *prompt.stop_sequences)
    params = replace(params, seed=seed, stop_token_sequences=sequences)
    return GenerationRequest(
        uuid.uuid4().hex, prompt.token_ids, params, prompt.boundaries, client, constraint=constraint
    )


class Choice:
    """One answer on its way."""

    def __init__(self, number: int, prompt: int, request: GenerationRequest, text: ChoiceText) -> None:
        self.number = number
        self.prompt = prompt
        self.request = request
        self.text = text
        self.handle: Any = None
        self.is_finished = False
        self.stopped_at: float | None = None


class Completion:
    """Its events come in one thread, from :meth:`events`; :meth:`close` may come from any, at any time, twice.

    Answers to one prompt begin when the first of them writes: by then its reading of the prompt is theirs too.
    """

    def __init__(
        self,
        manager: Manager,
        info: Inspection,
        tokenizer: Tokenizer,
        prompts: list[PreparedPrompt],
        choices: list[Choice],
        state: str | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.prompts = prompts
        self._manager = manager
        self._info = info
        self._state = state
        self._choices = choices
        self._wake = threading.Event()
        self._is_closed = False
        self._later = {prompt: [c for c in choices if c.prompt == prompt][1:] for prompt in range(len(prompts))}
        held = {id(choice) for later in self._later.values() for choice in later}
        self._submit([choice for choice in choices if id(choice) not in held])

    @property
    def model(self) -> str:
        """The name of the model that answers."""
        return str(self._choices[0].handle.service.model) if self._choices else ""

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt.token_ids) for prompt in self.prompts)

    def events(self, poll_s: float) -> Iterator[CompletionEvent | None]:
        """Until every choice is finished; None after ``poll_s`` without news. Raises what broke a choice, and ends the
        others then."""
        try:
            while not all(choice.is_finished for choice in self._choices):
                self._wake.clear()
                news = [event for choice in self._choices for event in self._news(choice)]
                yield from news
                if not news and not self._wake.wait(poll_s):
                    yield None
        finally:
            self.close()

    def close(self) -> None:
        """Ends what is still being written; its slots are free at once."""
        self._is_closed = True
        for choice in self._choices:
            if choice.handle is not None and not choice.is_finished:
                choice.handle.abort()

    def _submit(self, choices: list[Choice]) -> None:
        try:
            for choice in choices:
                choice.handle = self._manager.submit(choice.request, self._info, self._state)
                choice.handle.listen(self._wake.set)
        except BaseException:
            self.close()
            raise

    def _news(self, choice: Choice) -> Iterator[CompletionEvent]:
        while choice.handle is not None and not choice.is_finished:
            event = choice.handle.next_event(0)
            if isinstance(event, TokenOutput):
                self._begin_later(choice.prompt)
                yield from self._take(choice, event)
            elif event is None:
                if choice.stopped_at is not None and time.monotonic() > choice.stopped_at + ABORT_GRACE_S:
                    yield from self._finish(choice, FinishReason.STOP, None)
                return
            elif choice.stopped_at is None:
                waiting = _waiting(choice.number, event)
                if waiting is not None:
                    yield waiting

    def _begin_later(self, prompt: int) -> None:
        later = self._later.pop(prompt, [])
        if later and not self._is_closed:
            self._submit(later)

    def _take(self, choice: Choice, output: TokenOutput) -> Iterator[CompletionEvent]:
        logprobs = output.logprobs or ((),) * len(output.token_ids)
        for token_id, found in zip(output.token_ids, logprobs, strict=True):
            piece = choice.text.feed(token_id, found)
            if piece:
                yield ChoiceDelta(choice.number, piece)
        if output.error is not None:
            raise error_from_dict(output.error)
        if output.finish_reason is not None:
            yield from self._finish(choice, output.finish_reason, output.stats)
        elif choice.text.is_stopped and choice.stopped_at is None:
            choice.stopped_at = time.monotonic()
            choice.handle.abort()

    def _finish(self, choice: Choice, reason: FinishReason, stats: SequenceStats | None) -> Iterator[CompletionEvent]:
        text = choice.text
        choice.is_finished = True
        if reason is FinishReason.ABORT and not text.is_stopped:
            if self._is_closed:  # nobody reads on
                return
            raise ModelUnloaded()
        if reason is FinishReason.ERROR:
            raise RoostError(reason="the engine gave no reason")
        is_stop = text.is_stopped or reason is FinishReason.STOP
        piece = text.finish(is_cut=not is_stop)
        if piece:
            yield ChoiceDelta(choice.number, piece)
        decoded = text.fed if text.is_stopped or stats is None else stats.decoded_tokens
        cached = stats.cached_tokens if stats else 0
        usage = ChoiceUsage(len(choice.request.prompt_token_ids), decoded, cached, text.thought)
        ending = "length" if not is_stop else "tool_calls" if text.has_called else "stop"
        yield ChoiceFinished(choice.number, ending, usage, text.stopped_by or "")


def _waiting(choice: int, event: object) -> ChoiceWaiting | None:
    if isinstance(event, LoadingEvent):
        return ChoiceWaiting(choice, "loading", event.done_bytes, event.total_bytes)
    if isinstance(event, QueuePosition):
        return ChoiceWaiting(choice, "queued", event.ahead)
    if isinstance(event, PrefillProgress):
        return ChoiceWaiting(choice, "reading", event.done, event.total)
    return None
