"""Will it fit, in a sentence: of the strategy that is chosen now, or the nearest that would."""

from __future__ import annotations

from typing import Any

from webapp.services.library.disk_space import size_text
from webapp.services.strategy.fit import CANNOT_RUN, FITS, Fit, estimate
from webapp.services.strategy.on_load import strategy_for
from webapp.web.models.contexts import FitLine
from webapp.web.models.desk import Desk
from webapp.weights.inspection import Inspection

KINDS = {"fits": "good", "tight": "warn", "does_not_fit": "bad", "cannot_run": "warn"}


def fit_line(desk: Desk, found: Inspection, name: str, strategy: str = "") -> FitLine:
    """For ``strategy``, or the one a click on Load would take."""
    in_use = desk.status.strategy or desk.settings.strategy
    fit = _fit(desk, found, strategy or strategy_for(found, in_use, desk.hardware))
    if fit.verdict == CANNOT_RUN:
        said = desk.said(fit.error, name)[0] if fit.error else ""
        return FitLine(KINDS[CANNOT_RUN], _with_way_out(desk, fit, said))
    words: dict[str, Any] = {
        "strategy": fit.strategy,
        "needed": size_text(fit.needed_bytes),
        "free": size_text(fit.free_bytes or 0),
        "seats": f"{fit.seats_used:,}",
    }
    key = fit.verdict if fit.seats is not None or fit.verdict != FITS else "fits_unmeasured"
    return FitLine(KINDS[fit.verdict], _with_way_out(desk, fit, desk.t(f"models.fit.{key}", **words)))


def _fit(desk: Desk, found: Inspection, strategy: str) -> Fit:
    settings = desk.settings
    return estimate(
        found,
        strategy,
        desk.hardware,
        max_sequences=settings.max_sequences,
        state_cache_bytes=settings.state_cache_bytes,
        reclaimable_bytes=desk.engine_bytes,
    )


def _with_way_out(desk: Desk, fit: Fit, text: str) -> str:
    """With the first strategy that would fit, when this one does not."""
    other = next((other for other in fit.alternatives if other.verdict == FITS), None)
    if fit.verdict == FITS or other is None:
        return text
    words = {"strategy": other.strategy, "needed": size_text(other.needed_bytes)}
    return f"{text} {desk.t('models.fit.instead', **words)}"
