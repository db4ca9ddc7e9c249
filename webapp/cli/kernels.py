"""`roost kernels`: shows, compiles and cleans up the native engine's library and packed files."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from typing import TextIO

from webapp.cli.parser import pad
from webapp.engine.backend import Availability
from webapp.errors import BackendUnavailable
from webapp.i18n import say
from webapp.i18n.terminal import t, terminal_locale
from webapp.services import kernels as native


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", help=t("cli.kernels.actions"))
    actions.add_parser("list", help=t("cli.kernels.list"))
    actions.add_parser("build", help=t("cli.kernels.build"))
    actions.add_parser("clear", help=t("cli.kernels.clear"))


def run(args: argparse.Namespace) -> int:
    """Raises BackendUnavailable if the library cannot be compiled."""
    if args.action == "build":
        build(sys.stdout)
    if args.action == "clear":
        print(t("cli.kernels.cleared", bytes=f"{native.clear_packed_files():,}"))
        return 0
    found = native.kernels()
    rows = [
        ("library", found.path or t("cli.kernels.none")),
        ("isa", found.isa),
        ("compiler", found.compiler or t("cli.kernels.none")),
        ("packed_files", t("cli.kernels.kept", **kept) if (kept := native.packed_files()) else ""),
    ]
    for key, value in rows:
        if value:
            print(f"{pad(t(f'cli.kernels.{key}'), 16)}{value}")
    print_obstacle(found.availability, sys.stdout)
    return 0


def make_ready() -> None:
    """Before a measurement: compiles the library if possible; otherwise prints the reason to stderr."""
    found = native.kernels().availability
    if found.is_available and not found.is_ready:
        with contextlib.suppress(BackendUnavailable):
            build(sys.stderr)
        found = native.kernels().availability
    print_obstacle(found, sys.stderr)


def print_obstacle(found: Availability, to: TextIO) -> None:
    for text in (found.reason, found.way_out):
        if text:
            print(say(text, terminal_locale()), file=to)


def build(to: TextIO) -> None:
    if native.kernels().path:
        return
    started = time.monotonic()
    if native.compiler():
        print(t("cli.kernels.compiling", compiler=native.compiler()), file=to, flush=True)
    native.build()
    print(t("cli.kernels.compiled", seconds=f"{time.monotonic() - started:.0f}"), file=to)
