"""`roost models`: the model files Roost sees."""

from __future__ import annotations

import argparse
import json
from typing import Any

from webapp.cli.options import add_settings, settings_from
from webapp.manager.library import ModelEntry, ModelLibrary


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser("models", help="List the models in the models folder.")
    add_settings(parser, ("models_dir", "data_dir"))
    parser.add_argument("--json", action="store_true", help="Print one JSON document.")
    return parser


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    entries = ModelLibrary(settings.models_dir).list()
    if args.json:
        print(json.dumps([describe(entry) for entry in entries], ensure_ascii=False))
        return 0
    if not entries:
        print(f"No model files in {settings.models_dir}.")
    for entry in entries:
        print(f"{entry.name:<44} {entry.size_bytes / 1e6:>10,.1f} MB  {summary(entry)}")
    return 0


def describe(entry: ModelEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "path": str(entry.path),
        "size_bytes": entry.size_bytes,
        "inspection": entry.inspection.to_dict() if entry.inspection else None,
        "error": entry.error.to_dict() if entry.error else None,
    }


def summary(entry: ModelEntry) -> str:
    found = entry.inspection
    if found is None:
        return str(entry.error)
    if found.config is None:
        return found.kind
    config = found.config
    sizes = f"{config.n_layer} x {config.n_embd}, {found.parameters:,} parameters"
    return f"RWKV-{config.architecture}, {sizes}, {found.dtype}"
