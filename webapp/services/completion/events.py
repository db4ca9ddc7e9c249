"""What happens while answers are written for a program. ``choice`` numbers them: prompt by prompt, from 0."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.engine.outputs import TokenLogprob


@dataclass(frozen=True)
class AnswerToken:
    """A token of the content. ``logprobs``: itself first, then the best alternatives. ``offset``: where its text begins
    in the text the model wrote."""

    token_id: int
    logprobs: tuple[TokenLogprob, ...]
    offset: int


@dataclass(frozen=True)
class CallPiece:
    """More of a call: the first of its pieces has its name, and the ``arguments`` of all join to JSON text."""

    call_id: str
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class Piece:
    """More of an answer; ``tokens`` only where logprobs were asked for."""

    content: str = ""
    reasoning: str = ""
    tokens: tuple[AnswerToken, ...] = ()
    calls: tuple[CallPiece, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tokens or self.calls)


@dataclass(frozen=True)
class ChoiceUsage:
    """Tokens of one choice. ``completion`` counts the stop's too, ``reasoning`` those of the thinking."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class ChoiceDelta:
    choice: int
    piece: Piece


@dataclass(frozen=True)
class ChoiceFinished:
    """``reason``: stop, length or tool_calls. ``stop`` is the request's own stop that ended it, "" when none did."""

    choice: int
    reason: str
    usage: ChoiceUsage
    stop: str = ""


@dataclass(frozen=True)
class ChoiceWaiting:
    """``phase``: loading (``done`` of ``total`` bytes), queued (``done`` are ahead) or reading (tokens)."""

    choice: int
    phase: str
    done: int = 0
    total: int = 0


CompletionEvent = ChoiceDelta | ChoiceFinished | ChoiceWaiting
