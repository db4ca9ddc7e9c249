"""A turn that is being written, as any number of viewers may watch it: a log of events and a way to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from webapp.chat.events import AnswerEvent, Failed


class LiveTurn:
    """The log from its start is always the whole message, for a continued answer too, so a viewer may come any time.

    ``user_message_id`` is "" where an answer has no question. The turn needs no viewer.
    """

    def __init__(self, chat_id: str, user_message_id: str, message_id: str) -> None:
        self.chat_id = chat_id
        self.user_message_id = user_message_id
        self.message_id = message_id
        self.finished_at: float | None = None
        """``time.monotonic()`` of its end."""
        self.is_stopping = False
        self.is_closing = False
        """The server ends: what is there is kept as interrupted, not as stopped."""
        self._events: list[AnswerEvent] = []
        self._changed = threading.Condition()
        self._abort: Callable[[], None] | None = None
        self._listeners: set[Callable[[], object]] = set()

    @property
    def is_finished(self) -> bool:
        """The log is complete and the message stored."""
        return self.finished_at is not None

    @property
    def failure(self) -> dict[str, Any] | None:
        """Why it failed; None while it is written and where it went well."""
        last = self._events[-1] if self.is_finished else None
        return last.error if isinstance(last, Failed) else None

    def events_after(self, position: int, timeout_s: float) -> tuple[list[AnswerEvent], int]:
        """Events from ``position`` (0 at first) on, and the position after them.

        Waits for the first up to ``timeout_s``; returns at once, maybe with nothing, when the turn is finished.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) > position or self.is_finished, timeout_s)
            return self._events[position:], max(position, len(self._events))

    @property
    def event_count(self) -> int:
        return len(self._events)

    def listen(self, listener: Callable[[], object]) -> None:
        """Called after every event, in the writer's thread; it must return at once."""
        with self._changed:
            self._listeners.add(listener)

    def forget(self, listener: Callable[[], object]) -> None:
        with self._changed:
            self._listeners.discard(listener)

    def wait_finished(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.is_finished, timeout_s)

    def stop(self, is_closing: bool = False) -> None:
        """Asks for the end and returns; what is written stays."""
        with self._changed:
            self.is_stopping = True
            self.is_closing = self.is_closing or is_closing
            abort = self._abort
        if abort is not None:
            abort()

    def on_stop(self, abort: Callable[[], None]) -> None:
        """For the writer: what :meth:`stop` calls; called at once when it came before."""
        with self._changed:
            self._abort = abort
            is_stopping = self.is_stopping
        if is_stopping:
            abort()

    def emit(self, events: Iterable[AnswerEvent]) -> None:
        """For the writer."""
        with self._changed:
            self._events += events
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def finish(self, last: AnswerEvent) -> None:
        """For the writer: the last event and the end in one."""
        with self._changed:
            self._events.append(last)
            self.finished_at = time.monotonic()
            self.emit(())
