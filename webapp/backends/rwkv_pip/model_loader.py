"""Loads a model file as a running model of the package, tensor by tensor.

The package's constructor reads only whole .pth files and converts each tensor as :mod:`layout` describes, because a
fast file has the same form. So a load executes the plan of a fast file in memory, from any format, and passes the
tensors to a subclass of the package's class with its own constructor. Only the package's own CUDA kernels, which its
constructor compiles, need that constructor and therefore a .pth.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from webapp.backends.rwkv_pip import layout, requirements
from webapp.backends.rwkv_pip.layout import DTYPES, LAYOUT_KEY, V7_LAYOUT
from webapp.backends.rwkv_pip.strategy import LayerPlacement, canonical_strategy, parse_strategy, refuse
from webapp.engine.backend import LoadProgress, ProgressCallback
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import ConversionError, ModelError, WeightsError
from webapp.i18n import Text
from webapp.weights.adapter import AdapterChoice
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.convert.plan import PlannedTensor
from webapp.weights.convert.source import Source
from webapp.weights.inspection import Inspection, inspect

if TYPE_CHECKING:
    import torch

    Tensors = list[torch.Tensor]
    LayerPlace = tuple[torch.device | str, torch.dtype]
    """Device of a layer, and the precision of its activations."""

log = logging.getLogger(__name__)

PIECE_BYTES = 4 * 2**20
"""Read from the file at a time: small enough for a CPU cache, even after conversion to float32."""
HELD_BYTES = 32 * 2**20
"""Limit for mapped pages in this process's memory until they are released."""
STREAMED = ("key.weight", "value.weight", "receptance.weight", "output.weight")


class LoadedModel(Struct):
    """``places``: device and activation precision of each layer. ``initial_state``: the state of a new sequence.
    ``copies_states``: the package's CUDA kernels overwrite their input state."""

    model: Any
    places: Sequence[LayerPlace]
    initial_state: RecurrentState
    copies_states: bool = False

    def forward(self, token_ids: list[int], state: Tensors, every: bool) -> tuple[NDArray[np.float32], Tensors]:
        """Float32 logits ``(vocab_size,)``, or ``(len(token_ids), vocab_size)`` after every token, and a new state;
        ``state`` and its tensors are not changed."""
        import torch

        with torch.inference_mode():
            if self.copies_states:
                state = [tensor.clone() for tensor in state]
            logits, after = self.model.forward(token_ids, list(state), full_output=every)
            if len(token_ids) > 1:  # views of the last row, which would keep the whole chunk's activations alive
                after = [tensor.clone() for tensor in after]
            return logits.float().cpu().numpy(), list(after)

    def close(self) -> None:
        """The weights are freed with the last reference to the model; a GPU's cache of free blocks at once."""
        import torch

        self.model = None
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def load_model(
    path: str,
    config: ModelConfig,
    strategy: str,
    progress: ProgressCallback,
    adapter: AdapterChoice | None = None,
) -> LoadedModel:
    """Raises exceptions of ``progress``, WeightsError, ``load_failed``, StrategyError, BackendUnavailable, and any
    exception of the package."""
    inspection = inspect(path)
    _check_file(inspection, strategy)
    requirements.check_torch_devices({part.device for part in parse_strategy(strategy)})
    switches = switches_for(config, strategy, is_music=inspection.kind == "music")
    has_kernels = switches["RWKV_CUDA_ON"] == "1"
    if has_kernels and (inspection.format != "pth" or not path.endswith(".pth") or adapter is not None):
        refuse(strategy, "kernels_need_pth")
    module = import_package(switches)
    placements = requirements.placements(config, strategy)
    if all(place.device == "cpu" for place in placements) and switches["RWKV_JIT_ON"] != "1":
        module.__dict__["mm8_one"] = module.__dict__["mm8_seq"] = int8_product
    is_converted = inspection.converted_strategy is not None
    reading = _Converted(path, config, progress) if is_converted else _Reading(path, strategy, progress, adapter)
    with contextlib.closing(reading) as source:
        initial_state = _initial_state(source, config)
        if has_kernels:
            with _printing_to_log():
                model = module.RWKV(path.removesuffix(".pth"), canonical_strategy(strategy))
        elif config.major == 7:
            model = _v7_model(module, config, placements[0], source)
        else:
            model = _older_model(module, config, placements, source)
        source.report_done()
        source.check_effect()
    if config.major == 7:
        places = [(module.DEVICE, module.DTYPE)] * config.n_layer
    else:
        places = [(layer.device, layer.atype) for layer in model.strategy[: config.n_layer]]
    return LoadedModel(model, places, initial_state, has_kernels)


