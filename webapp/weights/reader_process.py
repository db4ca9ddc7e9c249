"""The process that opens model and state files, so that the web process never parses or maps one.

:class:`webapp.weights.file_reader.ReaderProcess` starts it and communicates with it: msgpack frames on standard input
and output, one request at a time. If a file defeats all checks of the readers, only this process ends. It also limits
itself: memory by the system's limit if there is one, time by a timer in C that needs no Python lock. It ends when its
standard input closes, in whatever way the web process ended.

It imports no torch, and numpy only for states.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from webapp.engine.state import ModelConfig
from webapp.errors import RoostError, WeightsError
from webapp.i18n import Text, plain
from webapp.weights.child_process import Pipe, describe_process, framed, read_frame, take_over_streams, write_frame
from webapp.weights.inspection import Inspection, inspect
from webapp.weights.state_sheet import (
    PrefixSheet,
    StateMeasures,
    StateSheet,
    measure,
    prefix_of,
    sheet_of,
    source_of,
    write_state_file,
)

NAME = "roost-reader"
GRACE_S = 5.0
"""The web process ends a request in time; otherwise this process ends itself after this additional time."""
HERE = ""
"""In an error's ``path``: the request's file. Only the web process knows its displayed name."""


class Request(Struct, frozen=True, array_like=True):
    """Paths in ``arguments`` are bytes as of ``os.fsencode``."""

    operation: str
    arguments: list[Any]
    wall_s: float
    memory_bytes: int


class Reply(Struct, frozen=True, array_like=True):
    """``outcome``: done, refused (``value`` is the error's dict) or memory (more was needed than the request had)."""

    outcome: str
    value: msgspec.Raw


# Operations


def inspect_file(path: bytes, any_name: bool) -> tuple[Inspection, str | dict[str, Any]]:
    """Also returns the reason, a Text as its dict, so that it can be translated later."""
    found = inspect(os.fsdecode(path), any_name)
    reason = plain(found.reason)
    return replace(found, path=HERE, reason=""), reason


def state_sheet(path: bytes, name: str) -> StateSheet:
    from webapp.weights.state_file import open_state

    return sheet_of(open_state(os.fsdecode(path), name))


def read_state(path: bytes, config: dict[str, Any]) -> tuple[str, bytes]:
    """Digest, and float32 ``(n_layer, n_head, head_size, head_size)`` in this machine's byte order; for a running state
    followed by its shifts ``(2, n_layer, n_embd)``."""
    from webapp.weights.state_file import read_state_file

    found = read_state_file(os.fsdecode(path), ModelConfig(**config))
    return found.digest, found.layers.tobytes() + (b"" if found.shifts is None else found.shifts.tobytes())


def prefix_source(path: bytes) -> tuple[PrefixSheet, dict[str, Any]] | None:
    """The prefix of a state file and the prefix's source; reads no tensor."""
    from webapp.weights.checkpoint import open_checkpoint

    with open_checkpoint(os.fsdecode(path)) as checkpoint:
        sheet, source = prefix_of(checkpoint.metadata), source_of(checkpoint.metadata)
    return None if sheet is None or source is None else (sheet, source)


def state_measures(path: bytes, other: bytes) -> StateMeasures:
    """Of a state file, compared with another if ``other`` is not empty."""
    from webapp.weights.state_file import oriented_states

    first, *second = oriented_states([os.fsdecode(one) for one in (path, other) if one])
    return measure({"att_kv": first}, {"att_kv": second[0]} if second else None)


def document_text(path: bytes, kind: str) -> str:
    """The text of a PDF, a Word or an HTML file (UTF-8)."""
    from webapp.weights.document_text import docx_text, html_text, pdf_text

    reads = {"pdf": pdf_text, "docx": docx_text, "html": html_text}
    return reads[kind](Path(os.fsdecode(path)))


def blend(parts: list[tuple[bytes, str, float]], target: bytes, note: str) -> None:
    """``parts``: ``(path, name, weight)``; an empty path means the zero state. Writes the blend to ``target``."""
    from webapp.weights.state_file import blend_states, open_state

    states = [(open_state(os.fsdecode(path), name) if path else None, weight) for path, name, weight in parts]
    layers, architecture = blend_states(states)
    write_state_file(Path(os.fsdecode(target)), layers, architecture, note)


def copy_out(path: bytes, target: bytes, note: str) -> None:
    """Writes the state merged in a model file to ``target``."""
    from webapp.weights.state_file import merged_state

    found = merged_state(os.fsdecode(path))
    write_state_file(Path(os.fsdecode(target)), found.layers, found.origin.architecture, note)


def planned_bytes(path: bytes, target: str, options: dict[str, Any], lora: bytes) -> int:
    """Bytes of the tensors that a conversion would write; raises the conversion's errors."""
    from webapp.weights.convert.conversion import plan_for
    from webapp.weights.convert.plan import ConversionOptions

    plan = plan_for(os.fsdecode(path), target, ConversionOptions(**options, lora=os.fsdecode(lora)))
    return plan.total_bytes


def adapter_fits(path: bytes, adapter: bytes, alpha: float, start: bytes) -> None:
    """Raises an error if it does not fit. ``alpha`` 0 and an empty ``start`` mean not given."""
    from webapp.weights.adapter import AdapterChoice, check_adapter

    choice = AdapterChoice(os.fsdecode(adapter), alpha or None, os.fsdecode(start))
    check_adapter(os.fsdecode(path), choice)


OPERATIONS: dict[str, Callable[..., Any]] = {
    made.__name__: made
    for made in (
        inspect_file,
        state_sheet,
        read_state,
        prefix_source,
        state_measures,
        document_text,
        blend,
        copy_out,
        planned_bytes,
        adapter_fits,
    )
}


# The process


def main() -> None:
    """Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the web process decides
    requests, replies = take_over_streams()
    _describe_process()
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, waiting), name="roost-reader-requests", daemon=True).start()
    write_frame(replies, framed(b"ready"))
    with open(os.devnull, "w") as nothing:
        while True:
            request = msgspec.msgpack.decode(waiting.get(), type=Request)
            faulthandler.dump_traceback_later(request.wall_s + GRACE_S, exit=True, file=nothing)
            reply = _answer(request)
            faulthandler.cancel_dump_traceback_later()
            write_frame(replies, framed(reply))


def _listen(requests: Pipe, waiting: queue.SimpleQueue[bytes]) -> None:
    try:
        while True:
            waiting.put(read_frame(requests, 1 << 24))
    finally:
        os._exit(0)  # the web process has closed the pipe or ended


def _answer(request: Request) -> bytes:
    _limit_memory(request.memory_bytes)
    try:
        value = OPERATIONS[request.operation](*request.arguments)
        return msgspec.msgpack.encode(("done", value))
    except MemoryError:
        return msgspec.msgpack.encode(("memory", None))
    except RoostError as exc:
        return _refusal(request, exc)
    except Exception as exc:
        traceback.print_exc()  # a bug; the page at least names the file
        error = WeightsError(path=HERE, reason=Text("reason.weights.reader_failed", error=type(exc).__name__))
        return _refusal(request, error)


def _refusal(request: Request, error: RoostError) -> bytes:
    described = error.to_dict()
    paths = {os.fsdecode(argument) for argument in request.arguments if isinstance(argument, bytes)}
    if described["params"].get("path") in paths:
        described["params"]["path"] = HERE
    described["message"] = described["hint"] = ""  # generated again from the rest
    return msgspec.msgpack.encode(("refused", _plain(described)))


def _plain(value: Any) -> Any:
    """Converts values that msgpack cannot express to text (lone surrogates, numbers beyond 64 bits)."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_plain(key): _plain(one) for key, one in value.items()}
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


def _limit_memory(limit_bytes: int) -> None:
    """Limits writable memory; maps of files that are only read do not count. Only Linux enforces it; elsewhere the web
    process watches."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = limit_bytes if most == resource.RLIM_INFINITY else min(limit_bytes, most)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


def _describe_process() -> None:
    """Sets its name, and prevents a core dump after a crash."""
    describe_process(NAME)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
