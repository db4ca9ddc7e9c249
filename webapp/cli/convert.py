"""`roost convert`: converts a model file. The exit code is 0 only if the new file is complete, verified and in
place."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from webapp.cli.options import add_settings, in_one_line, settings_from
from webapp.errors import RoostError, as_roost_error
from webapp.i18n.terminal import t
from webapp.manager.library import ModelLibrary
from webapp.manager.memory import peak_bytes
from webapp.weights.convert.conversion import Converted, convert
from webapp.weights.convert.plan import CONVERSIONS, ConversionOptions, ConversionProgress, default_name
from webapp.weights.file_format import is_model_folder_at

CANCELLED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help=t("cli.convert.source"))
    parser.add_argument("output", metavar="OUT", nargs="?", help=t("cli.convert.output"))
    parser.add_argument("--to", required=True, choices=tuple(CONVERSIONS), help=t("cli.convert.to"))
    parser.add_argument("--strategy", default="", help=t("cli.convert.strategy"))
    parser.add_argument("--type", default="", metavar="TYPE", help=t("cli.convert.type"))
    parser.add_argument("--lora", default="", metavar="FILE", help=t("cli.convert.lora"))
    parser.add_argument("--lora-alpha", type=float, default=None, metavar="N", help=t("cli.convert.lora_alpha"))
    parser.add_argument("--lora-init", default="", metavar="FILE", help=t("cli.convert.lora_init"))
    parser.add_argument("--without-lora", action="store_true", help=t("cli.convert.without_lora"))
    parser.add_argument("--overwrite", action="store_true", help=t("cli.convert.overwrite"))
    parser.add_argument("--json", action="store_true", help=t("cli.convert.json"))
    parser.add_argument("--progress-json", action="store_true", help=t("cli.convert.progress_json"))
    parser.add_argument("--cancel-on-eof", action="store_true", help=argparse.SUPPRESS)
    add_settings(parser, ("models_dir", "data_dir"))


def run(args: argparse.Namespace) -> int:
    cancelled = threading.Event()
    printer = Printer(args.json, args.progress_json)
    if args.cancel_on_eof:
        threading.Thread(target=_cancel_at_eof, args=(cancelled,), name="roost-convert-end", daemon=True).start()
    with cancelled_by_signals(cancelled):
        return make(args, printer, cancelled)


def make(args: argparse.Namespace, printer: Printer, cancelled: threading.Event) -> int:
    """Returns the exit code; raises errors that the printer does not print."""
    try:
        source = source_path(args)
        options = ConversionOptions(
            args.strategy, args.lora, args.lora_alpha, args.overwrite, args.lora_init, args.without_lora, args.type
        )
        output = Path(args.output) if args.output else source.with_name(default_name(source.name, args.to, options))
        done = convert(source, output, args.to, options, printer.progress, cancelled.is_set)
    except Exception as exc:
        error = as_roost_error(exc)
        if not printer.failed(error):
            raise error from exc
        return CANCELLED if error.code == "conversion_cancelled" else 2
    printer.done(done)
    return 0


def source_path(args: argparse.Namespace) -> Path:
    """The file at this path; otherwise the model with this name."""
    as_named = Path(args.source)
    return (
        as_named
        if as_named.is_file() or is_model_folder_at(as_named)
        else ModelLibrary(settings_from(args).models_dir).find(args.source)
    )


@contextlib.contextmanager
def cancelled_by_signals(cancelled: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM cancel the conversion, so that the unfinished file is removed."""
    names = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {name: signal.signal(name, lambda *_: cancelled.set()) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _cancel_at_eof(cancelled: threading.Event) -> None:
    """Standard input ends when the server that started the conversion has ended, even if it was killed."""
    # the buffered reader would still hold its lock at exit
    unbuffered = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    while unbuffered.read(1):
        pass
    cancelled.set()


class Printer:
    """Prints progress and result, as text or as JSON."""

    def __init__(self, as_json: bool, each_line: bool) -> None:
        self._as_json = as_json
        self._each_line = each_line
        self._started = time.monotonic()

    def progress(self, progress: ConversionProgress) -> None:
        if self._each_line:
            _line({"event": "progress", **progress.to_dict()})
        elif sys.stderr.isatty():
            percent = f"{100 * progress.done_bytes // max(progress.total_bytes, 1):3}"
            line = t("cli.convert.progress", phase=t(f"cli.convert.phase.{progress.phase}"), percent=percent)
            print(f"\r{line}", end="", file=sys.stderr, flush=True)

    def done(self, converted: Converted) -> None:
        result = {
            "path": str(converted.path),
            "size_bytes": converted.size_bytes,
            "tensors": converted.tensors,
            "seconds": round(time.monotonic() - self._started, 2),
            "peak_rss_bytes": peak_bytes(os.getpid()),
        }
        if self._each_line:
            _line({"event": "done", **result})
        elif self._as_json:
            _line(result)
        else:
            self._end_line()
            size, seconds = f"{converted.size_bytes:,}", result["seconds"]
            print(t("cli.convert.done", path=converted.path, bytes=size, seconds=seconds))

    def failed(self, error: RoostError) -> bool:
        """Returns whether it printed the error."""
        if self._each_line or self._as_json:
            _line({"event": "failed", "error": error.to_dict()})
            return True
        self._end_line()
        if error.code == "conversion_cancelled":
            print(f"roost: {in_one_line(error)}", file=sys.stderr)
            return True
        return False

    def _end_line(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)


def _line(content: dict[str, Any]) -> None:
    print(json.dumps(content, ensure_ascii=False), flush=True)
