"""Shared code of Roost's child processes: frames over standard streams, and process setup.

The engine process (:mod:`webapp.manager.loop`) and the file reader (:mod:`.reader_process`) are new interpreters that
communicate over standard input and output: a frame is its length in 8 bytes, then its bytes.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Protocol

HEADER = struct.Struct(">Q")
READ_BYTES = 1 << 20


class Pipe(Protocol):
    """An ``io.FileIO``: may read and write less than requested."""

    def read(self, size: int = -1, /) -> bytes | None: ...

    def write(self, data: Any, /) -> int | None: ...


def start_process(code: str, defaults: Mapping[str, str], **options: Any) -> subprocess.Popen[bytes]:
    """Starts a new interpreter that runs ``code``, with unbuffered pipes as standard input and output. ``defaults``:
    environment variables that it gets unless they are set. Raises OSError.

    It has exactly the module path of this process. `-m` would put the working directory before it. multiprocessing
    would run this process's main module again (wsgi.py creates an app) and leave a resource tracker process behind.
    """
    boot = f"import sys; sys.path[:] = sys.argv[1:]\n{code}"
    return subprocess.Popen(
        [sys.executable, "-c", boot, *(os.path.abspath(entry) for entry in sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        close_fds=True,  # no listening socket, no database
        env={**defaults, **os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace"},
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        **options,
    )


def close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def framed(payload: bytes) -> bytes:
    return HEADER.pack(len(payload)) + payload


def write_frame(pipe: Pipe, frame: bytes) -> None:
    """Blocks until the pipe has accepted all bytes. Raises OSError if the other end is closed."""
    rest = memoryview(frame)
    while rest:
        rest = rest[pipe.write(rest) or 0 :]


def read_frame(pipe: Pipe, limit_bytes: int | None = None) -> bytes:
    """Waits for the next frame. Raises EOFError if the other end is closed or the frame exceeds ``limit_bytes``."""
    (size,) = HEADER.unpack(_read_exactly(pipe, HEADER.size))
    if limit_bytes is not None and size > limit_bytes:
        raise EOFError("a frame is out of all proportion")
    return _read_exactly(pipe, size)


def _read_exactly(pipe: Pipe, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        chunk = pipe.read(min(size - len(found), READ_BYTES))
        if not chunk:
            raise EOFError("the other end of the pipe is closed")
        found += chunk
    return bytes(found)


def take_over_streams() -> tuple[io.FileIO, io.FileIO]:
    """The two pipes, moved to other descriptors, so that ``print`` and ``input`` in libraries cannot use them."""
    requests, replies = os.dup(0), os.dup(1)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(requests, os.O_BINARY)
        msvcrt.setmode(replies, os.O_BINARY)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return io.FileIO(requests, "rb"), io.FileIO(replies, "wb")


def describe_process(name: str) -> None:
    """On Linux, sets a name for ``ps``, and makes the kernel prefer this process to the server if memory runs out."""
    for file_name, value in (("comm", name), ("oom_score_adj", "500")):
        with contextlib.suppress(OSError), open(f"/proc/self/{file_name}", "w", encoding="ascii") as file:
            file.write(value)
