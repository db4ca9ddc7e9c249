"""The calls of tools that are being run now. They are in memory alone: after a restart such a call waits again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

Key = tuple[str, str]
"""Message and call."""


class RunningCalls:
    """Safe from any thread. A call is run by whoever claims it, and by nobody else until it is given back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: dict[Key, threading.Event] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._stops

    def of(self, message_id: str) -> tuple[str, ...]:
        """The calls of a message that are being run."""
        return tuple(sorted(call_id for found_in, call_id in list(self._stops) if found_in == message_id))

    def claim(self, key: Key) -> bool:
        """False where it runs already: nothing runs twice, however many pages press the button."""
        with self._lock:
            if key in self._stops:
                return False
            self._stops[key] = threading.Event()
            return True

    def give_back(self, key: Key) -> None:
        with self._lock:
            self._stops.pop(key, None)

    @contextmanager
    def given_back_on_error(self, key: Key) -> Iterator[None]:
        """Gives a claimed call back when what prepares it fails."""
        try:
            yield
        except BaseException:
            self.give_back(key)
            raise

    def stop(self, key: Key) -> bool:
        """Whether it ran; whoever runs it is told through :meth:`is_stopped`."""
        found = self._stops.get(key)
        if found is not None:
            found.set()
        return found is not None

    def is_stopped(self, key: Key) -> bool:
        found = self._stops.get(key)
        return found is not None and found.is_set()
