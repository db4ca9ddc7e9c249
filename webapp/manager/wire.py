"""Frames on an unbuffered pipe: an 8-byte length, then a pickle.

Pickles are safe here because the other end is our own process, whose pipe nobody else can open. Unbuffered, because a
daemon thread that waits inside a buffered reader can deadlock an interpreter that is shutting down.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, Protocol

HEADER = struct.Struct(">Q")
READ_BYTES = 1 << 20


class Pipe(Protocol):
    """An ``io.FileIO``: may read and write less than asked."""

    def read(self, size: int = -1, /) -> bytes | None: ...

    def write(self, data: Any, /) -> int | None: ...


def pack(message: object) -> bytes:
    payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(payload)) + payload


def write_frame(pipe: Pipe, frame: bytes) -> None:
    """Blocks until the pipe took all of it; OSError when the other end is gone."""
    rest = memoryview(frame)
    while rest:
        rest = rest[pipe.write(rest) or 0 :]


def read_message(pipe: Pipe) -> Any:
    """Blocks for the next message; EOFError when the other end is gone."""
    (size,) = HEADER.unpack(_read_exactly(pipe, HEADER.size))
    return pickle.loads(_read_exactly(pipe, size))


def _read_exactly(pipe: Pipe, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        chunk = pipe.read(min(size - len(found), READ_BYTES))
        if not chunk:
            raise EOFError("the other end of the pipe is closed")
        found += chunk
    return bytes(found)
