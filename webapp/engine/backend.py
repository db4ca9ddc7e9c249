"""The contract of a backend: one way to run a model.

A backend runs one loaded model and is called from the engine loop's thread alone. Adding one is a file under
``webapp/backends`` and a row in ``webapp.engine.registry``; the parity tests pick it up by themselves.

How the engine uses a backend, in short::

    options = checked_options(backend_class, {"format": "q8"})   # declared in OPTIONS
    backend_class.check(model, options)                          # before anything is loaded
    backend = backend_class.load(path, config, options, progress)
    slot = backend.new_slot()
    logits = backend.step([Row(slot, [1, 2, 3], "last")])        # prefill and decode in one call
    sampled = logits.sample([0], sampling_batch)                 # where the logits are
    handle = backend.save(slot)                                  # ... and backend.restore(slot, handle)

Nothing here imports numpy or torch: the web process reads options, checks and footprints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from msgspec import Struct, field

from webapp.engine.options import (
    OF_ENGINE,
    BackendKind,
    BackendOption,
    Builder,
    Options,
    PlacedRun,
    plain_builder,
    read_words,
    usage,
)
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import BackendUnavailable, InvalidOption, ModelError, StrategyError
from webapp.i18n import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from webapp.engine.sampler import Sampled, SamplingBatch


class Availability(Struct, frozen=True):
    """Whether this machine can run a backend; if not, why, and the command or hardware that would change that.

    Both texts are fixed English sentences or phrases (``webapp.errors.Text``), so that they can be translated.
    ``is_ready`` False: :meth:`Backend.prepare` or the first load has to build something first. Without ``is_available``
    it cannot be built, because a tool is missing or because an earlier attempt failed (``has_failed``).
    """

    is_available: bool
    reason: Text | str = ""
    way_out: Text | str = ""
    is_ready: bool = True
    has_failed: bool = False

    def require(self, backend: str) -> None:
        """Raises BackendUnavailable with the given backend name if the backend cannot run here."""
        if not self.is_available:
            raise BackendUnavailable(backend=backend, reason=self.reason, way_out=self.way_out)


class LoadProgress(Struct, frozen=True):
    """Progress of a load: ``done_bytes`` of ``total_bytes``, ``done_tensors`` of ``total_tensors``.

    ``step`` names the current work if it is not reading: ``quantising`` or ``compiling``. For ``compiling``,
    ``step_done`` of ``step_total`` pipelines are ready.
    """

    done_bytes: int
    total_bytes: int
    done_tensors: int
    total_tensors: int
    step: str = ""
    step_done: int = 0
    step_total: int = 0


class TensorSize(Protocol):
    """What is known about a tensor before it is read; ``dtype`` is its torch name."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def numel(self) -> int: ...
    @property
    def nbytes(self) -> int: ...


class ModelFile(Protocol):
    """A model file that was inspected, without its tensors: ``webapp.weights.inspection.Inspection``.

    ``format``: pth, safetensors, ggml-bin or gguf; empty if unknown.
    ``converted_strategy``: the one strategy a file converted beforehand can run, None for any other file.
    """

    @property
    def format(self) -> str: ...

    @property
    def config(self) -> ModelConfig | None: ...
    @property
    def tensors(self) -> Sequence[TensorSize]: ...
    @property
    def converted_strategy(self) -> str | None: ...


class ModelSizes(Struct, frozen=True):
    """A :class:`ModelFile` for a caller that knows the sizes but has no file."""

    config: ModelConfig | None
    tensors: Sequence[TensorSize] = ()
    converted_strategy: str | None = None
    format: str = ""


RAM = "ram"


class Footprint(Struct, frozen=True):
    """Bytes that a loaded model needs, by device: :data:`RAM` or a device name as in a strategy (``cuda:0``).

    ``weights`` stay in memory as long as the model is loaded. ``base`` is what the process uses before any weight is
    loaded. ``load_extra`` and ``run_extra`` come on top of both: the peak during the load and while it answers.
    ``state`` is one running sequence, ``snapshot`` one saved state (always in main memory). ``capacity``: the total
    memory of a device, if only its backend can ask for it.
    """

    weights: Mapping[str, int]
    base: Mapping[str, int] = field(default_factory=dict)
    load_extra: Mapping[str, int] = field(default_factory=dict)
    run_extra: Mapping[str, int] = field(default_factory=dict)
    state: Mapping[str, int] = field(default_factory=dict)
    snapshot: int = 0
    capacity: Mapping[str, int] = field(default_factory=dict)

    @property
    def devices(self) -> tuple[str, ...]:
        """Main memory first; every process has some of it."""
        return (RAM, *sorted({*self.weights, *self.base, *self.load_extra, *self.run_extra, *self.state} - {RAM}))

    def running_bytes(self, device: str) -> int:
        """While one answer is written."""
        return self._kept_bytes(device) + self.run_extra.get(device, 0) + self.state.get(device, 0)

    def peak_bytes(self, device: str) -> int:
        """The peak: during the load, or while one answer is written."""
        return max(self.running_bytes(device), self._kept_bytes(device) + self.load_extra.get(device, 0))

    def too_large_for(self) -> str | None:
        """The device in ``capacity`` that is too small for the model even if it were otherwise empty."""
        return next((name for name, size in self.capacity.items() if self.peak_bytes(name) > size), None)

    def _kept_bytes(self, device: str) -> int:
        return self.base.get(device, 0) + self.weights.get(device, 0)


