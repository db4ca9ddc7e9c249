"""Answers side by side: several answers to one question, from which a person keeps some.

They are versions of one answer like any others, so every page finds them after a reload or restart. Their common data
is in the metadata of each (:class:`Beside`); decisions are in the question's metadata (:data:`DECIDED`), because only
its writer may change an answer that is being generated.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from webapp.chat.messages import BESIDE, Beside, Message, Role, Variant
from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.services.presets.presets import Presets
from webapp.storage.chats import ChatStore
from webapp.storage.records import StoredMessage

DECIDED, VOTES = "decided", "votes"
FEWEST_ANSWERS, MAX_ANSWERS = 2, 32


def beside_each_other(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """The metadata for these answers. Raises ``chat_error`` for too few or too many."""
    if not FEWEST_ANSWERS <= len(variants) <= MAX_ANSWERS:
        reason = Text("reason.services.answers_beside", least=FEWEST_ANSWERS, most=MAX_ANSWERS)
        raise RoostError("chat_error", reason=reason)
    group = uuid.uuid4().hex
    return [{BESIDE: to_builtins(Beside(group, place, variant))} for place, variant in enumerate(variants)]


def needed_model(manager: ModelManager, presets: Presets, variant: Variant) -> dict[str, Any] | None:
    """The arguments for ``ModelManager.load``; None if no load is needed. Raises PresetNotFound."""
    if variant.kind == "model" and manager.status().model != variant.value:
        return {"model": variant.value, "strategy": presets.usual_strategy(variant.value)}
    if variant.kind != "preset":
        return None
    preset = presets.get(variant.value)
    return presets.choice(preset) if presets.differences(preset) else None


class Tally(Struct, frozen=True):
    """``won`` of the ``count`` votes in which an answer of this variant took part."""

    variant: Variant
    won: int
    count: int


def tally(store: ChatStore) -> list[Tally]:
    """The votes in these chats by preset, model and state; the most preferred first."""
    found: dict[tuple[str, str], Tally] = {}
    for asked, message_id, metadata in store.voted_answers():
        beside = Beside.of(Message(Role.ASSISTANT, "", metadata=metadata))
        voted = asked[VOTES].get(beside.group) if beside is not None else None
        if beside is None or not voted or not beside.variant.kind:
            continue
        variant = beside.variant
        before = found.get((variant.kind, variant.value), Tally(variant, 0, 0))
        found[variant.kind, variant.value] = Tally(variant, before.won + (voted == message_id), before.count + 1)
    return sorted(found.values(), key=lambda row: (-row.won / row.count, -row.count, row.variant.label))


class SideBySide:
    """Decisions about answers side by side. Raises ``message_not_found``, and ``chat_error`` for an answer without
    others."""

    def __init__(self, store: ChatStore) -> None:
        self._store = store

    def undecided(self, stored: StoredMessage) -> list[StoredMessage]:
        """All answers in this answer's group, in order, with the text so far; [] if there is no group, only one answer
        is left, or a person has decided."""
        beside = Beside.of(stored.message)
        if beside is None or stored.parent_id is None:
            return []
        if beside.group in self._store.message(stored.parent_id).message.metadata.get(DECIDED, {}):
            return []
        found = self.group(stored, beside)
        return found if len(found) >= FEWEST_ANSWERS else []

    def group(self, stored: StoredMessage, beside: Beside) -> list[StoredMessage]:
        rows = self._store.versions(stored.id)
        found = [(Beside.of(row.message), row) for row in rows]
        return [row for other, row in found if other is not None and other.group == beside.group]

    def vote(self, message_id: str) -> StoredMessage:
        """Votes for this answer and against the others in its group; a second vote removes it."""
        stored, beside, question = self._place(message_id)
        votes = dict(question.message.metadata.get(VOTES, {}))
        if votes.get(beside.group) == message_id:
            del votes[beside.group]
        else:
            votes[beside.group] = message_id
        self._note(question, VOTES, votes)
        return stored

    def voted(self, stored: StoredMessage, beside: Beside) -> str:
        """The id of the answer with the vote; "" for none."""
        question = self._store.message(stored.parent_id or "")
        return str(question.message.metadata.get(VOTES, {}).get(beside.group, ""))

    def decide(self, message_id: str, keep: Sequence[str]) -> list[str]:
        """Keeps these answers in the group of ``message_id`` and deletes the others; returns the deleted ids."""
        with self._store.database.transaction():
            stored, beside, question = self._place(message_id)
            members = [row.id for row in self.group(stored, beside)]
            kept = [name for name in members if name in keep]
            discarded = [name for name in members if name not in keep]
            decided = {**question.message.metadata.get(DECIDED, {}), beside.group: {"discarded": discarded}}
            self._note(question, DECIDED, decided)
            for name in discarded:
                self._store.delete_message(name)
            if kept:
                self._store.select_version(kept[0])
            return discarded

    def undo(self, question_id: str) -> str:
        """Restores the last discarded answers to this question, undecided; returns the chat's id."""
        with self._store.database.transaction():
            question = self._store.message(question_id)
            decided = dict(question.message.metadata.get(DECIDED, {}))
            _, last = decided.popitem() if decided else ("", {"discarded": ()})
            self._note(question, DECIDED, decided)
            for name in last["discarded"]:
                self._store.restore_message(name)
            return question.chat_id

    def _place(self, message_id: str) -> tuple[StoredMessage, Beside, StoredMessage]:
        """The answer, its position in the group, and the question."""
        stored = self._store.message(message_id)
        beside = Beside.of(stored.message)
        if beside is None or stored.parent_id is None:
            raise RoostError("chat_error", reason=Text("reason.services.not_beside"))
        return stored, beside, self._store.message(stored.parent_id)

    def _note(self, question: StoredMessage, name: str, value: dict[str, Any]) -> None:
        metadata = {**question.message.metadata, name: value}
        self._store.change_message(question.id, replace(question.message, metadata=metadata))
