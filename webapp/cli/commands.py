"""Every subcommand, and the parser they make together."""

from __future__ import annotations

import argparse
from types import ModuleType

from webapp import __version__
from webapp.cli import bench, chat, convert, evaluate, inspect, logits, models, run, serve, states

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
