"""The native backend: options, checks, memory estimate, and a loaded model."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from msgspec import Struct

from webapp.backends.machine import FreeThreads, usable_cores
from webapp.backends.native import building, library
from webapp.engine.backend import (
    RAM,
    Availability,
    FlatBackend,
    Footprint,
    Logits,
    ModelFile,
    ProgressCallback,
    Row,
    Suggestion,
)
from webapp.engine.options import ADAPTER_OPTIONS, BackendKind, BackendOption, Options
from webapp.engine.state import ModelConfig
from webapp.errors import BackendUnavailable, StrategyError, WeightsError
from webapp.i18n import Text
from webapp.weights.inspection import Inspection, used_token_bitmap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from webapp.backends.native.model import Layout, NativeModel
    from webapp.engine.sampler import Sampled, SamplingBatch


MAX_SLOTS = 64
PREFILL_TOKENS = 64
"""For all prompts in a step: eight panels of columns, where matrix products are limited by arithmetic."""
DRAFT_TOKENS = 15
"""Together with the pending token: two panels."""
MAX_COLUMNS = 128
"""Tokens that pass the layers together: running answers and the step's prompt tokens."""
SMALL_WIDTH = 512
"""Below this ``n_embd``, a token takes tens of microseconds per layer. Barriers then cost as much as a second thread
gains, unless there are several tokens and a free core."""

FORMATS = ("q8", "q6", "q4", "bf16", "f16", "f32")
QUANTISED = ("q8", "q6", "q4")
SUGGESTED = (("q8", 20), ("q6", 21), ("q4", 22))
"""Format and rank of the suggestions for a model: 8 bits if they fit, also for files in 16 or 32 bits. They cost a
divergence of 7e-4 (docs/native.md) and are read in half the time of 16 bits, which determines the time per token."""
SAME = "same"
FITTED = "fitted"
READABLE = ("float32", "float16", "bfloat16", "float64")
WANT = {"nothing": 0, "last": 1, "all": 2}

MIB = 2**20
BASE_BYTES = 48 * MIB
"""An engine process with numpy and the library, before any weight is loaded (Linux)."""
READING_BYTES = 80 * MIB
"""Mapped pages of the file during the load (``model.HELD_BYTES``), and buffers for rows."""
LAYER = re.compile(r"blocks\.\d+\.")
LOW_RANK = re.compile(r"\.att\.(time_maa_w[12]|time_decay_w[12]|[wavg][12])$")


def _choice(name: str, choices: tuple[str, ...]) -> BackendOption:
    words = f"backend.native.{name}"
    return BackendOption(name, "choice", choices[0], choices, label=f"{words}.label", help=f"{words}.help")


def _number(name: str, default: int, most: int) -> BackendOption:
    words = f"backend.native.{name}"
    return BackendOption(name, "whole", default, low=0, high=most, label=f"{words}.label", help=f"{words}.help")


