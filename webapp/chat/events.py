"""What happens during a turn, in order: one stream for the browser, the API and the terminal to render."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from webapp.chat.messages import ToolCall


@dataclass(frozen=True)
class TurnStarted:
    """The answer has a place in the chat. ``message_id`` is the assistant message being written."""

    chat_id: str
    message_id: str


@dataclass(frozen=True)
class TurnWaiting:
    """Nothing to show yet. ``phase``: "loading" (``done`` of ``total`` bytes), "queued" (``done`` = how many are
    ahead), "reading" (``done`` of ``total`` prompt tokens) or "calling" (what is written may be a call)."""

    phase: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class ReasoningDelta:
    """More of what the model thinks; comes before the content."""

    text: str


@dataclass(frozen=True)
class ContentDelta:
    """More of the answer."""

    text: str


@dataclass(frozen=True)
class ToolCallReady:
    """A whole call was parsed."""

    call: ToolCall


@dataclass(frozen=True)
class ToolCallBegun:
    """A call is being written; its arguments follow in pieces, and no :class:`ToolCallReady`."""

    call_id: str
    name: str


@dataclass(frozen=True)
class ToolArgumentsDelta:
    """More JSON text of the arguments of the call begun last."""

    call_id: str
    text: str


@dataclass(frozen=True)
class TurnFinished:
    """The answer is complete and stored. ``finish_reason``: stop, length, tool_calls or abort.

    ``stats`` is ``SequenceStats`` as a dict, plus ``tokens_per_s`` and ``total_s``.
    """

    message_id: str
    finish_reason: str
    stats: dict[str, Any]


@dataclass(frozen=True)
class TurnFailed:
    """The answer broke off. What was written is kept. ``error`` is ``RoostError.to_dict()``."""

    message_id: str
    error: dict[str, Any]


TurnEvent = TurnStarted | TurnWaiting | ReasoningDelta | ContentDelta | ToolCallReady | TurnFinished | TurnFailed
