"""The contract every way to run a model fulfils.

A backend runs one loaded model and is called from the engine loop's thread alone. Adding one is a file under
``webapp/backends`` and a row in ``webapp.engine.registry``; the parity tests pick it up by themselves.

What it is asked, in short::

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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from webapp.engine.backend_options import ADAPTER_OPTIONS as ADAPTER_OPTIONS
from webapp.engine.backend_options import BY_STRATEGY as BY_STRATEGY
from webapp.engine.backend_options import OF_ENGINE, plain_builder, read_words, usage
from webapp.engine.backend_options import BackendKind as BackendKind
from webapp.engine.backend_options import BackendOption as BackendOption
from webapp.engine.backend_options import Builder as Builder
from webapp.engine.backend_options import Options as Options
from webapp.engine.backend_options import OptionValue as OptionValue
from webapp.engine.backend_options import PlacedRun as PlacedRun
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import BackendUnavailable, InvalidOption, ModelError, StrategyError
from webapp.i18n import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from webapp.engine.sampling_batch import Sampled, SamplingBatch


@dataclass(frozen=True)
class Availability:
    """Whether this machine can run a backend; if not, why, and the command or hardware that would change that.

    Both texts are fixed English sentences or phrases (``webapp.errors.Text``), so that they can be translated.
    ``is_ready`` False: something has to be built first, by :meth:`Backend.prepare` or the first load; without
    ``is_available`` it cannot be, because a tool is missing or, ``has_failed``, because it was tried in vain.
    """

    is_available: bool
    reason: Text | str = ""
    way_out: Text | str = ""
    is_ready: bool = True
    has_failed: bool = False

    def require(self, backend: str) -> None:
        """Raises BackendUnavailable with the name of that backend, where it cannot run."""
        if not self.is_available:
            raise BackendUnavailable(backend=backend, reason=self.reason, way_out=self.way_out)


@dataclass(frozen=True)
class LoadProgress:
    """How far a load has come. ``done_bytes`` of ``total_bytes``, ``done_tensors`` of ``total_tensors``.

    ``step``: what takes the time now where it is not reading, ``quantising`` or ``compiling``; of the latter
    ``step_done`` pipelines of ``step_total``.
    """

    done_bytes: int
    total_bytes: int
    done_tensors: int
    total_tensors: int
    step: str = ""
    step_done: int = 0
    step_total: int = 0


class TensorSize(Protocol):
    """What is known of a tensor before it is read; ``dtype`` is torch's name of it."""

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
    """A model file as it was looked into, without its tensors: ``webapp.weights.inspection.Inspection``.

    ``format``: pth, safetensors, ggml-bin or gguf; empty where it is not known.
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


@dataclass(frozen=True)
class ModelSizes:
    """A :class:`ModelFile` for a caller that knows the sizes but has no file at hand."""

    config: ModelConfig | None
    tensors: Sequence[TensorSize] = ()
    converted_strategy: str | None = None
    format: str = ""


RAM = "ram"


@dataclass(frozen=True)
class Footprint:
    """Bytes a loaded model takes, by device: :data:`RAM`, or as a strategy names it (``cuda:0``).

    ``weights`` stay as long as the model is loaded. ``base`` is what the process has before a weight is there.
    ``load_extra`` and ``run_extra`` are needed beside both, at the worst moment of the load and while it answers.
    ``state`` is one running sequence, ``snapshot`` one remembered state (always in main memory). ``capacity``: all the
    memory of a device that only its backend can ask.
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
        """The most there will be: while one answer is written, or during the load."""
        return max(self.running_bytes(device), self._kept_bytes(device) + self.load_extra.get(device, 0))

    def too_large_for(self) -> str | None:
        """The device of ``capacity`` that would not hold the model even if nothing else were there."""
        return next((name for name, size in self.capacity.items() if self.peak_bytes(name) > size), None)

    def _kept_bytes(self, device: str) -> int:
        return self.base.get(device, 0) + self.weights.get(device, 0)


class Suggestion(NamedTuple):
    """A strategy a backend would run a model with. Those of all backends are tried by ``rank``, the lowest first: the
    fastest below 20 (a graphics card), then the others. ``reason``: a catalogue key over ``strategy``, or a text."""

    strategy: str
    rank: int
    reason: str


ProgressCallback = Callable[[LoadProgress], None]
"""Called often during a load; raises ``load_cancelled`` to end it."""


Want = Literal["nothing", "last", "all"]


class Row(NamedTuple):
    """One row of a step: ``token_ids`` (at least one) are fed to ``slot``, in order.

    ``want``: logits after no token (a prompt's chunk before its last), after the last, or after each.
    """

    slot: int
    token_ids: Sequence[int]
    want: Want = "last"


