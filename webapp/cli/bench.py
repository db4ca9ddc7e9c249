"""`roost bench`: load time, reading and writing speed, memory; `roost bench tools`: function calling.

The last line of both is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psutil

from webapp import __version__
from webapp.cli import bench_tools
from webapp.cli.options import add_model_options, settings_from
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import Phrase, RequestError
from webapp.i18n.terminal import t
from webapp.manager.manager import ModelManager
from webapp.services.generation.generation import Generation
from webapp.services.generation.request import PromptModel, prepare, raw_prompt

TEXT = "A heron stood on the line and watched the river go by. 一只苍鹭站在线上，看着河水流过。"
GREEDY = SamplingParams(temperature=0, stop_token_ids=(), frequency_penalty=0.0)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help=t("cli.bench.about"),
        allow_abbrev=False,  # or `--mode` of `tools` would be a short --model of this one
    )
    add_model_options(parser)
    parser.add_argument("--prompt-tokens", type=int, default=512, help=t("cli.bench.prompt_tokens"))
    parser.add_argument("--tokens", type=int, default=128, help=t("cli.bench.tokens"))
    parser.add_argument("--sequences", default="1,8", help=t("cli.bench.sequences"))
    parser.add_argument("--repeat", type=int, default=3, help=t("cli.bench.repeat"))
    parser.set_defaults(run=run)
    bench_tools.add_parser(parser.add_subparsers(dest="bench", metavar="tools"))
    return parser


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    counts = read_counts(args.sequences)
    manager = ModelManager(replace(settings, state_cache_bytes=0))  # a cache hit would not be reading
    try:
        started = time.monotonic()
        manager.load()
        status = manager.wait_ready()
        load_s = time.monotonic() - started
        prompt = prompt_ids(manager, args.prompt_tokens)
        one_run(manager, prompt[:16], 8, 1)  # the first tokens of a process are slower
        rows = [measure(manager, prompt, args.tokens, count, args.repeat) for count in counts]
        document = {
            "roost": __version__,
            "machine": machine(),
            "model": {"name": status.model, "strategy": status.strategy, **describe(manager)},
            "load_s": round(load_s, 3),
            "engine_rss_mb": rss_mb(manager.engine_pid()),
            "host_rss_mb": rss_mb(os.getpid()),
            "prompt_tokens": len(prompt),
            "tokens": args.tokens,
            "runs": rows,
        }
    finally:
        manager.close()
    for row in rows:
        print(line_of(row), file=sys.stderr)
    print(json.dumps(document, ensure_ascii=False))
    return 0


def line_of(row: dict[str, Any]) -> str:
    return t(
        "cli.bench.line",
        sequences=f"{row['sequences']:>3}",
        first=f"{row['first_token_ms']:.0f}",
        reading=f"{row['prefill_tokens_per_s']:.0f}",
        writing=f"{row['decode_tokens_per_s']:.1f}",
    )


def read_counts(text: str) -> list[int]:
    """``"1,8"`` to counts; RequestError unless all are 1 or more."""
    counts = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if not counts or min(counts) < 1:
        reason = Phrase("--sequences {text} is not a list of counts with commas between", text=repr(text))
        raise RequestError(reason=reason)
    return counts


def prompt_ids(manager: ModelManager, count: int) -> list[int]:
    ids = manager.tokenizer().encode(TEXT)
    return (ids * (count // len(ids) + 1))[:count]


def measure(manager: ModelManager, prompt: list[int], tokens: int, sequences: int, repeat: int) -> dict[str, Any]:
    """Medians over ``repeat`` runs of ``sequences`` answers at once."""
    runs = [one_run(manager, prompt, tokens, sequences) for _ in range(repeat)]
    return {
        "sequences": sequences,
        **{name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]},
    }


def one_run(manager: ModelManager, prompt: list[int], tokens: int, sequences: int) -> dict[str, float]:
    started = time.monotonic()
    params = replace(GREEDY, max_tokens=tokens)
    model = PromptModel.chosen(manager)
    ready = prepare(model, raw_prompt("", tuple(prompt)), params)
    answers = [Generation(manager, ready, client=str(number)) for number in range(sequences)]
    for answer in answers:
        answer.start()
    stats = [figures(answer) for answer in answers]
    wall_s = time.monotonic() - started
    decode_s = max(stat["decode_s"] for stat in stats)
    return {
        "first_token_ms": 1000 * statistics.median(stat["queued_s"] + stat["prefill_s"] for stat in stats),
        "prefill_tokens_per_s": sum(stat["prefilled_tokens"] for stat in stats)
        / max(stat["queued_s"] + stat["prefill_s"] for stat in stats),
        "decode_tokens_per_s": sum(stat["decoded_tokens"] - 1 for stat in stats) / decode_s if decode_s else 0.0,
        "wall_s": wall_s,
    }


def figures(answer: Generation) -> Mapping[str, Any]:
    found = answer.finish().stats
    if not found:
        raise RequestError(reason="the engine gave no figures")
    return found


def describe(manager: ModelManager) -> dict[str, Any]:
    found = manager.model_info()
    config = found.config.to_dict() if found.config else {}
    return {**config, "parameters": found.parameters, "file_bytes": found.size_bytes, "dtype": found.dtype}


def machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
    }


def rss_mb(pid: int | None) -> float | None:
    return round(psutil.Process(pid).memory_info().rss / 1e6, 1) if pid else None
