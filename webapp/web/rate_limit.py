"""Token buckets, one a key."""

from __future__ import annotations

import threading
import time


class RateLimit:
    """Allows ``burst`` at once and ``per_second`` in the long run; bounded in the number of keys it remembers."""

    def __init__(self, per_second: float, burst: float, most_keys: int = 4096) -> None:
        self.per_second = per_second
        self.burst = burst
        self.most_keys = most_keys
        self._levels: dict[str, tuple[float, float]] = {}  # key -> (level, when), least recently used first
        self._lock = threading.Lock()

    def allows(self, key: str) -> bool:
        """Takes one from ``key``'s bucket; False when it is empty."""
        now = time.monotonic()
        with self._lock:
            level, then = self._levels.pop(key, (self.burst, now))
            level = min(self.burst, level + (now - then) * self.per_second)
            is_allowed = level >= 1
            self._levels[key] = (level - 1 if is_allowed else level, now)
            if len(self._levels) > self.most_keys:
                self._levels.pop(next(iter(self._levels)))
        return is_allowed

    def __len__(self) -> int:
        return len(self._levels)
