"""`roost kernels`: the native engine's library on this machine, and compiling it."""

from __future__ import annotations

import argparse
import time
from typing import Any

from webapp.cli.parser import pad
from webapp.i18n import say
from webapp.i18n.terminal import t, terminal_locale
from webapp.services.strategy import kernels as native


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser("kernels", help=t("cli.kernels.about"))
    actions = parser.add_subparsers(dest="action", metavar="ACTION", help=t("cli.kernels.actions"))
    actions.add_parser("list", help=t("cli.kernels.list"))
    actions.add_parser("build", help=t("cli.kernels.build"))
    return parser


def run(args: argparse.Namespace) -> int:
    """BackendUnavailable when nothing can be built."""
    if args.action == "build":
        build()
    found = native.kernels()
    rows = [
        ("library", found.path or t("cli.kernels.none")),
        ("isa", found.isa),
        ("compiler", found.compiler or t("cli.kernels.none")),
    ]
    for key, value in rows:
        if value:
            print(f"{pad(t(f'cli.kernels.{key}'), 16)}{value}")
    for text in (found.availability.reason, found.availability.way_out):
        if text:
            print(say(text, terminal_locale()))
    return 0


def build() -> None:
    if native.kernels().path:
        return
    started = time.monotonic()
    if native.compiler():
        print(t("cli.kernels.compiling", compiler=native.compiler()), flush=True)
    native.build()
    print(t("cli.kernels.compiled", seconds=f"{time.monotonic() - started:.0f}"))
