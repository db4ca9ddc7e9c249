"""The process that runs one untrusted chat template: JSON on standard input, JSON on standard output, then it ends.

Jinja's immutable sandbox protects Python's internals from the template; the limits of this process protect the machine:
memory and CPU time if the system can limit them, and the output length. The calling process kills it after a timeout in
any case (:func:`webapp.chat.prompts.run_template`).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_BYTES = 512 << 20
MAX_CPU_S = 2
MAX_TEXT_CHARS = 4_000_000
MAX_PROBLEM_CHARS = 300


def rendered(source: str, context: dict[str, Any]) -> str:
    """Raises MemoryError for more than :data:`MAX_TEXT_CHARS`, TemplateError for a template that Jinja refuses."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": now}
    pieces: list[str] = []
    length = 0
    for piece in environment.from_string(source).generate(**context):
        length += len(piece)
        if length > MAX_TEXT_CHARS:
            raise MemoryError
        pieces.append(piece)
    return "".join(pieces)


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_more: Any) -> str:
    """As published templates expect it: without escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def refuse(message: object) -> NoReturn:
    raise TemplateError(str(message))


def now(form: str) -> str:
    return datetime.datetime.now().strftime(form[:100])


def bound() -> None:
    """Limits memory and CPU time as far as the system can: nothing on Windows, only CPU time on macOS."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))


def main() -> None:
    asked = json.loads(sys.stdin.buffer.read())
    bound()
    try:
        answer = {"text": rendered(asked["source"], json.loads(asked["context"]))}
    except MemoryError:
        answer = {"problem": "size"}
    except Exception as exc:  # any error comes from the template
        answer = {"problem": f"{type(exc).__name__}: {exc}"[:MAX_PROBLEM_CHARS]}
    sys.stdout.buffer.write(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
