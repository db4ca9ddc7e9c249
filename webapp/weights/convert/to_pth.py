""".pth as the models are published: official names and orientation, every tensor in the precision it had."""

from __future__ import annotations

from webapp.errors import ConversionError
from webapp.i18n import Text
from webapp.weights.convert.options import ConversionOptions
from webapp.weights.convert.plan import Plan, PlannedTensor
from webapp.weights.convert.source import Source


def plan(source: Source, options: ConversionOptions) -> Plan:
    if source.inspection.format == "pth" and not source.has_lora:
        reason = Text("reason.weights.pth_already")
        raise ConversionError(
            "conversion_refused",
            path=source.path.name,
            target="pth",
            reason=reason,
            way_out=Text("reason.weights.use_it_as_it_is"),
        )
    return Plan("pth", [_planned(source, name) for name in source.infos])


def _planned(source: Source, name: str) -> PlannedTensor:
    return PlannedTensor(source.infos[name], lambda: source.blocks(name))
