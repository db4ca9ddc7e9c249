"""`roost bench`: load time, speed of prefill and decode, and memory, compared with other engines; `roost bench tools`:
function calling.

Both print a table on standard error and end with one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from webapp.chat.tool_dialects import all_dialects
from webapp.cli.kernels import make_ready
from webapp.cli.options import add_model_options, output_file, settings_from, stored
from webapp.cli.parser import pad
from webapp.engine.options import is_automatic
from webapp.engine.registry import backend_names, usual_strategy
from webapp.errors import BenchCaseInvalid, BenchRefused, RequestError, RoostError, ToolInvalid
from webapp.i18n import LOCALES, Text, say, text_from_plain
from webapp.i18n.terminal import t, terminal_locale
from webapp.manager.manager import ModelManager
from webapp.services.bench.speed import Contestant, LlamaContestant, Plan, RoostContestant, Rounds, bench_document
from webapp.services.bench.tool_bench import (
    MODES,
    BenchRequest,
    BenchRunner,
    ModeReport,
    document,
    generated_cases,
    reports,
)
from webapp.settings import Settings
from webapp.storage.bench import BenchStore
from webapp.storage.tools import ToolStore
from webapp.tools.bench import BenchCase, cases_from_lines
from webapp.tools.builtin import BUILTINS
from webapp.tools.definition import from_openai

ROOST, LLAMA = "roost", "llama.cpp"
MAX_BUSY = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.allow_abbrev = False  # otherwise `--mode` of `tools` would be read as --model
    plan = Plan()
    add_model_options(parser)
    sequences, prefill = (",".join(map(str, sizes)) for sizes in (plan.sequences, plan.prefills))
    parser.add_argument("--prompt-tokens", type=int, default=plan.prompt_tokens, help=t("cli.bench.prompt_tokens"))
    parser.add_argument("--tokens", type=int, default=plan.tokens, help=t("cli.bench.tokens"))
    parser.add_argument("--sequences", default=sequences, help=t("cli.bench.sequences"))
    parser.add_argument("--prefill", default=prefill, help=t("cli.bench.prefill"))
    parser.add_argument("--repeat", type=int, default=plan.repeat, help=t("cli.bench.repeat"))
    parser.add_argument("--busy", metavar="N", type=int, default=plan.busy, help=t("cli.bench.busy"))
    parser.add_argument("--against", metavar="NAMES", default="", help=t("cli.bench.against"))
    parser.add_argument("--gguf", metavar="FILE", default="", help=t("cli.bench.gguf"))
    tools = parser.add_subparsers(dest="bench", metavar="tools")
    add_tools_arguments(tools.add_parser("tools", help=t("cli.bench_tools.about")))


def run(args: argparse.Namespace) -> int:
    prefills = read_counts("--prefill", args.prefill) if args.prefill.strip() else ()
    counts = read_counts("--sequences", args.sequences)
    least = {"prompt_tokens": max(1, args.prompt_tokens), "tokens": max(0, args.tokens), "repeat": max(1, args.repeat)}
    plan = Plan(counts, prefills, **least, busy=min(max(0, args.busy), MAX_BUSY))
    settings = settings_from(args)
    if is_automatic(settings.strategy):
        make_ready()
    most = max(counts)
    ours = RoostContestant(ROOST, settings, most)
    others = [rival(name.strip(), args, most) for name in args.against.split(",") if name.strip()]
    document = bench_document(ours, others, plan, report_load)
    for line in table(document):
        print(line, file=sys.stderr)
    print(json.dumps(document, ensure_ascii=False))
    return 0


def rival(name: str, args: argparse.Namespace, most_sequences: int) -> Contestant:
    """The engine named by ``--against``: another backend with the same file (rwkv: the package), or llama.cpp with
    ``--gguf``."""
    known = rivals()
    if name in known:
        return RoostContestant(name, settings_from(args, strategy=usual_strategy(known[name])), most_sequences)
    if name != LLAMA:
        names = ", ".join((*known, LLAMA))
        raise RequestError(reason=Text("reason.cli.unknown_rival", name=repr(name), names=names))
    if not args.gguf or not os.path.exists(args.gguf):
        raise RequestError(reason=Text("reason.cli.needs_gguf"))
    return LlamaContestant(name, args.gguf, settings_from(args).threads, most_sequences)


def rivals() -> dict[str, str]:
    """The names that ``--against`` accepts, with the backend's name in the registry."""
    return {"rwkv" if name == "rwkv_pip" else name: name for name in backend_names()}


