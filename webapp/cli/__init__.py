"""The `roost` command: one module a subcommand, each with ``add_arguments`` and ``run``.

Errors are one line with the way out, and exit code 2; Ctrl-C ends quietly with 130. This module imports little: the
commands take most of a second to import, and Ctrl-C is quiet then, too.
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
    """Runs one command; the exit code."""
    try:
        prepare_streams()
        if argv is None and "_ARGCOMPLETE" in os.environ:  # a shell asks, at Tab
            from webapp.cli.completion import answer_the_shell

            answer_the_shell()
        return run_command(with_default_command(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `roost models | head`
        discard_output()
        return 0
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        return tell_of(error)


def run_command(arguments: Sequence[str]) -> int:
    from webapp.cli.options import in_one_line
    from webapp.cli.parser import parse
    from webapp.errors import RoostError

    args = parse(arguments)
    try:
        code = int(args.run(args) or 0)
        if sys.stdout is not None:
            sys.stdout.flush()  # report a full disk here, not in the interpreter's own words at exit
        return code
    except RoostError as error:
        print(f"roost: {in_one_line(error)}", file=sys.stderr)
        return 2


def prepare_streams() -> None:
    """Not every terminal, and no pipe on Windows, has every character; what comes in may be no text, or closed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdin is None:
        sys.stdin = io.StringIO()
    elif isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")


def tell_of(error: OSError) -> int:
    """A path that cannot be used, or an output that is full."""
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
    """The interpreter flushes at exit, and would print an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