def switches_for(config: ModelConfig, strategy: str, is_music: bool) -> dict[str, str]:
    """Environment variables the package reads; a person's own ``RWKV_JIT_ON`` and ``RWKV_CUDA_ON`` count.

    TorchScript is off on CPUs, where it gains nothing and costs 0.1 to 0.4 s at each load: tokens per second of one
    core's time in fp32, without and with it: RWKV-7 of 6 layers x 256 decodes 201 and 169, 12 x 768 21.9 and 21.7. On
    GPUs, not measured, the package decides. Its RWKV-7 part uses TorchScript whatever ``RWKV_JIT_ON`` says;
    torch's own ``PYTORCH_JIT=0`` is the way to turn that off (:func:`prefer_no_script`).
    """
    is_cuda = "cuda" in strategy
    chosen = {
        "RWKV_V7_ON": "1" if config.major == 7 else "0",
        "RWKV_JIT_ON": "1" if os.environ.get("RWKV_JIT_ON", "1" if is_cuda else "0") == "1" else "0",
        "RWKV_CUDA_ON": "1" if os.environ.get("RWKV_CUDA_ON") == "1" and is_cuda else "0",
        "RWKV_DML_ON": "1" if "dml" in strategy else "0",
        "RWKV_DE_VERSION": "0",
    }
    if is_music:
        chosen["RWKV_RESCALE_LAYER"] = os.environ.get("RWKV_RESCALE_LAYER", "999")  # the package's advice in model.py
    return chosen


def prefer_no_script(strategy: str) -> None:
    """Before torch is imported: disables TorchScript on CPUs, unless it was requested."""
    if all(part.device == "cpu" for part in parse_strategy(strategy)) and os.environ.get("RWKV_JIT_ON") != "1":
        os.environ.setdefault("PYTORCH_JIT", "0")


def import_package(switches: dict[str, str]) -> ModuleType:
    """Executes ``rwkv.model`` again, as a separate module for each model: it reads its environment variables at import
    and stores the precision of RWKV-7 in its globals."""
    os.environ.update(switches)
    sys.modules.pop("rwkv.model", None)
    with _printing_to_log():
        return importlib.import_module("rwkv.model")


class _Reading(Source):
    """A raw model, read in small pieces, with progress. Raises exceptions of ``progress``."""

    def __init__(
        self, path: str, strategy: str, progress: ProgressCallback, adapter: AdapterChoice | None = None
    ) -> None:
        with _load_errors(path):
            super().__init__(path, "fast", adapter=adapter)
        self._strategy = strategy
        self._counter = _Counter({name: info.nbytes for name, info in self.infos.items()}, progress)
        self.report_done = self._counter.report_done

    def blocks(self, name: str, block_bytes: int = PIECE_BYTES) -> Iterator[torch.Tensor]:
        """Does not check for NaN: the first token shows it."""
        self._counter.report()
        yield from self._raw_blocks(name, PIECE_BYTES)
        self._counter.count(name)

    def rescale_layer(self) -> int:
        return layout.rescale_layer(self._strategy, self.inspection.kind == "music")

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """As the package has them once it is loaded, on the CPU."""
        with _load_errors(str(self.path)):
            for planned in layout.package_tensors(self, self._strategy, is_for_disk=False):
                yield planned.info.name, _made(planned)


