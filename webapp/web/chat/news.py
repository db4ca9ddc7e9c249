"""Wakes open pages. Carries no content: a topic's number changes, and who wakes looks for what is new."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

LIST = "list"
STATUS = "status"
PRESETS = "presets"
MOST_TOPICS = 1000


def chat_topic(chat_id: str) -> str:
    return f"chat:{chat_id}"


class ChatNews:
    """One for the app; safe from any thread. Remembers the :data:`MOST_TOPICS` published last: a topic that was
    forgotten counts as published when it was, so that a page looks once too often and never misses anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._count = 0
        self._forgotten = 0
        self._listeners: set[Callable[[], object]] = set()

    def publish(self, *topics: str) -> None:
        with self._lock:
            for topic in topics:
                self._count += 1
                self._numbers[topic] = self._count
                self._numbers.move_to_end(topic)
            while len(self._numbers) > MOST_TOPICS:
                self._forgotten = self._numbers.popitem(last=False)[1]
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def number(self, topic: str) -> int:
        """Another one after each publication of the topic."""
        return self._numbers.get(topic, self._forgotten)

    def listen(self, listener: Callable[[], object]) -> None:
        """Called after every publication, in the thread that published; it must return at once."""
        with self._lock:
            self._listeners.add(listener)

    def forget(self, listener: Callable[[], object]) -> None:
        with self._lock:
            self._listeners.discard(listener)
