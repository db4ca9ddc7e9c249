"""The backend for the ``rwkv`` package: one sequence per slot, run one after another.

Its import is cheap: the web process asks it what runs here and how much memory it needs.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from webapp.backends.rwkv_pip import requirements, strategy
from webapp.engine.backend import (
    Availability,
    Backend,
    Footprint,
    Logits,
    ModelFile,
    ModelSizes,
    NumpyLogits,
    ProgressCallback,
    Row,
    Suggestion,
)
from webapp.engine.options import ADAPTER_OPTIONS, BY_STRATEGY, BackendOption, Builder, Options, PlacedRun
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import ModelError, OutOfMemory, RoostError
from webapp.i18n import Text

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from webapp.backends.rwkv_pip.model_loader import LayerPlace, LoadedModel

log = logging.getLogger(__name__)

MAX_SLOTS = 64
MAX_CHUNK = 256
"""Maximum number of tokens in one call: the package's RWKV-5.0 and 5.1 make tensors of n_head x tokens x tokens."""


SMALL_WIDTH = 512
"""Below this ``n_embd``, one thread is as fast as several on an idle machine and much faster on a busy one: a token's
matrix products take microseconds, and the barriers take longer (6 x 192: 91 against 78 tokens/s, docs/log.md)."""
V4_ORDER = ("att_x_prev", "att_aa", "att_bb", "att_pp", "ffn_x_prev")
V5_ORDER = ("att_x_prev", "att_kv", "ffn_x_prev")
"""The package stores a state as a flat list of tensors: these for each layer, in this order."""
ACTIVATIONS = ("att_x_prev", "ffn_x_prev")  # kept in the layer's precision; the rest is float32 in the package
# c10/core/impl/alloc_cpu.cpp, mmap under torch's storages, cuBLAS without room for its workspace.
OUT_OF_MEMORY_WORDS = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "cublas_status_alloc_failed",
)


def set_threads(count: int, config: ModelConfig) -> None:
    """Sets how many CPU threads torch uses in this process; 0 is one for a small model, otherwise torch's default.

    Imports torch.
    """
    import torch

    count = count or (1 if config.n_embd < SMALL_WIDTH else 0)
    if count > 0:
        torch.set_num_threads(count)


