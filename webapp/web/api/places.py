"""How many requests are answered at once: each holds one of the server's threads until it ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from webapp.errors import ServerBusy, TooManyStreams
from webapp.settings import Settings

THREADS_FOR_PAGES = 4


class Places:
    """Some of ``http_threads`` always stay for pages, whatever ``api_streams`` says."""

    def __init__(self, settings: Settings) -> None:
        self.limit = max(1, min(settings.api_streams, settings.http_threads - THREADS_FOR_PAGES))
        self.per_client = settings.api_streams_per_client
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        with self._lock:
            return sum(self._taken.values())

    def take(self, client: str) -> Callable[[], None]:
        """What gives the place back; it may be called twice. TooManyStreams or ServerBusy when there is none."""
        with self._lock:
            if self._taken[client] >= self.per_client:
                raise TooManyStreams(limit=self.per_client)
            if sum(self._taken.values()) >= self.limit:
                raise ServerBusy(limit=self.limit)
            self._taken[client] += 1
        is_given_back = threading.Event()

        def give_back() -> None:
            with self._lock:
                if is_given_back.is_set():
                    return
                is_given_back.set()
                self._taken[client] -= 1
                if not self._taken[client]:
                    del self._taken[client]

        return give_back
