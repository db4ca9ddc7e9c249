"""What a converted file is called when nobody says."""

from __future__ import annotations

import re
from pathlib import PurePath

from webapp.weights.convert.options import ConversionOptions
from webapp.weights.convert.registry import conversion_to


def default_name(source_name: str, target: str, options: ConversionOptions) -> str:
    """``World-1B6.pth`` becomes ``World-1B6.st``, ``World-1B6.cpu-bf16.fast.pth`` or ``World-1B6.merged.pth``."""
    conversion = conversion_to(target, source_name)
    stem = PurePath(source_name).stem + (".merged" if options.lora else "")
    if conversion.needs_strategy:
        words = re.sub(r"[^a-z0-9]+", "-", options.strategy.lower()).strip("-")
        stem += f".{words}.fast" if words else ".fast"
    return stem + conversion.ending
