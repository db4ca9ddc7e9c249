"""The `roost` command: a module for each subject; :mod:`.parser` finds that of a subcommand.

An error is printed as one line that says what to do, with exit code 2. Ctrl-C exits quietly with code 130, also while a
command is imported, which can take most of a second; so this module imports little.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence

NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def with_default_command(arguments: Sequence[str]) -> list[str]:
    """`roost --port 1` means `roost serve --port 1`."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help", "--version") or (first and not first.startswith("-")):
        return list(arguments)
    return ["serve", *arguments]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    try:
        prepare_streams()
        if argv is None and "_ARGCOMPLETE" in os.environ:  # the shell completes a line
            from webapp.cli.parser import print_completions

            print_completions()
        return run_command(with_default_command(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `roost models | head`
        discard_output()
        return 0
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        return report_os_error(error)


def run_command(arguments: Sequence[str]) -> int:
    from webapp.cli.options import in_one_line
    from webapp.cli.parser import parse
    from webapp.errors import RoostError

    args = parse(arguments)
    try:
        code = int(args.run(args) or 0)
        if sys.stdout is not None:
            sys.stdout.flush()  # reports a full disk here, not in the interpreter's words at exit
        return code
    except RoostError as error:
        print(f"roost: {in_one_line(error)}", file=sys.stderr)
        return 2


def prepare_streams() -> None:
    """Some terminals, and pipes on Windows, cannot print every character. Standard input may be closed or not be
    text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdin is None:
        sys.stdin = io.StringIO()
    elif isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")


def report_os_error(error: OSError) -> int:
    """Reports a path that cannot be used, or a full disk. Returns the exit code."""
    from webapp.i18n import system_reason
    from webapp.i18n.terminal import t

    reason = system_reason(error)
    if error.filename is not None:
        print(f"roost: {t('cli.no_place', path=error.filename, reason=reason)}", file=sys.stderr)
    else:
        discard_output()
        print(f"roost: {t('cli.no_room', reason=reason)}", file=sys.stderr)
    return 2


def discard_output() -> None:
    """Without this, the interpreter would flush at exit and print an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
