"""What to load: a choice of names (Choice), its resolved form with an inspected file and a state (Target), and the
model's status for pages, with a board on which callers can wait for a change."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from webapp.engine.backend import Backend
from webapp.engine.options import AUTOMATIC, EngineOptions, is_automatic
from webapp.engine.registry import resolve_strategy, runnable
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import FileMissing, RoostError, StrategyError, WeightsError
from webapp.i18n import Text
from webapp.manager.library import STATES, ModelLibrary, find_file
from webapp.tokenizer import Tokenizer
from webapp.weights import inspection as inspections
from webapp.weights.file_format import stamp_of
from webapp.weights.inspection import Inspection, require_model
from webapp.weights.state_sheet import mismatch

if TYPE_CHECKING:
    from webapp.manager.session import EngineSession


ZERO_STATE = "-"
"""The name for no initial state, even if one is merged in the model; no file has this name."""
KEPT_BYTES = 128 << 20


class StateInfo(Struct, frozen=True):
    """The state in use: the name of its file in the folder of states, and its digest; both "" for the model's own
    initial state."""

    name: str = ""
    digest: str = ""


class Start(Struct, frozen=True):
    """``state`` None is the model's own initial state, which only the engine knows."""

    info: StateInfo = StateInfo()
    state: RecurrentState | None = None


BUILT_IN_TOKENIZERS = ("world", "byte")


class Choice(Struct, frozen=True):
    """Names as a person entered them; "" is the starter model, or the model's own initial state."""

    model: str = ""
    strategy: str = AUTOMATIC
    state: str = ""
    options: EngineOptions = field(default_factory=EngineOptions)

    def changed(self, **given: Any) -> Choice:
        """A changed copy; None keeps the current value."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


class Target(Struct, frozen=True):
    """Everything needed for a load, already checked. ``stamp`` distinguishes a file from a new file with the same name.

    ``options`` are those of the choice and then of the settings, with full paths of tokenizer and adapter. ``notice``
    says why a state is not in use any more. ``automatic``: the strategy that ``auto`` chose, else "".
    ``adapter_stamps`` distinguish the adapter's files from new ones.
    """

    choice: Choice
    path: str
    stamp: tuple[int, int]
    inspection: Inspection
    config: ModelConfig
    options: EngineOptions = field(default_factory=EngineOptions)
    start: Start = field(default_factory=Start)
    notice: dict[str, Any] | None = None
    automatic: str = ""
    adapter_stamps: tuple[tuple[int, int], ...] = ()
    library_name: str = ""

    @property
    def strategy(self) -> str:
        """The strategy in use; never ``auto``."""
        return self.automatic or self.choice.strategy

    @property
    def name(self) -> str:
        """As the library shows it: with the path below the models folder, so that every file has its own name."""
        return self.library_name or Path(self.path).name

    @property
    def adapter(self) -> str:
        """The name of the adapter's file; "" if there is none."""
        return Path(self.options.adapter_file).name

    @property
    def state_info(self) -> StateInfo:
        return self.start.info

    @property
    def state(self) -> RecurrentState | None:
        """None for the model's own initial state."""
        return self.start.state

    def is_same_engine(self, other: Target) -> bool:
        """Whether an engine loaded for one can serve the other, ignoring the state and the idle time."""
        return not self.reload_differences(other)

    def reload_differences(self, other: Target) -> tuple[str, ...]:
        """The names of the parts that require a reload of an engine that was loaded for ``other``."""
        is_same_file = (self.path, self.stamp) == (other.path, other.stamp)
        is_same_strategy = self.strategy.split() == other.strategy.split()
        names = [name for name, same in (("model", is_same_file), ("strategy", is_same_strategy)) if not same]
        names += self.options.reload_differences(other.options)
        if self.adapter_stamps != other.adapter_stamps and "adapter_file" not in names:
            names.append("adapter_file")
        return tuple(names)

    def is_same_model(self, other: Target) -> bool:
        """Whether a prompt encoded for one means the same for the other."""
        mine, theirs = ((target.path, target.stamp, target.options.tokenizer) for target in (self, other))
        return mine == theirs

    def is_same_start(self, other: Target) -> bool:
        is_same_file = (self.path, self.stamp) == (other.path, other.stamp)
        return is_same_file and self.choice.state == other.choice.state


PHASES = ("empty", "loading", "ready", "answering", "failed", "unloading")


