"""`roost bench tools`: does this model call these tools rightly? Its last line is one JSON document."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.chat.tool_dialects import all_dialects
from webapp.cli.options import add_model_options, settings_from
from webapp.cli.parser import pad
from webapp.errors import BenchRefused, RoostError, ToolInvalid
from webapp.i18n import LOCALES, Text
from webapp.i18n.terminal import t
from webapp.manager.manager import ModelManager
from webapp.services.bench.tool_bench import MODES, BenchRequest, BenchRunner, ModeReport, document, made_cases, reports
from webapp.settings import Settings
from webapp.storage.database import Database
from webapp.storage.tool_bench import BenchStore
from webapp.storage.tools import ToolStore
from webapp.tools.bench import BenchCase, cases_from_lines
from webapp.tools.builtin import BUILTINS
from webapp.tools.definition import from_openai

BOTH = "both"


@dataclass(frozen=True)
class Kept:
    """What the Tools pages keep; empty where there is no database yet."""

    tools: tuple[dict[str, Any], ...] = ()
    cases: tuple[BenchCase, ...] = ()


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser("tools", help=t("cli.bench_tools.about"))
    add_model_options(parser)
    dialects = [row.name for row in all_dialects()]
    parser.add_argument("--tools", metavar="FILE", help=t("cli.bench_tools.tools"))
    parser.add_argument("--cases", metavar="FILE", help=t("cli.bench_tools.cases"))
    parser.add_argument("--mode", choices=(*MODES, BOTH), default=BOTH, help=t("cli.bench_tools.mode"))
    parser.add_argument("--dialect", choices=dialects, default="", help=t("cli.bench_tools.dialect"))
    parser.add_argument("--seed", type=int, default=None, help=t("cli.bench_tools.seed"))
    parser.add_argument("--per-tool", type=int, default=3, help=t("cli.bench_tools.per_tool"))
    parser.add_argument("--language", choices=tuple(LOCALES), default="en", help=t("cli.bench_tools.language"))
    parser.add_argument("--transcripts", metavar="FILE", help=t("cli.option.transcripts"))
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    kept = kept_in(settings)
    definitions = tools_in(args.tools) if args.tools else kept.tools or shipped_tools()
    source, cases, left_out = cases_of(args, definitions, kept)
    modes = MODES if args.mode == BOTH else (args.mode,)
    manager = ModelManager(settings)
    answers: list[dict[str, Any]] = []
    error: RoostError | None = None
    try:
        runner = BenchRunner(manager, BenchRequest(definitions, cases, modes, args.dialect))
        try:
            runner.run(answers.append)
        except RoostError as exc:
            error = exc
        setup = runner.setup() | {"cases_from": source, "seed": args.seed or 0, "tools_without_cases": left_out}
    finally:
        manager.close()
    if args.transcripts:
        lines = (json.dumps(answer, ensure_ascii=False) for answer in answers)
        Path(args.transcripts).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for report in reports(setup, answers):
        print(line_of(report), file=sys.stderr)
    found = document(setup, answers, error.to_dict() if error else None)
    if args.transcripts:
        del found["answers"]
    print(json.dumps(found, ensure_ascii=False))
    if error is not None:
        raise error
    return 0


def kept_in(settings: Settings) -> Kept:
    """Makes no database where there is none."""
    path = settings.database_path
    if not path.exists():
        return Kept()
    database = Database(path)
    try:
        tools = tuple(stored.definition.function for stored in ToolStore(database).list())
        return Kept(tools, tuple(stored.case for stored in BenchStore(database).cases()))
    finally:
        database.close()


def shipped_tools() -> tuple[dict[str, Any], ...]:
    return tuple(row.definition.function for row in BUILTINS.values())


def tools_in(path: str) -> tuple[dict[str, Any], ...]:
    """Raises ToolInvalid for what is no OpenAI tools array."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ToolInvalid(field="file", reason=Text("reason.cli.file_is_not_json", path=path, error=str(exc))) from exc
    rows = value.get("tools", [value]) if isinstance(value, Mapping) else value
    if not isinstance(rows, list):
        raise ToolInvalid(field="file", reason=Text("reason.common.not_a_tool"))
    return tuple(from_openai(row).function for row in rows)


def cases_of(
    args: argparse.Namespace, definitions: Sequence[Mapping[str, Any]], kept: Kept
) -> tuple[str, tuple[BenchCase, ...], list[str]]:
    """Where they are from, the cases, and tools none could be made for. A file wins; then those of the page, if their
    tools are asked too and no seed is given; else they are made."""
    if args.cases:
        return "file", cases_from_lines(Path(args.cases).read_text(encoding="utf-8")), []
    if kept.cases and not args.tools and args.seed is None:
        return "stored", kept.cases, []
    if args.per_tool < 1:
        raise BenchRefused(reason=Text("reason.cli.per_tool_is_less_than_1"))
    made = made_cases(definitions, args.language, args.seed or 0, args.per_tool)
    return "made", made.cases, list(made.left_out)


def line_of(report: ModeReport) -> str:
    figures = "  ".join(
        f"{t(f'cli.bench_tools.{name}')} {right}/{of} ({100 * right / of:.1f} %)"
        for name, (right, of) in report.counts.items()
        if of
    )
    mode = pad(t(f"cli.bench_tools.{report.mode}"), 12)
    return t("cli.bench_tools.line", mode=mode, cases=f"{report.cases:>4}", figures=figures)
