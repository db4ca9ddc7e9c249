"""A backend without a model: a small exact recurrence for tests, demonstrations and measuring overhead.

Logits depend only on the slot's state, and the state depends on every token fed, in order. So snapshots, leaks between
slots and replays are visible as with a real model. Chunking never changes a result. ``load`` reads no file; without a
config it uses :func:`fake_config`.

The strategy is ``fake`` followed by ``key=value`` options (quoted as in a shell where a value has spaces):

==================  ===================================================================================================
``slots=8``         how many sequences may run at once (``max_slots``)
``vocab=65536``     vocabulary size instead of the config's
``delay_ms=0``      sleep in every step
``script=hello``    the answer, then token 0 (end of text). Text becomes its UTF-8 bytes plus one (single-byte tokens of
                    the World vocabulary); ``script=5,6,7`` are token ids. Without a script the tokens are noise that
                    never ends by itself. Sampling, penalties and seeds do not sway a script. Where a prompt ends with
                    the beginning of the script, the answer continues from there
``repeat=1``        the script so many times before token 0; 0 is endless
``fail_at=N``       a step raises RuntimeError when a slot takes its N-th token, the prompt's included
``nan_at=N``        that slot's logits are NaN from its N-th token on
``kill_at=N``       the process kills itself (SIGKILL) there
``fail_on=ID``, ``nan_on=ID``, ``kill_on=ID``   the same when a slot takes the token ID
``hang_at=N``       ``forward`` takes ``hang_ms=60000`` there, without using the processor; ``hang_on=ID`` likewise
``load_ms=0``       how long ``load`` takes, in ``load_steps=10`` progress reports (one tensor each)
``load_bytes=N``    total bytes reported (1,000,000)
``load_fail=WHY``   ``load`` raises ``load_failed`` at its end
``load_kill=1``     ``load`` kills the process at its end
``refuse=WHY``      ``check`` raises StrategyError
==================  ===================================================================================================
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
from msgspec import Struct
from msgspec.structs import fields, replace
from numpy.typing import NDArray

from webapp.engine.backend import (
    Availability,
    Backend,
    LoadProgress,
    Logits,
    ModelFile,
    NumpyLogits,
    ProgressCallback,
    Row,
    line_starts,
)
from webapp.engine.options import ADAPTER, ADAPTER_OPTIONS, BackendOption, Options, OptionValue
from webapp.engine.registry import resolve_strategy
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import ModelError, StrategyError

HASH_PRIME = 16_777_213  # the largest prime below 2**24: every hash is exact in a float32 of the state
POISONED = -1  # instead of a hash: the permanent state of a slot that had NaN
SCRIPT_LOGIT = 30_000.0  # larger than any penalty or bias


def fake_config(vocab_size: int = 256, architecture: str = "7") -> ModelConfig:
    """The sizes of a tiny model, for callers without a model file."""
    n_head, head_size = (0, 0) if architecture == "4" else (2, 8)
    return ModelConfig(architecture, 2, 16, 16, 64, n_head, head_size, vocab_size)


class FakeOptions(Struct, frozen=True):
    """The options in the module's table; 0 or "" is off."""

    slots: int = 8
    vocab: int = 0
    delay_ms: float = 0.0
    script: str = ""
    repeat: int = 1
    fail_at: int = 0
    nan_at: int = 0
    kill_at: int = 0
    fail_on: int = 0
    nan_on: int = 0
    kill_on: int = 0
    hang_at: int = 0
    hang_on: int = 0
    hang_ms: float = 60_000.0
    load_ms: float = 0.0
    load_steps: int = 10
    load_bytes: int = 1_000_000
    load_fail: str = ""
    load_kill: int = 0
    refuse: str = ""

    @classmethod
    def parse(cls, strategy: str) -> FakeOptions:
        """From ``fake key=value …``; raises StrategyError for anything else."""
        return cls.of(resolve_strategy(strategy)[1])

    @classmethod
    def of(cls, options: Options) -> FakeOptions:
        """It has no weights that an adapter could change."""
        return cls(**{name: cast(Any, value) for name, value in options.items() if name not in ADAPTER})

    def script_token_ids(self) -> list[int]:
        words = self.script.split(",")
        if all(word.strip().isdigit() for word in words):
            return [int(word) for word in words]
        return [byte + 1 for byte in self.script.encode()]


def _declared(name: str, default: OptionValue) -> BackendOption:
    if isinstance(default, str):
        return BackendOption(name, "text", default)
    kind: Literal["whole", "number"] = "whole" if isinstance(default, int) else "number"
    return BackendOption(name, kind, default, low=1 if name == "slots" else 0, high=2**40)


class _Slot(Struct):
    """The recurrence of one sequence. ``flavour`` represents a non-zero initial ``att_kv``."""

    base: RecurrentState
    flavour: int
    count: int = 0
    hash: int = 0
    script_position: int = 0


