"""Reading the configurations of RWKV-Runner: its ``config.json``, or one or a list of ``ModelConfig`` objects.

Fields as of RWKV-Runner 1.9 (``frontend/src/types/configs.ts``). What Runner allows and Roost does not is brought into
range; what has no counterpart (port, WebUI) is left out, and a device Roost cannot run becomes what suits this machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from webapp.engine.registry import backends
from webapp.engine.sampling_params import PARAMETERS
from webapp.errors import PresetError
from webapp.services.presets.fields import NAME_CHARS
from webapp.services.presets.files import listed, load_json, preset_of
from webapp.services.presets.parameters import BY_NAME, STRATEGY_CHARS
from webapp.storage.presets import Preset

SAMPLING = {row.names["runner_preset"]: row.name for row in PARAMETERS if "runner_preset" in row.names}


def read_runner_presets(text: str) -> list[Preset]:
    """``preset_file_invalid`` when it is nothing Runner saves."""
    document = load_json(text)
    if isinstance(document, dict) and "modelConfigs" in document:
        document = document["modelConfigs"]
    elif isinstance(document, dict):
        document = [document]
    rows = listed(document)
    if not any("apiParameters" in row or "modelParameters" in row for row in rows):
        raise PresetError("preset_file_invalid", reason="it is not a file of presets")
    return [preset_of(_fields(row, number)) for number, row in enumerate(rows, 1)]


def _fields(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    api, model = _inner(row, "apiParameters"), _inner(row, "modelParameters")
    sampling = {ours: _within(ours, api[theirs]) for theirs, ours in SAMPLING.items() if theirs in api}
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
    """The strategy of the first backend that runs Runner's device; "" (what suits this machine) for one that Roost runs
    in another way or not at all."""
    found = (backend.runner_strategy(model) for backend in backends())
    return next((strategy for strategy in found if strategy is not None), "")[:STRATEGY_CHARS]


def _inner(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = row.get(name, {})
    return found if isinstance(found, Mapping) else {}


def _text(row: Mapping[str, Any], name: str) -> str:
    found = row.get(name, "")
    return found.strip() if isinstance(found, str) else ""


def _file_name(path: str) -> str:
    """Runner names files relative to its own folder; here they lie in the library."""
    return PurePosixPath(path.replace("\\", "/")).name


def _within(name: str, value: Any) -> Any:
    """A number brought into Roost's range; anything else as it is, for the reader of fields to judge."""
    row = BY_NAME[name]
    if row.kind == "bool" or isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return value
    limited = min(max(value, row.least), row.most)
    return int(limited) if row.kind == "int" else limited
