"""The manager as one answer of a bench sees it: a model that stays the same, and a request that can be called off."""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol

from webapp.engine.outputs import FinishReason, GenerationRequest, TokenOutput
from webapp.errors import QueueFull
from webapp.manager.handles import RequestHandle, Service
from webapp.manager.model_status import ModelStatus
from webapp.tokenizer import Tokenizer
from webapp.weights.inspection import Inspection

RETRY_S = 0.3
STEP_S = 0.5
ABORT_GRACE_S = 5.0
"""How long an engine may take to confirm that a request is called off."""


class Manager(Protocol):
    """What is needed of :class:`webapp.manager.model_manager.ModelManager`."""

    def tokenizer(self) -> Tokenizer: ...

    def model_info(self) -> Inspection: ...

    def status(self) -> ModelStatus: ...

    def submit(
        self, request: GenerationRequest, made_for: Inspection | None = None, state: str | None = None
    ) -> Any: ...


class PinnedManager:
    """For one request. ``info`` is the model the run began with: another one loaded since refuses the request."""

    def __init__(self, manager: Manager, info: Inspection, tokenizer: Tokenizer) -> None:
        self._manager = manager
        self._info = info
        self._tokenizer = tokenizer
        self._handle: RequestHandle | None = None
        self._called_off = threading.Event()

    @property
    def is_aborted(self) -> bool:
        return self._called_off.is_set()

    @property
    def service(self) -> Service:
        """What the request was answered with."""
        return self._handle.service if self._handle is not None else Service()

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def model_info(self) -> Inspection:
        return self._info

    def submit(
        self, request: GenerationRequest, made_for: Inspection | None = None, state: str | None = None
    ) -> PinnedHandle:
        """Waits for room where the queue is full: a bench has time."""
        while True:
            try:
                self._handle = self._manager.submit(request, made_for, state)
                break
            except QueueFull:
                if self._called_off.wait(RETRY_S):
                    raise
        if self._called_off.is_set():
            self._handle.abort()
        return PinnedHandle(self._handle, self._called_off)

    def abort(self) -> None:
        """From any thread, before or after :meth:`submit`."""
        self._called_off.set()
        if self._handle is not None:
            self._handle.abort()


class PinnedHandle:
    """Ends by itself some seconds after it was called off, whatever the engine says."""

    def __init__(self, handle: RequestHandle, called_off: threading.Event) -> None:
        self._handle = handle
        self._called_off = called_off
        self._deadline = 0.0

    def abort(self) -> None:
        self._handle.abort()

    def next_event(self, timeout_s: float) -> object | None:
        if self._called_off.is_set():
            self._deadline = self._deadline or time.monotonic() + ABORT_GRACE_S
            if time.monotonic() > self._deadline:
                return TokenOutput(self._handle.request_id, finish_reason=FinishReason.ABORT)
        return self._handle.next_event(min(timeout_s, STEP_S))