class _Converted:
    """A fast file: its tensors are already in the package's form."""

    def __init__(self, path: str, config: ModelConfig, progress: ProgressCallback) -> None:
        self.architecture = config.architecture
        self._checkpoint = open_checkpoint(Path(path))
        self.infos = {name: self._checkpoint.info(name) for name in self._checkpoint.names()}
        self._counter = _Counter({name: info.nbytes for name, info in self.infos.items()}, progress)
        self.report_done = self._counter.report_done

    def close(self) -> None:
        self._checkpoint.close()

    def check_effect(self) -> None:
        """An adapter is never merged into a fast file."""

    def rescale_layer(self) -> int:
        return int(self._checkpoint.metadata.get("_rescale_layer", 0))

    def whole(self, name: str) -> torch.Tensor:
        return self._checkpoint.tensor(name).clone()

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Copied to memory, because the file may be overwritten while the model runs."""
        mapped = 0
        for name, info in self.infos.items():
            if name.endswith(".time_state"):
                continue
            self._counter.report()
            yield name, self.whole(name)
            self._counter.count(name)
            mapped += info.nbytes
            if mapped >= HELD_BYTES and self._checkpoint.release():
                mapped = 0


class _Counter:
    """Counts how much of a file was read."""

    def __init__(self, sizes: dict[str, int], progress: ProgressCallback) -> None:
        self._sizes = sizes
        self._left = dict(sizes)
        self._total = sum(sizes.values())
        self._progress = progress

    def count(self, name: str) -> None:
        self._left.pop(name, None)
        self.report()

    def report(self) -> None:
        done = self._total - sum(self._left.values())
        self._progress(LoadProgress(done, self._total, len(self._sizes) - len(self._left), len(self._sizes)))

    def report_done(self) -> None:
        """The last report, of all bytes, even if the package does not use some tensors."""
        self._left.clear()
        self.report()


def _made(planned: PlannedTensor) -> torch.Tensor:
    """A planned tensor in memory, with the strides it would have in a file."""
    import torch

    info = planned.info
    flat = torch.empty(info.numel, dtype=getattr(torch, info.dtype))
    start = 0
    for block in planned.blocks():
        flat[start : start + block.numel()].copy_(block.reshape(-1))
        start += block.numel()
    return flat.as_strided(info.shape, planned.stored_strides())


def _v7_model(module: Any, config: ModelConfig, place: LayerPlacement, source: _Reading | _Converted) -> Any:
    """The attributes of ``RWKV_x070.__init__``."""
    import torch

    module.DEVICE, module.DTYPE = place.device, getattr(torch, DTYPES[place.dtype])
    z: dict[str, torch.Tensor] = {}
    for name, tensor in source.tensors():
        kept = tensor.flatten() if name.endswith(".r_k") else tensor
        z[name] = kept if place.device == "cpu" else kept.to(place.device).contiguous()
    for name in ("v0", "v1", "v2"):  # ignored, but passed on
        z[f"blocks.0.att.{name}"] = torch.empty(0, device=place.device, dtype=module.DTYPE)
    args = SimpleNamespace(n_layer=config.n_layer, n_embd=config.n_embd, vocab_size=config.vocab_size)
    args.head_size = config.head_size
    sizes = {"n_head": config.n_head, "head_size": config.head_size, "n_embd": config.n_embd}
    return _instance(module, {"args": args, "z": z, "n_layer": config.n_layer, **sizes})


def _older_model(
    module: Any, config: ModelConfig, placements: Sequence[LayerPlacement], source: _Reading | _Converted
) -> Any:
    """The attributes of ``RWKV.__init__``."""
    layers = [_layer(module, place) for place in placements]
    w: dict[str, torch.Tensor] = {}
    for name, tensor in source.tensors():
        layer = layers[_layer_number(name, config)]
        if name == "emb.weight":  # looked up on the CPU
            w[name] = tensor
        elif layer.stream and name.endswith(STREAMED):
            w[name] = tensor.contiguous().pin_memory()
        else:
            w[name] = tensor if str(layer.device) == "cpu" else tensor.to(layer.device).contiguous()
    sizes = {"n_embd": config.n_embd, "n_att": config.n_att, "n_ffn": config.n_ffn, "n_layer": config.n_layer}
    args = SimpleNamespace(**sizes, n_head=config.n_head, time_state=False)
    version = float(source.architecture)
    return _instance(
        module, {"args": args, "w": w, "strategy": layers, "version": version, "RESCALE_LAYER": source.rescale_layer()}
    )


def _layer(module: Any, place: LayerPlacement) -> SimpleNamespace:
    import torch

    device = module.torch_directml.device() if place.device == "dml" else place.device
    dtype = getattr(torch, DTYPES[place.dtype])
    return SimpleNamespace(
        device=device, atype=dtype, wtype=torch.uint8 if place.is_int8 else dtype, stream=place.is_streamed
    )


def _layer_number(name: str, config: ModelConfig) -> int:
    if name.startswith(("ln_out.", "head.")):
        return config.n_layer
    return int(name.split(".")[1]) if name.startswith("blocks.") else 0


def _instance(module: Any, attributes: dict[str, Any]) -> Any:
    """An object of the package's class with these attributes."""

    class Loaded(module.RWKV):  # type: ignore[misc]
        def __init__(self) -> None:
            super(module.RWKV, self).__init__()
            self.eval()
            for name, value in attributes.items():
                setattr(self, name, value)

    return Loaded()