class Suggestion(NamedTuple):
    """A strategy that a backend suggests for a model. Suggestions of all backends are tried in order of ``rank``: below
    20 for the fastest (GPUs), then the others. ``reason``: a catalogue key that describes ``strategy``, or a text."""

    strategy: str
    rank: int
    reason: str


ProgressCallback = Callable[[LoadProgress], None]
"""Called often during a load; raises ``load_cancelled`` to end it."""


Want = Literal["nothing", "last", "all"]


class Row(NamedTuple):
    """One row of a step: ``token_ids`` (at least one) are fed to ``slot``, in order.

    ``want``: logits after no token (a chunk that does not end the prompt), after the last token, or after each.
    """

    slot: int
    token_ids: Sequence[int]
    want: Want = "last"


class Logits(ABC):
    """The logits of one step, where they were computed (host memory, GPU, library buffer). Valid until the next step.

    Lines are numbered from 0 in the order of the batch: no line for a row that wants nothing, one for ``last``,
    ``len(token_ids)`` for ``all``. See :func:`line_starts`.
    """

    @abstractmethod
    def __len__(self) -> int:
        """The number of lines."""

    @abstractmethod
    def to_numpy(self, lines: Sequence[int]) -> NDArray[np.float32]:
        """``(len(lines), vocab_size)``, unchanged, NaN included. May be a view: copy what you keep."""

    def sample(self, lines: Sequence[int], batch: SamplingBatch) -> Sampled:
        """Samples one token for each of ``lines``, with line ``i`` of ``batch``. It may overwrite these lines. A line
        that is not finite, or that has no token left, is marked in the result and does not affect the others.

        This is the numpy sampler. Others must sample the tokens that :mod:`webapp.engine.sampler` defines.
        """
        from webapp.engine.sampler import sample_batch

        return sample_batch(self.to_numpy(lines), batch)

    def is_finite(self, line: int) -> bool:
        """Whether the line is free of NaN and infinity."""
        import numpy as np

        return bool(np.isfinite(self.to_numpy([line])).all())


