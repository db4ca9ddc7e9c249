"""Whose turn it is where requests choose their model (``api_switch_models``): one model's requests at a time.

A request for another model waits until the answers before it are written, so that nobody's answer ends because somebody
else has named another model. First come, first served: who waits longest comes next, and with it those behind it who
name the same model.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from webapp.errors import ServerBusy

POLL_S = 0.25


class ModelTurns:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._model = ""
        self._open = 0

    def enter(self, model: str, check: Callable[[], None]) -> None:
        """Returns when it is ``model``'s turn; ``check`` is called now and then, and may raise."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or self._is_others(model):
                    self._changed.wait(POLL_S)
                    check()
                self._take(model)
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def enter_at_once(self, model: str) -> None:
        """For what takes no time and must not wait: ServerBusy while it is another model's turn."""
        with self._changed:
            if self._is_others(model):
                raise ServerBusy(limit=self._open)
            self._take(model)

    def leave(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _is_others(self, model: str) -> bool:
        return bool(self._open) and self._model != model

    def _take(self, model: str) -> None:
        self._model = model
        self._open += 1