class ModelStatus(Struct, frozen=True):
    """The status at one moment. ``revision`` increases by one with every change.

    ``model``, ``model_path``, ``strategy``, ``adapter`` (a file name) and ``state`` describe what is loaded or loading,
    otherwise what is chosen. ``error`` (a RoostError's dict) is the error of the last load or of the engine. It may
    occur with phase ``ready`` if a model could not replace the loaded one. ``notice`` says why a state was dropped.
    ``engine_bytes``: resident memory of the engine process at that time; its change alone makes no new revision.
    ``silent_s``: seconds since the last sign of life of the engine or of a loading one; 0 while that is normal.
    ``chosen_strategy`` is ``auto`` if ``auto`` chose ``strategy``; ``engine_note`` then says why it is not a faster
    one, or "" (see :class:`.memory.AutomaticEngine`). ``step``, ``step_done``, ``step_total``: as in LoadProgress,
    during a load.
    """

    revision: int = 0
    phase: str = "empty"
    model: str = ""
    model_path: str = ""
    strategy: str = ""
    chosen_strategy: str = ""
    adapter: str = ""
    state: str = ""
    state_digest: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    done_tensors: int = 0
    total_tensors: int = 0
    step: str = ""
    step_done: int = 0
    step_total: int = 0
    error: dict[str, Any] | None = None
    notice: dict[str, Any] | None = None
    running: int = 0
    waiting: int = 0
    slots: int = 0
    silent_s: int = 0
    engine_note: str = ""
    engine_bytes: int = 0


OWN_START = Start()
_Key = tuple[str, int, int, ModelConfig]


class StartReader:
    """Reads each file once per change, caches the last used ones up to :data:`KEPT_BYTES`, and returns the same object.

    ``trusted`` names may be anywhere on disk (see :class:`.target.TargetResolver`). Safe to use from any thread.
    """

    def __init__(self, library: ModelLibrary, trusted: frozenset[str]) -> None:
        self._library = library
        self._trusted = trusted
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, Start] = OrderedDict()

    def start(self, name: str, config: ModelConfig) -> Start:
        """The initial state for a name that a person enters. FileMissing, ``state_mismatch``, WeightsError."""
        if not name:
            return OWN_START
        if name == ZERO_STATE:
            zeros = RecurrentState.zeros(config)
            return Start(StateInfo(ZERO_STATE, zeros.digest()), zeros)
        path = self._library.find_state(name, allow_outside=name in self._trusted)
        found = path.stat()
        key = (str(path), found.st_mtime_ns, found.st_size, config)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        start = self._read(path, config)
        self._keep(key, start)
        return start

    def _read(self, path: Path, config: ModelConfig) -> Start:
        import numpy as np

        digest, values = self._library.reader.read_state(path, config)
        sizes = (config.n_layer, config.n_head, config.head_size, config.head_size)
        found = np.frombuffer(values, np.float32)
        count = math.prod(sizes)
        state = RecurrentState.from_time_state(config, found[:count].reshape(sizes))
        if len(found) > count:
            attention, mix = found[count:].reshape(2, config.n_layer, config.n_embd)
            state = replace(state, arrays={**state.arrays, "att_x_prev": attention, "ffn_x_prev": mix})
        return Start(StateInfo(self._name_of(path), digest), state)

    def _name_of(self, path: Path) -> str:
        states = self._library.models_dir.absolute() / STATES
        return path.relative_to(states).as_posix() if path.is_relative_to(states) else path.name

    def _keep(self, key: _Key, start: Start) -> None:
        with self._lock:
            self._kept[key] = start
            while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > KEPT_BYTES:
                self._kept.popitem(last=False)


def _size(start: Start) -> int:
    return start.state.nbytes if start.state else 0


