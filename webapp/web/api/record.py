"""What is known of one call in the end: a line of the log and a few numbers, never what was asked or answered."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

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
