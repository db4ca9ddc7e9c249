"""A number that grows whenever something on disk changed; whoever looks pays for the looking, no thread runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

PACE_S = 0.9


class FolderWatch:
    """``picture()`` is what the disk looks like now, cheap to make: names, sizes and dates.

    Any number of open pages ask; the disk is looked at once a ``pace_s`` for all of them together.
    """

    def __init__(self, picture: Callable[[], Hashable], pace_s: float = PACE_S) -> None:
        self._picture = picture
        self._pace_s = pace_s
        self._lock = threading.Lock()
        self._seen: Hashable = None
        self._looked_at = -1e9
        self._revision = 0

    def revision(self) -> int:
        with self._lock:
            if time.monotonic() - self._looked_at >= self._pace_s:
                now = self._picture()
                self._revision += now != self._seen
                self._seen, self._looked_at = now, time.monotonic()
            return self._revision

    def look_again(self) -> None:
        """The next question looks at the disk at once: Roost itself has just changed something."""
        with self._lock:
            self._looked_at = -1e9

    def wait_change(self, revision: int, timeout_s: float) -> int:
        """The revision once it is another than ``revision``, or after the time."""
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while self.revision() == revision and time.monotonic() < deadline:
            pause.wait(min(self._pace_s, max(deadline - time.monotonic(), 0)))
        return self.revision()
