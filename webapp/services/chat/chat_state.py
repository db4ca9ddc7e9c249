"""A chat's current state, and how its last answer changed it. Uses existing snapshots; nothing is prefilled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from webapp.chat.messages import Role
from webapp.engine.sampling_params import SamplingParams
from webapp.manager.manager import ModelManager
from webapp.services.chat.turn_writer import rendered_chat
from webapp.services.generation.completions import END_OF_TEXT
from webapp.services.generation.prefixes import find_prefix, starting_from
from webapp.services.generation.request import PromptModel, prepare
from webapp.services.presets.presets import Presets
from webapp.storage.chats import ChatStore

if TYPE_CHECKING:
    from webapp.engine.snapshot_store import Snapshot
    from webapp.engine.state import RecurrentState


@dataclass(frozen=True)
class ChatState:
    """``state`` has consumed ``tokens`` of the ``total`` tokens up to the end of the last answer: the very last one is
    processed with the next message. ``before``: the state before that answer if it is still stored, otherwise an
    earlier one (after ``before_tokens``), or None. Counts include the tokens of a prefix."""

    state: RecurrentState
    tokens: int
    total: int
    before: RecurrentState | None = None
    before_tokens: int = 0


def state_of_chat(manager: ModelManager, store: ChatStore, presets: Presets, chat_id: str) -> ChatState | None:
    """For the shown branch and the loaded model; None if no state of it is stored or there is no answer yet. Raises
    ChatNotFound, and errors in the chat's preset, state or template."""
    chat = store.get(chat_id)
    answers = [stored for stored in store.branch(chat_id) if stored.message.role is Role.ASSISTANT]
    if not answers:
        return None
    model, preset, state = PromptModel.chosen(manager), presets.of_chat(chat), presets.start_state(chat)
    prefix, path = find_prefix(manager, state), store.path_to(answers[-1].id)
    rendered, _, _ = rendered_chat(store, chat, preset, model, path, True, prefix)
    prompt = starting_from(prepare(model, rendered, SamplingParams(), state=state), prefix, manager)
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
