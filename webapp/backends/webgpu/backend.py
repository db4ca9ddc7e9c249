"""The WebGPU backend: options, checks, memory estimate, and a loaded model.

It is never suggested, because WebGPU does not report a GPU's free memory; users choose it themselves.

Two kinds of one engine: ``webgpu fp16|int8|nf4 [layers=N] …``, and ``webgpu_python`` with the strategy strings of
RWKV-Runner's WebGPU (Python): ``webgpu_python fp16|fp16i8|fp16i4 [layerN] [chunkN]``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from webapp.backends.webgpu import device
from webapp.engine.backend import RAM, Availability, Footprint, Logits, ModelFile, ProgressCallback, Row, SlotBackend
from webapp.engine.options import (
    ADAPTER_OPTIONS,
    BackendKind,
    BackendOption,
    Builder,
    Options,
    PlacedRun,
    plain_builder,
    read_words,
    usage,
)
from webapp.engine.state import ModelConfig
from webapp.errors import InvalidOption, StrategyError
from webapp.i18n import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from webapp.backends.webgpu.model import WebgpuModel
    from webapp.engine.sampler import Sampled, SamplingBatch
    from webapp.engine.state import FloatArray

NAME, PYTHON = "webgpu", "webgpu_python"
DEVICE = "webgpu"
"""In the memory estimate: the memory of a discrete GPU. Other GPUs use main memory."""
FORMATS = ("fp16", "int8", "nf4", "fp32")
QUANTISED = ("int8", "nf4")
BITS = {"fp32": 32, "fp16": 16, "int8": 8.25, "nf4": 4.25}
"""Bits per weight, including its share of the block's scales: for int8 4 bytes per 128, for NF4 2 bytes per 64."""
ALL_LAYERS = 999
SLOTS, CHUNK, RUNNER_CHUNK = 8, 64, 32
RUNNER_FORMATS = {"fp16": "fp16", "fp16i8": "int8", "fp16i4": "nf4"}
RUNNER_LAYERS = {"fp16": ALL_LAYERS, "int8": 31, "nf4": 26}
"""Layers that RWKV-Runner's backend-python quantises if the strategy has no number (rwkv_pip/webgpu/model.py)."""
RUNNER_WORD = re.compile(r"(layer|chunk)(\d{1,4})", re.ASCII)
RUNNER_DEVICES = {"WebGPU": NAME, "WebGPU (Python)": PYTHON}
READABLE = ("float32", "float16", "bfloat16", "float64")
LOW_RANK = re.compile(r"\.att\.(time_maa_w[12]|time_decay_w[12]|[wavg][12])$")
MIB = 2**20
BASE_BYTES = 160 * MIB
"""An engine process with numpy, wgpu-native and a Vulkan driver, before any weight is loaded."""
READING_BYTES = 160 * MIB
"""Buffers for the file and for packing, and the driver's staging memory."""
HEAD_SIZES = range(8, 257)


def _option(name: str, kind: Any, default: Any, **more: Any) -> BackendOption:
    words = f"backend.webgpu.{name}"
    return BackendOption(name, kind, default, label=f"{words}.label", help=f"{words}.help", **more)


