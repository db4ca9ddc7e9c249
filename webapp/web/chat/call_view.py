"""The calls of an answer as cards: what is asked for, who decides, what came of it."""

from __future__ import annotations

from collections.abc import Callable

from webapp.i18n import phrase
from webapp.services.chat.tool_loop import CallState, as_pretty_json
from webapp.storage.records import StoredMessage
from webapp.tools.definition import Approval
from webapp.web.chat.contexts import CallCard
from webapp.web.chat.house import House


def call_cards(stored: StoredMessage, house: House, t: Callable[..., str], locale: str) -> tuple[CallCard, ...]:
    if not stored.message.tool_calls or stored.status == "streaming":
        return ()
    return tuple(_card(state, t, locale) for state in house.turns.tools.calls(stored))


def _card(state: CallState, t: Callable[..., str], locale: str) -> CallCard:
    said = state.by if state.status == "done" and not (state.is_error and state.by == "tool") else "failed"
    return CallCard(
        id=state.call.id,
        name=state.call.name,
        arguments=as_pretty_json(state.call.arguments),
        status=state.status,
        said=t(f"chat.call.{said if state.status == 'done' else state.status}"),
        result=as_pretty_json(state.result) if state.status == "done" else "",
        is_error=state.is_error,
        reason=str(phrase(state.reason, locale)) if state.by == "tool" else "",
        can_run=state.status == "waiting" and state.tool is not None,
        asks_once=state.tool is not None and state.tool.definition.approval is Approval.ONCE,
    )


def is_left(stored: StoredMessage, cards: tuple[CallCard, ...], house: House) -> bool:
    """True for the last message of a chat whose calls are all done, while nobody goes on from it."""
    if any(card.status != "done" for card in cards) or house.answering(stored.chat_id) is not None:
        return False
    return house.store.get(stored.chat_id).head_id == stored.id
