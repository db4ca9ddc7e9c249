"""What the engine is asked and what it answers: plain data, the only thing that crosses the process pipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from webapp.engine.sampling_params import SamplingParams
from webapp.engine.state import RecurrentState


class FinishReason(str, Enum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True)
class GenerationRequest:
    """One sequence to run.

    ``boundaries`` are prompt prefix lengths worth a snapshot (message ends, ascending); that of the whole prompt has
    its logits, so that it answers again without reading. ``client`` is who asked, for fairness between clients.
    ``initial_state`` overrides the engine's own initial state for this sequence; ``initial_state_digest`` does so by
    name: one the engine was told to keep, or "" for the model's own beginning. ``begun`` of the last prompt tokens are
    the beginning of the answer itself: they count as drawn, for penalties and the next draw. ``is_kept``: people come
    back to the answer; its snapshots last, and the whole prompt is a boundary. ``origin`` parts its snapshots from
    those of all requests with another: a state that came from outside is found by its own chat alone.
    ``constraint`` is left for structured decoding: a plain description the engine process turns into a processor.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    boundaries: tuple[int, ...] = ()
    client: str = ""
    initial_state: RecurrentState | None = None
    constraint: dict[str, Any] | None = None
    initial_state_digest: str | None = None
    begun: int = 0
    is_kept: bool = False
    origin: str = ""


@dataclass(frozen=True)
class TokenLogprob:
    token_id: int
    logprob: float
    """Natural logarithm, of the model's own distribution (temperature 1, before penalties)."""


@dataclass(frozen=True)
class SequenceStats:
    """Counters of one sequence. ``cached`` tokens came from a snapshot, ``prefilled`` were read, ``decoded`` sampled.

    Seconds: ``queued_s`` until a slot was free, ``prefill_s`` from then to the first token, ``decode_s`` from the first
    token to the end. ``start_digest`` and ``end_digest`` are of the slot's state after admission and at the end, ""
    unless the engine checks states.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefilled_tokens: int = 0
    decoded_tokens: int = 0
    queued_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    initial_state_digest: str = ""
    seed: int = 0
    start_digest: str = ""
    end_digest: str = ""
    snapshots: tuple[str, ...] = ()
    """Names of those it went on from or left behind, of a request that is kept."""


@dataclass(frozen=True)
class TokenOutput:
    """What one step did for one sequence.

    ``token_ids`` are new tokens of the answer (stop tokens excluded; tokens that may still turn out to be the start
    of a stop sequence are held back). ``finish_reason`` is set on the last output, with ``stats``. ``error`` is
    :meth:`RoostError.to_dict` when the reason is ``error``.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    stats: SequenceStats | None = None
    error: dict[str, Any] | None = None
    logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    """Per new token: the token itself first, then the best alternatives."""


@dataclass(frozen=True)
class PrefillProgress:
    """``done`` of ``total`` prompt tokens are in the state."""

    request_id: str
    done: int
    total: int


@dataclass(frozen=True)
class QueueReport:
    """Where the waiting ones stand: request id -> how many are ahead of it. ``running`` hold a slot."""

    running: int
    waiting: dict[str, int] = field(default_factory=dict)
