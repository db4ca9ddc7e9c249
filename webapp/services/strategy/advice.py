"""Which strategy to take for a model on this machine, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from webapp.engine.registry import suggestions
from webapp.services.strategy import fit as fits
from webapp.services.strategy.hardware import Hardware
from webapp.weights.inspection import Inspection


@dataclass(frozen=True)
class Recommendation:
    """``strategy`` is empty when nothing here can run the file. ``reason_key`` over ``params`` is in the catalogues;
    ``fit`` is of the strategy."""

    strategy: str
    reason_key: str
    params: dict[str, Any] = field(default_factory=dict)
    fit: fits.Fit | None = None


def recommend(hardware: Hardware, inspection: Inspection, reclaimable_bytes: int = 0) -> Recommendation:
    """The fastest that fits with room to spare; else one that fits at all; else the smallest, which says so."""
    tried = []
    for one in suggestions(inspection):
        fit = fits.estimate(
            inspection, one.strategy, hardware, reclaimable_bytes=reclaimable_bytes, with_alternatives=False
        )
        if fit.verdict == fits.FITS:
            return Recommendation(one.strategy, one.reason, _params(fit), fit)
        if fit.verdict != fits.CANNOT_RUN:
            tried.append(fit)
    for fit in tried:
        if fit.verdict == fits.TIGHT:
            return Recommendation(fit.strategy, "strategy.recommend.tight", _params(fit), fit)
    if tried:
        smallest = min(tried, key=lambda fit: fit.needed_bytes)
        return Recommendation(smallest.strategy, "strategy.recommend.nothing_fits", _params(smallest), smallest)
    return Recommendation("", "strategy.recommend.cannot_run")


def _params(fit: fits.Fit) -> dict[str, Any]:
    return {"strategy": fit.strategy, **fit.params}
