"""The ways to run a model: one row a backend. Finds the backend of a strategy, and the strategy where none is chosen.

Every page, preset, API and command learns from here what there is; a new backend is its file and its row.

A strategy is text, as a preset stores it and a person types it: ``native q8``, ``cuda fp16 *20 -> cpu fp32``. What
comes after the first word is the backend's own to read (``Backend.options_from``); no other module knows its words.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from webapp.engine.backend import Availability, Backend, ModelFile, Suggestion
from webapp.engine.backend_options import BY_STRATEGY, BackendKind, Builder, Options, OptionValue
from webapp.engine.state import ModelConfig
from webapp.errors import InvalidOption, RoostError, StrategyError
from webapp.i18n import Text

AUTOMATIC = "auto"
"""The strategy that leaves it to Roost, as does an empty one: :func:`automatic_strategy`."""
SPARE_BYTES = 256 << 20
"""What has to stay free on a device beside a model that is chosen automatically: the machine runs other things, too."""


@dataclass(frozen=True)
class BackendEntry:
    """One row: strategies that match ``pattern`` (the name, unless it says otherwise) run on the class at ``target``
    (``module:class``). One that ``is_for_tests`` is found by its strategy, but shown and suggested nowhere."""

    name: str
    target: str
    pattern: str = ""
    is_for_tests: bool = False

    def load_class(self) -> type[Backend]:
        module, _, name = self.target.partition(":")
        found: type[Backend] = getattr(importlib.import_module(module), name)
        return found

    def matches(self, strategy: str) -> bool:
        return re.match(self.pattern or rf"{re.escape(self.name)}\b", strategy.strip() + " ") is not None


REGISTRY: list[BackendEntry] = [
    BackendEntry("fake", "webapp.backends.fake:FakeBackend", is_for_tests=True),
    BackendEntry("native", "webapp.backends.native.backend:NativeBackend"),
    BackendEntry("ggml", "webapp.backends.ggml.backend:GgmlBackend", r"(rwkv\.cpp|ggml) "),
    BackendEntry("webgpu", "webapp.backends.webgpu.backend:WebgpuBackend", r"webgpu(_python)?\b"),
    BackendEntry("torch", "webapp.backends.pytorch.backend:TorchBackend"),
    BackendEntry("rwkv_pip", "webapp.backends.rwkv_pip.backend:RwkvPipBackend", r"(cpu|cuda(:\d+)?|mps|dml) "),
]


def backends() -> list[type[Backend]]:
    """All that are shown and suggested. Imports nothing heavy."""
    return [entry.load_class() for entry in REGISTRY if not entry.is_for_tests]


def backend_names() -> list[str]:
    """Of the same, as their rows have them."""
    return [entry.name for entry in REGISTRY if not entry.is_for_tests]


def usual_strategy(name: str) -> str:
    """With which the backend of that row runs a model where nothing is chosen. KeyError."""
    backend = {entry.name: entry for entry in REGISTRY}[name].load_class()
    return next((str(row.default) for row in backend.OPTIONS if row.name == BY_STRATEGY), name)


@dataclass(frozen=True)
class KindEntry:
    """One kind of the strategy builder, and whether it works here."""

    kind: BackendKind
    backend: type[Backend]
    availability: Availability


def kinds() -> list[KindEntry]:
    """In the order of the pages."""
    found = [KindEntry(kind, cls, cls.availability_of(kind.key)) for cls in backends() for kind in cls.KINDS]
    return sorted(found, key=lambda row: row.kind.order)


def build(kind: str, given: Mapping[str, object], config: ModelConfig | None) -> Builder:
    """What the builder offers for a kind, and the strategy; nothing for one that does not exist."""
    for backend in backends():
        if any(row.key == kind for row in backend.KINDS):
            return backend.builder(kind, given, config)
    return Builder()


def read_builder(strategy: str, config: ModelConfig | None) -> tuple[str, Options]:
    """The kind and values with which :func:`build` writes a strategy that does the same, else the kind whose strategy
    is written by hand."""
    for entry in REGISTRY:
        if entry.matches(strategy) and (found := entry.load_class().read_builder(strategy, config)) is not None:
            return found
    by_hand = next((row.kind.key for row in kinds() if row.kind.is_text), "")
    return by_hand, {BY_STRATEGY: strategy}


def backend_for(strategy: str) -> BackendEntry:
    """The backend whose pattern the strategy matches; StrategyError when none does."""
    for entry in REGISTRY:
        if entry.matches(strategy):
            return entry
    raise StrategyError(
        strategy=strategy,
        reason=Text("reason.engine.no_backend_knows_it"),
        way_out=Text("reason.engine.try_these_strategies", names=", ".join(map(usual_strategy, backend_names()))),
    )


def resolve_strategy(strategy: str, **given: object) -> tuple[type[Backend], dict[str, OptionValue]]:
    """A strategy as its backend and every option of it. ``given`` are values by option name for what the strategy
    leaves open; names the backend does not declare are ignored. Raises StrategyError."""
    backend = backend_for(strategy).load_class()
    known = {option.name for option in backend.OPTIONS}
    values = {name: given[name] for name in given.keys() & known} | backend.options_from(strategy)
    try:
        return backend, checked_options(backend, values)
    except InvalidOption as exc:
        raise StrategyError(strategy=strategy, reason=exc.message, way_out=exc.hint) from exc


def checked_options(backend: type[Backend], given: Mapping[str, object]) -> dict[str, OptionValue]:
    """Every option the backend declares, by name: ``given`` or the default. InvalidOption for a value out of range or
    a name that is not declared."""
    known = {option.name: option for option in backend.OPTIONS}
    for name in given.keys() - known.keys():
        allowed = Text("reason.engine.one_of", names=", ".join(known))
        raise InvalidOption(name=name, value=Text("reason.engine.given"), allowed=allowed)
    return {name: option.checked(given.get(name, option.default)) for name, option in known.items()}


def runnable(model: ModelFile, strategy: str) -> tuple[type[Backend], Options]:
    """The strategy's backend and options, when this machine can run the model so. Raises StrategyError,
    BackendUnavailable or WeightsError. Whether there is memory enough is another question."""
    backend, options = resolve_strategy(strategy)
    backend.availability().require(backend_for(strategy).name)
    if model.format and model.format not in backend.FORMATS:
        raise StrategyError(
            strategy=strategy,
            reason=Text("reason.engine.backend_does_not_read", format=model.format),
            way_out=_way_out_of_format(model.format),
        )
    backend.check(model, options)
    return backend, options


def _way_out_of_format(format: str) -> Text:
    """The backends that read a format, by their usage."""
    words = [backend.usage().split(" ")[0] for backend in backends() if format in backend.FORMATS]
    return Text("reason.common.choose_one_of", names=", ".join(f"`{word}`" for word in words))


def suggestions(model: ModelFile) -> list[Suggestion]:
    """What the backends of this machine suggest for a model: what is tried first comes first, what would have to be
    built first comes last."""
    found = []
    for backend in backends():
        state = backend.availability()
        if state.is_available:
            found += [(not state.is_ready, one) for one in backend.suggestions(model)]
    return [one for _, one in sorted(found, key=lambda pair: (pair[0], pair[1].rank))]


def is_automatic(strategy: str) -> bool:
    """Whether the strategy leaves it to Roost."""
    return strategy.strip().lower() in ("", AUTOMATIC)


def automatic_strategy(model: ModelFile, free: Mapping[str, int]) -> str:
    """The strategy for a model when none is chosen: the first suggestion that runs here and fits.

    ``free``: bytes free by device (``ram``, ``cuda:0``). Where nothing fits, the suggestion that needs the least; a
    device that is not in ``free`` counts as full. Raises the first suggestion's error when none can run.
    """
    least: tuple[int, str] | None = None
    refusal: RoostError | None = None
    for one in suggestions(model):
        try:
            backend, options = runnable(model, one.strategy)
        except RoostError as exc:
            refusal = refusal or exc
            continue
        footprint = backend.footprint(model, options)
        needed = {device: footprint.peak_bytes(device) for device in footprint.devices}
        if all(size + SPARE_BYTES <= free.get(device, 0) for device, size in needed.items()):
            return one.strategy
        if needed.keys() <= free.keys() and (least is None or sum(needed.values()) < least[0]):
            least = sum(needed.values()), one.strategy
    if least is None:
        raise refusal or StrategyError(
            strategy=AUTOMATIC,
            reason=Text("reason.engine.no_backend_runs_it"),
            way_out=Text("reason.engine.choose_another_model"),
        )
    return least[1]
