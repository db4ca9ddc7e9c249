"""How far a conversion has come, and the one place where it may be told to stop."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from webapp.errors import ConversionError

REPORT_EVERY_S = 0.1


@dataclass(frozen=True)
class ConversionProgress:
    """``phase``: ``convert`` or ``verify``; each counts its own bytes and tensors of the result."""

    phase: str
    done_bytes: int
    total_bytes: int
    done_tensors: int
    total_tensors: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


ReportProgress = Callable[[ConversionProgress], None]
IsCancelled = Callable[[], bool]


class Meter:
    """Counts one phase; every block asks whether to go on (``conversion_cancelled``), a report goes out ten times a
    second.

    ``checksums``: CRC-32 of each tensor's bytes, by name, as they passed by.
    """

    def __init__(
        self, phase: str, total_bytes: int, total_tensors: int, report: ReportProgress, is_cancelled: IsCancelled
    ) -> None:
        self.checksums: dict[str, int] = {}
        self._progress = ConversionProgress(phase, 0, total_bytes, 0, total_tensors)
        self._send = report
        self._is_cancelled = is_cancelled
        self._reported_at = time.monotonic()
        report(self._progress)

    def block(self, name: str, data: memoryview | bytes) -> None:
        self.checksums[name] = zlib.crc32(data, self.checksums.get(name, 0))
        self._progress = replace(self._progress, done_bytes=self._progress.done_bytes + len(data))
        self.check()

    def tensor_done(self, name: str) -> None:
        self.checksums.setdefault(name, 0)
        self._progress = replace(self._progress, done_tensors=self._progress.done_tensors + 1)
        if self._progress.done_tensors == self._progress.total_tensors:
            self._send(self._progress)

    def check(self) -> None:
        if self._is_cancelled():
            raise ConversionError("conversion_cancelled")
        now = time.monotonic()
        if now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            self._send(self._progress)
