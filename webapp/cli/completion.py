"""`roost completion SHELL`: the lines with which a shell completes `roost`, its options and the names of models.

The shell runs `roost` at every Tab, with argcomplete's request in the environment.
"""

from __future__ import annotations

import argparse
import os

import argcomplete

from webapp.i18n.terminal import t

SHELLS = ("bash", "zsh", "fish", "powershell")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = t("cli.completion.use")
    parser.add_argument("shell", choices=SHELLS, help=t("cli.completion.shell"))


def run(args: argparse.Namespace) -> int:
    print(argcomplete.shellcode(["roost"], shell=args.shell))
    return 0


def answer_the_shell() -> None:
    """Writes what the line in the environment can go on with, and ends the process."""
    from webapp.cli.parser import COMMANDS, build_parser

    words = os.environ.get("COMP_LINE", "").split()[1:]
    argcomplete.autocomplete(build_parser(next((word for word in words if word in COMMANDS), "")))
