"""The presets that come with Roost: data in ``shipped.json``, their words in the catalogue."""

from __future__ import annotations

import functools
import json
import uuid
from pathlib import Path
from typing import Any

from webapp.services.presets.fields import checked_fields, put
from webapp.storage.presets import Preset

DATA = Path(__file__).with_suffix(".json")
NAMESPACE = uuid.UUID("9f0d1f0e-5a55-4c0b-9a1e-526f6f737400")


@functools.lru_cache(maxsize=1)
def shipped_presets() -> tuple[Preset, ...]:
    """In the order to show them; read once. Their ids never change with the values."""
    return tuple(_shipped(row) for row in json.loads(DATA.read_text(encoding="utf-8")))


def shipped(key: str) -> Preset:
    """KeyError for a key that is none."""
    return {preset.shipped_key: preset for preset in shipped_presets()}[key]


def is_as_shipped_name(preset: Preset) -> bool:
    """Whether its name (and note) are to be shown in the reader's language, as ``presets.shipped.<key>.name``."""
    return any(preset.shipped_key == row.shipped_key and preset.name == row.name for row in shipped_presets())


def _shipped(row: dict[str, Any]) -> Preset:
    key = row.pop("key")
    values = put(Preset("", ""), checked_fields(row))
    return Preset(**{"id": uuid.uuid5(NAMESPACE, key).hex, "shipped_key": key, **values})


STARTER_KEY = "starter"
GENERAL_KEY = "general"
