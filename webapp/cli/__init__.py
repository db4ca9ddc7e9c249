"""The `roost` command: one module a subcommand, each with ``add_parser`` and ``run``.

Errors end as one line with the way out and exit code 2; Ctrl-C ends quietly with 130.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from webapp import __version__
from webapp.cli import bench, chat, convert, evaluate, inspect, logits, models, run, serve, states
from webapp.cli.options import in_one_line
from webapp.errors import RoostError

COMMANDS: tuple[ModuleType, ...] = (serve, chat, run, inspect, logits, models, states, convert, bench, evaluate)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="roost",
        description="A home for RWKV models. Without a command: start the server and open the page.",
    )
    parser.add_argument("--version", action="version", version=f"roost {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        subparser = command.add_parser(subparsers)
        subparser.set_defaults(run=command.run)
    return parser


def with_default_command(arguments: Sequence[str]) -> list[str]:
    """`roost --port 1` means `roost serve --port 1`."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help", "--version") or (first and not first.startswith("-")):
        return list(arguments)
    return ["serve", *arguments]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code."""
    for stream in (sys.stdout, sys.stderr):  # not every terminal, and no pipe on Windows, has every character
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = with_default_command(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(arguments)
    try:
        return int(args.run(args) or 0)
    except RoostError as error:
        print(f"roost: {in_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `roost models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        print(f"roost: {error.filename}: {error.strerror}. Name a place that is there and is yours.", file=sys.stderr)
        return 2
