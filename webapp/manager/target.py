"""What is to be loaded: a choice of names, and the same resolved to a file that was looked into and a start."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from webapp.engine.backend import Backend
from webapp.engine.engine_options import EngineOptions
from webapp.engine.registry import AUTOMATIC, is_automatic, resolve_strategy, runnable
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import FileMissing, RoostError, StrategyError, WeightsError
from webapp.i18n import Text
from webapp.manager.library import STATES, ModelLibrary, find_file
from webapp.tokenizer import Tokenizer
from webapp.weights import inspection as inspections
from webapp.weights.inspection import Inspection, require_model
from webapp.weights.model_folder import stamp_of
from webapp.weights.state_sheet import mismatch

ZERO_STATE = "-"
"""The name of the beginning without any state, also where one is merged in the model; no file has it."""
KEPT_BYTES = 128 << 20


@dataclass(frozen=True)
class StateInfo:
    """A state in use: its file's name, as it stands in the folder of states, and digest; both "" for the model's own
    beginning."""

    name: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Start:
    """``state`` None is the model's own beginning, which only the engine knows."""

    info: StateInfo = StateInfo()
    state: RecurrentState | None = field(default=None, compare=False, repr=False)


OWN_START = Start()
_Key = tuple[str, int, int, ModelConfig]


class StartReader:
    """Reads each file once a change, keeps those used last up to :data:`KEPT_BYTES`, and hands out the same object.

    ``trusted`` names may lie anywhere on disk (see :class:`.target.TargetResolver`). Safe to use from any thread.
    """

    def __init__(self, library: ModelLibrary, trusted: frozenset[str]) -> None:
        self._library = library
        self._trusted = trusted
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, Start] = OrderedDict()

    def start(self, name: str, config: ModelConfig) -> Start:
        """Of a name as a person gives it. FileMissing, ``state_mismatch`` or another WeightsError."""
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


__all__ = ["ZERO_STATE", "Choice", "EngineOptions", "Start", "StateInfo", "Target", "TargetResolver", "tokenizer_of"]
BUILT_IN_TOKENIZERS = ("world", "byte")


@dataclass(frozen=True)
class Choice:
    """Names as a person gave them; "" is the starter model, or the model's own beginning."""

    model: str = ""
    strategy: str = AUTOMATIC
    state: str = ""
    options: EngineOptions = field(default_factory=EngineOptions)

    def changed(self, **given: Any) -> Choice:
        """None keeps what is chosen."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Target:
    """Everything needed to load, already checked. ``stamp`` tells a file from its replacement of the same name.

    ``options`` are the choice's over the settings', with the files of tokenizer and adapter found. ``notice`` says why
    a state that was in use before is not any more. ``automatic`` is what the choice's ``auto`` came to, else "".
    ``adapter_stamps`` tell the adapter's files from their replacements.
    """

    choice: Choice
    path: str
    stamp: tuple[int, int]
    inspection: Inspection = field(compare=False, repr=False)
    config: ModelConfig
    options: EngineOptions = field(default_factory=EngineOptions)
    start: Start = field(default_factory=Start)
    notice: dict[str, Any] | None = field(default=None, compare=False)
    automatic: str = ""
    adapter_stamps: tuple[tuple[int, int], ...] = ()
    library_name: str = field(default="", compare=False)

    @property
    def strategy(self) -> str:
        """The one it is run with; never ``auto``."""
        return self.automatic or self.choice.strategy

    @property
    def name(self) -> str:
        """As the library prints it: with the folder below the models folder, so that no two files have one name."""
        return self.library_name or Path(self.path).name

    @property
    def adapter(self) -> str:
        """The name of the adapter's file; "" without one."""
        return Path(self.options.adapter_file).name

    @property
    def state_info(self) -> StateInfo:
        return self.start.info

    @property
    def state(self) -> RecurrentState | None:
        """None for the model's own beginning."""
        return self.start.state

    def is_same_engine(self, other: Target) -> bool:
        """True when an engine loaded for one serves the other, but for the state and the time it may idle."""
        return not self.reload_differences(other)

    def reload_differences(self, other: Target) -> tuple[str, ...]:
        """Names of what an engine loaded for ``other`` would have to be loaded again for."""
        is_same_file = (self.path, self.stamp) == (other.path, other.stamp)
        is_same_strategy = self.strategy.split() == other.strategy.split()
        names = [name for name, same in (("model", is_same_file), ("strategy", is_same_strategy)) if not same]
        names += self.options.reload_differences(other.options)
        if self.adapter_stamps != other.adapter_stamps and "adapter_file" not in names:
            names.append("adapter_file")
        return tuple(names)

    def is_same_model(self, other: Target) -> bool:
        """True when a prompt encoded for one means the same to the other."""
        mine, theirs = ((target.path, target.stamp, target.options.tokenizer) for target in (self, other))
        return mine == theirs

    def is_same_start(self, other: Target) -> bool:
        is_same_file = (self.path, self.stamp) == (other.path, other.stamp)
        return is_same_file and self.choice.state == other.choice.state


