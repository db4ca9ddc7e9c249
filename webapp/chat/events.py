"""Events while an answer is generated: one family for pages, APIs, terminal and tool bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Waiting:
    """Nothing to show yet. ``phase``: "loading" (``done`` of ``total`` bytes), "queued" (``done`` requests are ahead),
    "reading" (``done`` of ``total`` prompt tokens), "calling" (what is written may be a call) or "silent" (the engine
    has given no sign of life for ``done`` seconds; also in mid-answer, and 0 when it is back)."""

    phase: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class ReasoningDelta:
    """More of what the model thinks; comes before the content."""

    text: str


@dataclass(frozen=True)
class AnswerToken:
    """A token of the content. ``logprobs`` are ``TokenLogprob``: the token itself, then the best alternatives.
    ``offset``: where its text begins in the text the model wrote. ``cut``: so many bytes at its beginning and its end
    are not part of the content (the space an answer begins with, a stop)."""

    token_id: int
    logprobs: tuple[Any, ...]
    offset: int
    cut: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class ContentDelta:
    """More of the answer. ``tokens`` only where logprobs were asked for: those that are shown as a whole. All pieces'
    join to the content; the text may be empty for them."""

    text: str
    tokens: tuple[AnswerToken, ...] = ()


@dataclass(frozen=True)
class CallDelta:
    """More of a call: its first piece has the name, and the ``arguments`` of all its pieces join to JSON text."""

    call_id: str
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer. ``completion`` counts those of a stop too, ``reasoning`` those of the thinking."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class Finished:
    """The answer is complete. ``finish_reason``: stop, length, tool_calls or abort. ``stop`` is the request's own stop
    string that ended it. ``stats`` is ``SequenceStats`` as a dict with ``tokens_per_s``; {} if the engine gave none."""

    finish_reason: str
    usage: Usage = Usage()
    stop: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """The answer broke off; what was written stands. ``error`` is ``RoostError.to_dict()``."""

    error: dict[str, Any]
    stats: Mapping[str, Any] = field(default_factory=dict)


TextEvent = ReasoningDelta | ContentDelta | CallDelta
AnswerEvent = Waiting | ReasoningDelta | ContentDelta | CallDelta | Finished | Failed