class WebgpuBackend(SlotBackend):
    """RWKV-4 to 7 from .pth, .safetensors and .st."""

    OPTIONS = (
        _option("format", "choice", "fp16", choices=FORMATS),
        _option("layers", "whole", ALL_LAYERS, low=0, high=ALL_LAYERS),
        _option("chunk", "whole", CHUNK, low=16, high=256),
        _option("slots", "whole", SLOTS, low=1, high=64),
        _option("adapter", "text", ""),
        _option("kept_file", "switch", True),
        *ADAPTER_OPTIONS,
    )
    KINDS = (
        BackendKind(NAME, f"preset_page.kind.{NAME}.label", f"preset_page.kind.{NAME}.text", order=50),
        BackendKind(PYTHON, f"preset_page.kind.{PYTHON}.label", f"preset_page.kind.{PYTHON}.text", order=60),
    )

    _model: WebgpuModel

    def __init__(self, config: ModelConfig, model: WebgpuModel, slots: int) -> None:
        self.config = config
        self.max_slots = slots
        self.prefill_tokens = model.chunk
        self._model = model

    @classmethod
    def availability(cls) -> Availability:
        return device.availability()

    @classmethod
    def options_from(cls, strategy: str) -> dict[str, Any]:
        words = strategy.lower().split()
        if words[0] != PYTHON:
            return read_words(cls.OPTIONS, strategy)
        found: dict[str, Any] = {}
        for word in words[1:]:
            number = RUNNER_WORD.fullmatch(word)
            if number is not None:
                found["layers" if number[1] == "layer" else "chunk"] = int(number[2])
            elif word in RUNNER_FORMATS and "format" not in found:
                found["format"] = RUNNER_FORMATS[word]
            else:
                raise StrategyError(
                    strategy=strategy,
                    reason=Text("reason.engine.unknown_option", name=word),
                    way_out=Text("reason.engine.options", names="fp16, fp16i8, fp16i4, layerN, chunkN"),
                )
        format = found.setdefault("format", "fp16")
        return {"layers": RUNNER_LAYERS[format], "chunk": RUNNER_CHUNK} | found

    @classmethod
    def builder(cls, kind: str, given: Mapping[str, object], config: ModelConfig | None) -> Builder:
        """Shows layers only if some are quantised, adapters only if there are several. ``precision`` and
        ``quantized_layers`` are other kinds' names for format and layers."""
        given = {"format": given.get("precision", "fp16"), "layers": given.get("quantized_layers", ALL_LAYERS), **given}
        rows = {option.name: option for option in cls.OPTIONS}
        shown = [rows["format"]]
        if kind == PYTHON:
            shown = [_option("format", "choice", "fp16", choices=tuple(RUNNER_FORMATS.values()))]
        format = str(shown[0].nearest(given["format"]))
        most = config.n_layer if config is not None else ALL_LAYERS
        if format in QUANTISED:
            shown.append(_option("layers", "whole", most, high=most))
        shown.append(rows["chunk"] if kind == NAME else _option("chunk", "whole", RUNNER_CHUNK, low=16, high=256))
        if kind == NAME:
            shown += [rows["slots"], rows["adapter"], *([rows["kept_file"]] if format in QUANTISED else [])]
            return plain_builder(shown, kind, given)
        values = {option.name: option.nearest(given.get(option.name, option.default)) for option in shown}
        spelled = next(word for word, name in RUNNER_FORMATS.items() if name == format)
        words = [PYTHON, spelled]
        if format in QUANTISED:  # Runner's own number where none is said is not "all"
            words.append(f"layer{values['layers']}")
        if values["chunk"] != RUNNER_CHUNK:
            words.append(f"chunk{values['chunk']}")
        return Builder(tuple(shown), values, " ".join(words))

    @classmethod
    def read_builder(cls, strategy: str, config: ModelConfig | None) -> tuple[str, Options] | None:
        kind = PYTHON if strategy.lower().split()[0] == PYTHON else NAME
        rows = {option.name: option for option in cls.OPTIONS}
        try:
            values = {name: rows[name].checked(value) for name, value in cls.options_from(strategy).items()}
        except (StrategyError, InvalidOption):
            return None
        if kind == PYTHON and values["format"] not in RUNNER_FORMATS.values():
            return None
        return kind, values

    @classmethod
    def usage(cls) -> str:
        return f"{usage(cls.OPTIONS, NAME)} | {PYTHON} fp16|fp16i8|fp16i4 [layerN] [chunkN]"

    @classmethod
    def runner_strategy(cls, parameters: Mapping[str, object]) -> str | None:
        """Its ``precision``, ``quantizedLayers`` and ``tokenChunkSize`` (frontend/src/utils/index.tsx, 1.9)."""
        kind = RUNNER_DEVICES.get(str(parameters.get("device", "")).strip())
        if kind is None:
            return None
        format = str(parameters.get("precision", "fp16")).strip()
        given: dict[str, object] = {"format": format if format in QUANTISED else "fp16"}
        for name, theirs in (("layers", "quantizedLayers"), ("chunk", "tokenChunkSize")):
            value = parameters.get(theirs)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                given[name] = value
        if kind == PYTHON:
            given.setdefault("layers", RUNNER_LAYERS[str(given["format"])])
        return cls.builder(kind, given, None).strategy

    @classmethod
    def placement(cls, options: Options, config: ModelConfig) -> Sequence[PlacedRun]:
        format = str(options["format"])
        count = min(int(options["layers"]), config.n_layer) if format in QUANTISED else 0
        rest = "fp16" if format in QUANTISED else format
        runs = [PlacedRun(DEVICE, format, False, 0, count, False)] if count else []
        return [*runs, PlacedRun(DEVICE, rest, False, count, config.n_layer - count, True)]

    @classmethod
    def device_of(cls, options: Options) -> str:
        return "WebGPU"

    @classmethod
    def check(cls, model: ModelFile, options: Options) -> None:
        cls.availability().require(NAME)
        wanted = str(options["adapter"])
        if device.choose(wanted, device.choices()) is None:
            names = ", ".join(row.name for row in device.choices())
            _refuse(
                options,
                Text("reason.webgpu.no_such_adapter", name=wanted),
                Text("reason.webgpu.adapters_are", names=names),
            )
        if model.converted_strategy is not None:
            _refuse(options, Text("reason.backends.file_was_converted", strategy=model.converted_strategy))
        for tensor in model.tensors:
            if tensor.dtype not in READABLE:
                _refuse(options, Text("reason.common.tensor_has_type", name=tensor.name, type=tensor.dtype))
        config = model.config
        assert config is not None, "what is no model is refused before"
        widths = (config.n_embd, config.n_att, config.head_size)
        if any(width % 4 for width in widths) or (config.major > 4 and config.head_size not in HEAD_SIZES):
            _refuse(options, Text("reason.webgpu.widths_must_be_multiples_of_4"))

    @classmethod
    def footprint(cls, model: ModelFile, options: Options) -> Footprint:
        config = model.config
        assert config is not None, "check() comes first"
        weights = embedding = 0
        for tensor in model.tensors:
            if tensor.name == "emb.weight":
                embedding += tensor.nbytes
            elif not tensor.name.endswith(".time_state"):
                weights += int(tensor.numel * _bits(tensor.name, tensor.shape, options) / 8)
        state, chunk, slots = config.state_bytes(), int(options["chunk"]), int(options["slots"])
        wide = 15 * config.n_embd + 10 * config.n_att + config.n_ffn + 1024
        drawing = 5 * (slots + 1) * config.vocab_size  # a copy of each line, masks, sums of blocks
        run = 4 * chunk * (wide + config.vocab_size) + state * (slots + 3) + drawing
        card = device.choose(str(options["adapter"]), device.choices())
        rest = {"base": {RAM: BASE_BYTES}, "load_extra": {RAM: READING_BYTES}, "state": {RAM: 0}}
        if card is not None and card.uses_main_memory:
            all_run = {RAM: 8 * config.vocab_size + run}
            return Footprint(weights={RAM: embedding + weights}, run_extra=all_run, snapshot=state, **rest)
        return Footprint(
            weights={RAM: embedding, DEVICE: weights},
            run_extra={RAM: 8 * config.vocab_size, DEVICE: run},
            snapshot=state,
            capacity={DEVICE: card.memory_bytes} if card is not None and card.memory_bytes else {},
            **rest,
        )

    @classmethod
    def load(cls, path: str, config: ModelConfig, options: Options, progress: ProgressCallback) -> WebgpuBackend:
        """Runs one token at the end."""
        from webapp.backends.webgpu.model import Layout, WebgpuModel
        from webapp.weights.adapter import AdapterChoice

        slots = int(options["slots"])
        # One more for probes.
        layout = Layout(
            str(options["format"]),
            int(options["layers"]),
            int(options["chunk"]),
            slots + 1,
            has_packed_file=bool(options["kept_file"]),
        )
        card, merged = str(options["adapter"]), AdapterChoice.of(options)
        backend = cls(config, WebgpuModel.load(path, config, layout, card, progress, merged), slots)
        backend.try_one_token(os.path.basename(path))
        return backend

    def step(self, batch: Sequence[Row]) -> Logits:
        return WebgpuLogits(self._model, *self._model.run(batch))

    @property
    def model(self) -> WebgpuModel:
        """For measurements: adapter, bytes on the GPU."""
        return self._model


