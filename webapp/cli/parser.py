"""The parser of all subcommands in the terminal's language, text in columns of the terminal, and `roost completion`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from webapp import __version__
from webapp.i18n.terminal import t


class Formatter(argparse.HelpFormatter):
    """argparse counts characters and breaks lines only at spaces. A Chinese character takes two columns, and Chinese
    has no spaces."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        """Asks the backends for their strategies only when help is shown."""
        text = super()._get_help_string(action)
        if action.dest != "strategy" or action.metavar is None:
            return text
        from webapp.engine.registry import backends

        ways = "; ".join(backend.usage() for backend in backends()).replace("%", "%%")
        return f"{text} {t('cli.strategies', ways=ways)}"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return super()._split_lines(text, width) if columns_of(text) == len(text) else wrap(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if columns_of(text) == len(text):
            return super()._fill_text(text, width, indent)
        return "\n".join(indent + line for line in wrap(text, width - len(indent)))


class Parser(argparse.ArgumentParser):
    """Also the class of subparsers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": Formatter, **options})


ARGPARSE = {
    "options": "options",
    "%(prog)s: error: %(message)s\n": "error",
    "ambiguous option: %(option)s could match %(matches)s": "ambiguous_option_could_match",
    "argument %(argument_name)s: %(message)s": "argument",
    "expected at least one argument": "expected_at_least_one_argument",
    "expected one argument": "expected_one_argument",
    "ignored explicit argument %r": "ignored_explicit_argument",
    "invalid %(type)s value: %(value)r": "invalid_value",
    "invalid choice: %(value)r (choose from %(choices)s)": "invalid_choice_choose_from",
    "not allowed with argument %s": "not_allowed_with_argument",
    "one of the arguments %s is required": "one_of_the_arguments_is_required",
    "positional arguments": "positional_arguments",
    "show this help message and exit": "show_this_help_message_and_exit",
    "the following arguments are required: %s": "following_arguments_are_required",
    "unrecognized arguments: %s": "unrecognized_arguments",
    "usage: ": "usage",
}
"""argparse's own texts, with their keys in the catalogues: ``cli.argparse.<name>``."""


@contextlib.contextmanager
def argparse_translated() -> Iterator[None]:
    """argparse gets each of its own texts from ``argparse._``, which is replaced here with a lookup in the catalogue.

    Unknown texts, such as new ones of a later Python, stay English.
    """
    gettext = argparse._  # type: ignore[attr-defined]

    def translated(text: str) -> str:
        return t(f"cli.argparse.{ARGPARSE[text]}") if text in ARGPARSE else text

    argparse._ = translated  # type: ignore[attr-defined]
    try:
        yield
    finally:
        argparse._ = gettext  # type: ignore[attr-defined]


OPENING, CLOSING = "（“《", "，。、；：！？）”》…"
# A line is not broken inside a piece: a word or one Chinese character, with its punctuation.
PIECE = re.compile(rf"\s+|[{OPENING}]*(?:[^\s{OPENING}{CLOSING}\u2e80-\uffef]+|\S)[{CLOSING}]*")


def columns_of(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def pad(text: str, columns: int) -> str:
    """Appends spaces to get that many columns."""
    return text + " " * (columns - columns_of(text))


def wrap(text: str, columns: int) -> list[str]:
    """Lines of at most ``columns``; only a piece that is longer by itself exceeds it."""
    lines = [""]
    for piece in PIECE.findall(" ".join(text.split())):
        if columns_of(lines[-1]) + columns_of(piece) > columns and lines[-1]:
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    return [line.rstrip() for line in lines]


COMMANDS = (
    "serve", "open", "chat", "run", "compose", "inspect", "logits", "models", "download", "states", "convert", "bench",
    "kernels", "tokens", "eval", "import", "export", "completion",
)  # fmt: skip
"""In the order of the help. A command is the module with its name, with ``add_arguments`` and ``run``."""
MODULES = {"eval": "evaluate"}
"""Modules with another name than their command."""
SHARED = {"open": "access", "tokens": "access", "import": "chat_files", "export": "chat_files", "completion": "parser"}
"""Modules of several commands; their functions end with the command: ``add_arguments_import`` and ``run_import``."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The result's ``run`` is the function to call."""
    with argparse_translated():
        return build_parser(arguments[0]).parse_args(arguments)


def build_parser(chosen: str) -> argparse.ArgumentParser:
    """Imports only the chosen command, because some take most of a second. Other commands have only their line of
    help."""
    parser = Parser(prog="roost", description=t("cli.about"))
    parser.add_argument("--version", action="version", version=f"roost {__version__}", help=t("cli.version"))
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in COMMANDS:
        own = subparsers.add_parser(name, help=t(f"cli.{name}.about"))
        if name == chosen:
            module = importlib.import_module(f"webapp.cli.{SHARED.get(name) or MODULES.get(name, name)}")
            ending = f"_{name}" if name in SHARED else ""
            own.set_defaults(run=getattr(module, f"run{ending}"))
            getattr(module, f"add_arguments{ending}")(own)
    return parser


SHELLS = ("bash", "zsh", "fish", "powershell")


def add_arguments_completion(parser: argparse.ArgumentParser) -> None:
    parser.description = t("cli.completion.use")
    parser.add_argument("shell", choices=SHELLS, help=t("cli.completion.shell"))


def run_completion(args: argparse.Namespace) -> int:
    """Prints the script with which a shell completes commands, options and model names: at every Tab it runs `roost`
    with argcomplete's request in environment variables."""
    import argcomplete

    print(argcomplete.shellcode(["roost"], shell=args.shell))
    return 0


def print_completions() -> None:
    """Prints the completions for the line in the environment, and exits."""
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()[1:]
    argcomplete.autocomplete(build_parser(next((word for word in words if word in COMMANDS), "")))
