"""How a preset is called: shipped ones in the reader's language, until a person names them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from webapp.services.presets.parameters import BY_NAME, PARAMETERS
from webapp.services.presets.shipped import is_as_shipped_name
from webapp.storage.presets import Preset
from webapp.web.presets.fields import shown_value, written

Words = Callable[..., str]
MOST_FACTS = 3


def shown_name(preset: Preset, t: Words) -> str:
    return t(f"presets.shipped.{preset.shipped_key}.name") if is_as_shipped_name(preset) else preset.name


def shown_note(preset: Preset, t: Words) -> str:
    return t(f"presets.shipped.{preset.shipped_key}.note") if is_as_shipped_name(preset) else preset.note


def labels(names: Iterable[str], t: Words) -> str:
    """Parameters in the reader's words, in the order of the table."""
    wanted = set(names)
    return t("preset_page.comma").join(t(row.label_key) for row in PARAMETERS if row.name in wanted)


def facts(preset: Preset, t: Words) -> tuple[str, ...]:
    """The model, how it runs, and the first few values that are not the defaults."""
    model = preset.model or t("preset_page.facts.any_model")
    strategy = preset.strategy or t("preset_page.facts.automatic")
    return (model, strategy, *_values(preset.sampling, t))


def _values(sampling: Mapping[str, Any], t: Words) -> tuple[str, ...]:
    rows = [BY_NAME[name] for name in BY_NAME if name in sampling]
    found = [f"{t(row.label_key)} {shown_value(t, row, written(row, sampling[row.name]))}" for row in rows]
    return tuple(found[:MOST_FACTS])
