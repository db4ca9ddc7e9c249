"""Presets as a JSON file of ours: ``{"format": "roost-presets", "version": 1, "presets": [{flat fields}, ...]}``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from webapp.errors import PresetError
from webapp.i18n import Phrase
from webapp.services.presets.fields import flat, put, read_fields
from webapp.storage.presets import Preset

FORMAT = "roost-presets"
VERSION = 1
FILE_CHARS = 1 << 20
MOST_IN_FILE = 200


def write(presets: Iterable[Preset]) -> str:
    document = {"format": FORMAT, "version": VERSION, "presets": [flat(preset) for preset in presets]}
    return json.dumps(document, ensure_ascii=False, indent=1)


def read(text: str) -> list[Preset]:
    """New presets without ids. ``preset_file_invalid`` for another kind of file, ``preset_invalid`` names the preset
    and the parameter that cannot be."""
    document = load_json(text)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise PresetError("preset_file_invalid", reason="it is not a file of presets")
    if not isinstance(document.get("version"), int):
        raise PresetError("preset_file_invalid", reason="it does not say which version it is")
    if document["version"] != VERSION:
        raise PresetError("preset_file_invalid", reason="a newer Roost wrote it")
    return [preset_of(fields) for fields in listed(document.get("presets"))]


def is_ours(text: str) -> bool:
    """Without judging it: :func:`read` says what is wrong."""
    document = load_json(text)
    return isinstance(document, dict) and "format" in document


def preset_of(fields: Mapping[str, Any]) -> Preset:
    """From flat fields as a file holds them; "name" has to be among them."""
    values, problems = read_fields({"name": None, **fields})
    for name, problem in problems.items():
        raise_named(str(fields.get("name", ""))[:40], name, problem)
    return Preset(**{"id": "", **put(Preset("", ""), values)})


def raise_named(preset_name: str, field: str, problem: PresetError) -> NoReturn:
    """The same problem, saying in which of many presets it lies."""
    named = f"{preset_name}: {field}" if preset_name and field != "name" else field
    raise problem.with_params(name=named)


def listed(rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PresetError("preset_file_invalid", reason="it holds no list of presets")
    if len(rows) > MOST_IN_FILE:
        raise PresetError(
            "preset_file_invalid",
            reason=Phrase("it holds {found} presets; the limit is {limit}", found=len(rows), limit=MOST_IN_FILE),
        )
    if not rows:
        raise PresetError("preset_file_invalid", reason="it holds no preset at all")
    return rows


def load_json(text: str) -> Any:
    """``preset_file_invalid`` for what is too long, no JSON, or nested beyond measure; NaN and the like are no JSON."""
    if len(text) > FILE_CHARS:
        raise PresetError(
            "preset_file_invalid",
            reason=Phrase("it has {found} characters; the limit is {limit}", found=len(text), limit=FILE_CHARS),
        )
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise PresetError("preset_file_invalid", reason="it is not valid JSON") from exc


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
