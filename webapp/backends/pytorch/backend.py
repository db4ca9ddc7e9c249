"""The torch backend: its strategies and options, checks, memory estimate, and a loaded model.

A strategy is ``torch cpu q8``, ``torch cuda f16 *20 -> cpu q8`` or ``torch cuda:0 f16 *16 -> cuda:1 f16``. One or more
parts follow the word; a part is a device, a format and its number of layers. The head counts as the last layer.

Imports torch with the first load.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from webapp.backends.rwkv_pip import requirements
from webapp.backends.rwkv_pip.backend import loading, running, set_threads
from webapp.engine.backend import (
    RAM,
    Availability,
    Backend,
    Footprint,
    Logits,
    ModelFile,
    ProgressCallback,
    Row,
    SavedState,
    Suggestion,
)
from webapp.engine.options import ADAPTER_OPTIONS, BY_STRATEGY, BackendKind, BackendOption, Builder, Options, PlacedRun
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import StrategyError
from webapp.i18n import Text

if TYPE_CHECKING:
    from torch import Tensor

    from webapp.backends.pytorch.model import States, TorchModel

NAME = "torch"
FORMATS = ("q8", "q4", "f32", "bf16", "f16")
DEFAULT_FORMAT = {"cpu": "q8", "cuda": "f16"}
SPELLINGS = {"fp32": "f32", "fp16": "f16", "int8": "q8", "int4": "q4"}
MAX_STRATEGY_LENGTH = 500
"""Characters: about thirty parts."""
PART = re.compile(
    r"(?:(?P<device>cpu|cuda(?::\d{1,3})?)\s*)?(?P<format>[a-z]+\d+)?(?:\s*\*(?P<count>\d{1,6}))?", re.ASCII
)
"""Of a strategy."""
MAX_SLOTS = 64
MAX_SLOTS_ON_CARD = 256
PREFILL_TOKENS = 64
PREFILL_TOKENS_ON_CARD = 1024
READABLE = ("float32", "float16", "bfloat16", "float64")
CHUNK_BYTES = 16 * 64 * 4
"""For RWKV-5 and 6, per channel of a prompt token: its interaction with the other tokens of its chunk."""
PIECES_BYTES = 128 * 2**20
"""Buffer for a matrix while it is read, besides the source tensor."""
BITS = {"f32": 32, "bf16": 16, "f16": 16, "q8": 8, "q4": 5}
SUGGESTED = (("torch cuda f16", 12), ("torch cpu q8", 48), ("torch cpu q4", 49))
"""Strategy and rank. On a GPU behind the rwkv package, because no GPU was available for tests. On a CPU behind the
native engine and before the package, which decodes at half the speed alone and at a seventh for 32 sequences."""


class Part(Struct, frozen=True):
    """``layers`` is None if the strategy gives no number."""

    device: str
    format: str
    layers: int | None = None

    def __str__(self) -> str:
        return f"{self.device} {self.format}" + ("" if self.layers is None else f" *{self.layers}")


class Place(Struct, frozen=True):
    """The placement of one layer. ``device`` always includes its number: ``cuda:0``."""

    device: str
    format: str


def parse(strategy: str) -> tuple[Part, ...]:
    """Case and extra spaces do not matter. Raises StrategyError."""
    if len(strategy) > MAX_STRATEGY_LENGTH:
        raise _problem(f"{strategy[:40]}…", "too_long", limit=MAX_STRATEGY_LENGTH)
    name, _, rest = " ".join(strategy.lower().split()).partition(" ")
    if name != NAME:
        raise _problem(strategy, "not_a_part", part=name)
    return tuple(_part(strategy, text.strip()) for text in rest.split("->"))


def canonical(strategy: str) -> str:
    """One space between words, with every device and format."""
    return f"{NAME} " + " -> ".join(str(part) for part in parse(strategy))


def placed(strategy: str, n_layer: int) -> tuple[Place, ...]:
    """A place for each layer and the head. Parts without a number share the remaining layers, and the last part takes
    the rest. Raises StrategyError if a part gets none."""
    parts = parse(strategy)
    counts = [part.layers or 0 for part in parts]
    total = n_layer + 1
    if sum(counts) > total:
        raise _problem(strategy, "too_many_layers", placed=sum(counts), n_layer=n_layer, total=total)
    left = total - sum(counts)
    shares = [index for index, part in enumerate(parts) if part.layers is None]
    for position, index in enumerate(shares):
        counts[index] = left // (len(shares) - position)
        left -= counts[index]
    counts[-1] += left
    for part, count in zip(parts, counts, strict=True):
        if count == 0:
            raise _problem(strategy, "none_left", part=part)
    return tuple(
        Place("cuda:0" if part.device == "cuda" else part.device, part.format)
        for part, count in zip(parts, counts, strict=True)
        for _ in range(count)
    )


def placed_runs(strategy: str, n_layer: int) -> tuple[PlacedRun, ...]:
    """The layers, grouped by equal placement."""
    places, first, found = placed(strategy, n_layer), 0, []
    for at, same in groupby(places):
        count = len(list(same))
        has_head = first + count == len(places)
        found.append(PlacedRun(at.device, at.format, False, first, count - has_head, has_head))
        first += count
    return tuple(found)


def _part(strategy: str, text: str) -> Part:
    found = PART.fullmatch(text)
    if found is None:
        raise _problem(strategy, "not_a_part", part=text)
    device = found["device"] or "cpu"
    format = found["format"] or DEFAULT_FORMAT[device.partition(":")[0]]
    format = SPELLINGS.get(format, format)
    if format not in FORMATS:
        raise StrategyError(
            strategy=strategy,
            reason=Text("reason.engine.unknown_option", name=format),
            way_out=Text("reason.common.choose_one_of", names=", ".join(FORMATS)),
        )
    part = Part(device, format, None if found["count"] is None else int(found["count"]))
    if part.layers == 0:
        raise _problem(strategy, "no_layer", part=part)
    return part


def _problem(strategy: str, problem: str, **params: object) -> StrategyError:
    """``strategy.problem`` in the catalogues, as for the rwkv package's strategies."""
    words = {name: Text(f"strategy.problem.{problem}.{name}", **params) for name in ("reason", "way_out")}
    return StrategyError(strategy=strategy, **words)


