"""The ggml backend: options, checks, memory estimate, and a loaded model. Strategy ``rwkv.cpp``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from webapp.backends.ggml import library
from webapp.backends.machine import FreeThreads, usable_cores
from webapp.engine.backend import (
    RAM,
    Availability,
    FlatBackend,
    Footprint,
    Logits,
    ModelFile,
    NumpyLogits,
    ProgressCallback,
    Row,
    Suggestion,
    TensorSize,
)
from webapp.engine.options import ADAPTER_OPTIONS, BackendKind, BackendOption, Builder, Options, plain_builder, usage
from webapp.engine.state import ModelConfig
from webapp.errors import BackendUnavailable, StrategyError
from webapp.i18n import Text

if TYPE_CHECKING:
    from webapp.backends.ggml.model import GgmlModel

WORD = "rwkv.cpp"
"""First word of its strategies: the name in RWKV-Runner and its manual."""
MAX_SLOTS = 64
PREFILL_TOKENS = 64
"""Prefill is nearly as fast as possible at this size (measured: 32 are 6 % slower, 128 no faster)."""
AS_FILE = "auto"
TYPES = {
    AS_FILE: "q8_0",
    "q8_0": "q8_0",
    "q5_1": "q5_1",
    "q5_0": "q5_0",
    "q4_1": "q4_1",
    "q4_0": "q4_0",
    "q6_k": "q6_k",
    "q5_k": "q5_k",
    "q4_k": "q4_k",
    "f16": "float16",
    "f32": "float32",
}
"""Choice -> dtype of a checkpoint's matrices. :data:`AS_FILE`: unchanged for a .bin or .gguf, otherwise 8 bits."""
READABLE = ("float32", "float16", "bfloat16", "float64")
RUNNER_DEVICE = "CPU (rwkv.cpp)"
RUNNER_PRECISIONS = {"fp16": "f16", "int8": "q5_1"}
OWN_FILES = ("ggml-bin", "gguf")

MIB = 2**20
BASE_BYTES = 44 * MIB
"""An engine process with numpy and ggml, before the first weight (Linux)."""
READING_BYTES = {True: 24 * MIB, False: 176 * MIB}
"""Needed with the weights while they are read: almost nothing for a .bin or .gguf, buffers for a checkpoint."""
DEVICE = "gpu"
"""In the memory estimate: the GPU that ggml uses."""
MAX_GPU_LAYERS = 999
"""Or any number above the model's number of layers: all layers."""
GRAPHS = 3
"""Number of cached step shapes, each with its own memory."""
SMALL_WIDTH = 256
"""Below this ``n_embd``, a second thread costs more at the barriers than it gains."""


