"""Will it fit, in a sentence: of the strategy that is chosen now, or the nearest that would."""

from __future__ import annotations

from typing import Any

from webapp.services.disk_space import size_text
from webapp.web.models.contexts import FitLine
from webapp.web.models.desk import Desk
from webapp.weights.inspection import Inspection

KINDS = {"fits": "good", "tight": "warn", "does_not_fit": "bad", "cannot_run": "warn"}


def fit_of(desk: Desk, found: Inspection, strategy: str) -> Any:
    try:
        from webapp.services.fit import estimate
    except ModuleNotFoundError:
        return None
    settings = desk.settings
    return estimate(
        found,
        strategy,
        desk.hardware,
        max_sequences=settings.max_sequences,
        state_cache_bytes=settings.state_cache_bytes,
        reclaimable_bytes=desk.manager.engine_memory_bytes(),
    )


def fit_line(desk: Desk, found: Inspection, strategy: str = "") -> FitLine | None:
    fit = fit_of(desk, found, strategy or desk.status.strategy or desk.settings.strategy)
    if fit is None:
        return None
    words = {"strategy": fit.strategy, "needed": size_text(fit.needed_bytes), "seats": fit.seats}
    text = str(desk.t(f"models.fit.{fit.verdict}", **words))
    other = next((other for other in fit.alternatives if other.verdict == "fits"), None)
    if other is not None and fit.verdict != "fits":
        other_words = {"strategy": other.strategy, "needed": size_text(other.needed_bytes)}
        text = f"{text} {desk.t('models.fit.instead', **other_words)}"
    return FitLine(KINDS.get(fit.verdict, ""), text)