class WebgpuLogits(Logits):
    """Lines on the GPU: sampled there, and read on request. If more than a chunk, already read."""

    def __init__(self, model: WebgpuModel, lines: int, values: FloatArray | None) -> None:
        self._model, self._lines, self._values = model, lines, values

    def __len__(self) -> int:
        return self._lines

    def to_numpy(self, lines: Sequence[int]) -> NDArray[np.float32]:
        import numpy as np

        if not len(lines):
            return np.empty((0, self._model.config.vocab_size), np.float32)
        if self._values is not None:
            return self._values[list(lines)]
        first, last = min(lines), max(lines)
        found = self._model.read_lines(first, last - first + 1)
        return found if len(lines) == len(found) and lines[0] == first else found[[line - first for line in lines]]

    def sample(self, lines: Sequence[int], batch: SamplingBatch) -> Sampled:
        if self._values is not None:
            return super().sample(lines, batch)
        return self._model.sampler.sample(lines, batch)

    def is_finite(self, line: int) -> bool:
        if self._values is not None:
            return super().is_finite(line)
        return self._model.sampler.is_finite(line)


def _bits(name: str, shape: tuple[int, ...], options: Options) -> float:
    """Bits of a weight on the GPU."""
    format = str(options["format"])
    is_matrix = name.endswith(".weight") and len(shape) == 2
    if not is_matrix and LOW_RANK.search(name) is None:
        return 32
    layer = re.match(r"blocks\.(\d+)\.", name)
    if format not in QUANTISED:
        return BITS[format]
    is_quantised = is_matrix and layer is not None and int(layer[1]) < int(options["layers"])
    return BITS[format] if is_quantised else BITS["fp16"]


def _refuse(options: Options, reason: Text | str, way_out: Text | str = "") -> NoReturn:
    raise StrategyError(
        strategy=f"{NAME} {options['format']}",
        reason=reason,
        way_out=way_out or Text("reason.backends.choose_the_original_file"),
    )
