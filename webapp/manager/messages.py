"""The messages on the pipe between the web process and the engine, in both directions, and their framing.

Plain data in MessagePack: reading can never run code or create objects other than those declared here. A frame is an
8-byte length and a message. Reads and writes use the unbuffered pipe, because a daemon thread that waits inside a
buffered reader can deadlock an interpreter that is shutting down.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from webapp.engine.backend import LoadProgress
from webapp.engine.outputs import GenerationRequest, PrefillProgress, QueueReport, TokenLogprob, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.weights.child_process import Pipe, framed, read_frame

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Plain(Struct, frozen=True, array_like=True):
    """A part of a message."""


class Tagged(Struct, frozen=True, array_like=True, tag=True):
    """A complete message."""


class Array(Plain, frozen=True):
    """A float32 array."""

    shape: tuple[int, ...]
    data: bytearray

    @classmethod
    def of(cls, array: NDArray[np.float32]) -> Array:
        return cls(array.shape, bytearray(array.astype("<f4", copy=False).tobytes()))

    def numpy(self) -> NDArray[np.float32]:
        import numpy as np  # comes with the first array: the web process starts without it

        return np.frombuffer(self.data, "<f4").reshape(self.shape)


class State(Plain, frozen=True):
    architecture: str
    arrays: dict[str, Array]

    @classmethod
    def of(cls, state: RecurrentState) -> State:
        return cls(state.architecture, {name: Array.of(array) for name, array in state.arrays.items()})

    def value(self) -> RecurrentState:
        return RecurrentState(self.architecture, {name: array.numpy() for name, array in self.arrays.items()})


class WarmUp(Tagged, frozen=True):
    """To an engine that waits for its model: imports what every model with this strategy needs."""

    strategy: str


class LoadModel(Tagged, frozen=True):
    """The first command to an engine, except WarmUp, sent once. ``threads`` 0 lets the backend choose. Paths are the
    file system's bytes, which need not be valid text."""

    path_bytes: bytes
    config: ModelConfig
    strategy: str
    max_sequences: int
    prefill_chunk: int
    state_cache_bytes: int
    threads: int = 0
    custom_cuda: bool = False
    banned_token_ids: tuple[int, ...] = ()
    penalty_exempt_token_ids: tuple[int, ...] = ()
    initial_state: State | None = None
    initial_state_digest: str = ""
    tokenizer_bytes: bytes = b""
    """A vocabulary file or name instead of the model's own; used only for constrained answers."""
    snapshot_folder_bytes: bytes = b""
    """The folder for lasting snapshots; "" for none."""
    snapshot_limit_bytes: int = 0
    adapter_bytes: bytes = b""
    adapter_alpha: float = 0.0
    adapter_start_bytes: bytes = b""
    checks_states: bool = False

    @property
    def path(self) -> str:
        return os.fsdecode(self.path_bytes)

    @property
    def tokenizer(self) -> str:
        return os.fsdecode(self.tokenizer_bytes)

    @property
    def snapshot_folder(self) -> Path | None:
        return Path(os.fsdecode(self.snapshot_folder_bytes)) if self.snapshot_folder_bytes else None

    @property
    def adapter(self) -> dict[str, object]:
        """The engine options of an adapter."""
        file, start = os.fsdecode(self.adapter_bytes), os.fsdecode(self.adapter_start_bytes)
        return {"adapter_file": file, "adapter_alpha": self.adapter_alpha, "adapter_start": start}


class CancelLoad(Tagged, frozen=True):
    """Ends a load at its next progress report; has no effect after the load."""


class Submit(Tagged, frozen=True):
    """A GenerationRequest; a digest names its initial state."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    boundaries: tuple[int, ...]
    client: str
    constraint_json: str
    """As JSON text, because a schema may hold numbers of any size."""
    initial_state_digest: str | None
    begun: int = 0
    is_kept: bool = False
    origin: str = ""

    @classmethod
    def of(cls, request: GenerationRequest, initial_state_digest: str | None) -> Submit:
        return cls(
            request.request_id,
            request.prompt_token_ids,
            request.params,
            request.boundaries,
            request.client,
            json.dumps(request.constraint),
            initial_state_digest,
            request.begun,
            request.is_kept,
            request.origin,
        )

    def request(self) -> GenerationRequest:
        return GenerationRequest(
            self.request_id,
            self.prompt_token_ids,
            self.params,
            self.boundaries,
            self.client,
            constraint=json.loads(self.constraint_json),
            initial_state_digest=self.initial_state_digest,
            begun=self.begun,
            is_kept=self.is_kept,
            origin=self.origin,
        )


class Abort(Tagged, frozen=True):
    request_id: str


class SetInitialState(Tagged, frozen=True):
    """The initial state of later sequences; None is the model's own. ``digest`` identifies it."""

    state: State | None
    digest: str = ""


class KeepState(Tagged, frozen=True):
    """A state that later requests can name by its digest."""

    digest: str
    state: State


class ForgetState(Tagged, frozen=True):
    digest: str


class ComputeLogits(Tagged, frozen=True):
    """Answered by a Reply with ``logits``, ``(vocab_size,)`` or ``(len(token_ids), vocab_size)``.

    ``digest`` in this and the next two: the initial state, as in ``GenerationRequest.initial_state_digest``.
    """

    call_id: int
    token_ids: tuple[int, ...]
    every_position: bool = False
    digest: str | None = None