class GgmlBackend(FlatBackend):
    """RWKV-4 to 7 from .bin and .gguf (6 and 7), unchanged, and from .pth, .safetensors and .st."""

    FORMATS = ("pth", "safetensors", *OWN_FILES)
    OPTIONS = (
        BackendOption(
            "format",
            "choice",
            AS_FILE,
            tuple(TYPES),
            label="backend.ggml.format.label",
            help="backend.ggml.format.help",
        ),
        BackendOption("threads", "whole", 0, low=0, high=256),
        BackendOption(
            "gpu_layers",
            "whole",
            0,
            low=0,
            high=MAX_GPU_LAYERS,
            label="backend.ggml.gpu_layers.label",
            help="backend.ggml.gpu_layers.help",
        ),
        *ADAPTER_OPTIONS,
    )
    KINDS = (
        BackendKind(
            "ggml",
            "preset_page.kind.ggml.label",
            "preset_page.kind.ggml.text",
            order=40,
            formats=(".bin", ".gguf", ".pth", ".safetensors", ".st"),
        ),
    )
    max_slots = MAX_SLOTS
    prefill_tokens = PREFILL_TOKENS

    _model: GgmlModel

    def __init__(self, config: ModelConfig, model: GgmlModel) -> None:
        self.config = config
        self._model = model

    @classmethod
    def availability(cls) -> Availability:
        return library.availability()

    @classmethod
    def check(cls, model: ModelFile, options: Options) -> None:
        cls.availability().require(WORD)
        if options["gpu_layers"] and not library.load().has_gpu_backend():
            _refuse(
                options,
                Text("reason.backends.ggml_without_gpu", file=library.load().paths[-1].name),
                Text("reason.backends.set_ggml_with_gpu", name=library.PATH_VARIABLE),
            )
        if model.converted_strategy is not None:
            _refuse(
                options,
                Text("reason.backends.file_was_converted", strategy=model.converted_strategy),
                Text("reason.backends.choose_the_original_file"),
            )
        if model.format in OWN_FILES:
            if options["format"] != AS_FILE:
                _refuse(
                    options,
                    Text("reason.backends.file_keeps_its_types"),
                    Text("reason.backends.use_strategy", strategy=WORD),
                )
            return
        for tensor in model.tensors:
            if tensor.dtype not in READABLE:
                _refuse(
                    options,
                    Text("reason.common.tensor_has_type", name=tensor.name, type=tensor.dtype),
                    Text("reason.backends.choose_the_original_file"),
                )
        if model.config is not None and model.config.n_att != model.config.n_embd:
            _refuse(
                options,
                Text("reason.backends.attention_width"),
                Text("reason.backends.use_strategy", strategy="auto"),
            )

    @classmethod
    def remarks(cls, options: Options) -> Sequence[Text]:
        """Which ggml is used."""
        try:
            ggml = library.load()
        except library.GgmlUnavailable:
            return ()
        params = {"source": ggml.source, "version": (ggml.version() or b"").decode("ascii", "replace")}
        return (Text("strategy.advice.ggml_runs_on", **params),)

    @classmethod
    def footprint(cls, model: ModelFile, options: Options) -> Footprint:
        config = model.config
        assert config is not None, "check() comes first"
        is_own = model.format in OWN_FILES
        wanted = TYPES[str(options["format"])]
        from webapp.backends.ggml.weights import is_on_gpu

        weights = {RAM: 0}
        first_on_gpu = config.n_layer - min(int(options["gpu_layers"]), config.n_layer)
        for tensor in model.tensors:
            device = DEVICE if is_on_gpu(tensor.name, first_on_gpu, config.n_layer) else RAM
            kept = tensor.nbytes if is_own else _kept_bytes(tensor, wanted)
            weights[device] = weights.get(device, 0) + kept
        state = config.state_bytes()
        step = 4 * PREFILL_TOKENS * (16 * config.n_embd + 2 * config.n_ffn)
        return Footprint(
            weights=weights,
            base={RAM: BASE_BYTES},
            load_extra={RAM: READING_BYTES[is_own]},
            run_extra={RAM: GRAPHS * step + 16 * 4 * config.vocab_size},
            state={RAM: state},
            snapshot=state,
            capacity=cls._capacity() if options["gpu_layers"] else {},
        )

    @classmethod
    def _capacity(cls) -> dict[str, int]:
        try:
            size = library.gpu_bytes() if library.load().has_gpu_backend() else 0
        except library.GgmlUnavailable:
            size = 0
        return {DEVICE: size} if size else {}

    @classmethod
    def builder(cls, kind: str, given: Mapping[str, object], config: ModelConfig | None) -> Builder:
        """Only ``rwkv.cpp`` if nothing is chosen, because a .bin accepts nothing else."""
        found = plain_builder(cls.OPTIONS, WORD, given)
        strategy = found.strategy.replace(f"{WORD} {AS_FILE}", WORD)
        return Builder(found.options, found.values, strategy, found.note)

    @classmethod
    def usage(cls) -> str:
        return usage(cls.OPTIONS, WORD)

    @classmethod
    def runner_strategy(cls, parameters: Mapping[str, object]) -> str | None:
        """RWKV-Runner converts to a .bin with the chosen precision, unless the model is one already."""
        if parameters.get("device") != RUNNER_DEVICE:
            return None
        is_own = str(parameters.get("modelName", "")).lower().endswith((".bin", ".gguf"))
        word = RUNNER_PRECISIONS.get(str(parameters.get("precision", "")), "")
        return WORD if is_own or not word else f"{WORD} {word}"

    @classmethod
    def suggestions(cls, model: ModelFile) -> Sequence[Suggestion]:
        """For files that no other backend runs."""
        return [Suggestion(WORD, 0, "strategy.recommend.ggml_file")] if model.format in OWN_FILES else []

    @classmethod
    def load(cls, path: str, config: ModelConfig, options: Options, progress: ProgressCallback) -> GgmlBackend:
        """Runs one token at the end."""
        from webapp.backends.ggml.model import GgmlModel
        from webapp.weights.adapter import AdapterChoice

        try:
            ggml = library.load()
        except library.GgmlUnavailable as exc:
            raise BackendUnavailable(backend=WORD, reason=exc.reason, way_out=exc.way_out) from exc
        given, most = int(options["threads"]), 1 if config.n_embd < SMALL_WIDTH else usable_cores()
        threads = given or FreeThreads(most)
        wanted = TYPES[str(options["format"])]
        adapter, gpu_layers = AdapterChoice.of(options), int(options["gpu_layers"])
        load = partial(GgmlModel.load, ggml, path, config, wanted, threads, MAX_SLOTS + 1, progress)
        model = load(adapter=adapter, gpu_layers=gpu_layers)
        backend = cls(config, model)
        backend.try_one_token(os.path.basename(path))
        return backend

    def step(self, batch: Sequence[Row]) -> Logits:
        return NumpyLogits(self._model.step(batch))

    @property
    def model(self) -> GgmlModel:
        """For measurements: bytes of the weights, threads."""
        return self._model


def _kept_bytes(tensor: TensorSize, wanted: str) -> int:
    """The size of a checkpoint's tensor in ggml."""
    from webapp.backends.ggml.weights import piece_dtype
    from webapp.weights.ggml_layout import Piece
    from webapp.weights.tensor_info import TensorInfo

    shape = tuple(size for size in tensor.shape if size != 1) or (1,)
    piece = Piece(tensor.name, shape, (tensor.name,))
    return TensorInfo(tensor.name, shape, piece_dtype(piece, wanted)).nbytes


def _refuse(options: Options, reason: Text | str, way_out: Text | str) -> NoReturn:
    raise StrategyError(strategy=f"{WORD} {options['format']}", reason=reason, way_out=way_out)
