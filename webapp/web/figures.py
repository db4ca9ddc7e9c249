"""Figures of models in the words every page has for them."""

from __future__ import annotations

from collections.abc import Callable

from webapp.weights.inspection import Inspection


def parameters_text(found: Inspection, t: Callable[..., str]) -> str:
    """Such as "1.53B parameters"; where some were never trained, how many were."""
    words = {"number": number_text(found.parameters), "trained": number_text(found.trained_parameters)}
    return t("unit.parameters_trained" if found.trained_parameters < found.parameters else "unit.parameters", **words)


def number_text(count: int) -> str:
    """191M, 1.53B: as models are named."""
    for limit, unit in ((999.5e6, "B"), (999.5e3, "M"), (999.5, "k")):
        if count >= limit:
            return f"{count / {'B': 1e9, 'M': 1e6, 'k': 1e3}[unit]:.3g}{unit}"
    return str(count)