class RwkvPipBackend(Backend):
    """RWKV-4 to 7 from .pth and .safetensors. The environment's ``RWKV_CUDA_ON=1`` asks for the package's own CUDA
    kernels (needs nvcc), ``RWKV_JIT_ON=1`` for TorchScript."""

    OPTIONS = (
        BackendOption(BY_STRATEGY, "text", "cpu fp32"),
        BackendOption("threads", "whole", 0, low=0, high=4096),
        BackendOption("custom_cuda", "switch", False),
        *ADAPTER_OPTIONS,
    )
    KINDS = strategy.KINDS
    max_slots = MAX_SLOTS
    prefill_tokens = 64

    def __init__(self, config: ModelConfig, loaded: LoadedModel) -> None:
        self.config = config
        self._loaded: LoadedModel | None = loaded
        self._slots: dict[int, list[torch.Tensor]] = {}
        self._numbers = itertools.count()

    @classmethod
    def availability(cls) -> Availability:
        return requirements.package_availability()

    @classmethod
    def availability_of(cls, name: str) -> Availability:
        """CUDA needs a GPU; the package's own kernels also need a compiler."""
        if name == "custom_cuda":
            return requirements.kernels_availability()
        return requirements.cuda_availability() if name == "cuda" else cls.availability()

    @classmethod
    def options_from(cls, text: str) -> dict[str, Any]:
        return {BY_STRATEGY: strategy.canonical_strategy(text)}

    @classmethod
    def builder(cls, kind: str, given: Mapping[str, object], config: ModelConfig | None) -> Builder:
        return strategy.builder(kind, given, config)

    @classmethod
    def read_builder(cls, text: str, config: ModelConfig | None) -> tuple[str, Options] | None:
        return strategy.read_builder(text, config)

    @classmethod
    def placement(cls, options: Options, config: ModelConfig) -> Sequence[PlacedRun]:
        return tuple(strategy.runs(str(options[BY_STRATEGY]), config.n_layer))

    @classmethod
    def remarks(cls, options: Options) -> Sequence[Text]:
        return tuple(strategy.remarks(str(options[BY_STRATEGY])))

    @classmethod
    def usage(cls) -> str:
        return "cpu|cuda[:N]|mps|dml fp32|fp16|bf16[i8] [*LAYERS[+]] [-> ...]"

    @classmethod
    def runner_strategy(cls, parameters: Mapping[str, object]) -> str | None:
        return strategy.runner_strategy(parameters)

    @classmethod
    def device_of(cls, options: Options) -> str:
        return strategy.device_of(str(options[BY_STRATEGY]))

    @classmethod
    def check(cls, model: ModelFile, options: Options) -> None:
        text, converted = str(options[BY_STRATEGY]), model.converted_strategy
        assert model.config is not None, "what is no model is refused before"
        if converted is not None and text != strategy.canonical_strategy(converted):
            strategy.refuse(text, "converted_for", converted=converted)
        requirements.check_strategy(model.config, text)

    @classmethod
    def footprint(cls, model: ModelFile, options: Options) -> Footprint:
        return requirements.footprint(model, str(options[BY_STRATEGY]))

    @classmethod
    def suggestions(cls, model: ModelFile) -> Sequence[Suggestion]:
        """A file converted for one strategy has only that one."""
        if model.converted_strategy is not None:
            return [Suggestion(model.converted_strategy, 0, "strategy.recommend.converted")]
        cuda, cpu = [("cuda fp16", "cuda_fp16")], [("cpu fp32", "cpu_fp32"), ("cpu bf16", "cpu_bf16")]
        streamed: list[tuple[str, str]] = []
        if model.config is not None and model.config.major < 7:  # the package's RWKV-7 has neither int8 nor streaming
            cuda.append(("cuda fp16i8 -> cuda fp16 *1", "cuda_int8"))
            on_card = [max(1, model.config.n_layer * quarters // 4) for quarters in (3, 2, 1)]
            streamed = [(f"cuda fp16 *{layers}+", "cuda_stream") for layers in on_card]
            cpu.append(("cpu fp32i8 -> cpu fp32 *1", "cpu_int8"))
        ranked = [*enumerate(cuda, 10), *enumerate(streamed, 40), *enumerate(cpu, 50)]
        return [Suggestion(strategy, rank, f"strategy.recommend.{key}") for rank, (strategy, key) in ranked]

    @classmethod
    def load(cls, path: str, config: ModelConfig, options: Options, progress: ProgressCallback) -> RwkvPipBackend:
        """Runs one token at the end, so that a missing tensor is detected here and not in the first answer."""
        from webapp.backends.rwkv_pip import model_loader
        from webapp.weights.adapter import AdapterChoice

        text = str(options[BY_STRATEGY])
        cls.check(ModelSizes(config), options)
        model_loader.prefer_no_script(text)
        set_threads(int(options["threads"]), config)
        if options["custom_cuda"]:
            os.environ["RWKV_CUDA_ON"] = "1"
        with loading(path):
            backend = cls(config, model_loader.load_model(path, config, text, progress, AdapterChoice.of(options)))
            try:
                backend._try_one_token(path)
            except BaseException:
                backend.close()
                raise
        log.info("loaded %s: RWKV-%s, %s", os.path.basename(path), config.architecture, text)
        return backend

    def new_slot(self) -> int:
        slot = next(self._numbers)
        with running():
            self._slots[slot] = self._tensors(self._model.initial_state)
        return slot

    def free_slot(self, slot: int) -> None:
        del self._slots[slot]

    def step(self, batch: Sequence[Row]) -> Logits:
        """Row by row: the package runs one sequence at a time."""
        import numpy as np

        lines: list[NDArray[np.float32]] = []
        after: dict[int, list[torch.Tensor]] = {}
        for row in batch:
            if not row.token_ids:
                raise ValueError("no token to feed")
            state = self._slots[row.slot]
            with running():
                for start in range(0, len(row.token_ids), MAX_CHUNK):
                    piece = list(row.token_ids[start : start + MAX_CHUNK])
                    logits, state = self._model.forward(piece, state, row.want == "all")
                    if row.want == "all":
                        lines.extend(logits.reshape(len(piece), -1))
            if row.want == "last":
                lines.append(logits)
            after[row.slot] = state
        self._slots |= after
        return NumpyLogits(np.stack(lines) if lines else np.empty((0, self.config.vocab_size), np.float32))

    def read_state(self, slot: int) -> RecurrentState:
        return state_from_tensors(self.config, self._slots[slot])

    def write_state(self, slot: int, state: RecurrentState) -> None:
        if slot not in self._slots:
            raise KeyError(slot)
        with running():
            self._slots[slot] = self._tensors(state)

    def close(self) -> None:
        self._slots.clear()
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()
        gc.collect()

    @property
    def _model(self) -> LoadedModel:
        if self._loaded is None:
            raise ValueError("the backend is closed")
        return self._loaded

    def _tensors(self, state: RecurrentState) -> list[torch.Tensor]:
        return state_to_tensors(self.config, state, self._model.places)

    def _try_one_token(self, path: str) -> None:
        import numpy as np

        slot = self.new_slot()
        logits = self.step([Row(slot, [0])]).to_numpy([0])
        self.free_slot(slot)
        if logits.shape != (1, self.config.vocab_size):
            raise ValueError(f"{logits.shape[1]} logits instead of {self.config.vocab_size}")
        if not np.isfinite(logits).all():
            raise ValueError("its very first output is not a number; the weights are damaged or fp16 is too narrow")


def state_names(config: ModelConfig) -> tuple[str, ...]:
    """Names of one layer's tensors, in the package's order."""
    return V4_ORDER if config.major == 4 else V5_ORDER


def state_to_tensors(config: ModelConfig, state: RecurrentState, places: Sequence[LayerPlace]) -> list[torch.Tensor]:
    """New tensors that share no memory with ``state``."""
    import numpy as np
    import torch

    tensors = []
    for layer, (device, dtype) in enumerate(places):
        for name in state_names(config):
            array = _turn(config, name, state.arrays[name][layer])
            kept = dtype if name in ACTIVATIONS else torch.float32
            tensors.append(torch.tensor(np.ascontiguousarray(array), dtype=kept, device=device))
    return tensors


def state_from_tensors(config: ModelConfig, tensors: Sequence[torch.Tensor]) -> RecurrentState:
    """A copy, in float32."""
    import numpy as np

    names = state_names(config)
    arrays = {}
    for position, name in enumerate(names):
        rows = [tensor.float().cpu().numpy() for tensor in tensors[position :: len(names)]]
        stacked = np.stack([_turn(config, name, row) for row in rows])
        arrays[name] = np.ascontiguousarray(stacked, np.float32)
    return RecurrentState(config.architecture, arrays)


def _turn(config: ModelConfig, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """The package's RWKV-5 and 6 store ``att_kv[head, key, value]``; its RWKV-7 and Roost ``[head, value, key]``."""
    return array.swapaxes(-1, -2) if name == "att_kv" and config.major in (5, 6) else array


def is_out_of_memory(exc: BaseException) -> bool:
    """``torch.cuda.OutOfMemoryError`` is a RuntimeError with the text ``out of memory``: torch is not needed."""
    if isinstance(exc, MemoryError):
        return True
    text = str(exc).lower()
    return isinstance(exc, (RuntimeError, OSError)) and any(words in text for words in OUT_OF_MEMORY_WORDS)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Converts out-of-memory errors to OutOfMemory; passes other exceptions on."""
    try:
        yield
    except RoostError:
        raise
    except Exception as exc:
        if is_out_of_memory(exc):
            raise OutOfMemory(reason=first_line(exc)) from exc
        raise


@contextlib.contextmanager
def loading(path: str) -> Iterator[None]:
    """Converts every exception of the package to OutOfMemory or ``load_failed``."""
    try:
        with running():
            yield
    except RoostError:
        raise
    except Exception as exc:
        reason = f"{type(exc).__name__}: {first_line(exc)}"
        raise ModelError("load_failed", name=os.path.basename(path), reason=reason) from exc


def first_line(exc: BaseException) -> str:
    """torch's messages can be pages long."""
    return (str(exc).strip() or "no reason given").splitlines()[0]
