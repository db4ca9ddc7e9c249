"""Other strategies for a model that does not fit, each with what it would need: the fastest that fits first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from webapp.services.strategy.kinds import kind, limits
from webapp.weights.inspection import Inspection

if TYPE_CHECKING:
    from webapp.services.strategy.fit import Alternative, Fit

MOST = 4
INT8 = {"cuda": "cuda fp16i8 -> cuda fp16 *1", "cpu": "cpu fp32i8 -> cpu fp32 *1"}


def alternatives(inspection: Inspection, strategy: str, estimate: Callable[[str], Fit]) -> tuple[Alternative, ...]:
    """At most four that this machine can run; those that fit first, in the order of speed."""
    from webapp.services.strategy.fit import Alternative

    found = []
    for other in candidates(inspection):
        fit = estimate(other)
        if other.split() != strategy.split() and fit.tightest is not None:
            found.append(Alternative(other, fit.tightest.device, fit.needed_bytes, fit.verdict))
    order = {"fits": 0, "tight": 1, "does_not_fit": 2}
    return tuple(sorted(found, key=lambda one: order[one.verdict])[:MOST])


def candidates(inspection: Inspection) -> Iterator[str]:
    """The fastest first. A file made for one strategy has that alone."""
    if inspection.converted_strategy is not None:
        yield inspection.converted_strategy
        return
    config = inspection.config
    can_quantize = config is not None and limits("cuda", config).can_quantize
    yield "cuda fp16"
    if can_quantize:
        yield INT8["cuda"]
    if config is not None and limits("cuda", config).can_stream:
        for share in (3, 2, 1):
            yield f"cuda fp16 *{max(1, config.n_layer * share // 4)}+"
    yield "cpu fp32"
    yield "cpu bf16"
    if can_quantize:
        yield INT8["cpu"]
    if kind("native").is_available:  # last: it is young, and compiled on first use
        yield "native q8"
        yield "native q4"
