"""Fixtures of the tests of pages and APIs."""

import threading

import pytest

from tests.waiting import PATIENCE_S
from webapp.backends.fake import FakeBackend


@pytest.fixture
def gate(monkeypatch):
    """While it is closed (cleared), no fake model computes a step."""
    gate, step = threading.Event(), FakeBackend.step
    gate.set()

    def gated(self, batch):
        gate.wait(PATIENCE_S)
        return step(self, batch)

    monkeypatch.setattr(FakeBackend, "step", gated)
    yield gate
    gate.set()
