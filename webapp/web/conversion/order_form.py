"""The form's text as an order, and what can be chosen in it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from webapp.errors import ConversionRefused
from webapp.manager.library import ModelLibrary
from webapp.services.conversion.order import ConversionOrder
from webapp.web.conversion.contexts import Option
from webapp.weights.convert.registry import CONVERSIONS

NAME_CHARS = 1000
STRATEGIES = ("cpu fp32", "cpu bf16", "cpu fp32i8", "cuda fp16", "cuda fp16i8", "cuda fp16i8 *20 -> cpu fp32")


def read_order(form: Mapping[str, str], models: tuple[Option, ...]) -> ConversionOrder:
    """The first model where none is named; ConversionRefused for an alpha that is no number."""
    text = {name: form.get(name, "")[:NAME_CHARS].strip() for name in ConversionOrder.__dataclass_fields__}
    target = text["target"] or "st"
    return ConversionOrder(
        model=text["model"] or (models[0].value if models else ""),
        target=target,
        name=text["name"],
        strategy=text["strategy"] or STRATEGIES[1] if target == "fast" else "",
        lora=text["lora"],
        lora_alpha=_alpha(text["lora_alpha"], text["lora"]) if text["lora"] else None,
        overwrite=bool(text["overwrite"]),
    )


def _alpha(text: str, lora: str) -> float | None:
    try:
        alpha = float(text) if text else None
    except ValueError:
        alpha = math.nan
    if alpha is not None and not (math.isfinite(alpha) and 0 < alpha < 1e6):
        reason = "the alpha is not a number above 0"
        raise ConversionRefused(path=lora, target="a merged model", reason=reason, way_out="It is often 16 to 192.")
    return alpha


def convertible(library: ModelLibrary) -> tuple[tuple[Option, ...], tuple[Option, ...]]:
    """Models and LoRAs of the library; one that was converted for a strategy cannot be converted again."""
    models, loras = [], []
    formats = {name for conversion in CONVERSIONS.values() for name in conversion.formats_in}
    for entry in library.list():
        found = entry.inspection
        if found is None or found.format not in formats:
            continue
        if found.kind == "lora":
            loras.append(Option(entry.name, entry.name))
        elif found.config is not None and found.converted_strategy is None:
            models.append(Option(entry.name, entry.name))
    return tuple(models), tuple(loras)
