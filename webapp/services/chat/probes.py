"""Questions to the model about a stored chat, to which nothing is added: the tokens of an answer with their
probabilities and the alternatives to them; an answer generated again, to compare it; a title, follow-up questions or a
summary; the chat's current state.

Each starts from the nearest snapshot of the chat, so little is prefilled. An answer stores the ids that were sampled,
so nothing is guessed: the model prefills the prompt and these ids again and returns probabilities (temperature 1,
before penalties and grammar). The state before an inspected token is kept, so a new version from there needs no
prefill.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from webapp.chat.messages import Message, Role, ThinkMode, title_of
from webapp.engine.outputs import TokenLogprob
from webapp.engine.sampling_params import SamplingParams
from webapp.engine.state import RecurrentState, Snapshot
from webapp.errors import RequestError, RoostError, as_roost_error
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.services.chat.turn_writer import as_asked, prompt_of_path
from webapp.services.generation.completions import END_OF_TEXT
from webapp.services.generation.generation import Generation
from webapp.services.generation.request import PreparedPrompt, PromptModel, digest_of
from webapp.services.generation.structure import call_constraint
from webapp.services.presets.presets import Presets
from webapp.storage.chats import ChatStore
from webapp.storage.records import StoredMessage
from webapp.tokenizer import Tokenizer

WINDOW = 256
"""Tokens scored at a time. A long answer has snapshots at the same distance."""
MAX_ALTERNATIVES = 8


class AnswerToken(Struct, frozen=True):
    """``text``: U+FFFD replaces bytes that are not a complete character. ``probability``: from 0 to 1."""

    token_id: int
    text: str
    probability: float

    @classmethod
    def of(cls, found: TokenLogprob, tokenizer: Tokenizer) -> AnswerToken:
        data = tokenizer.token_bytes(found.token_id) or b""
        return cls(found.token_id, data.decode("utf-8", "replace"), math.exp(found.logprob))


class TokenWindow(Struct, frozen=True):
    """The tokens of an answer from ``start`` on, of ``total``."""

    start: int
    total: int
    tokens: tuple[AnswerToken, ...]


class AnswerTokens:
    """All methods raise ``answer_without_tokens`` or ``answer_of_another_model`` if the answer's tokens are unknown or
    belong to another model, and errors of the prefill."""

    def __init__(self, manager: ModelManager, store: ChatStore, presets: Presets) -> None:
        self._manager = manager
        self._store = store
        self._presets = presets

    def window(self, message_id: str, start: int = 0) -> TokenWindow:
        stored, model = self._readable(message_id)
        ids = stored.message.token_ids
        start = max(0, min(start, len(ids) - 1))
        found = self._scores(stored, model, ids[start : start + WINDOW], start, 0)
        return TokenWindow(start, len(ids), tuple(AnswerToken.of(scores[0], model.tokenizer) for scores in found))

    def alternatives(self, message_id: str, position: int) -> tuple[AnswerToken | None, tuple[AnswerToken, ...]]:
        """The token at ``position`` (None after the last token) and the most likely tokens there."""
        stored, model = self._readable(message_id)
        ids = stored.message.token_ids
        place = check_position(stored, position)
        token_ids = ids[place : place + 1] or (END_OF_TEXT,)
        own, *best = self._scores(stored, model, token_ids, place, MAX_ALTERNATIVES)[0]
        here = AnswerToken.of(own, model.tokenizer) if place < len(ids) else None
        return here, tuple(AnswerToken.of(each, model.tokenizer) for each in best)

    def _readable(self, message_id: str) -> tuple[StoredMessage, PromptModel]:
        stored = self._store.message(message_id)
        return stored, model_of_answer(self._manager, stored)

    def _scores(
        self, stored: StoredMessage, model: PromptModel, token_ids: Sequence[int], start: int, alternatives: int
    ) -> tuple[tuple[TokenLogprob, ...], ...]:
        chat = as_asked(self._store.get(stored.chat_id), stored.message)
        path = self._store.path_to(stored.id)
        prompt, _ = prompt_of_path(
            self._manager, self._presets, self._store, chat, model, path, continues=True, params=SamplingParams()
        )
        first = len(prompt.token_ids) - len(prompt.encoded.beginning) + start
        ids = (*prompt.token_ids[:first], *token_ids)
        return self._manager.score_tokens(ids, alternatives, prompt.state, first, model.info)


def check_position(stored: StoredMessage, position: int) -> int:
    """Raises ``answer_without_tokens`` unless the position is in the answer or directly after it."""
    if not 0 <= position <= len(stored.message.token_ids):
        raise RoostError("answer_without_tokens")
    return position


def model_of_answer(manager: ModelManager, stored: StoredMessage) -> PromptModel:
    """The model in use, if it wrote the answer and the answer's tokens are known."""
    if stored.message.role is not Role.ASSISTANT or stored.status == "streaming" or not stored.message.token_ids:
        raise RoostError("answer_without_tokens")
    loaded, model = manager.status().model, PromptModel.chosen(manager)
    if loaded != stored.model or stored.message.metadata.get("tokenizer") != model.tokenizer.name:
        raise RoostError("answer_of_another_model", model=stored.model, loaded=loaded)
    return model