class ReadState(Tagged, frozen=True):
    """Answered by a Reply with the ``state`` after the last token; only its arrays in ``names``, if there are any."""

    call_id: int
    token_ids: tuple[int, ...]
    digest: str | None = None
    names: tuple[str, ...] = ()


class ScoreTokens(Tagged, frozen=True):
    """Answered by a Reply with ``scores``: the logprobs for each token from ``first`` on."""

    call_id: int
    token_ids: tuple[int, ...]
    alternatives: int = 0
    digest: str | None = None
    first: int = 1


class TakeSnapshot(Tagged, frozen=True):
    """Answered by a Reply with the ``state`` after the first ``length`` tokens (0 for none), and ``logits`` if they
    were stored."""

    call_id: int
    token_ids: tuple[int, ...]
    digest: str | None = None
    origin: str = ""


class PutSnapshot(Tagged, frozen=True):
    """The state after these tokens, for requests with this ``origin``. Answered by a Reply with its ``name``."""

    call_id: int
    token_ids: tuple[int, ...]
    state: State
    logits: Array | None = None
    digest: str | None = None
    origin: str = ""


class ForgetSnapshots(Tagged, frozen=True):
    names: tuple[str, ...]


class ClearSnapshots(Tagged, frozen=True):
    """Removes snapshots in memory; those on disk stay."""


class ReadCounters(Tagged, frozen=True):
    """Answered by a Reply with the engine's ``counters``."""

    call_id: int


class Shutdown(Tagged, frozen=True):
    """Ends the engine, even during a load."""


Command = (
    WarmUp
    | LoadModel
    | CancelLoad
    | Submit
    | Abort
    | SetInitialState
    | KeepState
    | ForgetState
    | ComputeLogits
    | ReadState
    | ScoreTokens
    | TakeSnapshot
    | PutSnapshot
    | ForgetSnapshots
    | ClearSnapshots
    | ReadCounters
    | Shutdown
)


class Loading(Tagged, frozen=True):
    progress: LoadProgress


class Loaded(Tagged, frozen=True):
    """``config`` is the backend's own; ``slots`` is how many sequences can run at once."""

    config: ModelConfig
    slots: int
    seconds: float


class LoadFailed(Tagged, frozen=True):
    """``error`` as in :meth:`RoostError.to_dict`; the engine ends after it."""

    error: dict[str, Any]


class Outputs(Tagged, frozen=True):
    """All results of one step, to be handled in this order; ``queue``: the positions of waiting requests after it."""

    queue: QueueReport | None
    prefills: tuple[PrefillProgress, ...]
    tokens: tuple[TokenOutput, ...]

    @classmethod
    def of(cls, events: Iterable[TokenOutput | PrefillProgress | QueueReport]) -> Outputs:
        queue: QueueReport | None = None
        prefills: list[PrefillProgress] = []
        tokens: list[TokenOutput] = []
        for event in events:
            if isinstance(event, TokenOutput):
                tokens.append(replace(event, error=printable(event.error)) if event.error else event)
            elif isinstance(event, PrefillProgress):
                prefills.append(event)
            else:
                queue = event
        return cls(queue, tuple(prefills), tuple(tokens))


class Reply(Tagged, frozen=True):
    """The reply to the call with this id: one value, or an error as in :meth:`RoostError.to_dict`."""

    call_id: int
    logits: Array | None = None
    state: State | None = None
    scores: tuple[tuple[TokenLogprob, ...], ...] | None = None
    counters: dict[str, int] | None = None
    error: dict[str, Any] | None = None
    length: int = 0
    name: str = ""


class Heartbeat(Tagged, frozen=True):
    """Sent once a second by a separate thread, so it also comes while the engine's loop is in one long step.

    ``progress`` increases with every turn of the loop and every report of a load; ``is_idle``: the loop waits for a
    command. ``cpu_s``: CPU time of the process so far, for all its threads together.
    """

    progress: int
    is_idle: bool
    cpu_s: float


Message = Loading | Loaded | LoadFailed | Outputs | Reply | Heartbeat


def printable(error: dict[str, Any]) -> dict[str, Any]:
    """An error's dict that can be encoded: bytes of a file name that are not valid text become question marks."""
    text = json.dumps(error, ensure_ascii=False, default=_as_plain)
    found: dict[str, Any] = json.loads(text.encode("utf-8", "replace"))
    return found


def pack(message: Command | Message) -> bytes:
    return framed(_encoder.encode(message))


def read_command(pipe: Pipe) -> Command:
    """Waits for the next command. Raises EOFError if the other end is closed, msgspec.MsgspecError if it is invalid."""
    return _commands.decode(read_frame(pipe))


def read_message(pipe: Pipe) -> Message:
    """Waits for the next message; errors as in :func:`read_command`."""
    return _messages.decode(read_frame(pipe))


def _as_plain(value: Any) -> Any:
    """Converts numpy numbers; other values in an error's parameters are only displayed, so text is enough."""
    return value.item() if hasattr(value, "item") else str(value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_as_plain)
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_messages: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