class Logits(ABC):
    """The logits one step made, where it made them: host memory, a GPU, a library's buffer. Valid until the next step.

    Lines are numbered from 0 in the order of the batch: none for a row that wants nothing, one for ``last``,
    ``len(token_ids)`` for ``all``. See :func:`line_starts`.
    """

    @abstractmethod
    def __len__(self) -> int:
        """How many lines there are."""

    @abstractmethod
    def to_numpy(self, lines: Sequence[int]) -> NDArray[np.float32]:
        """``(len(lines), vocab_size)``, as the model gave them, NaN included. May share memory: copy what is kept."""

    def sample(self, lines: Sequence[int], batch: SamplingBatch) -> Sampled:
        """A token for each of ``lines``, by line ``i`` of ``batch``. Those lines may be overwritten. One that is not
        finite, or of which no token is left, is marked in the result and costs the others nothing.

        Here: the numpy sampler. Any other has to draw the same tokens, as :mod:`webapp.engine.sampler` defines them.
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
    """For each row the number of its first line of logits, and at the end how many lines there are."""
    starts = [0]
    for row in batch:
        lines = len(row.token_ids) if row.want == "all" else int(row.want == "last")
        starts.append(starts[-1] + lines)
    return starts


class SavedState(Protocol):
    """What :meth:`Backend.save` returns: opaque, of this one backend, freed when nothing refers to it any more."""

    @property
    def nbytes(self) -> int: ...


class Backend(ABC):
    """One loaded model. Token ids and plain numpy at the boundary, anything inside."""

    OPTIONS: ClassVar[tuple[BackendOption, ...]] = ()
    """What a person can choose. Pages, presets, command line and fit estimate draw them from here. An option called
    ``threads`` or ``custom_cuda`` takes the value of the engine option of that name; one that has
    :data:`ADAPTER_OPTIONS` loads adapters."""
    FORMATS: ClassVar[tuple[str, ...]] = ("pth", "safetensors")
    """Of the files it runs, as ``ModelFile.format`` names them. Others are refused before ``check``."""
    KINDS: ClassVar[tuple[BackendKind, ...]] = ()
    """The ways to run a model that pages show of it; a backend without one is found by its strategy alone."""

    config: ModelConfig
    max_slots: int
    """How many sequences may run at once; 1 where the engine below keeps a single state. Where it is more than 1 the
    backend has room for **one slot more**, which the engine keeps for probes (logits, scores, states of a text)."""
    prefill_tokens: int = 64
    """How many prompt tokens the backend likes in one step, of all sequences together: enough to read at full speed,
    few enough that running answers are not held up. Tens on a CPU, thousands on a GPU."""
    draft_tokens: int = 0
    """How many tokens a row may have beside the one that is due before it gets much slower; the engine fills them with
    guesses (:mod:`webapp.engine.drafts`). 0 where a row of several tokens does not pay, or does not give exactly the
    logits its tokens give one by one."""
    draft_cost: float = 0.33
    """What a guess costs: the part of a step of one row with one token by which a further token in it is slower."""

    # before a load; on the class; imports nothing heavy, for the web process calls it

    @classmethod
    @abstractmethod
    def availability(cls) -> Availability:
        """Whether this machine could run the backend at all. Cheap."""

    @classmethod
    def availability_of(cls, name: str) -> Availability:
        """The same of one of ``KINDS`` or ``OPTIONS``, where some of them need more than the others."""
        return cls.availability()

    @classmethod
    def options_from(cls, strategy: str) -> dict[str, Any]:
        """The options a strategy string spells, unchecked. StrategyError.

        Here: a name, then words ``name=value``; a word alone is the value of the first choice that has it (``native
        q8`` for ``native format=q8``). A backend with a grammar of its own keeps the string in an option
        :data:`BY_STRATEGY`.
        """
        return read_words(cls.OPTIONS, strategy)

    @classmethod
    @abstractmethod
    def check(cls, model: ModelFile, options: Options) -> None:
        """Raises StrategyError, BackendUnavailable or WeightsError when this model cannot run so on this machine. The
        model's ``tensors`` may be empty: the caller knows its sizes alone."""

    @classmethod
    def footprint(cls, model: ModelFile, options: Options) -> Footprint:
        """What the model would take, from its tensors' shapes. ``check`` comes first.

        Unless a backend knows better: the tensors as they are in the file, in main memory.
        """
        state = model.config.state_bytes() if model.config else 0
        weights = sum(tensor.nbytes for tensor in model.tensors)
        return Footprint({RAM: weights}, state={RAM: state}, snapshot=state)

    @classmethod
    def builder(cls, kind: str, given: Mapping[str, object], config: ModelConfig | None) -> Builder:
        """The strategy builder for one of ``KINDS``: what to show, and the strategy of the values ``given`` by name, in
        any type a form or file has. ``config`` None: no model is chosen. Never raises."""
        return plain_builder(cls.OPTIONS, kind, given)

    @classmethod
    def read_builder(cls, strategy: str, config: ModelConfig | None) -> tuple[str, Options] | None:
        """The kind and values with which :meth:`builder` writes a strategy that does the same; None when none do."""
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
        """Where the layers go, for a backend that can keep them differently; raises StrategyError."""
        return ()

    @classmethod
    def remarks(cls, options: Options) -> Sequence[Text]:
        """What could be better about these options, though they work, and what a person may want to know of them."""
        return ()

    @classmethod
    def usage(cls) -> str:
        """How its strategies are written, in a line for the command line's help."""
        return usage(cls.OPTIONS, cls.KINDS[0].key if cls.KINDS else "")

    @classmethod
    def runner_strategy(cls, parameters: Mapping[str, object]) -> str | None:
        """The strategy of RWKV-Runner's ``modelParameters``, for one of its devices that this backend runs."""
        return None

    @classmethod
    def device_of(cls, options: Options) -> str:
        """What computes with these options, for people and programs: CPU, CUDA, WebGPU."""
        return "CPU"

    @classmethod
    def suggestions(cls, model: ModelFile) -> Sequence[Suggestion]:
        """The strategies worth trying for a model whose file nobody chose one for; none by default. They need not all
        run on this machine: what ``check`` refuses or does not fit is passed over."""
        return ()

    @classmethod
    def prepare(cls) -> None:
        """Builds what is not ready; may take minutes, and what is built stays for later processes. BackendUnavailable
        when it cannot be done."""
        return

    bandwidth_share: ClassVar[float | None] = None
    """Of what main memory gives when it is read, the share that one answer of a model beyond the caches reads, where
    that was measured and holds for all formats alike."""

    @classmethod
    def warm_up(cls) -> None:
        """In an engine process that has no model yet: brings in what a load takes whatever the model is, as far as it
        is cheap to keep (tens of megabytes, no device). RoostError when it cannot be done."""
        return

    # a loaded model

    @classmethod
    @abstractmethod
    def load(cls, path: str, config: ModelConfig, options: Options, progress: ProgressCallback) -> Backend:
        """Reads the weights. May raise ``load_cancelled`` (from ``progress``), OutOfMemory, WeightsError,
        StrategyError."""

    @abstractmethod
    def step(self, batch: Sequence[Row]) -> Logits:
        """Feeds every row to its slot, at once: prompts' chunks and single tokens travel together, a slot in at most
        one row. What a row computes must not depend on the other rows (batched equals single), except for rounding
        where the products of a library below round by the number of rows.

        An exception leaves every slot of the batch in the state it had before, so that the engine can try the rows one
        by one: OutOfMemory where memory is the reason. A backend that cannot promise it raises EngineCrashed.
        """

    @abstractmethod
    def new_slot(self) -> int:
        """A fresh slot in the zero state (or the ``time_state`` merged in the model file). OutOfMemory."""

    @abstractmethod
    def free_slot(self, slot: int) -> None:
        """Gives a slot back, whatever became of it."""

    @abstractmethod
    def read_state(self, slot: int) -> RecurrentState:
        """A copy of the slot's state, as a value that travels between backends."""

    @abstractmethod
    def write_state(self, slot: int, state: RecurrentState) -> None:
        """Overwrites the slot's state; the caller has checked it fits, and goes on owning ``state``."""

    def fork(self, slot: int) -> int:
        """A new slot in the same state. OutOfMemory."""
        made = self.new_slot()
        try:
            self.write_state(made, self.read_state(slot))
        except BaseException:
            self.free_slot(made)
            raise
        return made

    def save(self, slot: int) -> SavedState:
        """A copy of the slot's state that stays where the states are; any number may be held, for any time."""
        return self.read_state(slot)

    def restore(self, slot: int, saved: SavedState) -> None:
        """Puts a state saved on this backend into any slot, exactly; ``saved`` can be restored again."""
        assert isinstance(saved, RecurrentState)
        self.write_state(slot, saved)

    def try_one_token(self, name: str) -> None:
        """Runs a token on a model that was just loaded. One that fails, or whose logits are not finite (ModelError with
        ``name``), is closed."""
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
