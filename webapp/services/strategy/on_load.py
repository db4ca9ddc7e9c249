"""The strategy of a load that names a model alone: the one in use, as long as the file can be run with it."""

from __future__ import annotations

from webapp.errors import RoostError
from webapp.manager.library import ModelLibrary
from webapp.services.strategy.advice import recommend
from webapp.services.strategy.check import validate
from webapp.services.strategy.fit import CANNOT_RUN, estimate
from webapp.services.strategy.hardware import Hardware, probe
from webapp.weights.inspection import Inspection


def strategy_on_load(library: ModelLibrary, model: str, in_use: str) -> str | None:
    """For ``ModelManager.load``; None keeps the one in use, also for a model that is not there, which the manager
    says."""
    try:
        found = library.inspect(library.find(model))
    except RoostError:
        return None
    strategy = strategy_for(found, in_use, probe(library.models_dir))
    return None if strategy == in_use else strategy


def strategy_for(found: Inspection, in_use: str, hardware: Hardware) -> str:
    """Another than the one in use for a file that was converted for another, and for a version that this one cannot
    run (int8 and RWKV-7): what suits this machine. A strategy that nothing could be run with stays, and is told."""
    if not validate(in_use).is_valid:
        return in_use
    if estimate(found, in_use, hardware, with_alternatives=False).verdict != CANNOT_RUN:
        return in_use
    return recommend(hardware, found).strategy or in_use
