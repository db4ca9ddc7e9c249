"""Choosing how a model is run: what the strategy page, the presets and the command line ask.

kinds      which ways there are, which work here, what would change the rest
builder    fields to a strategy string and back
check      a string while it is being written
advice     which one to take on this machine
"""

from webapp.services.strategy.advice import Recommendation, recommend
from webapp.services.strategy.builder import BuilderFields, build, build_fields, parse
from webapp.services.strategy.check import PlacedRun, StrategyCheck, validate
from webapp.services.strategy.kinds import BuilderLimits, StrategyKind, custom_kernel, kind, kinds, limits

__all__ = [
    "BuilderFields",
    "BuilderLimits",
    "PlacedRun",
    "Recommendation",
    "StrategyCheck",
    "StrategyKind",
    "build",
    "build_fields",
    "custom_kernel",
    "kind",
    "kinds",
    "limits",
    "parse",
    "recommend",
    "validate",
]
