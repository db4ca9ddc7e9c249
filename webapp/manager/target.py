"""What is to be loaded: a choice of names, and the same resolved to a file that was looked into."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from webapp.engine.backend import backend_for
from webapp.engine.model_config import ModelConfig
from webapp.engine.state import RecurrentState
from webapp.errors import FileMissing, RoostError, WeightsError
from webapp.manager.library import ModelLibrary
from webapp.tokenizer import Tokenizer, load_tokenizer
from webapp.weights.inspection import Inspection, require_model


@dataclass(frozen=True)
class Choice:
    """Names as a person gave them; "" is the starter model, or no state."""

    model: str = ""
    strategy: str = "cpu fp32"
    state: str = ""


@dataclass(frozen=True)
class StateInfo:
    """A state in use: its file's name and digest; both "" for none."""

    name: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Target:
    """Everything needed to load, already checked. ``stamp`` tells a file from its replacement of the same name.

    ``notice`` says why a state that was in use before is not any more.
    """

    choice: Choice
    path: str
    stamp: tuple[int, int]
    inspection: Inspection = field(compare=False, repr=False)
    config: ModelConfig
    state_info: StateInfo = StateInfo()
    state: RecurrentState | None = field(default=None, compare=False, repr=False)
    notice: dict[str, Any] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return Path(self.path).name

    def is_same_engine(self, other: Target) -> bool:
        """True when an engine loaded for one serves the other, but for the state."""
        return self.is_same_model(other) and self.choice.strategy.split() == other.choice.strategy.split()

    def is_same_model(self, other: Target) -> bool:
        """True when a prompt encoded for one means the same to the other."""
        return (self.path, self.stamp) == (other.path, other.stamp)

    def is_same_start(self, other: Target) -> bool:
        return self.is_same_model(other) and self.choice.state == other.choice.state


class TargetResolver:
    """Turns a :class:`Choice` into a :class:`Target`, or says why it cannot be loaded. Loads no weights.

    ``trusted`` are names the operator set (command line, config file): they may lie anywhere on disk. All others have
    to be in the models folder.
    """

    def __init__(self, library: ModelLibrary, trusted: tuple[str, ...] = ()) -> None:
        self._library = library
        self._trusted = {name for name in trusted if name}

    def resolve(self, choice: Choice, before: Target | None = None, may_drop_state: bool = False) -> Target:
        """``before`` is what was chosen until now: its state is taken over unread when model and state are the same.

        A state that does not fit is an error, or dropped with a notice when it ``may_drop_state``.
        """
        backend_class = backend_for(choice.strategy).load_class()
        path, stamp, inspection, config = self._look_into(choice.model)
        backend_class.check(config, choice.strategy)
        target = Target(choice, path, stamp, inspection, config)
        if before is not None and before.state_info.name and target.is_same_start(before):
            return replace(target, state=before.state, state_info=before.state_info)
        try:
            return self.with_state(target, choice.state)
        except WeightsError as exc:
            if not may_drop_state:
                raise
            return replace(self.with_state(target, ""), notice=exc.to_dict())

    def with_state(self, target: Target, name: str) -> Target:
        """StateMismatch, or another WeightsError, when the file cannot be this model's beginning."""
        choice = replace(target.choice, state=name)
        if not name:
            return replace(target, choice=choice, state=None, state_info=StateInfo(), notice=None)
        path = self._library.find_state(name, allow_outside=name in self._trusted)
        from webapp.weights.state_file import read_state_file  # brings numpy

        found = read_state_file(path, target.config)
        state = RecurrentState.from_time_state(target.config, found.layers)
        info = StateInfo(path.name, found.digest)
        return replace(target, choice=choice, state=state, state_info=info, notice=None)

    def _look_into(self, name: str) -> tuple[str, tuple[int, int], Inspection, ModelConfig]:
        path = self._library.find(name, allow_outside=name in self._trusted)
        inspection = self._library.inspect(path)
        try:
            found = path.stat()
        except OSError as exc:
            raise FileMissing(path=str(path)) from exc
        return str(path), (found.st_mtime_ns, found.st_size), inspection, require_model(inspection)


def tokenizer_of(target: Target) -> Tokenizer:
    """Of the target's vocabulary, or the vocabulary file beside the model; kept for the two used last."""
    return _tokenizer(target.config.vocab_size, target.path)


@lru_cache(maxsize=2)
def _tokenizer(vocab_size: int, path: str) -> Tokenizer:
    return load_tokenizer(vocab_size, model_path=path)


def tokenizer_or_none(target: Target) -> Tokenizer | None:
    """None for a vocabulary Roost has no tokenizer for: such a model still takes token ids."""
    try:
        return tokenizer_of(target)
    except RoostError:
        return None
