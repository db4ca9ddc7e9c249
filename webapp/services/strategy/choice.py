"""The choice of a strategy: checking one while a person types it, recommending one for this machine, and the tables for
comparison."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webapp.engine.backend import ModelSizes
from webapp.engine.options import BY_STRATEGY, PlacedRun
from webapp.engine.registry import KindEntry, is_automatic, kinds, resolve_strategy, runnable
from webapp.engine.state import ModelConfig
from webapp.errors import BackendUnavailable, RoostError
from webapp.i18n import Text
from webapp.manager.library import ModelLibrary
from webapp.services.strategy import fit as fits
from webapp.services.strategy.hardware import Hardware, kept, probe
from webapp.weights.inspection import Inspection


@dataclass(frozen=True)
class StrategyCheck:
    """``is_valid``: the model can run this way here. ``error`` says why not; ``is_elsewhere``: another machine could.

    ``strategy`` is the canonical form (unchanged if it cannot be parsed). ``runs`` is empty without a model, if the
    model cannot be placed, and for a backend that treats all layers alike. ``remarks``: from ``Backend.remarks``.
    """

    is_valid: bool
    strategy: str
    error: RoostError | None = None
    is_elsewhere: bool = False
    runs: tuple[PlacedRun, ...] = ()
    remarks: tuple[Text, ...] = ()


@kept
def kinds_here() -> list[KindEntry]:
    """The kinds of the strategy builder, in the order of the pages, and whether each works here."""
    return kinds()


@kept
def validate(strategy: str, config: ModelConfig | None = None) -> StrategyCheck:
    """Loads nothing, never raises. Without ``config``, only the syntax is checked, not layers or versions."""
    text = strategy.strip()
    if text and is_automatic(text):
        return StrategyCheck(True, text)
    runs: tuple[PlacedRun, ...] = ()
    try:
        backend, options = resolve_strategy(strategy)
        text = str(options.get(BY_STRATEGY, text))
        if config is not None:
            runs = tuple(backend.placement(options, config))
            runnable(ModelSizes(config), strategy)
    except BackendUnavailable as exc:
        return StrategyCheck(False, text, exc.with_traceback(None), is_elsewhere=True, runs=runs)
    except RoostError as exc:
        return StrategyCheck(False, text, exc.with_traceback(None))
    return StrategyCheck(True, text, runs=runs, remarks=tuple(backend.remarks(options)))


@dataclass(frozen=True)
class Recommendation:
    """``strategy`` is empty if nothing here can run the file. ``reason``: a catalogue key with ``params``, or a text.
    ``fit`` belongs to the strategy."""

    strategy: str
    reason: str
    params: dict[str, Any] = field(default_factory=dict)
    fit: fits.Fit | None = None


def recommend(hardware: Hardware, inspection: Inspection, reclaimable_bytes: int = 0) -> Recommendation:
    """The first suggestion of the backends that fits with a reserve; otherwise one that just fits; otherwise the
    smallest, with a reason that says so."""
    tried = []
    for one in fits.suggested(inspection):
        fit = fits.estimate(
            inspection, one.strategy, hardware, reclaimable_bytes=reclaimable_bytes, with_alternatives=False
        )
        if fit.verdict == fits.FITS:
            return _recommended(fit, one.reason)
        if fit.verdict != fits.CANNOT_RUN:
            tried.append(fit)
    for fit in tried:
        if fit.verdict == fits.TIGHT:
            return _recommended(fit, "strategy.recommend.tight")
    if tried:
        return _recommended(min(tried, key=lambda fit: fit.needed_bytes), "strategy.recommend.nothing_fits")
    return Recommendation("", "strategy.recommend.cannot_run")


def _recommended(fit: fits.Fit, reason: str) -> Recommendation:
    params = {"strategy": fit.strategy, "needed": fit.needed_bytes, "free": fit.free_bytes or 0}
    return Recommendation(fit.strategy, reason, params, fit)


def recommended_strategy(library: ModelLibrary, model: str) -> str | None:
    """The recommended strategy for the model on this machine; None if unknown."""
    try:
        return recommend(probe(), library.inspect(library.find(model))).strategy
    except RoostError:
        return None


def strategy_on_load(library: ModelLibrary, model: str, in_use: str) -> str | None:
    """For a load that names only a model, as an argument for ``ModelManager.load``. None keeps the strategy in use,
    also for ``auto`` and for a missing model, which the manager reports. ``in_use`` is
    ``ModelStatus.chosen_strategy``."""
    if is_automatic(in_use):
        return None
    try:
        found = library.inspect(library.find(model))
    except RoostError:
        return None
    strategy = strategy_for(found, in_use, probe(library.models_dir))
    return None if strategy == in_use else strategy


def strategy_for(found: Inspection, in_use: str, hardware: Hardware) -> str:
    """A strategy that differs from the one in use if the file was converted for another strategy, or if the model's
    version does not support it (int8 and RWKV-7). An unusable strategy is not replaced but reported."""
    if is_automatic(in_use):
        return recommend(hardware, found).strategy or in_use
    if not validate(in_use).is_valid:
        return in_use
    if fits.estimate(found, in_use, hardware, with_alternatives=False).verdict != fits.CANNOT_RUN:
        return in_use
    return recommend(hardware, found).strategy or in_use


@functools.lru_cache(maxsize=1)
def comparison() -> dict[str, Any]:
    """The tables of RWKV-Runner's manual, and Roost's own measurements: ``sizes``, ``memory``, ``kinds``, ``measured``.
    Cached.

    ``comparison.json`` is the manual. ``sizes`` are the columns of ``memory`` (measured on an i7-10870H with an RTX
    3080 Laptop, 16 GB, and 32 GB RAM). A row has ``kind``, ``precision``, ``place`` (ram or vram) and ``cells``. A cell
    has ``gb`` (missing: not recommended), and ``layers``, ``all_layers`` and ``all_gb`` if not all layers are
    quantised. ``kinds``: file format, kinds of model and stars for speed, out of five.

    ``measured.json`` is a list with figures from commands only: ``{"kind", "precision", "size", "parameters",
    "architecture", "peak_gb", "tokens_per_s" or null, "machine", "date", "command"}``; ``size`` is the matching column
    of the manual.
    """
    manual, measured = (
        json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
        for name in ("comparison.json", "measured.json")
    )
    return {**manual, "measured": measured}