class NativeBackend(FlatBackend):
    """RWKV-4 to 7 from .pth, .safetensors and .st."""

    OPTIONS = (
        _choice("format", FORMATS),
        _choice("head", (SAME, *FORMATS)),
        _choice("lora", (SAME, *FORMATS)),
        _choice("embedding", (SAME, "file", "q8")),
        _choice("scales", ("plain", FITTED)),
        _choice("isa", ("auto", *library.ISAS)),
        BackendOption("threads", "whole", 0, low=0, high=256),
        _number("draft", DRAFT_TOKENS, 63),
        BackendOption(
            "packed_file",
            "switch",
            False,
            label="backend.native.packed_file.label",
            help="backend.native.packed_file.help",
        ),
        *ADAPTER_OPTIONS,
    )
    KINDS = (BackendKind("native", "preset_page.kind.native.label", "preset_page.kind.native.text", order=20),)
    max_slots = MAX_SLOTS
    prefill_tokens = PREFILL_TOKENS
    bandwidth_share = 0.85

    _model: NativeModel

    def __init__(self, config: ModelConfig, model: NativeModel, draft_tokens: int = DRAFT_TOKENS) -> None:
        self.config = config
        self._free_threads = FreeThreads(model.threads) if config.n_embd < SMALL_WIDTH else None
        self.draft_tokens = draft_tokens
        self._model = model

    @classmethod
    def availability(cls) -> Availability:
        return library.availability()

    @classmethod
    def check(cls, model: ModelFile, options: Options) -> None:
        cls.availability().require("native")
        if model.converted_strategy is not None:
            _refuse(
                options,
                Text("reason.backends.file_was_converted", strategy=model.converted_strategy),
            )
        for tensor in model.tensors:
            if tensor.dtype not in READABLE:
                _refuse(options, Text("reason.common.tensor_has_type", name=tensor.name, type=tensor.dtype))

    @classmethod
    def footprint(cls, model: ModelFile, options: Options) -> Footprint:
        config = model.config
        assert config is not None, "check() comes first"
        formats = Formats.of(options)
        weights = sum(_packed_bytes(tensor.name, tensor.shape, tensor.nbytes, formats) for tensor in model.tensors)
        state = _state_bytes(config)
        wide = 4 * (16 * config.n_embd + 8 * config.n_att + config.n_ffn)
        run = MAX_COLUMNS * wide + 4 * config.vocab_size * (MAX_COLUMNS // 4)
        return Footprint(
            weights={RAM: weights},
            base={RAM: BASE_BYTES},
            load_extra={RAM: READING_BYTES + (_calibration_bytes(config) if _is_fitted(formats, options) else 0)},
            run_extra={RAM: run + _second_head_bytes(model, formats)},
            state={RAM: state},
            snapshot=state,
        )

    @classmethod
    def prepare(cls) -> None:
        try:
            building.build_apart()
        except library.NativeUnavailable as exc:
            raise BackendUnavailable(backend="native", reason=exc.reason, way_out=exc.way_out) from exc

    @classmethod
    def warm_up(cls) -> None:
        import webapp.backends.native.model  # noqa: F401

        if building.is_built():
            with contextlib.suppress(library.NativeUnavailable):
                library.choose_isa()

    @classmethod
    def suggestions(cls, model: ModelFile) -> Sequence[Suggestion]:
        """Ranks after a GPU and before the rwkv package."""
        return [Suggestion(f"native {name}", rank, f"strategy.recommend.native_{name}") for name, rank in SUGGESTED]

    @classmethod
    def load(cls, path: str, config: ModelConfig, options: Options, progress: ProgressCallback) -> NativeBackend:
        """Builds the library first if needed. Runs one token at the end."""
        from webapp.backends.native.model import NativeModel

        try:
            layout = _layout(config, options)
        except library.NativeUnavailable as exc:
            raise BackendUnavailable(backend="native", reason=exc.reason, way_out=exc.way_out) from exc
        backend = cls(config, NativeModel.load(path, config, layout, progress), int(options["draft"]))
        backend.try_one_token(os.path.basename(path))
        return backend

    def step(self, batch: Sequence[Row]) -> Logits:
        if self._free_threads is not None:  # beside other programs, a second thread slows it down
            self._model.spread(library.LARGE_JOBS if self._free_threads.begin() > 1 else library.NO_JOBS)
        lines = self._model.run(
            [row.slot for row in batch], [row.token_ids for row in batch], [WANT[row.want] for row in batch]
        )
        if self._free_threads is not None:
            self._free_threads.end()
        return NativeLogits(self._model, lines)

    @property
    def model(self) -> NativeModel:
        """For measurements: instruction set, bytes read per token, bandwidth."""
        return self._model


class NativeLogits(Logits):
    """Lines in the library's memory, computed on request."""

    def __init__(self, model: NativeModel, lines: int) -> None:
        self._model = model
        self._lines = lines

    def __len__(self) -> int:
        return self._lines

    def to_numpy(self, lines: Sequence[int]) -> NDArray[np.float32]:
        found = self._model.lines(self._lines)
        is_all = len(lines) == len(found) and list(lines) == list(range(len(lines)))
        return found if is_all else found[list(lines)]

    def sample(self, lines: Sequence[int], batch: SamplingBatch) -> Sampled:
        from webapp.engine.sampler import Sampled

        return Sampled(*self._model.sample(lines, batch))


class Formats(Struct, frozen=True):
    """Formats of matrices, head and low-rank matrices, by name; and whether the embedding is in 8 bits."""

    format: str
    head: str
    lora: str
    embedding_q8: bool

    @classmethod
    def of(cls, options: Options) -> Formats:
        """``same``: as the matrices, but low-rank matrices are never below 8 bits (there is no gain), and the embedding
        is in 8 bits if the matrices are quantised."""
        chosen = {name: str(options[name]) for name in ("format", "head", "lora", "embedding")}
        main = chosen["format"]
        is_quantised = main in QUANTISED
        lora = ("q8" if is_quantised else main) if chosen["lora"] == SAME else chosen["lora"]
        embedding = chosen["embedding"] == "q8" or (chosen["embedding"] == SAME and is_quantised)
        return cls(main, main if chosen["head"] == SAME else chosen["head"], lora, embedding)


def default_threads(config: ModelConfig) -> int:
    """The physical cores that this process may use; at most two for a small model (the second only if it helps)."""
    return min(2, usable_cores()) if config.n_embd < SMALL_WIDTH else usable_cores()


def _layout(config: ModelConfig, options: Options) -> Layout:
    from webapp.backends.native.model import Layout
    from webapp.weights.adapter import AdapterChoice

    formats = Formats.of(options)
    wanted = str(options["isa"])
    return Layout(
        formats.format,
        formats.head,
        formats.lora,
        formats.embedding_q8,
        threads=int(options["threads"]) or default_threads(config),
        isa=library.choose_isa("" if wanted == "auto" else wanted),
        max_slots=MAX_SLOTS + 1,
        max_columns=MAX_COLUMNS,
        calibration=calibration_ids(config) if _is_fitted(formats, options) else (),
        has_packed_file=bool(options["packed_file"]),
        adapter=AdapterChoice.of(options),
    )


def _is_fitted(formats: Formats, options: Options) -> bool:
    """8 bits gain nothing from it (docs/quantisation.md)."""
    return formats.format in ("q4", "q6") and options["scales"] == FITTED


def _calibration_bytes(config: ModelConfig) -> int:
    """One layer in 8 bits, and the activations between two layers."""
    layer = config.n_embd * (6 * config.n_att + 3 * config.n_ffn) * 17 // 16
    return layer + 8 * 4 * MAX_TOKENS * (config.n_embd + config.n_att)


def _packed_bytes(name: str, shape: tuple[int, ...], nbytes: int, formats: Formats) -> int:
    """Size of one tensor inside the library, as computed by ``Matrix::shape`` in src/tiles.h."""
    if name.endswith(".time_state"):
        return 0
    if name == "emb.weight":
        return shape[0] * (shape[1] + 4) if formats.embedding_q8 else nbytes
    numel = 1
    for size in shape:
        numel *= size
    if name == "head.weight":
        return _tile_bytes(formats.head, *shape)
    if LOW_RANK.search(name):
        return _tile_bytes(formats.lora, shape[-1], numel // shape[-1])
    if len(shape) == 2 and LAYER.match(name) and name.endswith(".weight"):
        return _tile_bytes(formats.format, *shape)
    return 4 * numel


def _second_head_bytes(model: ModelFile, formats: Formats) -> int:
    """Size of a head with only the tokens that can be sampled, if the file says that they are half or fewer."""
    if not isinstance(model, Inspection) or model.config is None:
        return 0
    try:
        bitmap = used_token_bitmap(model) or b""
    except WeightsError:  # the load reports it
        return 0
    usable = int.from_bytes(bitmap, "little").bit_count()
    return _tile_bytes(formats.head, usable, model.config.n_embd) if usable <= model.config.vocab_size // 2 else 0


def _tile_bytes(format: str, rows: int, inputs: int) -> int:
    tiles, padded = -(-rows // 16), -(-inputs // 64) * 64
    group = {"q8": 512, "q6": 384, "q4": 256}.get(format)
    if group is None:
        return tiles * padded * (64 if format == "f32" else 32)
    return tiles * (padded // 64 * (64 + 2 * group) + (0 if format == "q8" else 128))


def _state_bytes(config: ModelConfig) -> int:
    """Includes the padding in src/engine.cpp."""
    width, head = -(-config.n_embd // 16) * 16, -(-config.head_size // 32) * 32
    attention = -(-config.n_att // 32) * 32 * 3 if config.major == 4 else config.n_head * head * head
    return 4 * config.n_layer * (2 * width + attention)


def _refuse(options: Options, reason: Text | str) -> NoReturn:
    raise StrategyError(
        strategy=f"native {options['format']}",
        reason=reason,
        way_out=Text("reason.backends.choose_the_original_file"),
    )


PIECES = Path(__file__).with_name("calibration.json")
WORLD_VOCABULARY = range(65_525, 65_537)
"""Vocabulary sizes of World models."""
MAX_TOKENS = 72
"""Per piece."""


def calibration_ids(config: ModelConfig) -> tuple[tuple[int, ...], ...]:
    """Token ids of the calibration text, piece by piece, for fitting the scales of 4 and 6 bits (``Engine::calibrate``,
    src/engine.h): English, Chinese, code, tables and function calls. The ids are fixed World ids, because a backend has
    no tokenizer. None for other vocabularies."""
    if config.vocab_size not in WORLD_VOCABULARY:
        return ()
    return tuple(tuple(piece["ids"]) for piece in json.loads(PIECES.read_text(encoding="utf-8")))
