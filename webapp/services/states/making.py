"""A state made by letting the model read a text: what it remembers of that is kept as a file.

Only what a state file can hold is kept (``att_kv``), not the last token's activations, so a sequence that starts from
it goes on as after a new beginning, with the text in mind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from webapp.errors import PromptEmpty, PromptTooLong, RoostError, StateMismatch, as_roost_error
from webapp.manager.manager import ModelManager
from webapp.weights.inspection import require_model

MOST_TOKENS = 16384
Place = Callable[[str, Any, str, str], str]
"""``(new_name, layers, architecture, note)`` -> the name of the file."""


@dataclass(frozen=True)
class MakingJob:
    """``phase``: none, running, done or failed. ``name`` is the file's once it is done, before that the one wished."""

    phase: str = "none"
    name: str = ""
    model: str = ""
    tokens: int = 0
    error: RoostError | None = None


class StateMaking:
    """One at a time, on a thread: a long text takes minutes on a slow machine."""

    def __init__(self, manager: ModelManager, place: Place) -> None:
        self._manager = manager
        self._place = place
        self._lock = threading.Lock()
        self._job = MakingJob()
        self._thread: threading.Thread | None = None

    @property
    def job(self) -> MakingJob:
        return self._job

    def start(self, text: str, new_name: str) -> MakingJob:
        """PromptEmpty, PromptTooLong, and what is wrong with the model, at once. Nothing new while one is running."""
        info = self._manager.model_info()
        config = require_model(info)
        if config.major == 4:
            raise StateMismatch(path=new_name, what="the model's version", expected="RWKV 5, 6 or 7", found="RWKV 4")
        token_ids = self._manager.tokenizer().encode(text.strip())
        if not token_ids:
            raise PromptEmpty()
        if len(token_ids) > MOST_TOKENS:
            raise PromptTooLong(found=len(token_ids), limit=MOST_TOKENS)
        with self._lock:
            if self._job.phase != "running":
                self._job = MakingJob("running", new_name, self._manager.status().model, len(token_ids))
                args = (tuple(token_ids), new_name)
                self._thread = threading.Thread(target=self._make, args=args, name="roost-state", daemon=True)
                self._thread.start()
            return self._job

    def wait(self, timeout_s: float | None = None) -> MakingJob:
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._job

    def forget(self) -> None:
        """Takes one that has ended off the page."""
        with self._lock:
            if self._job.phase != "running":
                self._job = MakingJob()

    def close(self) -> None:
        """After the manager's, which ends what the engine was reading."""
        self.wait(5)

    def _make(self, token_ids: tuple[int, ...], new_name: str) -> None:
        try:
            state = self._manager.read_state(token_ids, state="")
            architecture = state.architecture[0]
            note = f"made of a text of {len(token_ids)} tokens by {self._job.model}"
            name = self._place(new_name, state.arrays["att_kv"], architecture, note)
            self._job = replace(self._job, phase="done", name=name)
        except Exception as exc:  # shown on the page
            self._job = replace(self._job, phase="failed", error=as_roost_error(exc))