def read_counts(flag: str, text: str) -> tuple[int, ...]:
    """``"1,8"`` as numbers. Raises RequestError unless all are 1 or more."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() and int(part) > 0 for part in parts):
        reason = Text("reason.cli.not_a_list_of_counts", flag=flag, text=repr(text))
        raise RequestError(reason=reason)
    return tuple(map(int, parts))


def report_load(what: str, contestant: Contestant, rounds: Rounds) -> None:
    if what == "loaded":
        print(t("cli.bench.loaded", name=contestant.name, seconds=f"{rounds.loaded['load_s']:.2f}"), file=sys.stderr)


def table(document: dict[str, Any]) -> list[str]:
    """One row per measurement: Roost, then each other engine and how many times faster Roost is."""
    others = document["against"]
    sides = [document, *others]
    first = document["first_token"]
    lines = [t("cli.bench.first", cold=f"{first['cold_ms']:.0f}", warm=f"{first['warm_ms']:.0f}")]
    lines += [say(text_from_plain(remark), terminal_locale()) for remark in document["model"]["remarks"]]
    share = document["bandwidth"]
    if share and share["share_of_one_answer"] is not None:
        per_cent = f"{100 * share['share_of_one_answer']:.0f}"
        lines.append(t("cli.bench.bandwidth", per_cent=per_cent, rate=share["gb_per_s"]))
    peaks = [f"{side.get('name', ROOST)} {side['memory']['peak_mb'] or '-'}" for side in sides]
    lines.append(t("cli.bench.peak", sizes=", ".join(peaks)))
    heads = [ROOST, *(name for side in others for name in (side["name"], "×"))]
    lines.append(pad("tokens/s", 16) + "".join(pad(head, 24 if head != "×" else 8) for head in heads))
    for what, size, rows, rate in [
        *(("decode", row["sequences"], "runs", "decode_tokens_per_s") for row in document["runs"]),
        *(("prefill", row["tokens"], "prefill", "tokens_per_s") for row in document["prefill"]),
    ]:
        key = "sequences" if what == "decode" else "tokens"
        cells = [pad(t(f"cli.bench.row.{what}", size=size), 16)]
        for side in sides:
            row = next((row for row in side[rows] if row[key] == size), None)
            cells.append(pad(_cell(row, rate), 24))
            if side is not document:
                match = (r["ratio"] for r in side["ratios"] if (r["what"], r["size"]) == (what, size))
                cells.append(pad(f"{ratio:.2f}" if (ratio := next(match, None)) else "-", 8))
        lines.append("".join(cells).rstrip())
    for side in sides if document.get("busy") else ():
        losses = [
            (t(f"cli.bench.row.{row['what']}", size=row["size"]), row["per_cent"]) for row in side["busy"]["lost"]
        ]
        lost = (f"{words} {per_cent:.0f} %" for words, per_cent in losses)
        name, count = side.get("name", ROOST), side["busy"]["processes"]
        lines.append(t("cli.bench.lost", name=name, count=count, rows=", ".join(lost)))
    return lines


def _cell(row: dict[str, Any] | None, rate: str) -> str:
    if row is None:
        return "-"
    low, high = row["spread"][rate]
    return f"{row[rate]:.0f} ({low:.0f}-{high:.0f})"


BOTH = "both"


class StoredTools(Struct, frozen=True):
    """What the Tools pages have stored; empty without a database."""

    tools: tuple[dict[str, Any], ...] = ()
    cases: tuple[BenchCase, ...] = ()


def add_tools_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    dialects = [row.name for row in all_dialects()]
    parser.add_argument("--tools", metavar="FILE", help=t("cli.bench_tools.tools"))
    parser.add_argument("--cases", metavar="FILE", help=t("cli.bench_tools.cases"))
    parser.add_argument("--mode", choices=(*MODES, BOTH), default=BOTH, help=t("cli.bench_tools.mode"))
    parser.add_argument("--dialect", choices=dialects, default="", help=t("cli.bench_tools.dialect"))
    parser.add_argument("--seed", type=int, default=None, help=t("cli.bench_tools.seed"))
    parser.add_argument("--per-tool", type=int, default=3, help=t("cli.bench_tools.per_tool"))
    parser.add_argument("--language", choices=tuple(LOCALES), default="en", help=t("cli.bench_tools.language"))
    parser.add_argument("--transcripts", type=output_file, metavar="FILE", help=t("cli.option.transcripts"))
    parser.set_defaults(run=run_tools)


def run_tools(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    kept = stored_tools(settings)
    shipped = tuple(row.definition.function for row in BUILTINS.values())
    definitions = tools_in(args.tools) if args.tools else kept.tools or shipped
    source, cases, left_out = cases_of(args, definitions, kept)
    modes = MODES if args.mode == BOTH else (args.mode,)
    answers: list[dict[str, Any]] = []
    error: RoostError | None = None
    with closing(ModelManager(settings)) as manager:
        runner = BenchRunner(manager, BenchRequest(definitions, cases, modes, args.dialect))
        try:
            runner.run(answers.append)
        except RoostError as exc:
            error = exc
        setup = runner.setup() | {"cases_from": source, "seed": args.seed or 0, "tools_without_cases": left_out}
    if args.transcripts:
        lines = (json.dumps(answer, ensure_ascii=False) for answer in answers)
        args.transcripts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for report in reports(setup, answers):
        print(line_of(report), file=sys.stderr)
    found = document(setup, answers, error.to_dict() if error else None)
    if args.transcripts:
        del found["answers"]
    print(json.dumps(found, ensure_ascii=False))
    if error is not None:
        raise error
    return 0


def stored_tools(settings: Settings) -> StoredTools:
    """Does not create a database."""
    if not settings.database_path.exists():
        return StoredTools()
    with stored(settings) as database:
        tools = tuple(tool.definition.function for tool in ToolStore(database).list())
        return StoredTools(tools, tuple(row.case for row in BenchStore(database).cases()))


def tools_in(path: str) -> tuple[dict[str, Any], ...]:
    """Raises ToolInvalid unless the file is an OpenAI tools array."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ToolInvalid(field="file", reason=Text("reason.cli.file_is_not_json", path=path, error=str(exc))) from exc
    rows = value.get("tools", [value]) if isinstance(value, Mapping) else value
    if not isinstance(rows, list):
        raise ToolInvalid(field="file", reason=Text("reason.common.not_a_tool"))
    return tuple(from_openai(row).function for row in rows)


