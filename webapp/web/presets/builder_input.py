"""The strategy builder's fields: from a preset, from a posted form, and the strategy string they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from webapp.services.presets.parameters import STRATEGY_CHARS
from webapp.services.strategy.choice import BuilderFields, BuilderLimits, build_fields, kinds, limits, parse
from webapp.weights.inspection import Inspection

AUTO = "auto"
CUSTOM = "custom"
PREFIX = "build_"
MOST_LAYERS = 10_000


@dataclass(frozen=True)
class BuilderInput:
    """``kind`` is one of the strategy kinds or "auto". ``text`` is the string as it is written by hand, or was before.

    ``gpu_layers`` and ``quantized_layers`` None: all of them.
    """

    kind: str = AUTO
    precision: str = ""
    gpu_layers: int | None = None
    quantized_layers: int | None = None
    stream: bool = False
    text: str = ""


def input_of(strategy: str, n_layer: int | None) -> BuilderInput:
    """What the builder shows for a strategy; "" is automatic."""
    if not strategy:
        return BuilderInput()
    fields = parse(strategy, n_layer)
    return BuilderInput(
        fields.kind, fields.precision, fields.gpu_layers, fields.quantized_layers, fields.stream, strategy
    )


def is_posted(form: Mapping[str, str]) -> bool:
    return f"{PREFIX}kind" in form or "switch" in form


def read_input(form: Mapping[str, str], n_layer: int | None) -> BuilderInput:
    """From ``build_*`` and ``strategy``; a ``switch`` to a whole strategy wins over them. What cannot be read counts
    as not given."""
    if form.get("switch"):
        return input_of(form["switch"][:STRATEGY_CHARS], n_layer)
    known = {AUTO, *(kind.key for kind in kinds())}
    kind = form.get(f"{PREFIX}kind", AUTO)
    return BuilderInput(
        kind=kind if kind in known else AUTO,
        precision=form.get(f"{PREFIX}precision", "")[:20],
        gpu_layers=_layers(form.get(f"{PREFIX}gpu_layers", "")),
        quantized_layers=_layers(form.get(f"{PREFIX}quantized_layers", "")),
        stream=form.get(f"{PREFIX}stream") == "1",
        text=form.get("strategy", "").strip()[:STRATEGY_CHARS],
    )


def _layers(text: str) -> int | None:
    try:
        return min(max(int(text), 0), MOST_LAYERS)
    except ValueError:
        return None


def fitted(given: BuilderInput, found: Inspection | None) -> tuple[BuilderInput, BuilderLimits]:
    """The same as far as the kind and the model allow, with what they allow."""
    allowed = limits(given.kind, found.config if found else None)
    precision = given.precision if given.precision in allowed.precisions else next(iter(allowed.precisions), "")
    gpu_layers = _some(given.gpu_layers, allowed.layers) if allowed.can_split else None
    return (
        replace(
            given,
            precision=precision,
            gpu_layers=gpu_layers,
            quantized_layers=_some(given.quantized_layers, allowed.layers) if precision == "int8" else None,
            stream=given.stream and allowed.can_stream and gpu_layers is not None,
        ),
        allowed,
    )


def _some(count: int | None, layers: int) -> int | None:
    """None for all of them, and while a model's layers are not known."""
    return None if count is None or not layers or count >= layers else count


def built(given: BuilderInput, n_layer: int | None, automatic: str) -> str:
    """The strategy string; ``automatic`` for the kind of that name, "" where the kind has no string."""
    if given.kind == AUTO:
        return automatic
    if given.kind == CUSTOM:
        return given.text
    try:
        return build_fields(
            BuilderFields(given.kind, given.precision, given.gpu_layers, given.quantized_layers, given.stream), n_layer
        )
    except ValueError:  # a kind that has no strategy of the rwkv package
        return ""