class TorchBackend(Backend):
    """RWKV-4 to 7 from .pth, .safetensors and .st, on CPUs and NVIDIA GPUs."""

    OPTIONS = (
        BackendOption(BY_STRATEGY, "text", canonical(NAME)),
        BackendOption("threads", "whole", 0, low=0, high=256),
        *ADAPTER_OPTIONS,
    )
    KINDS = (BackendKind("torch", "preset_page.kind.torch.label", "preset_page.kind.torch.text", order=25),)
    max_slots = MAX_SLOTS
    prefill_tokens = PREFILL_TOKENS

    def __init__(self, config: ModelConfig, model: TorchModel) -> None:
        from webapp.backends.pytorch.model import DecodeGraphs, are_wanted
        from webapp.backends.pytorch.sampling import Head

        self.config = config
        self._model: TorchModel | None = model
        self._head = Head(model)
        self._free = [0]  # of the states there is room for, the lowest last
        self._used: set[int] = set()
        if all(device != "cpu" for device in model.devices):
            self.max_slots, self.prefill_tokens = MAX_SLOTS_ON_CARD, PREFILL_TOKENS_ON_CARD
        self._graphs = DecodeGraphs(model, self.new_slot()) if are_wanted(model.devices) else None

    @classmethod
    def availability(cls) -> Availability:
        if importlib.util.find_spec("torch") is None:
            reason = Text("reason.backends.package_not_installed", package="torch")
            return Availability(False, reason, Text("reason.backends.run_pip_install", package="torch"))
        return Availability(True)

    @classmethod
    def options_from(cls, text: str) -> dict[str, Any]:
        return {BY_STRATEGY: canonical(text)}

    @classmethod
    def builder(cls, kind: str, given: Mapping[str, object], config: ModelConfig | None) -> Builder:
        """One device and one format for all layers."""
        options = tuple(
            BackendOption(
                name,
                "choice",
                choices[0],
                choices,
                label=f"backend.torch.{name}.label",
                help=f"backend.torch.{name}.help",
            )
            for name, choices in (("device", ("cpu", "cuda")), ("format", FORMATS))
        )
        values = {option.name: option.nearest(given.get(option.name, option.default)) for option in options}
        return Builder(options, values, f"{NAME} {values['device']} {values['format']}")

    @classmethod
    def read_builder(cls, text: str, config: ModelConfig | None) -> tuple[str, Options] | None:
        try:
            parts = parse(text)
        except StrategyError:
            return None
        if len(parts) > 1 or parts[0].layers is not None or parts[0].device not in ("cpu", "cuda"):
            return None
        return cls.KINDS[0].key, {"device": parts[0].device, "format": parts[0].format}

    @classmethod
    def placement(cls, options: Options, config: ModelConfig) -> Sequence[PlacedRun]:
        return placed_runs(str(options[BY_STRATEGY]), config.n_layer)

    @classmethod
    def remarks(cls, options: Options) -> Sequence[Text]:
        is_on_card = any(part.device != "cpu" for part in parse(str(options[BY_STRATEGY])))
        return (Text("strategy.advice.torch_unmeasured"),) if is_on_card else ()

    @classmethod
    def usage(cls) -> str:
        return f"{NAME} cpu|cuda[:N] {'|'.join(FORMATS)} [*LAYERS] [-> ...]"

    @classmethod
    def device_of(cls, options: Options) -> str:
        return "CUDA" if "cuda" in str(options[BY_STRATEGY]) else "CPU"

    @classmethod
    def check(cls, model: ModelFile, options: Options) -> None:
        text = str(options[BY_STRATEGY])
        if model.converted_strategy is not None:
            _refuse(text, Text("reason.backends.file_was_converted", strategy=model.converted_strategy))
        for tensor in model.tensors:
            if tensor.dtype not in READABLE:
                _refuse(text, Text("reason.common.tensor_has_type", name=tensor.name, type=tensor.dtype))
        assert model.config is not None, "what is no model is refused before"
        placed(text, model.config.n_layer)
        for part in parse(text):
            requirements.check_device(part.device)

    @classmethod
    def footprint(cls, model: ModelFile, options: Options) -> Footprint:
        config = model.config
        assert config is not None, "check() comes first"
        places = placed(str(options[BY_STRATEGY]), config.n_layer)
        weights, state, run, largest = Counter({RAM: 0}), Counter[str](), Counter({RAM: 32 * config.vocab_size}), 0
        for tensor in model.tensors:
            device, size = _kept_bytes(tensor.name, tensor.shape, tensor.nbytes, tensor.numel, places)
            weights[device] += size
            largest = max(largest, tensor.nbytes)
        for layer in places[:-1]:
            state[_device(layer)] += config.state_bytes() // config.n_layer
        for device in {_device(layer) for layer in places}:
            wide = 16 * config.n_embd + 8 * config.n_att + 3 * config.n_ffn
            wide += CHUNK_BYTES * config.n_att // 64 if config.major in (5, 6) else 0
            run[device] += 4 * wide * (PREFILL_TOKENS if RAM in state else PREFILL_TOKENS_ON_CARD) + 2 * state[device]
        cards = sorted(weights.keys() - {RAM})
        host = requirements.BASE_BYTES + (requirements.CUDA_HOST_BYTES if cards else 0)
        return Footprint(
            weights=dict(weights),
            base={RAM: host} | dict.fromkeys(cards, requirements.CUDA_DEVICE_BYTES),
            load_extra={RAM: largest + PIECES_BYTES},
            run_extra=dict(run),
            state=dict(state),
            snapshot=config.state_bytes(),
        )

    @classmethod
    def suggestions(cls, model: ModelFile) -> Sequence[Suggestion]:
        return [Suggestion(text, rank, f"strategy.recommend.{text.replace(' ', '_')}") for text, rank in SUGGESTED]

    @classmethod
    def load(cls, path: str, config: ModelConfig, options: Options, progress: ProgressCallback) -> TorchBackend:
        """Runs one token at the end."""
        places = placed(str(options[BY_STRATEGY]), config.n_layer)
        requirements.check_torch_devices({place.device for place in places})
        set_threads(int(options["threads"]), config)
        with loading(path):
            from webapp.backends.pytorch.loader import load_model
            from webapp.weights.adapter import AdapterChoice

            with working():
                backend = cls(config, load_model(path, config, places, progress, AdapterChoice.of(options)))
            backend.try_one_token(os.path.basename(path))
        return backend

    def step(self, batch: Sequence[Row]) -> Logits:
        from webapp.backends.pytorch.sampling import TorchLogits

        model = self._open
        self._check(batch)
        with working():
            step = model.plan(batch)
            replayed = self._graphs.run(step) if self._graphs is not None else None
            hidden = model.run(step) if replayed is None else replayed
        return TorchLogits(self._head, hidden)

    def new_slot(self) -> int:
        states = self._open.states
        with working():
            if not self._free:
                self._make_room(states)
            states.put(self._free[-1])
        self._used.add(slot := self._free.pop())
        return slot

    def free_slot(self, slot: int) -> None:
        self._used.remove(slot)
        self._free = sorted({*self._free, slot}, reverse=True)  # the lowest first: they lie side by side

    def read_state(self, slot: int) -> RecurrentState:
        with working():
            return self._open.states.value(self._checked(slot))

    def write_state(self, slot: int, state: RecurrentState) -> None:
        with working():
            self._open.states.put(self._checked(slot), self._open.states.from_value(state))

    def fork(self, slot: int) -> int:
        self._checked(slot)
        made = self.new_slot()
        with working():
            self._open.states.put(made, self._open.states.take(slot))
        return made

    def save(self, slot: int) -> SavedState:
        with working():
            return Saved(self._open.states.take(self._checked(slot)))

    def restore(self, slot: int, saved: SavedState) -> None:
        assert isinstance(saved, Saved)
        with working():
            self._open.states.put(self._checked(slot), saved.parts)

    def close(self) -> None:
        model, self._model, self._graphs = self._model, None, None
        if model is not None:
            self._used, self._free = set(), []
            del self._head
            if any(device != "cpu" for device in model.devices):
                import torch

                del model
                torch.cuda.empty_cache()

    @property
    def weight_bytes(self) -> int:
        return self._open.weight_bytes

    def _make_room(self, states: States) -> None:
        """More than ``max_slots``: includes the engine's probe slot and the slot of the graphs."""
        most = self.max_slots + 2
        if states.capacity == most:
            raise KeyError("all slots are taken")
        before = states.capacity
        states.grow(min(2 * before, most))
        self._free = list(range(before, states.capacity))[::-1]

    @property
    def _open(self) -> TorchModel:
        if self._model is None:
            raise ValueError("the backend is closed")
        return self._model

    def _checked(self, slot: int) -> int:
        if slot not in self._used:
            raise KeyError(slot)
        return slot

    def _check(self, batch: Sequence[Row]) -> None:
        """Before anything is changed: raises ValueError for tokens, KeyError for slots."""
        slots = [row.slot for row in batch]
        if len(set(slots)) < len(slots) or not self._used.issuperset(slots):
            raise KeyError("the slot is not in use, or named twice")
        for row in batch:
            if not row.token_ids:
                raise ValueError("no token to feed")
            if min(row.token_ids) < 0 or max(row.token_ids) >= self.config.vocab_size:
                raise ValueError("a token id outside the vocabulary")


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Without gradients; converts out-of-memory errors to OutOfMemory."""
    import torch

    with running(), torch.inference_mode():
        yield


class Saved:
    """A state on its own device, by kind and layer."""

    def __init__(self, parts: list[list[Tensor]]) -> None:
        self.parts = parts

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for part in self.parts for tensor in part)


def _kept_bytes(name: str, shape: tuple[int, ...], nbytes: int, numel: int, places: Sequence[Place]) -> tuple[str, int]:
    """Device and bytes of a tensor once it is loaded."""
    layer = int(name.split(".")[1]) if name.startswith("blocks.") else len(places) - 1 if name != "emb.weight" else 0
    place = places[min(layer, len(places) - 1)]
    device = _device(place)
    if name.endswith(".time_state"):
        return device, 0
    if name == "emb.weight":
        return device, min(nbytes, numel * (4 if place.format == "f32" else 2))
    if len(shape) == 2 and name.endswith(".weight"):
        bits = 8 if name == "head.weight" and place.format == "q4" else BITS[place.format]
        return device, numel * bits // 8 + 2 * shape[0]
    is_low_rank = name.endswith(("1", "2")) and max(shape) < numel
    return device, numel * (4 if place.format == "f32" or not is_low_rank else 2)


def _device(place: Place) -> str:
    return RAM if place.device == "cpu" else place.device


def _refuse(text: str, reason: Text) -> None:
    raise StrategyError(strategy=text, reason=reason, way_out=Text("reason.backends.choose_the_original_file"))