class TargetResolver:
    """Resolves a :class:`Choice` to a :class:`Target`, or raises why it cannot be loaded. Loads no weights.

    ``trusted`` names were set by the operator (command line, config file): they may be anywhere on disk. All others
    must be in the models folder. ``defaults`` are the options that apply if none are chosen. ``automatic(inspection,
    in_use)`` is the strategy for ``auto``; ``in_use`` is the one that ``auto`` chose for the loaded file, or "".
    """

    def __init__(
        self,
        library: ModelLibrary,
        automatic: Callable[[Inspection, str], str],
        trusted: tuple[str, ...] = (),
        defaults: EngineOptions | None = None,
    ) -> None:
        self._library = library
        self._trusted = frozenset(name for name in trusted if name)
        self._defaults = defaults or EngineOptions()
        self._automatic = automatic
        self._starts = StartReader(library, self._trusted)
        self._fitting: tuple[object, ...] = ()
        """The last model and adapter that were found to fit, because every page asks again."""

    def resolve(
        self,
        choice: Choice,
        before: Target | None = None,
        may_drop_state: bool = False,
        loaded: Target | None = None,
        keeps_automatic: bool = False,
    ) -> Target:
        """``before`` is the previous choice: its state is reused without reading if model and state are the same.
        ``loaded`` is the target of the loaded or loading engine. With ``keeps_automatic``, ``auto`` is the strategy
        chosen for that file, without checking memory and backends again.

        A state that does not fit is an error, or is dropped with a notice if ``may_drop_state``. The same holds for a
        state that may have been made for the previous model's version.
        """
        if not is_automatic(choice.strategy):
            resolve_strategy(choice.strategy)  # errors in the strategy are reported before errors in the file
        path, stamp, inspection, config = self._look_into(choice.model)
        name = self._library.name_of(Path(path))
        target = Target(choice, path, stamp, inspection, config, self.effective(choice.options), library_name=name)
        if is_automatic(choice.strategy):
            is_loaded = loaded is not None and (loaded.path, loaded.stamp) == (path, stamp)
            in_use = loaded.automatic if loaded is not None and is_loaded else ""
            kept = in_use if keeps_automatic else ""
            target = replace(target, automatic=kept or self._automatic(inspection, in_use))
        backend, _ = runnable(inspection, target.strategy)
        if target.options.adapter_file:
            target = self._with_adapter(target, backend)
        if target.options.tokenizer:
            tokenizer_of(target)  # a named one must fit; none is allowed
        if before is not None and before.state_info.name and target.is_same_start(before):
            return replace(target, start=before.start)
        try:
            if may_drop_state and before is not None:
                check_same_version(target, before)
            return self.with_state(target, choice.state)
        except WeightsError as exc:
            if not may_drop_state:
                raise
            notice = WeightsError("state_dropped", **exc.params) if exc.code == "state_mismatch" else exc
            return replace(self.with_state(target, ""), notice=notice.to_dict())

    def is_same(self, choice: Choice, loaded: Target) -> bool:
        """Whether the names alone show that the choice is loaded, ignoring the state; cheap, for pages."""
        before = loaded.choice
        if (choice.strategy, choice.options) != (before.strategy, before.options):
            return False
        path = self._library.find(choice.model, allow_outside=choice.model in self._trusted)
        try:
            stamps = _adapter_stamps(loaded.options)
        except OSError:  # it is gone; resolve() reports it
            return False
        return (str(path), stamp_of(path), stamps) == (loaded.path, loaded.stamp, loaded.adapter_stamps)

    def with_state(self, target: Target, name: str) -> Target:
        """Raises ``state_mismatch`` or another WeightsError if the file cannot be this model's initial state."""
        choice = replace(target.choice, state=name)
        return replace(target, choice=choice, start=self.start(target, name), notice=None)

    def start(self, target: Target, name: str) -> Start:
        """The initial state of a sequence of the target's model. Errors as in ``with_state``."""
        return self._starts.start(name, target.config)

    def effective(self, options: EngineOptions) -> EngineOptions:
        """These options over the settings', with full paths of vocabulary and adapter. Raises FileMissing or
        ModelNotFound."""
        found = options.over(self._defaults)
        if found.adapter_file:
            file, start = (self._adapter_path(one) for one in (found.adapter_file, found.adapter_start))
            found = found.with_adapter(file, found.adapter_alpha, start)
        name = found.tokenizer
        if not name or name in BUILT_IN_TOKENIZERS:
            return found
        path = find_file(self._library.models_dir, name, allow_outside=name in self._trusted)
        if path is None:
            raise FileMissing(path=name)
        return replace(found, tokenizer=str(path))

    def _adapter_path(self, name: str) -> str:
        return str(self._library.find(name, allow_outside=name in self._trusted)) if name else ""

    def _with_adapter(self, target: Target, backend: type[Backend]) -> Target:
        """Raises ``lora_mismatch``, ``conversion_refused`` or StrategyError if the load cannot merge the adapter."""
        options = target.options
        if all(option.name != "adapter_file" for option in backend.OPTIONS):
            raise StrategyError(
                strategy=target.strategy,
                reason=Text("reason.manager.loads_no_adapters"),
                way_out=Text("reason.manager.merge_it_by_conversion"),
            )
        given = (options.adapter_file, options.adapter_alpha, options.adapter_start)
        try:
            stamps = _adapter_stamps(options)
        except OSError as exc:
            raise FileMissing(path=Path(options.adapter_file).name) from exc
        fitting = (target.path, target.stamp, given, stamps)
        if fitting != self._fitting:
            self._library.reader.check_adapter(Path(target.path), *given)
            self._fitting = fitting
        return replace(target, adapter_stamps=stamps)

    def _look_into(self, name: str) -> tuple[str, tuple[int, int], Inspection, ModelConfig]:
        path = self._library.find(name, allow_outside=name in self._trusted)
        inspection = self._library.inspect(path)
        try:
            stamp = stamp_of(path)
        except OSError as exc:
            raise FileMissing(path=str(path)) from exc
        return str(path), stamp, inspection, require_model(inspection)


