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

import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from webapp.engine.model_config import ModelConfig
from webapp.engine.state import RecurrentState
from webapp.errors import InvalidOption, Phrase, StrategyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from webapp.engine.sampling_batch import Sampled, SamplingBatch

OptionValue = str | int | float | bool
Options = Mapping[str, OptionValue]
"""Values by option name. A backend's classmethods and ``load`` get every declared option, checked."""


@dataclass(frozen=True)
class Availability:
    """Whether this machine can run a backend; if not, why, and the command or hardware that would change that."""

    is_available: bool
    reason: str = ""
    way_out: str = ""


@dataclass(frozen=True)
class LoadProgress:
    """How far a load has come. ``done_bytes`` of ``total_bytes``, ``done_tensors`` of ``total_tensors``."""

    done_bytes: int
    total_bytes: int
    done_tensors: int
    total_tensors: int


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

    ``converted_strategy``: the one strategy a file converted beforehand can run, None for any other file.
    """

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


@dataclass(frozen=True)
class BackendOption:
    """One thing a person can choose about how a backend runs a model.

    ``kind`` is ``choice`` (one of ``choices``), ``whole`` or ``number`` (from ``low`` to ``high``), ``switch`` (true or
    false) or ``text``. ``help_key`` is a catalogue key: ``<help_key>.label`` and ``<help_key>.help``.
    ``needs_reload``: a change counts after the model is loaded again; the others go to :meth:`Backend.set_option`.
    """

    name: str
    kind: Literal["choice", "whole", "number", "switch", "text"]
    default: OptionValue
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    help_key: str = ""
    needs_reload: bool = True

    def checked(self, value: object) -> OptionValue:
        """The value in the option's own type; text is read as a number or switch where one is wanted, as a strategy
        string or a form has it. Raises InvalidOption."""
        if self.kind == "choice":
            if isinstance(value, str) and value in self.choices:
                return value
            raise self._invalid(value, Phrase("one of {names}", names=", ".join(self.choices)))
        if self.kind == "switch":
            if isinstance(value, bool):
                return value
            if str(value).lower() in SWITCH_WORDS:
                return SWITCH_WORDS[str(value).lower()]
            raise self._invalid(value, "true or false")
        if self.kind == "text":
            if isinstance(value, str):
                return value
            raise self._invalid(value, "text")
        return self._number(value)

    def _number(self, value: object) -> int | float:
        read: type[int] | type[float] = int if self.kind == "whole" else float
        bounds = {"least": self.low, "most": self.high}
        try:
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                raise ValueError(value)
            number = read(str(value))
            if not self.low <= number <= self.high:  # NaN is outside, too
                raise ValueError(value)
        except ValueError as exc:
            if self.kind == "whole":
                raise self._invalid(value, Phrase("a whole number from {least} to {most}", **bounds)) from exc
            raise self._invalid(value, Phrase("a number from {least} to {most}", **bounds)) from exc
        return number

    def _invalid(self, value: object, allowed: str) -> InvalidOption:
        return InvalidOption(name=self.name, value=repr(value), allowed=allowed)


SWITCH_WORDS = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}

RAM = "ram"


@dataclass(frozen=True)
class Footprint:
    """Bytes a loaded model takes, by device: :data:`RAM`, or as a strategy names it (``cuda:0``).

    ``weights`` stay as long as the model is loaded. ``base`` is what the process has before a weight is there.
    ``load_extra`` and ``run_extra`` are needed beside both, at the worst moment of the load and while it answers.
    ``state`` is one running sequence, ``snapshot`` one remembered state (always in main memory).
    """

    weights: Mapping[str, int]
    base: Mapping[str, int] = field(default_factory=dict)
    load_extra: Mapping[str, int] = field(default_factory=dict)
    run_extra: Mapping[str, int] = field(default_factory=dict)
    state: Mapping[str, int] = field(default_factory=dict)
    snapshot: int = 0

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

    def _kept_bytes(self, device: str) -> int:
        return self.base.get(device, 0) + self.weights.get(device, 0)


class Suggestion(NamedTuple):
    """A strategy a backend would run a model with. Those of all backends are tried by ``rank``, the lowest first: the
    fastest below 20 (a graphics card), then the others. ``reason``: a catalogue key over ``strategy``, or a text."""

    strategy: str
    rank: int
    reason: str


ProgressCallback = Callable[[LoadProgress], None]
"""Called often during a load; raises LoadCancelled to end it."""


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


BY_STRATEGY = "strategy"
"""The name of an option whose value is the whole strategy string: a backend with a grammar of its own."""


class Backend(ABC):
    """One loaded model. Token ids and plain numpy at the boundary, anything inside."""

    OPTIONS: ClassVar[tuple[BackendOption, ...]] = ()
    """What a person can choose. Pages, presets, command line and fit estimate draw them from here. An option called
    ``threads`` or ``custom_cuda`` takes the value of the engine option of that name."""

    config: ModelConfig
    max_slots: int
    """How many sequences may run at once; 1 where the engine below keeps a single state. Where it is more than 1 the
    backend has room for **one slot more**, which the engine keeps for probes (logits, scores, states of a text)."""
    prefill_tokens: int = 64
    """How many prompt tokens the backend likes in one step, of all sequences together: enough to read at full speed,
    few enough that running answers are not held up. Tens on a CPU, thousands on a GPU."""

    # before a load; on the class; imports nothing heavy, for the web process calls it

    @classmethod
    @abstractmethod
    def availability(cls) -> Availability:
        """Whether this machine could run the backend at all. Cheap."""

    @classmethod
    def options_from(cls, strategy: str) -> dict[str, Any]:
        """The options a strategy string spells, unchecked. StrategyError.

        A backend with an option :data:`BY_STRATEGY` has a grammar of its own and gets the string as it is. For others
        the string is a name, then words ``name=value``, quoted as in a shell; a word alone is the value of the first
        choice that has it (``native q8`` for ``native format=q8``).
        """
        if any(option.name == BY_STRATEGY for option in cls.OPTIONS):
            return {BY_STRATEGY: strategy}
        return _read_words(cls.OPTIONS, strategy)

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
    def suggestions(cls, model: ModelFile) -> Sequence[Suggestion]:
        """The strategies worth trying for a model whose file nobody chose one for; none by default. They need not all
        run on this machine: what ``check`` refuses or does not fit is passed over."""
        return ()

    # a loaded model

    @classmethod
    @abstractmethod
    def load(cls, path: str, config: ModelConfig, options: Options, progress: ProgressCallback) -> Backend:
        """Reads the weights. May raise LoadCancelled (from ``progress``), OutOfMemory, WeightsError, StrategyError."""

    @abstractmethod
    def step(self, batch: Sequence[Row]) -> Logits:
        """Feeds every row to its slot, at once: prompts' chunks and single tokens travel together, a slot in at most
        one row. What a row computes must not depend on the other rows (batched equals single).

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

    def set_option(self, name: str, value: OptionValue) -> None:
        """Changes an option that needs no reload, between two steps."""
        raise NotImplementedError(name)

    @abstractmethod
    def close(self) -> None:
        """Frees everything."""


def _read_words(options: Sequence[BackendOption], strategy: str) -> dict[str, Any]:
    """See :meth:`Backend.options_from`."""
    names = [option.name for option in options]
    found: dict[str, Any] = {}
    try:
        words = shlex.split(strategy)[1:]
    except ValueError as exc:  # an open quote
        raise StrategyError(
            strategy=strategy, reason="a quote in it is not closed", way_out="Close the quote."
        ) from exc
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            value, name = word, next((option.name for option in options if word in option.choices), word)
        if name not in names:
            raise StrategyError(
                strategy=strategy,
                reason=Phrase("{name} is not an option", name=word),
                way_out=Phrase("Options: {names}", names=", ".join(names)),
            )
        found[name] = value
    return found