class FakeBackend(Backend):
    """See the module docstring for its options."""

    FORMATS = ("pth", "safetensors", "ggml-bin", "gguf")
    OPTIONS = (
        *(_declared(each.name, cast(OptionValue, each.default)) for each in fields(FakeOptions)),
        *ADAPTER_OPTIONS,
    )

    def __init__(self, config: ModelConfig | None = None, options: FakeOptions | None = None) -> None:
        self.options = options or FakeOptions()
        config = config or fake_config()
        self.config = replace(config, vocab_size=self.options.vocab or config.vocab_size)
        self.max_slots = self.options.slots
        self.step_sizes: deque[tuple[int, ...]] = deque(maxlen=1000)
        """Tokens fed to each row, one entry per step, for tests. Only the last 1,000 steps."""
        self._script = self.options.script_token_ids()
        self._slots: dict[int, _Slot] = {}
        self._rows: NDArray[np.float32] = np.empty((0, self.config.vocab_size), np.float32)
        noise = np.random.default_rng(7).normal(0.0, 2.0, self.config.vocab_size).astype(np.float32)
        self._noise = np.concatenate([noise, noise])

    @classmethod
    def availability(cls) -> Availability:
        return Availability(True)

    @classmethod
    def check(cls, model: ModelFile, options: Options) -> None:
        refuse = FakeOptions.of(options).refuse
        if refuse:
            raise StrategyError(strategy="fake", reason=refuse, way_out="Leave out `refuse`.")

    @classmethod
    def load(cls, path: str, config: ModelConfig | None, given: Options, progress: ProgressCallback) -> FakeBackend:
        options = FakeOptions.of(given)
        steps = max(1, options.load_steps)
        for step in range(steps + 1):
            progress(LoadProgress(options.load_bytes * step // steps, options.load_bytes, step, steps))
            if step < steps:
                time.sleep(options.load_ms / 1000 / steps)
        if options.load_kill:
            _kill_process()
        if options.load_fail:
            raise ModelError("load_failed", name=os.path.basename(path) or "fake", reason=options.load_fail)
        return cls(config, options)

    def new_slot(self) -> int:
        room = self.max_slots + (self.max_slots > 1)
        if len(self._slots) >= room:
            raise RuntimeError(f"all {room} slots are taken")
        slot = next(number for number in range(room) if number not in self._slots)
        self._slots[slot] = _Slot(RecurrentState.zeros(self.config), flavour=0)
        return slot

    def free_slot(self, slot: int) -> None:
        del self._slots[slot]

    @property
    def used_slots(self) -> int:
        return len(self._slots)

    def step(self, batch: Sequence[Row]) -> Logits:
        if self.options.delay_ms:
            time.sleep(self.options.delay_ms / 1000)
        self.step_sizes.append(tuple(len(row.token_ids) for row in batch))
        starts = line_starts(batch)
        if starts[-1] > len(self._rows):
            self._rows = np.empty((starts[-1], self.config.vocab_size), np.float32)
        after: dict[int, _Slot] = {}
        for row, line in zip(batch, starts, strict=False):
            slot = after[row.slot] = replace(self._slots[row.slot])
            for place, token_id in enumerate(row.token_ids):
                self._feed(slot, token_id)
                if row.want == "all" or (row.want == "last" and place == len(row.token_ids) - 1):
                    self._write_logits(slot, self._rows[line])
                    line += 1
        self._slots |= after
        return NumpyLogits(self._rows[: starts[-1]])

    def read_state(self, slot: int) -> RecurrentState:
        found = self._slots[slot]
        state = found.base.copy()
        state.arrays["att_x_prev"].flat[:3] = (found.count, found.hash, found.script_position)
        return state

    def write_state(self, slot: int, state: RecurrentState) -> None:
        count, value, position = (int(number) for number in state.arrays["att_x_prev"].flat[:3])
        value = value if value == POISONED else value % HASH_PRIME
        self._slots[slot] = _Slot(state.copy(), _flavour(state), count, value, position)

    def close(self) -> None:
        self._slots.clear()

    def _feed(self, slot: _Slot, token_id: int) -> None:
        slot.count += 1
        self._break_where_asked(slot, token_id)
        if slot.hash != POISONED:
            slot.hash = (slot.hash * 1_000_003 + token_id + 1) % HASH_PRIME
        if token_id == self._script_token(slot.script_position):
            slot.script_position += 1
        else:
            slot.script_position = int(token_id == self._script_token(0))

    def _break_where_asked(self, slot: _Slot, token_id: int) -> None:
        options = self.options
        if slot.count == options.fail_at or (options.fail_on and token_id == options.fail_on):
            raise RuntimeError(f"the fake backend was told to fail at token {slot.count}")
        if slot.count == options.kill_at or (options.kill_on and token_id == options.kill_on):
            _kill_process()
        if slot.count == options.hang_at or (options.hang_on and token_id == options.hang_on):
            time.sleep(options.hang_ms / 1000)
        if slot.count == options.nan_at or (options.nan_on and token_id == options.nan_on):
            slot.hash = POISONED

    def _write_logits(self, slot: _Slot, row: NDArray[np.float32]) -> None:
        vocab_size = self.config.vocab_size
        if slot.hash == POISONED:
            row.fill(np.nan)
            return
        offset = (slot.hash + slot.flavour) * 7919 % vocab_size
        # Adds 0 because a plain copy of 256 KB takes ten times as long on some virtual machines.
        np.add(self._noise[offset : offset + vocab_size], np.float32(0), out=row)
        row[0] = -30.0
        if self._script:
            row[self._script_token(slot.script_position)] = SCRIPT_LOGIT

    def _script_token(self, position: int) -> int:
        """The script's token at this position; 0 after its end, -1 without a script."""
        if not self._script:
            return -1
        if self.options.repeat and position >= len(self._script) * self.options.repeat:
            return 0
        return self._script[position % len(self._script)]


def _flavour(state: RecurrentState) -> int:
    array = state.arrays["att_kv" if "att_kv" in state.arrays else "att_aa"]
    if not array.any():
        return 0
    return int.from_bytes(hashlib.blake2b(array.tobytes(), digest_size=3).digest(), "big")


def _kill_process() -> None:
    """Like the kernel when memory runs out: nothing is flushed, no handler runs."""
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)
