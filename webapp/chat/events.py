"""The events of an answer during generation; the same for pages, APIs, terminal and tool bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field


class Waiting(Struct, frozen=True):
    """There is no new text yet. ``phase``: "loading" (``done`` of ``total`` bytes), "queued" (``done`` requests are
    ahead), "reading" (``done`` of ``total`` prompt tokens), "calling" (the held-back text may be a call) or "silent"
    (the engine has not sent a message for ``done`` seconds, also in the middle of an answer; 0 when it sends again)."""

    phase: str
    done: int = 0
    total: int = 0


class ReasoningDelta(Struct, frozen=True):
    """More of the model's thinking; comes before the content."""

    text: str


class AnswerToken(Struct, frozen=True):
    """A token of the content. ``logprobs`` are ``TokenLogprob``: the token itself, then the best alternatives.
    ``offset``: position of its text in the text that the model wrote. ``cut``: number of bytes at its start and its end
    that are not part of the content (the space before an answer, a stop)."""

    token_id: int
    logprobs: tuple[Any, ...]
    offset: int
    cut: tuple[int, int] = (0, 0)


class ContentDelta(Struct, frozen=True):
    """More of the answer. ``tokens``, only if logprobs were requested: the tokens that are complete with this delta;
    then its text may be empty. All texts join to the content."""

    text: str
    tokens: tuple[AnswerToken, ...] = ()


class CallDelta(Struct, frozen=True):
    """More of a call: the first delta has the name, and the ``arguments`` of all deltas join to JSON text."""

    call_id: str
    name: str = ""
    arguments: str = ""


class Usage(Struct, frozen=True):
    """Tokens of one answer. ``completion`` includes the tokens of a stop; ``reasoning`` counts those of the
    thinking."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


class Finished(Struct, frozen=True):
    """The answer is complete. ``finish_reason``: stop, length, tool_calls or abort. ``stop`` is the request's stop
    string that ended it, if any. ``stats`` is ``SequenceStats`` as a dict with ``tokens_per_s``; {} if the engine sent
    none."""

    finish_reason: str
    usage: Usage = Usage()
    stop: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict)


class Failed(Struct, frozen=True):
    """The answer failed; its text so far remains. ``error`` is ``RoostError.to_dict()``."""

    error: dict[str, Any]
    stats: Mapping[str, Any] = field(default_factory=dict)


TextEvent = ReasoningDelta | ContentDelta | CallDelta
AnswerEvent = Waiting | ReasoningDelta | ContentDelta | CallDelta | Finished | Failed