class NumpyLogits(Logits):
    """Logits in main memory, ``(lines, vocab_size)`` float32."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def to_numpy(self, lines: Sequence[int]) -> NDArray[np.float32]:
        is_all = len(lines) == len(self._rows) and list(lines) == list(range(len(lines)))
        return self._rows if is_all else self._rows[list(lines)]


def line_starts(batch: Sequence[Row]) -> list[int]:
    """For each row the number of its first line of logits; the last entry is the number of lines."""
    starts = [0]
    for row in batch:
        lines = len(row.token_ids) if row.want == "all" else int(row.want == "last")
        starts.append(starts[-1] + lines)
    return starts


class SavedState(Protocol):
    """Returned by :meth:`Backend.save`: opaque, only for that backend, freed when no reference to it is left."""

    @property
    def nbytes(self) -> int: ...


class Backend(ABC):
    """One loaded model. Token ids and plain numpy at the boundary, anything inside."""

    OPTIONS: ClassVar[tuple[BackendOption, ...]] = ()
    """What a person can choose. Pages, presets, command line and fit estimate are generated from it. An option named
    ``threads`` or ``custom_cuda`` takes the value of the engine option with the same name. A backend that has
    :data:`.options.ADAPTER_OPTIONS` loads adapters."""
    FORMATS: ClassVar[tuple[str, ...]] = ("pth", "safetensors")
    """Formats of the files it runs, named as in ``ModelFile.format``. Others are refused before ``check``."""
    KINDS: ClassVar[tuple[BackendKind, ...]] = ()
    """The ways to run a model that pages show for it; a backend without kinds is found only by its strategy."""

    config: ModelConfig
    max_slots: int
    """How many sequences may run at once; 1 if the library keeps a single state. If it is more than 1, the backend has
    room for **one slot more**, which the engine keeps for probes (logits, scores, states of a text)."""
    prefill_tokens: int = 64
    """How many prompt tokens, of all sequences together, the backend prefers in one step: enough to prefill at full
    speed, few enough not to delay running answers. Tens on a CPU, thousands on a GPU."""
    draft_tokens: int = 0
    """How many tokens a row may have in addition to the pending one before it gets much slower. The engine fills them
    with draft tokens (:class:`.scheduler.Drafter`). 0 if a row of several tokens brings no gain, or does not give
    exactly the same logits as its tokens one by one."""
    draft_cost: float = 0.33
    """Cost of a draft token: the time of one more token in a row, as a fraction of a step with one token."""

    # before a load; classmethods; they import nothing heavy, because the web process calls them

    @classmethod
    @abstractmethod
    def availability(cls) -> Availability:
        """Whether this machine could run the backend at all. Cheap."""

    @classmethod
    def availability_of(cls, name: str) -> Availability:
        """The same for one of ``KINDS`` or ``OPTIONS``, if some of them need more than the others."""
        return cls.availability()

    @classmethod
    def options_from(cls, strategy: str) -> dict[str, Any]:
        """The options in a strategy string, unchecked. Raises StrategyError.

        Default grammar: a name, then words ``name=value``. A single word is the value of the first choice option that
        has it (``native q8`` for ``native format=q8``). A backend with its own grammar keeps the string in an option
        :data:`.options.BY_STRATEGY`.
        """
        return read_words(cls.OPTIONS, strategy)

    @classmethod
    @abstractmethod
    def check(cls, model: ModelFile, options: Options) -> None:
        """Raises StrategyError, BackendUnavailable or WeightsError if this machine cannot run the model with these
        options. The model's ``tensors`` may be empty if the caller knows only its sizes."""

    @classmethod
    def footprint(cls, model: ModelFile, options: Options) -> Footprint:
        """The memory the model would need, from its tensors' shapes. Call ``check`` first.

        Default: the tensors as they are in the file, in main memory.
        """
        state = model.config.state_bytes() if model.config else 0
        weights = sum(tensor.nbytes for tensor in model.tensors)
        return Footprint({RAM: weights}, state={RAM: state}, snapshot=state)

    @classmethod
    def builder(cls, kind: str, given: Mapping[str, object], config: ModelConfig | None) -> Builder:
        """The strategy builder for one of ``KINDS``: what to show, and the strategy for the values ``given`` by name,
        in any type that a form or file has. ``config`` None: no model is chosen. Never raises."""
        return plain_builder(cls.OPTIONS, kind, given)

    @classmethod
    def read_builder(cls, strategy: str, config: ModelConfig | None) -> tuple[str, Options] | None:
        """The kind and values from which :meth:`builder` makes an equivalent strategy; None if there are none."""
        try:
            values = cls.options_from(strategy)
            if not cls.KINDS or values.keys() & OF_ENGINE:
                return None
            options = {option.name: option for option in cls.OPTIONS}
            return cls.KINDS[0].key, {name: options[name].checked(value) for name, value in values.items()}
        except (StrategyError, InvalidOption):
            return None

    @classmethod
    def placement(cls, options: Options, config: ModelConfig) -> Sequence[PlacedRun]:
        """Where the layers are placed, for a backend that can place them differently. Raises StrategyError."""
        return ()

    @classmethod
    def remarks(cls, options: Options) -> Sequence[Text]:
        """Possible improvements of these valid options, and other notes for the user."""
        return ()

    @classmethod
    def usage(cls) -> str:
        """The syntax of its strategies, in one line for the command line's help."""
        return usage(cls.OPTIONS, cls.KINDS[0].key if cls.KINDS else "")

    @classmethod
    def runner_strategy(cls, parameters: Mapping[str, object]) -> str | None:
        """The strategy for RWKV-Runner's ``modelParameters``, if this backend runs the device they name."""
        return None

    @classmethod
    def device_of(cls, options: Options) -> str:
        """The device that computes with these options, for people and programs: CPU, CUDA, WebGPU."""
        return "CPU"

    @classmethod
    def suggestions(cls, model: ModelFile) -> Sequence[Suggestion]:
        """Strategies worth trying for a model for which no strategy was chosen; none by default. They need not all run
        on this machine: those that ``check`` refuses or that do not fit are skipped."""
        return ()

    @classmethod
    def prepare(cls) -> None:
        """Builds what is not ready; may take minutes. Later processes use the result. Raises BackendUnavailable."""
        return

    bandwidth_share: ClassVar[float | None] = None
    """The part of the main memory's read bandwidth that one answer reaches with a model larger than the CPU caches. Set
    only if it was measured and holds for all formats."""

    @classmethod
    def warm_up(cls) -> None:
        """Called in an engine process that has no model yet: imports what every load needs, if it is cheap to keep
        (tens of megabytes, no device). Raises RoostError on failure."""
        return

    # a loaded model

    @classmethod
    @abstractmethod
    def load(cls, path: str, config: ModelConfig, options: Options, progress: ProgressCallback) -> Backend:
        """Reads the weights. May raise ``load_cancelled`` (from ``progress``), OutOfMemory, WeightsError,
        StrategyError."""

    @abstractmethod
    def step(self, batch: Sequence[Row]) -> Logits:
        """Feeds every row to its slot in one call. Prompt chunks and single tokens may be mixed; a slot is in at most
        one row. The result of a row must not depend on the other rows (batched equals single), except for rounding if a
        library's matrix product rounds differently for another number of rows.

        An exception leaves every slot of the batch in its previous state, so that the engine can try the rows one by
        one: OutOfMemory if memory is the reason. A backend that cannot guarantee this raises EngineCrashed.
        """

    @abstractmethod
    def new_slot(self) -> int:
        """A new slot in the zero state (or the ``time_state`` merged in the model file). Raises OutOfMemory."""

    @abstractmethod
    def free_slot(self, slot: int) -> None:
        """Frees a slot, in any state."""

    @abstractmethod
    def read_state(self, slot: int) -> RecurrentState:
        """A copy of the slot's state, which other backends can load too."""

    @abstractmethod
    def write_state(self, slot: int, state: RecurrentState) -> None:
        """Overwrites the slot's state. The caller has checked that it fits, and still owns ``state``."""

    def fork(self, slot: int) -> int:
        """A new slot in the same state. Raises OutOfMemory."""
        made = self.new_slot()
        try:
            self.write_state(made, self.read_state(slot))
        except BaseException:
            self.free_slot(made)
            raise
        return made

    def save(self, slot: int) -> SavedState:
        """A copy of the slot's state, on the backend's own device. Callers may keep any number of them, for any
        time."""
        return self.read_state(slot)

    def restore(self, slot: int, saved: SavedState) -> None:
        """Loads a state that this backend saved into any slot, exactly. ``saved`` can be restored again."""
        assert isinstance(saved, RecurrentState)
        self.write_state(slot, saved)

    def try_one_token(self, name: str) -> None:
        """Runs one token on a newly loaded model. Closes the backend if that fails or if the logits are not finite
        (ModelError with ``name``)."""
        try:
            slot = self.new_slot()
            is_finite = self.step([Row(slot, [0])]).is_finite(0)
            self.free_slot(slot)
            if not is_finite:
                raise ModelError("load_failed", name=name, reason=Text("reason.backends.first_output_not_finite"))
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def close(self) -> None:
        """Frees everything."""


