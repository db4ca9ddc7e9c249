"""Preset files: Roost's JSON file ``{"format": "roost-presets", "version": 1, "presets": [{flat fields}, ...]}``, and
the configurations of RWKV-Runner: its ``config.json``, or one or a list of ``ModelConfig`` objects.

Fields as in RWKV-Runner 1.9 (``frontend/src/types/configs.ts``). Values outside Roost's range are clamped; fields
without an equivalent (port, WebUI) are dropped, and an unsupported device becomes a suitable one for this machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, NoReturn

from webapp.engine.registry import backends
from webapp.engine.sampling_params import PARAMETERS
from webapp.errors import PresetError
from webapp.i18n import Text
from webapp.services.presets.fields import BY_NAME, NAME_CHARS, STRATEGY_CHARS, flat, put, read_fields
from webapp.storage.presets import Preset

FORMAT = "roost-presets"
VERSION = 1
FILE_CHARS = 1 << 20
MAX_IN_FILE = 200
RUNNER_SAMPLING = {row.names["runner_preset"]: row.name for row in PARAMETERS if "runner_preset" in row.names}


def write(presets: Iterable[Preset]) -> str:
    document = {"format": FORMAT, "version": VERSION, "presets": [flat(preset) for preset in presets]}
    return json.dumps(document, ensure_ascii=False, indent=1)


def read(text: str) -> list[Preset]:
    """New presets without ids. Raises ``preset_file_invalid`` for other files; ``preset_invalid`` names the preset and
    its invalid parameter."""
    document = load_json(text)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise PresetError("preset_file_invalid", reason=Text("reason.services.not_a_preset_file"))
    if not isinstance(document.get("version"), int):
        raise PresetError("preset_file_invalid", reason=Text("reason.services.version_missing"))
    if document["version"] != VERSION:
        raise PresetError("preset_file_invalid", reason=Text("reason.services.newer_roost_wrote_it"))
    return [preset_of(fields) for fields in listed(document.get("presets"))]


def is_ours(text: str) -> bool:
    """Does not validate: :func:`read` reports errors."""
    document = load_json(text)
    return isinstance(document, dict) and "format" in document


def preset_of(fields: Mapping[str, Any]) -> Preset:
    """From a file's flat fields, which must include "name"."""
    values, problems = read_fields({"name": None, **fields})
    for name, problem in problems.items():
        raise_named(str(fields.get("name", ""))[:40], name, problem)
    return Preset(**{"id": "", **put(Preset("", ""), values)})


def raise_named(preset_name: str, field: str, problem: PresetError) -> NoReturn:
    """The same error, with the name of the preset."""
    named = f"{preset_name}: {field}" if preset_name and field != "name" else field
    raise problem.with_params(name=named)


def listed(rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PresetError("preset_file_invalid", reason=Text("reason.services.no_preset_list"))
    if len(rows) > MAX_IN_FILE:
        raise PresetError(
            "preset_file_invalid",
            reason=Text("reason.services.too_many_presets", found=len(rows), limit=MAX_IN_FILE),
        )
    if not rows:
        raise PresetError("preset_file_invalid", reason=Text("reason.services.no_presets"))
    return rows


def load_json(text: str) -> Any:
    """Raises ``preset_file_invalid`` for a text that is too long, invalid JSON (also NaN), or nested too deeply."""
    if len(text) > FILE_CHARS:
        raise PresetError(
            "preset_file_invalid",
            reason=Text("reason.common.too_long", found=len(text), limit=FILE_CHARS),
        )
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise PresetError("preset_file_invalid", reason=Text("reason.common.is_not_valid_json")) from exc


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def read_runner_presets(text: str) -> list[Preset]:
    """Raises ``preset_file_invalid`` unless Runner saved it."""
    document = load_json(text)
    if isinstance(document, dict) and "modelConfigs" in document:
        document = document["modelConfigs"]
    elif isinstance(document, dict):
        document = [document]
    rows = listed(document)
    if not any("apiParameters" in row or "modelParameters" in row for row in rows):
        raise PresetError("preset_file_invalid", reason=Text("reason.services.not_a_preset_file"))
    return [preset_of(_fields(row, number)) for number, row in enumerate(rows, 1)]


def _fields(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    api, model = _inner(row, "apiParameters"), _inner(row, "modelParameters")
    sampling = {ours: _within(ours, api[theirs]) for theirs, ours in RUNNER_SAMPLING.items() if theirs in api}
    name = " ".join(str(row.get("name") or "").split())[:NAME_CHARS]
    options: dict[str, Any] = {}
    if _text(model, "device") == "CUDA" and model.get("useCustomCuda") is True:
        options["custom_cuda"] = True
    if model.get("useCustomTokenizer") is True and _text(model, "customTokenizer"):
        options["tokenizer"] = _file_name(_text(model, "customTokenizer"))
    if model.get("tokenChunkSize") is not None:
        options["prefill_chunk"] = _within("prefill_chunk", model["tokenChunkSize"])
    return {
        "name": name if name.isprintable() and name else f"RWKV-Runner {number}",
        "model": _file_name(_text(model, "modelName")),
        "strategy": runner_strategy(model),
        "state": _file_name(_text(api, "stateModel")),
        **sampling,
        **options,
    }


def runner_strategy(model: Mapping[str, Any]) -> str:
    """The strategy of the first backend that supports Runner's device; "" (a suitable one for this machine) if Roost
    does not support it, or only in another way."""
    found = (backend.runner_strategy(model) for backend in backends())
    return next((strategy for strategy in found if strategy is not None), "")[:STRATEGY_CHARS]


def _inner(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = row.get(name, {})
    return found if isinstance(found, Mapping) else {}


def _text(row: Mapping[str, Any], name: str) -> str:
    found = row.get(name, "")
    return found.strip() if isinstance(found, str) else ""


def _file_name(path: str) -> str:
    """Runner's file names are relative to its own folder; here the files are in the library."""
    return PurePosixPath(path.replace("\\", "/")).name


def _within(name: str, value: Any) -> Any:
    """Clamps a number to Roost's range; returns other values unchanged, for the validation of fields."""
    row = BY_NAME[name]
    if row.kind == "bool" or isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return value
    limited = min(max(value, row.least), row.most)
    return int(limited) if row.kind == "int" else limited
