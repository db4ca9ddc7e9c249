"""The last lines a program wrote to its standard error: what it says when it cannot start."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TextIO

KEPT_LINES = 20
LINE_CHARS = 500


class StderrTail:
    """``sink`` is for the program. A thread reads what comes, so that the program never waits for a reader; it ends
    when the program and :meth:`release` have both let go of the pipe."""

    def __init__(self) -> None:
        read_end, write_end = os.pipe()
        self.sink: TextIO = os.fdopen(write_end, "w", encoding="utf-8", errors="replace")
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._thread = threading.Thread(target=self._read, args=(read_end,), name="mcp stderr", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Gives our own copy of the writing end back; may be called twice."""
        self.sink.close()

    def last_line(self, wait_s: float = 0.0) -> str:
        """ "" when it said nothing. ``wait_s``: for the words of a program that has just ended."""
        self._thread.join(wait_s)
        return next((line for line in reversed(self._lines) if line.strip()), "")

    def _read(self, read_end: int) -> None:
        with os.fdopen(read_end, encoding="utf-8", errors="replace", newline=None) as lines:
            while line := lines.readline(64 * 1024):
                if line.strip():
                    self._lines.append(line.strip()[:LINE_CHARS])