class SlotModel(Protocol):
    """The methods are documented at the methods of :class:`Backend` with the same names."""

    def new_slot(self) -> int: ...

    def free_slot(self, slot: int) -> None: ...

    def copy_slot(self, source: int, target: int) -> None: ...

    def read_state(self, slot: int) -> RecurrentState: ...

    def write_state(self, slot: int, state: RecurrentState) -> None: ...

    def close(self) -> None: ...


class SlotBackend(Backend):
    """Passes all slot methods on to ``_model``."""

    _model: SlotModel

    def new_slot(self) -> int:
        return self._model.new_slot()

    def free_slot(self, slot: int) -> None:
        self._model.free_slot(slot)

    def read_state(self, slot: int) -> RecurrentState:
        return self._model.read_state(slot)

    def write_state(self, slot: int, state: RecurrentState) -> None:
        self._model.write_state(slot, state)

    def fork(self, slot: int) -> int:
        made = self._model.new_slot()
        self._model.copy_slot(slot, made)
        return made

    def close(self) -> None:
        self._model.close()


class FlatModel(SlotModel, Protocol):
    """Stores a state as one flat array, in its own order."""

    def save(self, slot: int) -> NDArray[np.float32]: ...

    def restore(self, slot: int, saved: NDArray[np.float32]) -> None: ...


class FlatBackend(SlotBackend):
    """For a :class:`FlatModel`: states are saved and restored without transposing."""

    _model: FlatModel

    def save(self, slot: int) -> SavedState:
        return Saved(self._model.save(slot))

    def restore(self, slot: int, saved: SavedState) -> None:
        assert isinstance(saved, Saved)
        self._model.restore(slot, saved.values)


class Saved(Struct, frozen=True):
    """A state in the model's own order."""

    values: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes
