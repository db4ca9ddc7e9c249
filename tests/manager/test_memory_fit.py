"""A model that does not fit into memory: the user is asked once, and requests do not try to load it."""

from __future__ import annotations

import pytest

from tests.errors import raises_code
from tests.manager.conftest import assert_failed, last_output, request, wait_phase
from webapp.backends.fake import FakeBackend
from webapp.engine.backend import RAM
from webapp.engine.outputs import FinishReason
from webapp.errors import ModelError, OutOfMemory
from webapp.manager import memory
from webapp.manager.library import ModelLibrary
from webapp.manager.memory import footprint_of, shortfall
from webapp.manager.target import Choice, TargetResolver


def run_out(*args):
    raise MemoryError("no more")


class Memory:
    """A machine on which the models in ``too_large`` do not fit; counts the queries."""

    def __init__(self, *too_large: str) -> None:
        self.too_large, self.asked = set(too_large), 0

    def __call__(self, target, reclaimable_bytes):
        self.asked += 1
        is_too_large = target.name in self.too_large
        return ModelError("model_does_not_fit", name=target.name, reason="too large") if is_too_large else None


def test_a_model_that_does_not_fit_is_refused_and_nothing_is_loaded(make_manager, starter):
    manager = make_manager(shortfall=Memory("v7.safetensors"))
    for attempt in (manager.load, lambda: manager.submit(request()), lambda: manager.logits([1])):
        with raises_code("model_does_not_fit"):
            attempt()
    status = manager.status()
    assert (status.phase, status.error["code"]) == ("failed", "model_does_not_fit")
    assert starter.clients == []


def test_loaded_anyway_it_is_not_asked_about_again(make_manager, starter):
    manager = make_manager(shortfall=Memory("v7.safetensors"))
    with raises_code("model_does_not_fit"):
        manager.load()
    manager.load_anyway()
    assert manager.wait_ready(60).phase == "ready" and manager.status().error is None
    manager.unload()
    wait_phase(manager, "empty")
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH
    assert len(starter.clients) == 2


def test_a_request_that_was_refused_can_be_loaded_anyway_too(make_manager):
    manager = make_manager(shortfall=Memory("v7.safetensors"))
    with raises_code("no_model"):
        manager.load_anyway()
    with raises_code("model_does_not_fit"):
        manager.submit(request())
    manager.load_anyway()
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH


def test_a_swap_to_a_model_that_does_not_fit_keeps_the_one_that_answers(make_manager):
    manager = make_manager(shortfall=Memory("v6.safetensors"))
    last_output(manager.submit(request()))
    with raises_code("model_does_not_fit"):
        manager.load("v6.safetensors")
    status = manager.status()
    assert (status.phase, status.model, status.error["code"]) == ("ready", "v7.safetensors", "model_does_not_fit")
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH
    manager.load_anyway()
    assert manager.wait_ready(60).model == "v6.safetensors"


def test_a_load_that_ran_out_of_memory_is_not_tried_by_every_later_request(make_manager, starter, monkeypatch):
    load = FakeBackend.load
    manager = make_manager()
    monkeypatch.setattr(FakeBackend, "load", run_out)
    assert_failed(manager.submit(request()), "out_of_memory")
    for _ in range(3):
        with raises_code("model_does_not_fit", key="reason.manager.memory_ran_out_before"):
            manager.submit(request())
    assert len(starter.clients) == 1
    manager.load()  # loaded explicitly, and the estimate says that it fits: tried again
    with pytest.raises(OutOfMemory):
        manager.wait_ready(60)
    assert len(starter.clients) == 2
    monkeypatch.setattr(FakeBackend, "load", load)
    manager.load()
    assert manager.wait_ready(60).phase == "ready"
    manager.unload()
    wait_phase(manager, "empty")
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH


def test_accepted_and_out_of_memory_it_is_refused_again(make_manager, starter, monkeypatch):
    manager = make_manager(shortfall=Memory("v7.safetensors"))
    with raises_code("model_does_not_fit"):
        manager.load()
    monkeypatch.setattr(FakeBackend, "load", run_out)
    manager.load_anyway()
    with pytest.raises(OutOfMemory):
        manager.wait_ready(60)
    with raises_code("model_does_not_fit"):
        manager.submit(request())
    assert len(starter.clients) == 1


def test_with_the_setting_nothing_is_asked(make_manager):
    memory = Memory("v7.safetensors")
    manager = make_manager(shortfall=memory, load_anyway=True)
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH
    assert memory.asked == 0


def test_the_shortfall_is_what_the_footprint_needs_beyond_what_is_free(models_dir, tmp_path, monkeypatch):
    resolver = TargetResolver(ModelLibrary(models_dir, tmp_path), lambda model, in_use: "")
    target = resolver.resolve(Choice("v7.safetensors", "cpu fp32"))
    monkeypatch.setattr(memory, "available_bytes", lambda: footprint_of(target).peak_bytes(RAM))
    assert shortfall(target, 0) is None
    monkeypatch.setattr(memory, "available_bytes", lambda: footprint_of(target).peak_bytes(RAM) - 1)
    assert "GB" in str(shortfall(target, 0)) and shortfall(target, 1) is None
