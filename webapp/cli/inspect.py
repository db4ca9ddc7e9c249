"""`roost inspect`: describes a file from its tensors."""

from __future__ import annotations

import argparse
import json

from webapp.cli.options import add_settings, settings_from
from webapp.cli.parser import pad
from webapp.i18n.terminal import t
from webapp.weights.file_reader import FAILED_FILES, FileReader
from webapp.weights.inspection import Inspection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help=t("cli.inspect.file"))
    parser.add_argument("--json", action="store_true", help=t("cli.option.json"))
    add_settings(parser, ("data_dir",))
    parser.add_argument("--tensors", action="store_true", help=t("cli.option.tensors"))


def run(args: argparse.Namespace) -> int:
    reader = FileReader(settings_from(args).data_dir / FAILED_FILES)
    found = reader.inspect(args.file, again=True)
    if args.json:
        print(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        print(as_table(facts(found)))
        if args.tensors:
            for tensor in found.tensors:
                print(f"{tensor.name:<40} {tensor.dtype:<10} {tuple(tensor.shape)}")
    return 0


def as_table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{pad(name, 18)} {value}" for name, value in rows)


def facts(found: Inspection) -> list[tuple[str, str]]:
    """Names and values, in the terminal's language."""
    rows = [
        (t("cli.fact.file"), str(found.path)),
        (t("cli.fact.format"), found.format),
        (t("cli.fact.kind"), t(f"cli.kind.{found.kind}")),
    ]
    if found.config is not None:
        config = found.config
        rows += [
            (t("cli.fact.architecture"), f"RWKV-{config.architecture}"),
            (t("cli.fact.layers"), f"{config.n_layer} x {config.n_embd}"),
            (t("cli.fact.heads"), heads(config.n_head, config.head_size)),
            (t("cli.fact.vocabulary"), f"{config.vocab_size:,}"),
            (t("cli.fact.state"), t("cli.fact.state_bytes", bytes=f"{config.state_bytes():,}")),
        ]
    rows += [
        (t("cli.fact.parameters"), f"{found.parameters:,}"),
        (t("cli.fact.dtype"), found.dtype),
        (t("cli.fact.size"), t("cli.fact.bytes", bytes=f"{found.size_bytes:,}")),
        (t("cli.fact.merged_state"), t("cli.fact.yes") if found.has_time_state else t("cli.fact.no")),
    ]
    if found.converted_strategy:
        rows.append((t("cli.fact.converted_for"), found.converted_strategy))
    return rows


def heads(count: int, size: int) -> str:
    """RWKV-4 has no heads."""
    return t("cli.fact.heads_of", heads=count, size=size) if count else t("cli.fact.no_heads")
