"""The norm of each layer as columns of an SVG, drawn here: the page needs no script and no inline style for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from webapp.web.states.contexts import Chart, Column

HEIGHT = 40.0
PITCH, WIDTH = 10.0, 7.0
LEAST = 0.6
"""Height of a column for a norm of almost nothing, so that it is seen to be there; a norm of 0 has none."""


def norm_chart(norms: Sequence[float], t: Callable[..., str]) -> Chart:
    """The highest column is the largest norm."""
    most = max(norms, default=0.0)
    columns = tuple(_column(layer, norm, most, t) for layer, norm in enumerate(norms))
    label = t("states.chart.label", count=len(norms), least=short(min(norms, default=0.0)), most=short(most))
    return Chart(f"0 0 {PITCH * len(norms) - (PITCH - WIDTH):g} {HEIGHT:g}", label, columns)


def _column(layer: int, norm: float, most: float, t: Callable[..., str]) -> Column:
    height = max(HEIGHT * norm / most, LEAST) if norm > 0 and most > 0 else 0.0
    title = t("states.chart.layer", layer=layer, norm=short(norm))
    return Column(f"{PITCH * layer:g}", f"{HEIGHT - height:.2f}", f"{WIDTH:g}", f"{height:.2f}", title)


def short(norm: float) -> str:
    return f"{norm:.3g}"