class TargetResolver:
    """Turns a :class:`Choice` into a :class:`Target`, or says why it cannot be loaded. Loads no weights.

    ``trusted`` are names the operator set (command line, config file): they may lie anywhere on disk. All others have
    to be in the models folder. ``defaults`` are the options where none are chosen. ``automatic(inspection, in_use)``
    is the strategy ``auto`` stands for; ``in_use`` is the one the file is loaded with by ``auto`` now, or "".
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
        """The model and adapter that were found to fit last: asked for again at every page."""

    def resolve(
        self,
        choice: Choice,
        before: Target | None = None,
        may_drop_state: bool = False,
        loaded: Target | None = None,
        keeps_automatic: bool = False,
    ) -> Target:
        """``before`` is what was chosen until now: its state is taken over unread when model and state are the same.
        ``loaded`` is what an engine holds or is about to; with ``keeps_automatic``, ``auto`` is what it came to for
        that file, and memory and backends are not looked at again.

        A state that does not fit is an error, or dropped with a notice when it ``may_drop_state``; so is one that may
        have been made for the version of the model before.
        """
        if not is_automatic(choice.strategy):
            resolve_strategy(choice.strategy)  # what is wrong with it is told before what is wrong with the file
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
            tokenizer_of(target)  # one that was named has to fit; none at all is fine
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
        """Whether the names alone show that it comes to what is loaded, but for the state; cheap, for pages."""
        before = loaded.choice
        if (choice.strategy, choice.options) != (before.strategy, before.options):
            return False
        path = self._library.find(choice.model, allow_outside=choice.model in self._trusted)
        try:
            stamps = _adapter_stamps(loaded.options)
        except OSError:  # it is gone; resolving says so
            return False
        return (str(path), stamp_of(path), stamps) == (loaded.path, loaded.stamp, loaded.adapter_stamps)

    def with_state(self, target: Target, name: str) -> Target:
        """``state_mismatch``, or another WeightsError, when the file cannot be this model's beginning."""
        choice = replace(target.choice, state=name)
        return replace(target, choice=choice, start=self.start(target, name), notice=None)

    def start(self, target: Target, name: str) -> Start:
        """Where a sequence of the target's model begins with this state. Errors as of ``with_state``."""
        return self._starts.start(name, target.config)

    def effective(self, options: EngineOptions) -> EngineOptions:
        """Over the settings' options, with the files of vocabulary and adapter found; FileMissing or ModelNotFound when
        there is none."""
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
        """``lora_mismatch``, ``conversion_refused`` or StrategyError when it cannot be merged while this is loaded."""
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
    """OSError when a file of the adapter is gone."""
    return tuple(stamp_of(path) for path in (options.adapter_file, options.adapter_start) if path)


def check_same_version(target: Target, before: Target) -> None:
    """``state_mismatch`` for a state that comes along from a model of another version. Its file cannot say which it was
    made for, or it would not have fitted one of the two. It can be chosen again."""
    name, major = before.state_info.name, before.config.major
    if name in ("", ZERO_STATE) or target.choice.state != before.choice.state or target.config.major == major:
        return
    found = Text("states.mismatch.used_with", used_version=str(major))
    raise mismatch(Path(name), Text("states.mismatch.architecture"), f"RWKV-{target.config.major}", found)


_reading = threading.Lock()


def tokenizer_of(target: Target) -> Tokenizer:
    """Of the target's vocabulary, or the vocabulary file beside the model; kept for the two used last, and read once
    where two threads want it at a time."""
    with _reading:
        return _tokenizer(target.config.vocab_size, target.path, target.options.tokenizer)


@lru_cache(maxsize=2)
def _tokenizer(vocab_size: int, path: str, override: str) -> Tokenizer:
    return inspections.tokenizer_of(vocab_size, path, override)


def tokenizer_or_none(target: Target) -> Tokenizer | None:
    """None for a vocabulary Roost has no tokenizer for: such a model still takes token ids."""
    try:
        return tokenizer_of(target)
    except RoostError:
        return None
