"""Choosing how a model is run: a strategy checked while it is being written, the one that suits this machine, and the
tables that help to choose."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webapp.engine.backend import ModelSizes
from webapp.engine.backend_options import BY_STRATEGY, PlacedRun
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
    """``is_valid``: the model can run so here. ``error`` says why not, ``is_elsewhere`` that another machine could.

    ``strategy`` is the canonical form (as given when it cannot be read). ``runs`` is empty without a model, when it
    cannot be placed, and for a backend that keeps all layers alike. ``remarks``: of ``Backend.remarks``.
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
    """Loads nothing, raises nothing. Without ``config`` only the writing is checked, not layers or versions."""
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
    """``strategy`` is empty when nothing here can run the file. ``reason`` is a catalogue key over ``params``, or a
    text; ``fit`` is of the strategy."""

    strategy: str
    reason: str
    params: dict[str, Any] = field(default_factory=dict)
    fit: fits.Fit | None = None


def recommend(hardware: Hardware, inspection: Inspection, reclaimable_bytes: int = 0) -> Recommendation:
    """The first of the backends' suggestions that fits with room to spare; else one that fits at all; else the
    smallest, which says so."""
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
    """What suits this machine and the model; None where that cannot be told."""
    try:
        return recommend(probe(), library.inspect(library.find(model))).strategy
    except RoostError:
        return None


def strategy_on_load(library: ModelLibrary, model: str, in_use: str) -> str | None:
    """For a load that names a model alone, to give to ``ModelManager.load``; None keeps the one in use, also for a
    model that is not there, which the manager says, and ``auto``. ``in_use`` is ``ModelStatus.chosen_strategy``."""
    if is_automatic(in_use):
        return None
    try:
        found = library.inspect(library.find(model))
    except RoostError:
        return None
    strategy = strategy_for(found, in_use, probe(library.models_dir))
    return None if strategy == in_use else strategy


def strategy_for(found: Inspection, in_use: str, hardware: Hardware) -> str:
    """Another than the one in use for a file that was converted for another, and for a version that this one cannot
    run (int8 and RWKV-7): what suits this machine. A strategy that nothing could be run with stays, and is told."""
    if is_automatic(in_use):
        return recommend(hardware, found).strategy or in_use
    if not validate(in_use).is_valid:
        return in_use
    if fits.estimate(found, in_use, hardware, with_alternatives=False).verdict != fits.CANNOT_RUN:
        return in_use
    return recommend(hardware, found).strategy or in_use


@functools.lru_cache(maxsize=1)
def comparison() -> dict[str, Any]:
    """The tables of RWKV-Runner's manual, and what was measured with Roost: ``sizes``, ``memory``, ``kinds``,
    ``measured``. Read once.

    ``comparison.json`` is the manual. ``sizes`` are the columns of ``memory`` (figures of an i7-10870H with an RTX 3080
    Laptop, 16 GB, and 32 GB RAM). A row has ``kind``, ``precision``, ``place`` (ram or vram) and ``cells``; a cell
    ``gb`` (absent: not advised), and where not all layers are quantised ``layers``, ``all_layers`` and ``all_gb``.
    ``kinds``: file format, kinds of model and stars for speed, out of five.

    ``measured.json`` is a list, filled only with figures that a command gave: ``{"kind", "precision", "size",
    "parameters", "architecture", "peak_gb", "tokens_per_s" or null, "machine", "date", "command"}``; ``size`` is the
    column of the manual it belongs to.
    """
    manual, measured = (
        json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
        for name in ("comparison.json", "measured.json")
    )
    return {**manual, "measured": measured}
