"""`roost inspect`: what a file is, read from its tensors."""

from __future__ import annotations

import argparse
import json
from typing import Any

from webapp.weights.checkpoint import Inspection, inspect


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser("inspect", help="Say what is in a model or state file.")
    parser.add_argument("file", help="Model or state file.")
    parser.add_argument("--json", action="store_true", help="Print one JSON document.")
    parser.add_argument("--tensors", action="store_true", help="List every tensor too.")
    return parser


def run(args: argparse.Namespace) -> int:
    found = inspect(args.file)
    if args.json:
        print(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        print("\n".join(f"{name:<18} {value}" for name, value in facts(found)))
        if args.tensors:
            for tensor in found.tensors:
                print(f"{tensor.name:<40} {tensor.dtype:<10} {tuple(tensor.shape)}")
    return 0


def facts(found: Inspection) -> list[tuple[str, str]]:
    rows = [("file", str(found.path)), ("format", found.format), ("kind", found.kind)]
    if found.config is not None:
        config = found.config
        rows += [
            ("architecture", f"RWKV-{config.architecture}"),
            ("layers x width", f"{config.n_layer} x {config.n_embd}"),
            ("heads", f"{config.n_head} of {config.head_size}" if config.n_head else "none"),
            ("vocabulary", f"{config.vocab_size:,}"),
            ("state", f"{config.state_bytes():,} bytes in float32"),
        ]
    rows += [
        ("parameters", f"{found.parameters:,}"),
        ("dtype", found.dtype),
        ("size", f"{found.size_bytes:,} bytes"),
        ("merged state", "yes" if found.has_time_state else "no"),
    ]
    if found.converted_strategy:
        rows.append(("converted for", found.converted_strategy))
    return rows
