"""Writing one answer: the work of a turn's thread, from the stored question to the stored answer."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import asdict, replace
from typing import Any, Protocol

from webapp.chat.events import ContentDelta, ReasoningDelta, TurnFailed, TurnFinished, TurnStarted, TurnWaiting
from webapp.chat.messages import Message, Role, ThinkMode
from webapp.chat.prompt_rendering import SEPARATOR_INCLUDED
from webapp.engine.outputs import FinishReason, GenerationRequest, PrefillProgress, TokenOutput
from webapp.errors import RoostError, as_roost_error
from webapp.manager.handles import LoadingEvent, QueuePosition
from webapp.services.chat.answer_text import AnswerPiece, AnswerText
from webapp.services.chat.live_turn import LiveTurn
from webapp.services.chat.prompt_encoding import EncodedPrompt
from webapp.services.chat.turn_prompt import TurnPrompt, TurnPrompts
from webapp.services.presets import loading
from webapp.services.presets.presets import Presets
from webapp.storage.chats import ChatStore
from webapp.tokenizer import Tokenizer
from webapp.weights.inspection import Inspection

POLL_S = 1.0
ABORT_GRACE_S = 5.0
"""How long an engine may take to confirm an abort before the turn ends without it."""
WAITING_INTERVAL_S = 0.2

log = logging.getLogger(__name__)


class Handle(Protocol):
    def next_event(self, timeout_s: float) -> object | None: ...

    def abort(self) -> None: ...


class Manager(loading.Manager, Protocol):
    """What a turn needs of :class:`webapp.manager.model_manager.ModelManager`."""

    def tokenizer(self) -> Tokenizer: ...

    def submit(
        self, request: GenerationRequest, made_for: Inspection | None = None, state: str | None = None
    ) -> Handle: ...


class TurnWriter:
    """One answer. Whatever goes wrong becomes a TurnFailed and is stored with what was written."""

    def __init__(
        self, manager: Manager, store: ChatStore, presets: Presets, live: LiveTurn, client: str, continues: bool
    ) -> None:
        self._manager = manager
        self._store = store
        self._presets = presets
        self._live = live
        self._client = client
        self._continues = continues
        self._message = Message(Role.ASSISTANT, "")
        self._answer: AnswerText | None = None
        self._stats: dict[str, Any] = {}
        self._model = ""
        self._started_at = time.monotonic()
        self._waiting_since = ("", 0.0)

    def run(self) -> None:
        self._live.emit([TurnStarted(self._live.chat_id, self._live.message_id)])
        try:
            self._message = self._store.message(self._live.message_id).message
            self._end(self._generate())
        except Exception as exc:
            self.fail(exc)

    def fail(self, exc: Exception) -> None:
        """Ends the turn with what is written so far."""
        error = as_roost_error(exc)
        if error is not exc:
            log.error("a turn failed", exc_info=exc)
        self._fail(error.to_dict())

    def _generate(self) -> TokenOutput:
        prompt = self._prompt()
        self._answer = AnswerText(prompt.rendered, prompt.tokenizer)
        if self._continues:
            self._replay(self._answer, prompt.encoded)
        handle = self._manager.submit(self._request(prompt), prompt.made_for, prompt.state)
        self._live.on_stop(handle.abort)
        try:
            return self._read(handle, self._answer)
        except BaseException:  # a full disk, say: nobody reads what the engine would write on
            handle.abort()
            raise

    def _prompt(self) -> TurnPrompt:
        prompts = TurnPrompts(self._manager, self._store, self._presets, self._live.chat_id)
        if not self._continues:
            self._message = replace(self._message, think_mode=prompts.think_mode)
        return prompts.prompt(self._live.message_id, self._continues)

    def _replay(self, answer: AnswerText, encoded: EncodedPrompt) -> None:
        """Puts router and log where the answer broke off; what they hold back is written again with what follows."""
        self._live.emit(answer.feed(encoded.beginning))
        if not self._message.token_ids:  # known as text alone: its ids hold the opening too
            self._message = replace(self._message, think_mode=ThinkMode.NONE)
        self._store.reopen_message(self._live.message_id, self._written())

    def _request(self, prompt: TurnPrompt) -> GenerationRequest:
        status = self._manager.status()
        self._model = status.model
        sampling = {k: v for k, v in prompt.params.to_dict().items() if not k.startswith("stop_") and v != {}}
        state = status.state if prompt.state is None else prompt.state
        self._stats = {"strategy": status.strategy, "state": state, "sampling": sampling, "preset": prompt.preset}
        return GenerationRequest(
            request_id=uuid.uuid4().hex,
            prompt_token_ids=prompt.encoded.token_ids,
            params=prompt.params,
            boundaries=prompt.encoded.boundaries,
            client=self._client,
            constraint=prompt.constraint,
        )

    def _read(self, handle: Handle, answer: AnswerText) -> TokenOutput:
        """Until the last output, or until an abort has gone unanswered for too long."""
        deadline: float | None = None
        while deadline is None or time.monotonic() < deadline:
            event = handle.next_event(POLL_S)
            if isinstance(event, TokenOutput):
                self._take(event, answer)
                if event.finish_reason is not None:
                    return event
                if answer.is_stopped and deadline is None:
                    handle.abort()
            elif event is not None:
                self._wait(_waiting(event))
            if deadline is None and (answer.is_stopped or self._live.is_stopping):
                deadline = time.monotonic() + ABORT_GRACE_S
        return TokenOutput("", finish_reason=FinishReason.ABORT)

    def _take(self, output: TokenOutput, answer: AnswerText) -> None:
        """Stored first, shown then: nobody sees a word that a crash could take back."""
        if not output.token_ids or answer.is_stopped:
            return
        deltas = answer.feed(output.token_ids)
        content, reasoning = _texts(deltas)
        self._store.append_tokens(self._live.message_id, content, reasoning, output.token_ids)
        self._live.emit(deltas)
        if answer.is_calling:
            self._wait(TurnWaiting("calling"))

    def _wait(self, waiting: TurnWaiting | None) -> None:
        phase, since = self._waiting_since
        now = time.monotonic()
        if waiting is not None and (waiting.phase != phase or now - since >= WAITING_INTERVAL_S):
            self._waiting_since = (waiting.phase, now)
            self._live.emit([waiting])

    def _end(self, output: TokenOutput) -> None:
        if output.stats is not None:
            self._stats |= asdict(output.stats) | {"tokens_per_s": output.stats.tokens_per_s}
            self._model = self._model or self._manager.status().model
        if output.error is not None or output.finish_reason is FinishReason.ERROR:
            self._fail(output.error or RoostError(reason="the engine gave no reason").to_dict())
            return
        status, reason = self._outcome(output.finish_reason)
        self._store_answer(status, reason, is_cut=reason in ("length", "abort"), error=None)
        self._live.finish(TurnFinished(self._live.message_id, reason, self._stats))

    def _outcome(self, reason: FinishReason | None) -> tuple[str, str]:
        if self._answer is not None and self._answer.is_stopped:
            reason = FinishReason.STOP
        if reason is FinishReason.ABORT:
            return "interrupted" if self._live.is_closing else "stopped", reason.value
        if reason is not FinishReason.LENGTH and self._answer is not None and self._answer.tool_calls:
            return "complete", FinishReason.TOOL_CALLS.value
        return "complete", (reason or FinishReason.STOP).value

    def _fail(self, error: dict[str, Any]) -> None:
        try:
            self._store_answer("failed", FinishReason.ERROR.value, is_cut=True, error=error)
        except Exception:  # the viewers must hear of the end whatever it is
            log.exception("a failed answer could not be stored")
        self._live.finish(TurnFailed(self._live.message_id, error))

    def _store_answer(self, status: str, reason: str, is_cut: bool, error: dict[str, Any] | None) -> None:
        if self._answer is not None:
            self._live.emit(self._answer.finish(is_cut))
        self._stats["total_s"] = time.monotonic() - self._started_at
        self._store.finish_message(
            self._live.message_id, self._written(), status, reason, self._stats, error, self._model
        )

    def _written(self) -> Message:
        """The message as it is now; untouched while nothing could be written."""
        answer = self._answer
        if answer is None:
            return self._message
        token_ids, has_separator = answer.kept_token_ids()
        metadata = {**self._message.metadata, "tokenizer": answer.tokenizer_name}
        metadata.pop(SEPARATOR_INCLUDED, None)
        if has_separator:
            metadata[SEPARATOR_INCLUDED] = True
        return replace(
            self._message,
            content=answer.content,
            reasoning=answer.reasoning,
            tool_calls=tuple(answer.tool_calls),
            token_ids=token_ids,
            metadata=metadata,
        )


def _texts(pieces: list[AnswerPiece]) -> tuple[str, str]:
    content = "".join(piece.text for piece in pieces if isinstance(piece, ContentDelta))
    reasoning = "".join(piece.text for piece in pieces if isinstance(piece, ReasoningDelta))
    return content, reasoning


def _waiting(event: object) -> TurnWaiting | None:
    if isinstance(event, LoadingEvent):
        return TurnWaiting("loading", event.done_bytes, event.total_bytes)
    if isinstance(event, QueuePosition):
        return TurnWaiting("queued", event.ahead)
    if isinstance(event, PrefillProgress):
        return TurnWaiting("reading", event.done, event.total)
    return None
