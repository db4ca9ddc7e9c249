"""The sampling defaults a page was drawn with: its form sends them along, as they depend on the model, and another one
may be chosen in the form or loaded meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from webapp.services.presets.fields import read_fields
from webapp.services.presets.parameters import BY_NAME, SAMPLING
from webapp.web.presets.fields import PostedForm, default_of, written

DRAWN_CHARS = 2000


def as_sent(defaults: Mapping[str, Any]) -> str:
    """For the form's hidden field."""
    return json.dumps({row.name: default_of(row, defaults) for row in SAMPLING})


def drawn_with(form: Mapping[str, str], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    """As the form says; ``defaults``, those of now, where it says nothing that can be read."""
    try:
        told = json.loads(form.get("drawn", "")[:DRAWN_CHARS])
    except (ValueError, RecursionError):
        return defaults
    if not isinstance(told, dict):
        return defaults
    values, _ = read_fields({row.name: told[row.name] for row in SAMPLING if row.name in told})
    return {**defaults, **values}


def following(posted: PostedForm, drawn: Mapping[str, Any], defaults: Mapping[str, Any]) -> PostedForm:
    """The same, but shown again with the defaults of now where it was left at those it was drawn with."""
    moved = {name for name in drawn if posted.changes.get(name, name) is None and drawn[name] != defaults.get(name)}
    shown = {name: written(BY_NAME[name], default_of(BY_NAME[name], defaults)) for name in moved & posted.raw.keys()}
    return replace(posted, raw={**posted.raw, **shown})