def _adapter_stamps(options: EngineOptions) -> tuple[tuple[int, int], ...]:
    """Raises OSError if a file of the adapter is gone."""
    return tuple(stamp_of(path) for path in (options.adapter_file, options.adapter_start) if path)


def check_same_version(target: Target, before: Target) -> None:
    """Raises ``state_mismatch`` if a state is taken over from a model of another version. The file does not say for
    which version it was made, as it fits both. A person can choose it again."""
    name, major = before.state_info.name, before.config.major
    if name in ("", ZERO_STATE) or target.choice.state != before.choice.state or target.config.major == major:
        return
    found = Text("states.mismatch.used_with", used_version=str(major))
    raise mismatch(Path(name), Text("states.mismatch.architecture"), f"RWKV-{target.config.major}", found)


_reading = threading.Lock()


def tokenizer_of(target: Target) -> Tokenizer:
    """The tokenizer for the target's vocabulary, or the vocabulary file next to the model. The last two are cached, and
    two threads never read the same one twice."""
    with _reading:
        return _tokenizer(target.config.vocab_size, target.path, target.options.tokenizer)


@lru_cache(maxsize=2)
def _tokenizer(vocab_size: int, path: str, override: str) -> Tokenizer:
    return inspections.tokenizer_of(vocab_size, path, override)


def tokenizer_or_none(target: Target) -> Tokenizer | None:
    """None if Roost has no tokenizer for the vocabulary: such a model still accepts token ids."""
    try:
        return tokenizer_of(target)
    except RoostError:
        return None


def describe(
    phase: str,
    goal: Target | None,
    session: EngineSession | None,
    loading: EngineSession | None,
    held: int,
    error: RoostError | None,
) -> ModelStatus:
    """The status for the supervisor's values; ``held`` requests wait for a model."""
    names = described_target(goal) if goal else {}
    progress: dict[str, Any] = asdict(loading.progress) if loading else {}
    counts: dict[str, Any] = {}
    if session is not None:
        waiting = session.waiting_count
        counts = {"running": session.open_count - waiting, "slots": session.slots}
        held += waiting
    engines = [each for each in (session, loading) if each is not None]
    if engines:
        counts["engine_bytes"] = engines[0].engine_bytes
    silent_s = max((each.silent_s for each in engines), default=0)
    return ModelStatus(
        phase=phase,
        error=error.to_dict() if error else None,
        waiting=held,
        silent_s=silent_s,
        **names,
        **progress,
        **counts,
    )


def described_target(target: Target) -> dict[str, Any]:
    """The status fields that describe the choice."""
    return {
        "model": target.name,
        "model_path": target.path,
        "strategy": target.strategy,
        "chosen_strategy": AUTOMATIC if target.automatic else target.choice.strategy,
        "adapter": target.adapter,
        "state": target.state_info.name,
        "state_digest": target.state_info.digest,
        "notice": target.notice,
    }


class StatusBoard:
    """The newest status, for any number of readers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._status = ModelStatus()
        self._note = ""
        self._listeners: tuple[Callable[[], object], ...] = ()

    @property
    def status(self) -> ModelStatus:
        return self._status

    def publish(self, status: ModelStatus) -> None:
        """Sets the status's revision."""
        with self._changed:
            now = replace(status, revision=self._status.revision, engine_note=self._note)
            is_new = now != replace(self._status, engine_bytes=now.engine_bytes)
            self._status = replace(now, revision=now.revision + is_new)
            self._changed.notify_all()
        for listener in self._listeners if is_new else ():
            listener()

    def set_note(self, engine_note: str) -> None:
        self._note = engine_note
        self.publish(self._status)

    def listen(self, listener: Callable[[], object]) -> None:
        """Calls ``listener`` after every change, in the thread that made it; it must return at once."""
        with self._changed:
            self._listeners = (*self._listeners, listener)

    def forget(self, listener: Callable[[], object]) -> None:
        with self._changed:
            self._listeners = tuple(each for each in self._listeners if each != listener)

    def wait_change(self, revision: int, timeout_s: float) -> ModelStatus:
        """The status once its revision differs from ``revision``, or the current one after the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._status.revision != revision, timeout_s)
            return self._status
