"""What crosses the pipe between the web process and the engine: plain picklable data, in either direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from webapp.engine.backend import LoadProgress
from webapp.engine.model_config import ModelConfig
from webapp.engine.outputs import GenerationRequest, PrefillProgress, QueueReport, TokenOutput
from webapp.engine.state import RecurrentState

EngineOutput = TokenOutput | PrefillProgress | QueueReport


@dataclass(frozen=True)
class LoadModel:
    """The first command an engine gets, once. ``threads`` 0 leaves the choice to the backend."""

    path: str
    config: ModelConfig
    strategy: str
    max_sequences: int
    prefill_chunk: int
    state_cache_bytes: int
    threads: int = 0
    custom_cuda: bool = False
    banned_token_ids: tuple[int, ...] = ()
    penalty_exempt_token_ids: tuple[int, ...] = ()
    initial_state: RecurrentState | None = None
    initial_state_digest: str = ""
    tokenizer: str = ""
    """A vocabulary file or name in place of the model's own; read only for constrained answers."""


@dataclass(frozen=True)
class CancelLoad:
    """Ends a load at its next progress report; nothing after it."""


@dataclass(frozen=True)
class Submit:
    request: GenerationRequest


@dataclass(frozen=True)
class Abort:
    request_id: str


@dataclass(frozen=True)
class SetInitialState:
    """Later sequences start from it; None is the model's own beginning. ``digest`` is what it is known by."""

    state: RecurrentState | None
    digest: str = ""


@dataclass(frozen=True)
class KeepState:
    """Later requests may name it by its digest."""

    digest: str
    state: RecurrentState


@dataclass(frozen=True)
class ForgetState:
    digest: str


@dataclass(frozen=True)
class ComputeLogits:
    """Answered by a Reply with a float32 array, ``(vocab_size,)`` or ``(len(token_ids), vocab_size)``.

    ``digest`` of this and the next two says where reading begins, as ``GenerationRequest.initial_state_digest``.
    """

    call_id: int
    token_ids: tuple[int, ...]
    every_position: bool = False
    digest: str | None = None


@dataclass(frozen=True)
class ReadState:
    """Answered by a Reply with the RecurrentState after the last token."""

    call_id: int
    token_ids: tuple[int, ...]
    digest: str | None = None


@dataclass(frozen=True)
class ScoreTokens:
    """Answered by a Reply with a tuple of TokenLogprobs for each token but the first."""

    call_id: int
    token_ids: tuple[int, ...]
    alternatives: int = 0
    digest: str | None = None


@dataclass(frozen=True)
class ReadCounters:
    """Answered by a Reply with the engine's counters."""

    call_id: int


@dataclass(frozen=True)
class Shutdown:
    """Ends the engine, also in mid-load."""


Command = (
    LoadModel
    | CancelLoad
    | Submit
    | Abort
    | SetInitialState
    | KeepState
    | ForgetState
    | ComputeLogits
    | ReadState
    | ScoreTokens
    | ReadCounters
    | Shutdown
)


@dataclass(frozen=True)
class Loading:
    progress: LoadProgress


@dataclass(frozen=True)
class Loaded:
    """``config`` is the backend's own; ``seats`` is how many sequences run at once."""

    config: ModelConfig
    seats: int
    seconds: float


@dataclass(frozen=True)
class LoadFailed:
    """``error`` as :meth:`RoostError.to_dict`; the engine ends after it."""

    error: dict[str, Any]


@dataclass(frozen=True)
class Outputs:
    """Everything one step had to say."""

    batch: tuple[EngineOutput, ...]


@dataclass(frozen=True)
class Reply:
    """To a call of the same id: a value, or an error as :meth:`RoostError.to_dict`."""

    call_id: int
    value: Any = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True)
class Heartbeat:
    """Once a second from a thread beside the engine's loop, so it also comes while the loop is inside one long step.

    ``progress`` grows with every turn of the loop and every report of a load; ``is_idle``: the loop waits for a
    command. ``cpu_s`` is the processor time of the process until now, all its threads together.
    """

    progress: int
    is_idle: bool
    cpu_s: float


Message = Loading | Loaded | LoadFailed | Outputs | Reply | Heartbeat
