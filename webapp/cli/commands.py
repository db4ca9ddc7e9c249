"""Every subcommand, and the parser they make together."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from webapp import __version__
from webapp.cli.parser import Parser, argparse_translated
from webapp.i18n.terminal import t

# In the order of the help: name and module, which offers ``add_parser`` and ``run``.
COMMANDS = {
    "serve": "serve",
    "open": "open",
    "chat": "chat",
    "run": "run",
    "inspect": "inspect",
    "logits": "logits",
    "models": "models",
    "states": "states",
    "convert": "convert",
    "bench": "bench",
    "eval": "evaluate",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What was asked for; ``run`` of it is the function to call."""
    with argparse_translated():
        return build_parser(arguments[0]).parse_args(arguments)


def build_parser(chosen: str) -> argparse.ArgumentParser:
    """Only the chosen command is imported, as some take most of a second; of the others the help has a line."""
    parser = Parser(prog="roost", description=t("cli.about"))
    parser.add_argument("--version", action="version", version=f"roost {__version__}", help=t("cli.version"))
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, module in COMMANDS.items():
        if name != chosen:
            subparsers.add_parser(name, help=t(f"cli.{name}.about"))
            continue
        command = importlib.import_module(f"webapp.cli.{module}")
        command.add_parser(subparsers).set_defaults(run=command.run)
    return parser
