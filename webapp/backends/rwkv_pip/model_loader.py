"""A model file made a running model of the package, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from webapp.backends.rwkv_pip import int8_product, v7_layout
from webapp.backends.rwkv_pip.deferred_embedding import DeferredEmbedding
from webapp.backends.rwkv_pip.deferred_tensor import DeferredTensor
from webapp.backends.rwkv_pip.deferred_weights import DeferredWeights
from webapp.backends.rwkv_pip.package import forget_package, import_package, torch_load_returns
from webapp.backends.rwkv_pip.requirements import check_torch_devices
from webapp.backends.rwkv_pip.v7_layout import LAYOUT_KEY, V7_LAYOUT
from webapp.backends.strategy import canonical_strategy, parse_strategy
from webapp.backends.strategy_problems import refuse
from webapp.engine.backend import ProgressCallback
from webapp.engine.model_config import ModelConfig
from webapp.engine.state import RecurrentState
from webapp.errors import WeightsError
from webapp.weights.checkpoint import Inspection, inspect

if TYPE_CHECKING:
    import torch

    from webapp.backends.rwkv_pip.state_layout import LayerPlace

    Tensors = list[torch.Tensor]

# The package's name for it; torch.load gets it back with .pth at its end.
PLACEHOLDER = "roost-deferred-weights"
EMBEDDING = "emb.weight"
CONVERSION_MARKS = ("_strategy", "_version", "_rescale_layer")


@dataclass
class LoadedModel:
    """``places``: device and activation precision of each layer. ``initial_state``: where a fresh sequence starts."""

    module: ModuleType
    model: Any
    places: Sequence[LayerPlace]
    initial_state: RecurrentState

    def forward(self, token_ids: list[int], state: Tensors, every: bool) -> tuple[NDArray[np.float32], Tensors]:
        """Float32 logits ``(vocab_size,)``, or ``(len(token_ids), vocab_size)`` after every token, and a new state;
        ``state`` and its tensors stay as they are."""
        import torch

        with torch.inference_mode():
            if self.module.os.environ["RWKV_CUDA_ON"] == "1":  # its kernels write into the state they are given
                state = [tensor.clone() for tensor in state]
            logits, after = self.model.forward(token_ids, list(state), full_output=every)
            if len(token_ids) > 1:  # views of the last row, which would keep the whole chunk's activations alive
                after = [tensor.clone() for tensor in after]
            return logits.float().cpu().numpy(), list(after)

    def close(self) -> None:
        """The weights go with the last reference to the model; a GPU's cache of free blocks goes at once."""
        import torch

        self.model = None
        forget_package(self.module)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def load_model(path: str, config: ModelConfig, strategy: str, progress: ProgressCallback) -> LoadedModel:
    """Raises what ``progress`` raises, WeightsError, StrategyError, BackendUnavailable, and all the package may."""
    inspection = inspect(path)
    _check_file(inspection, strategy)
    check_torch_devices({part.device for part in parse_strategy(strategy)})
    module = import_package(switches(config, strategy, is_music=inspection.kind == "music"))
    is_plain_cpu = module.os.environ["RWKV_JIT_ON"] != "1" and is_on_cpu(strategy)
    if is_plain_cpu:
        int8_product.install(module)
    weights = DeferredWeights(path, progress)
    try:
        keeps_rows = is_plain_cpu and _keeps_rows(config, strategy)
        handed = _handed_to_package(weights, config, inspection, keeps_rows, may_stay_narrow=is_plain_cpu)
        with torch_load_returns(f"{PLACEHOLDER}.pth", handed):
            del handed
            model = module.RWKV(PLACEHOLDER, canonical_strategy(strategy))
        if keeps_rows:
            _turn_half_matrices(model)
        initial_state = _initial_state(weights, config)
        weights.report_done()
    except BaseException:
        forget_package(module)
        raise
    finally:
        weights.close()
    return LoadedModel(module, model, _places(model, module, config), initial_state)


