"""Wakes open pages. Carries no content: a topic's number goes up, and who wakes looks for what is new."""

from __future__ import annotations

import threading
from collections import Counter

LIST = "list"
STATUS = "status"
PRESETS = "presets"


def chat_topic(chat_id: str) -> str:
    return f"chat:{chat_id}"


class ChatNews:
    """One for the app; safe from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers: Counter[str] = Counter()

    def publish(self, *topics: str) -> None:
        with self._changed:
            self._numbers.update(topics)
            self._changed.notify_all()

    def number(self, topic: str) -> int:
        """How often the topic was published so far."""
        return self._numbers[topic]

    def wait(self, seen: dict[str, int], timeout_s: float) -> None:
        """Returns when a topic of ``seen`` has another number than the one given, or after the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: any(self._numbers[topic] != n for topic, n in seen.items()), timeout_s)
