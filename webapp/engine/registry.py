"""The list of backends, one row each. Finds the backend of a strategy, and a strategy if none is chosen.

Every page, preset, API and command reads this list. A new backend needs a file and a row here.

A strategy is text, as a preset stores it and a person types it: ``native q8``, ``cuda fp16 *20 -> cpu fp32``. Only
the backend reads what follows the first word (``Backend.options_from``); no other module knows its words.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping

from msgspec import Struct

from webapp.engine.backend import Availability, Backend, ModelFile, Suggestion
from webapp.engine.options import AUTOMATIC, BY_STRATEGY, BackendKind, Builder, Options, OptionValue
from webapp.engine.state import ModelConfig
from webapp.errors import InvalidOption, RoostError, StrategyError
from webapp.i18n import Text

SPARE_BYTES = 256 << 20
"""Must stay free on a device besides a model that is chosen automatically: the machine runs other programs too."""


class BackendEntry(Struct, frozen=True):
    """One row: strategies that match ``pattern`` (by default the name) run on the class at ``target``
    (``module:class``). A row with ``is_for_tests`` is found by its strategy, but is never shown or suggested."""

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
    """All backends that are shown and suggested. Imports nothing heavy."""
    return [entry.load_class() for entry in REGISTRY if not entry.is_for_tests]


def backend_names() -> list[str]:
    """The names of these backends, as in their rows."""
    return [entry.name for entry in REGISTRY if not entry.is_for_tests]


def usual_strategy(name: str) -> str:
    """The default strategy of the backend with this name. Raises KeyError."""
    backend = {entry.name: entry for entry in REGISTRY}[name].load_class()
    return next((str(row.default) for row in backend.OPTIONS if row.name == BY_STRATEGY), name)


class KindEntry(Struct, frozen=True):
    """One kind of the strategy builder, and whether it works on this machine."""

    kind: BackendKind
    backend: type[Backend]
    availability: Availability


def kinds() -> list[KindEntry]:
    """All kinds, in the order of the pages."""
    found = [KindEntry(kind, cls, cls.availability_of(kind.key)) for cls in backends() for kind in cls.KINDS]
    return sorted(found, key=lambda row: row.kind.order)


def build(kind: str, given: Mapping[str, object], config: ModelConfig | None) -> Builder:
    """What the builder offers for a kind, and the strategy; empty for an unknown kind."""
    for backend in backends():
        if any(row.key == kind for row in backend.KINDS):
            return backend.builder(kind, given, config)
    return Builder()


def read_builder(strategy: str, config: ModelConfig | None) -> tuple[str, Options]:
    """The kind and values from which :func:`build` makes an equivalent strategy; otherwise the kind whose strategy
    people write by hand."""
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
    """The backend of a strategy and all its options. ``given``: values by option name for what the strategy leaves
    open; names that the backend does not declare are ignored. Raises StrategyError."""
    backend = backend_for(strategy).load_class()
    known = {option.name for option in backend.OPTIONS}
    values = {name: given[name] for name in given.keys() & known} | backend.options_from(strategy)
    try:
        return backend, checked_options(backend, values)
    except InvalidOption as exc:
        raise StrategyError(strategy=strategy, reason=exc.message, way_out=exc.hint) from exc


def checked_options(backend: type[Backend], given: Mapping[str, object]) -> dict[str, OptionValue]:
    """Every option the backend declares, by name: ``given`` or the default. Raises InvalidOption for a value out of
    range or an undeclared name."""
    known = {option.name: option for option in backend.OPTIONS}
    for name in given.keys() - known.keys():
        allowed = Text("reason.engine.one_of", names=", ".join(known))
        raise InvalidOption(name=name, value=Text("reason.engine.given"), allowed=allowed)
    return {name: option.checked(given.get(name, option.default)) for name, option in known.items()}


def runnable(model: ModelFile, strategy: str) -> tuple[type[Backend], Options]:
    """The strategy's backend and options, if this machine can run the model with them. Raises StrategyError,
    BackendUnavailable or WeightsError. Does not check whether there is enough memory."""
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
    """The backends that read a format, by the first word of their usage."""
    words = [backend.usage().split(" ")[0] for backend in backends() if format in backend.FORMATS]
    return Text("reason.common.choose_one_of", names=", ".join(f"`{word}`" for word in words))


def suggestions(model: ModelFile) -> list[Suggestion]:
    """Suggestions of the available backends for a model, in the order in which to try them; those that have to be built
    first come last."""
    found = []
    for backend in backends():
        state = backend.availability()
        if state.is_available:
            found += [(not state.is_ready, one) for one in backend.suggestions(model)]
    return [one for _, one in sorted(found, key=lambda pair: (pair[0], pair[1].rank))]


class Candidates:
    """The strategies for a model when none is chosen. The constructor asks every backend. That takes milliseconds, as
    backends look for packages and read the sizes of all tensors. :meth:`best` checks each strategy only once."""

    def __init__(self, model: ModelFile) -> None:
        self._model = model
        self.ranks = {one.strategy: one.rank for one in suggestions(model)}
        """By strategy, in the order in which they are tried."""
        self._needed: dict[str, dict[str, int] | RoostError] = {}

    def best(self, free: Mapping[str, int]) -> str:
        """The first strategy that runs here and fits.

        ``free``: free bytes by device (``ram``, ``cuda:0``). If nothing fits: the strategy that needs the least memory;
        a device that is not in ``free`` counts as full. Raises the first strategy's error if none can run.
        """
        least: tuple[int, str] | None = None
        refusal: RoostError | None = None
        for strategy in self.ranks:
            needed = self._bytes_needed(strategy)
            if isinstance(needed, RoostError):
                refusal = refusal or needed
                continue
            if all(size + SPARE_BYTES <= free.get(device, 0) for device, size in needed.items()):
                return strategy
            if needed.keys() <= free.keys() and (least is None or sum(needed.values()) < least[0]):
                least = sum(needed.values()), strategy
        if least is not None:
            return least[1]
        if refusal is not None:
            raise refusal.with_traceback(None)
        raise StrategyError(
            strategy=AUTOMATIC,
            reason=Text("reason.engine.no_backend_runs_it"),
            way_out=Text("reason.engine.choose_another_model"),
        )

    def _bytes_needed(self, strategy: str) -> dict[str, int] | RoostError:
        """By device; or the error if the strategy cannot run."""
        if strategy not in self._needed:
            try:
                backend, options = runnable(self._model, strategy)
            except RoostError as exc:
                self._needed[strategy] = exc
            else:
                footprint = backend.footprint(self._model, options)
                self._needed[strategy] = {device: footprint.peak_bytes(device) for device in footprint.devices}
        return self._needed[strategy]
