"""One model on the ``rwkv`` package: as many sequences as there are slots, run one after the other."""

from __future__ import annotations

import gc
import itertools
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from webapp.backends.rwkv_pip import failures, footprint, model_loader, requirements, state_layout
from webapp.backends.strategy import canonical_strategy
from webapp.backends.strategy_problems import refuse
from webapp.engine.backend import (
    BY_STRATEGY,
    Availability,
    Backend,
    BackendOption,
    Footprint,
    Logits,
    ModelFile,
    ModelSizes,
    NumpyLogits,
    Options,
    ProgressCallback,
    Row,
    Suggestion,
)
from webapp.engine.model_config import ModelConfig
from webapp.engine.state import RecurrentState

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

MAX_SLOTS = 64
MAX_CHUNK = 256
"""Most tokens in one call: the package's RWKV-5.0 and 5.1 make tensors of n_head x tokens x tokens."""


SMALL_WIDTH = 512
"""Below this ``n_embd`` one thread is as fast as several on an idle machine and far faster on a busy one: a token's
products take microseconds, meeting at the end of each takes longer (6 x 192: 91 against 78 tokens/s, docs/log.md)."""


def set_threads(count: int, config: ModelConfig) -> None:
    """How many CPU threads torch uses in this process; 0 is one for a small model, else torch's choice.

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
        BackendOption(BY_STRATEGY, "text", "cpu fp32", help_key="presets.field.strategy"),
        BackendOption("threads", "whole", 0, low=0, high=4096, help_key="presets.field.threads"),
        BackendOption("custom_cuda", "switch", False, help_key="presets.field.custom_cuda"),
    )
    max_slots = MAX_SLOTS
    prefill_tokens = 64

    def __init__(self, config: ModelConfig, loaded: model_loader.LoadedModel) -> None:
        self.config = config
        self._loaded: model_loader.LoadedModel | None = loaded
        self._slots: dict[int, list[torch.Tensor]] = {}
        self._numbers = itertools.count()

    @classmethod
    def availability(cls) -> Availability:
        return requirements.package_availability()

    @classmethod
    def check(cls, model: ModelFile, options: Options) -> None:
        strategy, converted = str(options[BY_STRATEGY]), model.converted_strategy
        assert model.config is not None, "what is no model is refused before"
        if converted is not None and canonical_strategy(strategy) != canonical_strategy(converted):
            refuse(strategy, "converted_for", converted=converted)
        requirements.check_strategy(model.config, strategy)

    @classmethod
    def footprint(cls, model: ModelFile, options: Options) -> Footprint:
        return footprint.footprint(model, str(options[BY_STRATEGY]))

    @classmethod
    def suggestions(cls, model: ModelFile) -> Sequence[Suggestion]:
        """A file made for one strategy has that alone."""
        if model.converted_strategy is not None:
            return [Suggestion(model.converted_strategy, 0, "strategy.recommend.converted")]
        cuda, cpu = [("cuda fp16", "cuda_fp16")], [("cpu fp32", "cpu_fp32"), ("cpu bf16", "cpu_bf16")]
        if model.config is not None and model.config.major < 7:  # the package's RWKV-7 has neither int8 nor streaming
            cuda.append(("cuda fp16i8 -> cuda fp16 *1", "cuda_int8"))
            on_card = [max(1, model.config.n_layer * quarters // 4) for quarters in (3, 2, 1)]
            cuda += [(f"cuda fp16 *{layers}+", "cuda_stream") for layers in on_card]
            cpu.append(("cpu fp32i8 -> cpu fp32 *1", "cpu_int8"))
        ranked = [*enumerate(cuda, 10), *enumerate(cpu, 50)]
        return [Suggestion(strategy, rank, f"strategy.recommend.{key}") for rank, (strategy, key) in ranked]

    @classmethod
    def load(cls, path: str, config: ModelConfig, options: Options, progress: ProgressCallback) -> RwkvPipBackend:
        """Ends by running one token, so that a file with a tensor missing fails here and not in the first answer."""
        strategy = str(options[BY_STRATEGY])
        cls.check(ModelSizes(config), options)
        model_loader.prefer_no_script(strategy)
        set_threads(int(options["threads"]), config)
        if options["custom_cuda"]:
            os.environ["RWKV_CUDA_ON"] = "1"
        with failures.loading(path):
            backend = cls(config, model_loader.load_model(path, config, strategy, progress))
            try:
                backend._try_one_token(path)
            except BaseException:
                backend.close()
                raise
        log.info("loaded %s: RWKV-%s, %s", os.path.basename(path), config.architecture, strategy)
        return backend

    def new_slot(self) -> int:
        slot = next(self._numbers)
        with failures.running():
            self._slots[slot] = self._tensors(self._model.initial_state)
        return slot

    def free_slot(self, slot: int) -> None:
        del self._slots[slot]

    def step(self, batch: Sequence[Row]) -> Logits:
        """Row by row: the package runs one sequence at a time."""
        lines: list[NDArray[np.float32]] = []
        after: dict[int, list[torch.Tensor]] = {}
        for row in batch:
            if not row.token_ids:
                raise ValueError("no token to feed")
            state = self._slots[row.slot]
            with failures.running():
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
        return state_layout.from_tensors(self.config, self._slots[slot])

    def write_state(self, slot: int, state: RecurrentState) -> None:
        if slot not in self._slots:
            raise KeyError(slot)
        with failures.running():
            self._slots[slot] = self._tensors(state)

    def close(self) -> None:
        self._slots.clear()
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()
        gc.collect()

    @property
    def _model(self) -> model_loader.LoadedModel:
        if self._loaded is None:
            raise ValueError("the backend is closed")
        return self._loaded

    def _tensors(self, state: RecurrentState) -> list[torch.Tensor]:
        return state_layout.to_tensors(self.config, state, self._model.places)

    def _try_one_token(self, path: str) -> None:
        slot = self.new_slot()
        logits = self.step([Row(slot, [0])]).to_numpy([0])
        self.free_slot(slot)
        if logits.shape != (1, self.config.vocab_size):
            raise ValueError(f"{logits.shape[1]} logits instead of {self.config.vocab_size}")
        if not np.isfinite(logits).all():
            raise ValueError("its very first output is not a number; the weights are damaged or fp16 is too narrow")
