"""Requests to the engine and its results: plain data, the only data that crosses the process pipe."""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct, field

from webapp.engine.sampling_params import SamplingParams
from webapp.engine.state import RecurrentState


class FinishReason(str, Enum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORT = "abort"
    ERROR = "error"


class GenerationRequest(Struct, frozen=True):
    """One sequence to run.

    ``boundaries`` are prompt prefix lengths worth a snapshot (message ends, ascending). The snapshot of the whole
    prompt includes its logits, so that the same prompt needs no prefill. ``client`` identifies the client, for
    fairness. ``initial_state`` overrides the engine's own initial state for this sequence. ``initial_state_digest``
    does so by name: a state that the engine has stored, or "" for the model's own initial state. ``begun``: how many
    of the last prompt tokens are already the beginning of the answer; they count as sampled, for penalties and the next
    sample. ``is_kept``: users return to the answer, so its snapshots last, and the whole prompt is a boundary.
    ``origin`` separates its snapshots from those of other requests: only its own chat finds a state that was imported.
    ``constraint`` is for structured decoding: a plain description that the engine process turns into a processor.
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


class TokenLogprob(Struct, frozen=True):
    token_id: int
    logprob: float
    """Natural logarithm of the probability in the model's own distribution (temperature 1, before penalties)."""


class SequenceStats(Struct, frozen=True):
    """Counters of a sequence: ``cached`` tokens come from a snapshot, ``prefilled`` are processed, ``decoded`` sampled.

    Seconds: ``queued_s`` until a slot was free, ``prefill_s`` from then to the first token, ``decode_s`` from the first
    token to the end. ``start_digest`` and ``end_digest`` identify the slot's state after admission and at the end; they
    are "" unless the engine checks states.
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
    """For a kept request: the names of the snapshots that it started from or created."""


class TokenOutput(Struct, frozen=True):
    """The result of one step for one sequence.

    ``token_ids`` are new tokens of the answer (without stop tokens; tokens that may be the start of a stop sequence are
    held back). ``finish_reason`` and ``stats`` are set on the last output. ``error`` is :meth:`RoostError.to_dict` if
    the reason is ``error``.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    stats: SequenceStats | None = None
    error: dict[str, Any] | None = None
    logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    """Per new token: the token itself first, then the best alternatives."""


class PrefillProgress(Struct, frozen=True):
    """``done`` of ``total`` prompt tokens are in the state."""

    request_id: str
    done: int
    total: int


class QueueReport(Struct, frozen=True):
    """Positions in the queue: request id -> how many are ahead of it. ``running`` sequences have a slot."""

    running: int
    waiting: dict[str, int] = field(default_factory=dict)
