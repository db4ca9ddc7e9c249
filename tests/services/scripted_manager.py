"""A manager with scripted answers: a small real implementation, without engine, threads or files."""

from __future__ import annotations

import threading
from collections import deque
from types import SimpleNamespace

from webapp.engine.outputs import FinishReason, SequenceStats, TokenOutput
from webapp.errors import FileMissing, ModelError
from webapp.manager.target import ModelStatus

STATS = SequenceStats(prompt_tokens=3, prefilled_tokens=3, decoded_tokens=5, decode_s=2.0, seed=42)
HANG = object()
"""Sends nothing more, not even after an abort."""


def end(reason="stop", error=None):
    return TokenOutput("", finish_reason=FinishReason(reason), stats=STATS, error=error)


class ScriptedHandle:
    """Steps: text or ids (one token per output), an event object, an exception to raise, an Event to wait for, HANG."""

    is_finished = False

    def __init__(self, steps, tokenizer):
        self.is_aborted = threading.Event()
        self._steps = deque()
        for step in steps:
            self._steps += self._outputs(step, tokenizer)
        self._steps.append(end())

    @staticmethod
    def _outputs(step, tokenizer):
        ids = tokenizer.encode(step) if isinstance(step, str) else step if isinstance(step, (list, tuple)) else None
        return [step] if ids is None else [TokenOutput("", (token_id,)) for token_id in ids]

    def abort(self):
        self.is_aborted.set()

    def next_event(self, timeout_s, gather_s=0.0):
        step = self._steps[0]
        if step is HANG:
            threading.Event().wait(min(timeout_s, 0.01))
            return None
        if self.is_aborted.is_set():
            return end("abort")
        if isinstance(step, threading.Event):
            if not step.wait(0.01):
                return None
            self._steps.popleft()
            return self.next_event(timeout_s)
        self._steps.popleft()
        if isinstance(step, Exception):
            raise step
        return step


class ScriptedManager:
    """Answers each request with the next script; ``requests`` and ``handles`` are collected."""

    def __init__(self, tokenizer, *scripts, architecture="7", parameters=0):
        self.scripts = list(scripts)
        self.requests = []
        self.states = []
        self.handles = []
        self._tokenizer = tokenizer
        self.library = SimpleNamespace(find_state=self._no_state)
        config = SimpleNamespace(architecture=architecture, vocab_size=65536)
        facts = {"path": "/models/starter.pth", "kind": "model", "tokenizer": "world", "metadata": {}}
        self._info = SimpleNamespace(config=config, parameters=parameters, **facts)

    @staticmethod
    def _no_state(name):
        raise FileMissing("state_not_found", path=name)

    def begin_loading(self):
        """Nothing to load."""

    def check_length(self, text):
        """Any text is short enough."""

    def tokenizer(self):
        return self._tokenizer

    def model_digest(self):
        return "scripted"

    def model_info(self):
        return self._info

    def status(self):
        return ModelStatus(phase="ready", model="starter.pth", strategy="cpu fp32", state="kind.pth")

    def submit(self, request, made_for=None, state=None):
        if made_for is not self._info:
            raise ModelError("model_unloaded")
        self.requests.append(request)
        self.states.append(state)
        script = self.scripts.pop(0)
        if isinstance(script, Exception):
            raise script
        handle = ScriptedHandle([script] if isinstance(script, str) else script, self._tokenizer)
        self.handles.append(handle)
        return handle
