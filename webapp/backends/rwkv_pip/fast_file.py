"""The manual's converted model: a .pth whose tensors are what the package makes of them for one strategy.

For RWKV-4 to 6 the file is the package's own (what its ``convert_and_save_and_exit`` writes), block by block; for
RWKV-7, which the package cannot convert, it is of the same form with the tensors its RWKV-7 class ends up with. A
merged ``time_state`` is kept as it is. Loading such a file is reading it.
"""

from __future__ import annotations

import contextlib
import os

from webapp.backends.rwkv_pip import package_layout, v7_layout
from webapp.backends.rwkv_pip.requirements import check_strategy
from webapp.backends.strategy import canonical_strategy, place_layers
from webapp.errors import BackendUnavailable, ConversionRefused
from webapp.weights.convert.options import ConversionOptions
from webapp.weights.convert.plan import Plan, PlannedTensor
from webapp.weights.convert.source import Source

VERSION = "0.7"  # of the package's form; its loader asks for at least this
NO_RESCALE = 999  # the package's advice for music models (model.py)


def plan(source: Source, options: ConversionOptions) -> Plan:
    """StrategyError for a strategy this model cannot take; the machine need not have its devices."""
    if not options.strategy:
        way_out = "Name the strategy it shall run with, such as `cpu fp32`."
        reason = "such a file is made for one strategy, and none was named"
        raise ConversionRefused(path=source.path.name, target="fast", reason=reason, way_out=way_out)
    strategy = canonical_strategy(options.strategy)
    with contextlib.suppress(BackendUnavailable):  # it may be meant for another machine
        check_strategy(source.config, strategy)
    is_v7 = source.config.major == 7
    rescale = 0 if is_v7 else rescale_layer(strategy, source.inspection.kind == "music")
    extra: dict[str, str | int] = {v7_layout.LAYOUT_KEY: v7_layout.V7_LAYOUT} if is_v7 else {}
    kept = [_kept(source, name) for name in source.infos if name.endswith(".time_state")]
    marks: dict[str, str | int] = {"_strategy": strategy, "_rescale_layer": rescale, "_version": VERSION}
    return Plan("pth", [*package_tensors(source, strategy), *kept], marks | extra)


def package_tensors(source: Source, strategy: str, is_for_disk: bool = True) -> list[PlannedTensor]:
    """What the package has once the model is loaded. A file holds the order a device likes best; in memory matrices
    keep that of the source, which costs no second pass over it."""
    names = [name for name in source.infos if not name.endswith(".time_state")]
    if source.config.major == 7:
        return v7_layout.planned(source, names, strategy, is_for_disk)
    rescale = rescale_layer(strategy, source.inspection.kind == "music")
    return package_layout.planned(source, names, place_layers(strategy, source.config.n_layer), rescale)


def rescale_layer(strategy: str, is_music: bool) -> int:
    """Every how many layers the package halves its activations; 0 never. As its constructor finds it."""
    chosen = os.environ.get("RWKV_RESCALE_LAYER", "")
    if chosen.isdigit():
        return int(chosen)
    if is_music:
        return NO_RESCALE
    return 6 if "fp16" in strategy else 0


def _kept(source: Source, name: str) -> PlannedTensor:
    return PlannedTensor(source.infos[name], lambda: source.blocks(name))