BEYOND = 16
"""Tokens generated beyond the end of a stopped answer: enough to know that it would have continued like this."""


class Replays:
    """Replays a stored answer: with the same model, engine, options, seed and initial state, the tokens must be
    identical. Every answer stores what that needs; if something has changed since, the result says so.

    ``notify`` is called with a chat's id when a result is stored. Safe to use from any thread."""

    def __init__(
        self,
        manager: ModelManager,
        store: ChatStore,
        presets: Presets,
        notify: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._manager = manager
        self._store = store
        self._presets = presets
        self._notify = notify

    def start(self, message_id: str, client: str = "") -> threading.Thread:
        """Generates the answer again in the background and stores the result in its statistics as ``replay``; returns
        the thread. Raises ``cannot_replay`` with what is missing or has changed."""
        stored = self._store.message(message_id)
        prompt = self._prompt(stored)
        thread = threading.Thread(target=self._run, args=(stored, prompt, client), name="replay", daemon=True)
        thread.start()
        return thread

    def _prompt(self, stored: StoredMessage) -> PreparedPrompt:
        stats = stored.stats
        seed = stats.get("seed") or stats.get("sampling", {}).get("seed")  # no statistics if stopped at once
        if stored.message.role is not Role.ASSISTANT or stored.status not in ("complete", "stopped", "interrupted"):
            _refuse("replay_no_answer")
        if not isinstance(seed, int) or not stats.get("prompt_digest") or not stored.message.token_ids:
            _refuse("replay_nothing_stored")
        status = self._manager.status()
        if stats.get("model_digest") != self._manager.model_digest():
            _refuse("replay_other_model", made_by=stored.model or "?", name=status.model)
        if stats.get("strategy") != status.strategy:
            _refuse("replay_other_strategy", made_by=str(stats.get("strategy")), name=status.strategy)
        chat = self._store.get(stored.chat_id)
        model = PromptModel.chosen(self._manager)
        path, message = self._store.path_to(stored.id), stored.message
        forced = forced_count(message)  # for a version that begins with tokens of another answer
        if forced:
            path[-1] = replace(stored, message=replace(message, token_ids=message.token_ids[:forced]))
        params = SamplingParams.from_dict({**stats.get("sampling", {}), "seed": seed})
        if stored.finish_reason == "abort":
            params = replace(params, max_tokens=min(params.max_tokens, len(stored.message.token_ids) + BEYOND))
        chat = replace(chat, think_mode=message.think_mode)
        prompt, is_free = prompt_of_path(
            self._manager, self._presets, self._store, chat, model, path, forced > 0, params
        )
        found = status.state if prompt.state is None else prompt.state
        own = len(prompt.token_ids) - len(prompt.encoded.beginning)
        if digest_of(prompt.token_ids[:own]) != stats["prompt_digest"] or stats.get("state", "") != found:
            _refuse("replay_other_beginning")
        if is_free or prompt.rendered.tools is None:
            return prompt
        begun = model.tokenizer.decode(prompt.encoded.beginning)
        return replace(prompt, constraint=call_constraint(prompt.rendered, consumed=begun))

    def _run(self, stored: StoredMessage, prompt: PreparedPrompt, client: str) -> None:
        origin = self._store.get(stored.chat_id).origin
        generation = Generation(self._manager, prompt, client, is_kept=False, origin=origin)
        try:
            if prompt.encoded.beginning:
                generation.begin(prompt.encoded.beginning)
            generation.start()
            generation.finish()
        except Exception as exc:  # report any error to the person who waits
            self._keep(stored, {"error": as_roost_error(exc).to_dict()})
            return
        own, again = stored.message.token_ids, generation.text.kept_token_ids()[0]
        was_cut = stored.finish_reason == "abort"
        self._keep(stored, compared(own, again[: len(own)] if was_cut else again))

    def _keep(self, stored: StoredMessage, result: dict[str, object]) -> None:
        try:
            self._store.set_stats(stored.id, replay={**result, "at": time.time()})
        except RoostError:  # deleted meanwhile
            return
        self._notify(stored.chat_id)


def forced_count(message: Message) -> int:
    """How many of its first tokens a person chose: the model wrote the rest."""
    forked = message.metadata.get("forked")
    return int(forked["position"]) + 1 if isinstance(forked, dict) else 0


def compared(own: Sequence[int], again: Sequence[int]) -> dict[str, object]:
    """``tokens``: number in the stored answer; ``differs_at``: position of the first difference, from 1, or None."""
    shared = next((n for n, (a, b) in enumerate(zip(own, again, strict=False)) if a != b), min(len(own), len(again)))
    is_equal = shared == len(own) == len(again)
    return {"tokens": len(own), "differs_at": None if is_equal else shared + 1}


def _refuse(reason: str, **params: str) -> None:
    raise RoostError("cannot_replay", reason=Text(f"reason.services.{reason}", **params))


ASIDE_TOKENS = {"title": 32, "questions": 120, "summary": 300}
"""The most tokens of a side question's answer, by its kind."""
MAX_QUESTIONS = 3
_MARKS = re.compile(r"^(?:\d+[.)、]|[-*•#>]+)\s*|[*_`]+")
_QUOTES = "\"'“”‘’「」《》"


def ask_aside(
    manager: ModelManager, presets: Presets, store: ChatStore, chat_id: str, kind: str, question: str, client: str = ""
) -> tuple[list[str], int]:
    """A side question. Lines of the answer to ``question``, whose ``kind`` is "title" (one line), "questions" (at most
    :data:`MAX_QUESTIONS`) or "summary"; and how many tokens were prefilled. Raises ``prompt_empty`` for a chat without
    messages, and errors of the generation."""
    chat = replace(store.get(chat_id), think_mode=ThinkMode.NONE)
    path = [row for row in store.branch(chat_id) if row.status != "streaming"]
    if not path:
        raise RequestError("prompt_empty")
    asked = [StoredMessage("", chat_id, None, message) for message in (Message(Role.USER, question), _ASIDE_ANSWER)]
    values = {**chat.sampling, "max_tokens": ASIDE_TOKENS[kind], "seed": None}
    params = presets.sampling(presets.of_chat(chat), values, manager.model_info())
    model = PromptModel.chosen(manager)
    prompt, _ = prompt_of_path(manager, presets, store, chat, model, [*path, *asked], False, params)
    generation = Generation(manager, prompt, client, origin=chat.origin)
    generation.start()
    end = generation.finish()
    return _lines(kind, generation.text.content), int(end.stats.get("prefilled_tokens", 0))


_ASIDE_ANSWER = Message(Role.ASSISTANT, "")


def _lines(kind: str, text: str) -> list[str]:
    if kind == "summary":
        return [text.strip()] if text.strip() else []
    found = [_MARKS.sub("", line.strip()).strip().strip(_QUOTES).strip() for line in text.splitlines()]
    found = [line for line in found if line]
    return [title_of(found[0])] if kind == "title" and found else found[:MAX_QUESTIONS]


class ChatState(Struct, frozen=True):
    """``state`` has consumed ``tokens`` of the ``total`` tokens up to the end of the last answer: the very last one is
    processed with the next message. ``before``: the state before that answer if it is still stored, otherwise an
    earlier one (after ``before_tokens``), or None. Counts include the tokens of a prefix."""

    state: RecurrentState
    tokens: int
    total: int
    before: RecurrentState | None = None
    before_tokens: int = 0


def state_of_chat(manager: ModelManager, store: ChatStore, presets: Presets, chat_id: str) -> ChatState | None:
    """Of the shown branch and the loaded model, without any prefill; None if no state of it is stored or there is no
    answer yet. Raises ChatNotFound, and errors in the chat's preset, state or template."""
    chat = store.get(chat_id)
    answers = [stored for stored in store.branch(chat_id) if stored.message.role is Role.ASSISTANT]
    if not answers:
        return None
    model, path = PromptModel.chosen(manager), store.path_to(answers[-1].id)
    prompt, _ = prompt_of_path(manager, presets, store, chat, model, path, True, SamplingParams())
    ids, answer = prompt.token_ids, len(prompt.encoded.beginning)

    def after(token_ids: tuple[int, ...]) -> tuple[int, Snapshot] | None:
        """With one more token, because a prompt that ends at its snapshot would also need the logits."""
        return manager.snapshot((*token_ids, END_OF_TEXT), prompt.state, chat.origin)

    found = after(ids)
    if found is None:
        return None
    tokens, before = found[0], after(ids[: len(ids) - answer]) if answer else None
    read = prompt.prefix_tokens
    if before is None or before[0] >= tokens:
        return ChatState(found[1].state, read + tokens, prompt.prompt_tokens)
    return ChatState(found[1].state, read + tokens, prompt.prompt_tokens, before[1].state, read + before[0])
