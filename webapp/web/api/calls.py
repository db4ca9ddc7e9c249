"""One call of an address for programs: its record, its place among those answered at once, its model's turn."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from webapp.errors import ServerBusy, TooManyStreams
from webapp.settings import Settings

log = logging.getLogger("roost.api")


@dataclass
class Record:
    """``error`` is an error's code. Times are seconds. ``on_end`` is told once, when the answer is closed."""

    route: str
    client: str
    model: str = ""
    status: int = 0
    is_stream: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    error: str = ""
    is_gone: bool = False
    first_token_s: float | None = None
    seconds: float = 0.0
    on_end: Callable[[Record], None] | None = None
    may_wait: bool = True
    at_end: list[Callable[[], None]] = field(default_factory=list)
    """What the call holds and gives back."""
    _began_at: float = field(default_factory=time.monotonic)
    _is_ended: bool = False

    def note_token(self) -> None:
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self._began_at

    def end(self) -> None:
        """Once; later calls do nothing."""
        if self._is_ended:
            return
        self._is_ended = True
        self.seconds = time.monotonic() - self._began_at
        for give_back in self.at_end:
            give_back()
        log.info("%s", self)
        if self.on_end is not None:
            self.on_end(self)

    def __str__(self) -> str:
        shown = {
            "route": self.route,
            "client": self.client,
            "model": self.model,
            "status": self.status,
            "stream": self.is_stream,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "finish": ",".join(self.finish_reasons),
            "error": self.error,
            "gone": self.is_gone,
            "first_token_s": None if self.first_token_s is None else round(self.first_token_s, 4),
            "seconds": round(self.seconds, 4),
        }
        return json.dumps({name: value for name, value in shown.items() if value not in ("", None, False)})


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