def text_in(path: str) -> str:
    """Raises ``bench_line_invalid`` if the file is not UTF-8: changed characters would change the measurement."""
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line, reason = content.count(b"\n", 0, exc.start) + 1, Text("reason.web.is_not_valid_utf_8")
        raise BenchCaseInvalid("bench_line_invalid", line=line, reason=reason) from exc


def cases_of(
    args: argparse.Namespace, definitions: Sequence[Mapping[str, Any]], kept: StoredTools
) -> tuple[str, tuple[BenchCase, ...], list[str]]:
    """The source of the cases, the cases, and the tools for which none could be made. The file is used if there is one;
    then the stored cases, if the stored tools are tested and no seed is given; otherwise cases are made."""
    if args.cases:
        return "file", cases_from_lines(text_in(args.cases)), []
    if kept.cases and not args.tools and args.seed is None:
        return "stored", kept.cases, []
    if args.per_tool < 1:
        raise BenchRefused(reason=Text("reason.cli.per_tool_is_less_than_1"))
    made = generated_cases(definitions, args.language, args.seed or 0, args.per_tool)
    return "made", made.cases, list(made.left_out)


def line_of(report: ModeReport) -> str:
    figures = "  ".join(
        f"{t(f'cli.bench_tools.{name}')} {right}/{of} ({100 * right / of:.1f} %)"
        for name, (right, of) in report.counts.items()
        if of
    )
    mode = pad(t(f"cli.bench_tools.{report.mode}"), 12)
    return t("cli.bench_tools.line", mode=mode, cases=f"{report.cases:>4}", figures=figures)