def switches(config: ModelConfig, strategy: str, is_music: bool) -> dict[str, str]:
    """Environment variables the package reads; a person's own ``RWKV_JIT_ON`` and ``RWKV_CUDA_ON`` count.

    TorchScript is off on CPUs, where it gains nothing: RWKV-7 in fp32, tokens per second of one core's time, median
    of three runs without and with it: 6 layers x 256 decode 201 and 169, read prompts at 861 and 1105; 12 x 768
    decode 21.9 and 21.7, read at 126 and 129. It costs 0.1 to 0.4 s at each load and keeps :func:`_turn_half_matrices`
    out. On GPUs, not measured, the package's own choice stands.
    """
    is_cuda = "cuda" in strategy
    wants_kernels = os.environ.get("RWKV_CUDA_ON") == "1" and is_cuda
    chosen = {
        "RWKV_V7_ON": "1" if config.major == 7 else "0",
        "RWKV_JIT_ON": "1" if os.environ.get("RWKV_JIT_ON", "1" if is_cuda else "0") == "1" else "0",
        "RWKV_CUDA_ON": "1" if wants_kernels else "0",
        "RWKV_DML_ON": "1" if "dml" in strategy else "0",
        "RWKV_DE_VERSION": "0",
    }
    if is_music:
        chosen["RWKV_RESCALE_LAYER"] = os.environ.get("RWKV_RESCALE_LAYER", "999")  # the package's advice in model.py
    return chosen


def _check_file(inspection: Inspection, strategy: str) -> None:
    converted = inspection.converted_strategy
    is_v7 = inspection.config is not None and inspection.config.major == 7
    if converted is not None and is_v7 and inspection.metadata.get(LAYOUT_KEY) != V7_LAYOUT:
        reason = "it was converted by a program that cannot convert RWKV-7; convert the original with `roost convert`"
        raise WeightsError(path=inspection.path, reason=reason)
    if converted is not None and canonical_strategy(strategy) != canonical_strategy(converted):
        refuse(strategy, "converted_for", converted=converted)


def _handed_to_package(
    weights: DeferredWeights,
    config: ModelConfig,
    inspection: Inspection,
    keeps_rows: bool = False,
    may_stay_narrow: bool = False,
) -> dict[str, Any]:
    """What the package's ``torch.load`` returns. A merged ``time_state`` is left out: its RWKV-7 would ignore it, its
    RWKV-5 and 6 round it, and a single-head one breaks them; :func:`_initial_state` sees to it for all alike."""
    names = [name for name in weights.infos if not name.endswith(".time_state")]
    if inspection.converted_strategy is None:
        handed: dict[str, Any] = {name: DeferredTensor(weights, name, keeps_rows) for name in names}
        return handed | {EMBEDDING: DeferredEmbedding(weights, EMBEDDING, may_stay_narrow)}
    if config.major == 7:
        return v7_layout.handed_over(names, weights.read)
    handed = {_name_before_conversion(name, config): weights.read(name) for name in names}
    handed |= {mark: weights.metadata[mark] for mark in CONVERSION_MARKS if mark in weights.metadata}
    handed["_rescale_layer"] = int(handed.get("_rescale_layer", 0))
    return handed


def _name_before_conversion(name: str, config: ModelConfig) -> str:
    """The package's converter renames ``time_faaaa``, its loader then misses the number of heads of RWKV-6 in it."""
    return name.replace(".time_first", ".time_faaaa") if config.major == 6 else name


def is_on_cpu(strategy: str) -> bool:
    return all(part.device == "cpu" for part in parse_strategy(strategy))


def _keeps_rows(config: ModelConfig, strategy: str) -> bool:
    """Whether matrices keep the file's layout, seen transposed: columns instead of rows in sequence. On a CPU, torch
    multiplies a vector by a row-major bf16 or fp16 matrix (which the package's RWKV-7 makes of all) far slower than by
    this, the layout of its Linear: 12 layers x 768 in bf16 decode 1.9 tokens a second of one core so, 17 turned; in
    fp32 it makes no difference."""
    return config.major == 7 and parse_strategy(strategy)[0].dtype != "fp32"


def _turn_half_matrices(model: Any) -> None:
    """Same values and shapes: the small matrices, which the package takes as the file has them."""
    for name, tensor in model.z.items():
        if name != EMBEDDING and tensor.dim() == 2 and not tensor.t().is_contiguous():
            model.z[name] = tensor.t().contiguous().t()


def _initial_state(weights: DeferredWeights, config: ModelConfig) -> RecurrentState:
    names = [f"blocks.{layer}.att.time_state" for layer in range(config.n_layer)]
    if config.major == 4 or not any(name in weights.infos for name in names):
        return RecurrentState.zeros(config)
    layers = [weights.read(name).float().numpy() for name in names]
    return RecurrentState.from_time_state(config, np.stack(layers))


def _places(model: Any, module: ModuleType, config: ModelConfig) -> list[LayerPlace]:
    if config.major == 7:
        return [(module.DEVICE, module.DTYPE)] * config.n_layer
    return [(layer.device, layer.atype) for layer in model.strategy[: config.n_layer]]