def _check_file(inspection: Inspection, strategy: str) -> None:
    converted = inspection.converted_strategy
    is_v7 = inspection.config is not None and inspection.config.major == 7
    if converted is not None and is_v7 and inspection.metadata.get(LAYOUT_KEY) != V7_LAYOUT:
        reason = Text("reason.backends.converted_elsewhere")
        raise WeightsError(path=inspection.path, reason=reason)
    if converted is not None and canonical_strategy(strategy) != canonical_strategy(converted):
        refuse(strategy, "converted_for", converted=converted)


def _initial_state(source: _Reading | _Converted, config: ModelConfig) -> RecurrentState:
    """Only Roost handles a merged ``time_state``: the package's RWKV-7 ignores it, RWKV-5 and 6 round it."""
    names = [f"blocks.{layer}.att.time_state" for layer in range(config.n_layer)]
    if config.major == 4 or not any(name in source.infos for name in names):
        return RecurrentState.zeros(config)
    layers = [source.whole(name).float().numpy() for name in names]
    return RecurrentState.from_time_state(config, np.stack(layers))


@contextlib.contextmanager
def _load_errors(path: str) -> Iterator[None]:
    """Converts errors of a conversion to a failed load."""
    try:
        yield
    except ConversionError as exc:
        raise ModelError("load_failed", name=os.path.basename(path), reason=exc.params["reason"]) from exc


@contextlib.contextmanager
def _printing_to_log() -> Iterator[None]:
    """Redirects the package's printed output to the log."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in filter(None, map(str.strip, printed.getvalue().splitlines())):
            log.debug("rwkv: %s", line)


BLOCK_WEIGHTS = 2**20
"""Dequantised at a time: 4 MB, which fits into a CPU cache."""


def int8_product(
    x: torch.Tensor, w: torch.Tensor, mx: torch.Tensor, rx: torch.Tensor, my: torch.Tensor, ry: torch.Tensor
) -> torch.Tensor:
    """A vector or a few rows times an int8 matrix on a CPU, instead of the package's own function, without TorchScript.

    The package (model.py 0.8.32, ``torch_mm8_one`` and ``_seq``) dequantises the whole matrix at each use, in four
    passes over float32 copies: 1.1 GB for the head of a 1.6 B model, for every token. Instead, the scales can be taken
    out of the sum:

        y[m] = rx[m] * sum_n (x[n] ry[n]) (w[n, m] + 0.5)  +  sum_n x[n] my[n]  +  mx[m] * sum_n x[n]

    and the rest needs only the bytes as numbers, one block of columns at a time.

    ``x (n_in,)`` or ``(T, n_in)``; ``w (n_in, n_out)`` bytes with columns in sequence. Computed in float32.
    """
    import torch

    wide = x.float()
    scaled = wide * ry.float().flatten()
    out = torch.empty((*x.shape[:-1], w.shape[1]), device=x.device)
    columns = max(1, BLOCK_WEIGHTS // w.shape[0])
    for start in range(0, w.shape[1], columns):
        block = w[:, start : start + columns].float()
        out[..., start : start + columns] = scaled @ block
    out = (out + 0.5 * scaled.sum(-1, keepdim=True)) * rx.float()
    out += (wide @ my.float().flatten()).unsqueeze(-1) + wide.sum(-1, keepdim=True) * mx.float()
    return out.to(x.dtype)
