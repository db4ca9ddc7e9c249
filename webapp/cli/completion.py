"""`roost completion SHELL`: prints the script with which a shell completes commands, options and model names.

At every Tab the shell runs `roost` with argcomplete's request in environment variables.
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


def print_completions() -> None:
    """Prints the completions for the line in the environment, and exits."""
    from webapp.cli.parser import COMMANDS, build_parser

    words = os.environ.get("COMP_LINE", "").split()[1:]
    argcomplete.autocomplete(build_parser(next((word for word in words if word in COMMANDS), "")))
