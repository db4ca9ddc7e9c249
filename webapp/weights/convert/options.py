"""What may be said about a conversion."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConversionOptions:
    """``strategy``: the one a fast file is made for. ``lora``: a file merged in, ``lora_alpha`` the alpha of its
    training (its effect is multiplied by alpha / rank)."""

    strategy: str = ""
    lora: str = ""
    lora_alpha: float | None = None
    overwrite: bool = False
