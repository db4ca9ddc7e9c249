"""Which formats a model file can be made into. Another is a row here and a module with its ``plan``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from webapp.errors import ConversionError
from webapp.i18n import Text

if TYPE_CHECKING:
    from webapp.weights.convert.options import ConversionOptions
    from webapp.weights.convert.plan import Plan
    from webapp.weights.convert.source import Source

    MakePlan = Callable[[Source, ConversionOptions], Plan]


@dataclass(frozen=True)
class Conversion:
    """``planner``: module:function of a :data:`MakePlan`, imported at first use; ``ending``: of the new file's name.
    ``needs_strategy``: the result runs with one strategy only, which has to be named."""

    target: str
    formats_in: tuple[str, ...]
    ending: str
    planner: str
    needs_strategy: bool = False

    def make_plan(self) -> MakePlan:
        module, _, name = self.planner.partition(":")
        found: MakePlan = getattr(importlib.import_module(module), name)
        return found


CONVERSIONS: dict[str, Conversion] = {
    row.target: row
    for row in (
        Conversion("st", ("pth", "safetensors"), ".st", "webapp.weights.convert.to_st:plan"),
        Conversion("pth", ("safetensors", "pth"), ".pth", "webapp.weights.convert.to_pth:plan"),
        Conversion("fast", ("pth", "safetensors"), ".pth", "webapp.backends.rwkv_pip.layout:plan", True),
    )
}


def conversion_to(target: str, path: str = "") -> Conversion:
    """``conversion_refused`` for a target that is not there."""
    try:
        return CONVERSIONS[target]
    except KeyError:
        known = ", ".join(CONVERSIONS)
        reason = Text("reason.weights.no_such_target")
        raise ConversionError(
            "conversion_refused",
            path=path,
            target=target,
            reason=reason,
            way_out=Text("reason.common.choose_one_of", names=known),
        ) from None
