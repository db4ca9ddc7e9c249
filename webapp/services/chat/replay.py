"""Replays a stored answer: with the same model, engine, options, seed and initial state, the tokens must be identical.
Every answer stores what that needs; if something has changed since, the result says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from webapp.chat.messages import Message, Role
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RoostError, as_roost_error
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.services.chat.turn_writer import prompt_digest, prompt_of_path
from webapp.services.generation.generation import Generation
from webapp.services.generation.request import PreparedPrompt, PromptModel
from webapp.services.generation.structure import call_constraint
from webapp.services.presets.presets import Presets
from webapp.storage.chats import ChatStore
from webapp.storage.records import StoredMessage

BEYOND = 16
"""Tokens generated beyond the end of a stopped answer: enough to know that it would have continued like this."""


class Replays:
    """``tell`` is called with a chat's id when a result is stored. Safe to use from any thread."""

    def __init__(
        self, manager: ModelManager, store: ChatStore, presets: Presets, tell: Callable[[str], object] = lambda _: None
    ) -> None:
        self._manager = manager
        self._store = store
        self._presets = presets
        self._tell = tell

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
        if prompt_digest(prompt.token_ids[:own]) != stats["prompt_digest"] or stats.get("state", "") != found:
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
        self._tell(stored.chat_id)


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
