"""What crosses the pipe between the web process and the engine, in either direction, and how it is framed.

Plain data in MessagePack: nothing that is read can run code or make another object than those declared here. A frame is
an 8-byte length and a message. Reads and writes go to the unbuffered pipe, because a daemon thread that waits inside a
buffered reader can deadlock an interpreter that is shutting down.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from webapp.engine.backend import LoadProgress
from webapp.engine.outputs import GenerationRequest, PrefillProgress, QueueReport, TokenLogprob, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.weights.child_process import Pipe, framed, read_frame

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Plain(msgspec.Struct, frozen=True, array_like=True):
    """A part of a message."""


class Tagged(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A message of its own."""


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
    """To an engine that waits for its model: brings in what any model takes that runs with this strategy."""

    strategy: str


class LoadModel(Tagged, frozen=True):
    """The first command an engine gets, but for WarmUp, and once. ``threads`` 0 leaves the choice to the backend; paths
    are as the file system has them, which need not be text."""

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
    """A vocabulary file or name in place of the model's own; read only for constrained answers."""
    snapshot_folder_bytes: bytes = b""
    """Where snapshots last; "" for nowhere."""
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
    """Ends a load at its next progress report; nothing after it."""


class Submit(Tagged, frozen=True):
    """A GenerationRequest; its initial state is named by its digest."""

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
    """Later sequences start from it; None is the model's own beginning. ``digest`` is what it is known by."""

    state: State | None
    digest: str = ""


class KeepState(Tagged, frozen=True):
    """Later requests may name it by its digest."""

    digest: str
    state: State


class ForgetState(Tagged, frozen=True):
    digest: str


class ComputeLogits(Tagged, frozen=True):
    """Answered by a Reply with ``logits``, ``(vocab_size,)`` or ``(len(token_ids), vocab_size)``.

    ``digest`` of this and the next two says where reading begins, as ``GenerationRequest.initial_state_digest``.
    """

    call_id: int
    token_ids: tuple[int, ...]
    every_position: bool = False
    digest: str | None = None


class ReadState(Tagged, frozen=True):
    """Answered by a Reply with the ``state`` after the last token; of its arrays only ``names``, if there are any."""

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
    """Answered by a Reply with the ``state`` after the ``length`` first tokens, 0 for none, and ``logits`` where they
    were kept."""

    call_id: int
    token_ids: tuple[int, ...]
    digest: str | None = None
    origin: str = ""


class PutSnapshot(Tagged, frozen=True):
    """The state after these tokens, for requests of this ``origin``. Answered by a Reply with its ``name``."""

    call_id: int
    token_ids: tuple[int, ...]
    state: State
    logits: Array | None = None
    digest: str | None = None
    origin: str = ""


class ForgetSnapshots(Tagged, frozen=True):
    names: tuple[str, ...]


class ClearSnapshots(Tagged, frozen=True):
    """Those in memory go; what is on disk stays."""


class ReadCounters(Tagged, frozen=True):
    """Answered by a Reply with the engine's ``counters``."""

    call_id: int


class Shutdown(Tagged, frozen=True):
    """Ends the engine, also in mid-load."""


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
    """``config`` is the backend's own; ``seats`` is how many sequences run at once."""

    config: ModelConfig
    seats: int
    seconds: float


class LoadFailed(Tagged, frozen=True):
    """``error`` as :meth:`RoostError.to_dict`; the engine ends after it."""

    error: dict[str, Any]


class Outputs(Tagged, frozen=True):
    """Everything one step had to say, to be read in this order; ``queue`` is where the waiting ones stand after it."""

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
    """To a call of the same id: one value, or an error as :meth:`RoostError.to_dict`."""

    call_id: int
    logits: Array | None = None
    state: State | None = None
    scores: tuple[tuple[TokenLogprob, ...], ...] | None = None
    counters: dict[str, int] | None = None
    error: dict[str, Any] | None = None
    length: int = 0
    name: str = ""


class Heartbeat(Tagged, frozen=True):
    """Once a second from a thread beside the engine's loop, so it also comes while the loop is inside one long step.

    ``progress`` grows with every turn of the loop and every report of a load; ``is_idle``: the loop waits for a
    command. ``cpu_s`` is the processor time of the process until now, all its threads together.
    """

    progress: int
    is_idle: bool
    cpu_s: float


Message = Loading | Loaded | LoadFailed | Outputs | Reply | Heartbeat


def printable(error: dict[str, Any]) -> dict[str, Any]:
    """An error's dict as it can be encoded: a file name of bytes that are no text is shown with question marks."""
    text = json.dumps(error, ensure_ascii=False, default=_as_plain)
    found: dict[str, Any] = json.loads(text.encode("utf-8", "replace"))
    return found


def pack(message: Command | Message) -> bytes:
    return framed(_encoder.encode(message))


def read_command(pipe: Pipe) -> Command:
    """Blocks for the next command; EOFError when the other end is gone, msgspec.MsgspecError for what is none."""
    return _commands.decode(read_frame(pipe))


def read_message(pipe: Pipe) -> Message:
    """Blocks for the next message; errors as of :func:`read_command`."""
    return _messages.decode(read_frame(pipe))


def as_read(message: Command | Message) -> Any:
    """The message as the other end of a pipe would get it."""
    decoder: Any = _messages if isinstance(message, _MESSAGE_KINDS) else _commands
    return decoder.decode(_encoder.encode(message))


def _as_plain(value: Any) -> Any:
    """Numbers of numpy; what an error's parameters hold beyond that is only ever shown."""
    return value.item() if hasattr(value, "item") else str(value)


_MESSAGE_KINDS = (Loading, Loaded, LoadFailed, Outputs, Reply, Heartbeat)
_encoder = msgspec.msgpack.Encoder(enc_hook=_as_plain)
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_messages: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
