"""The tokens of a stored answer: the model's probability of each, and the alternatives to it.

An answer stores the ids that were sampled, so nothing is guessed: the model prefills the prompt and these ids again
from the nearest snapshot and returns probabilities (temperature 1, before penalties and grammar). The state before an
inspected token is kept, so a new version from there needs no prefill.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from webapp.chat.messages import Role
from webapp.engine.outputs import TokenLogprob
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RoostError
from webapp.manager.manager import ModelManager
from webapp.services.chat.side_by_side import as_asked
from webapp.services.chat.turn_writer import prompt_of_path
from webapp.services.generation.request import PromptModel
from webapp.services.presets.presets import Presets
from webapp.storage.chats import ChatStore
from webapp.storage.records import StoredMessage
from webapp.tokenizer import Tokenizer

WINDOW = 256
"""Tokens scored at a time. A long answer has snapshots at the same distance."""
MOST_ALTERNATIVES = 8
END_OF_TEXT = 0


@dataclass(frozen=True)
class AnswerToken:
    """``text``: U+FFFD replaces bytes that are not a complete character. ``probability``: from 0 to 1."""

    token_id: int
    text: str
    probability: float

    @classmethod
    def of(cls, found: TokenLogprob, tokenizer: Tokenizer) -> AnswerToken:
        data = tokenizer.token_bytes(found.token_id) or b""
        return cls(found.token_id, data.decode("utf-8", "replace"), math.exp(found.logprob))


@dataclass(frozen=True)
class TokenWindow:
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
        own, *best = self._scores(stored, model, token_ids, place, MOST_ALTERNATIVES)[0]
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
