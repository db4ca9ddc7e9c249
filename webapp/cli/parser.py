"""argparse in the language of the terminal."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any

from webapp.cli.columns import columns_of, wrap
from webapp.i18n import phrase
from webapp.i18n.terminal import terminal_locale


class Formatter(argparse.HelpFormatter):
    """argparse counts characters, and breaks lines at spaces only; Chinese has none and takes two columns each."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return super()._split_lines(text, width) if columns_of(text) == len(text) else wrap(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if columns_of(text) == len(text):
            return super()._fill_text(text, width, indent)
        return "\n".join(indent + line for line in wrap(text, width - len(indent)))


class Parser(argparse.ArgumentParser):
    """Subparsers are of this class too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": Formatter, **options})


@contextlib.contextmanager
def argparse_translated() -> Iterator[None]:
    """argparse asks gettext for each of its own texts, as ``argparse._``; inside, the catalogue is asked.

    A text that it does not know, such as one of a later Python, stays English.
    """
    locale, gettext = terminal_locale(), argparse._  # type: ignore[attr-defined]
    argparse._ = lambda text: phrase(text, locale)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        argparse._ = gettext  # type: ignore[attr-defined]
