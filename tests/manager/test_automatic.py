"""The choice of ``auto``, and how a better engine replaces the first one when it has been built."""

from __future__ import annotations

import threading

import pytest

from tests.manager.conftest import last_output, request
from tests.waiting import PATIENCE_S, WaitRanOut
from tests.waiting import wait_until as wait_for
from webapp.backends.fake import FakeBackend
from webapp.engine import registry
from webapp.engine.backend import Availability, Suggestion
from webapp.errors import BackendUnavailable
from webapp.manager import memory

SLOW = "fake script=ab repeat=0 delay_ms=2"


class Slow(FakeBackend):
    @classmethod
    def suggestions(cls, model):
        return [Suggestion(SLOW, 50, "")]


class Better(FakeBackend):
    """Must be built first."""

    state = Availability(True, is_ready=False)
    may_end = threading.Event()
    error: BackendUnavailable | None = None

    @classmethod
    def availability(cls):
        return cls.state

    @classmethod
    def suggestions(cls, model):
        return [Suggestion("better vocab=256", 20, "")]

    @classmethod
    def prepare(cls):
        assert cls.may_end.wait(60)
        if cls.error:
            raise cls.error
        cls.state = Availability(True)


@pytest.fixture(autouse=True)
def two_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        registry.BackendEntry("better", f"{__name__}:Better"),
        registry.BackendEntry("fake", f"{__name__}:Slow"),
    ]
    monkeypatch.setattr(registry, "REGISTRY", rows)
    monkeypatch.setattr(Better, "state", Availability(True, is_ready=False))
    monkeypatch.setattr(Better, "may_end", threading.Event())
    monkeypatch.setattr(Better, "error", None)


def wait_until(manager, is_so):
    status = manager.status()
    while not is_so(status):
        before = status.revision
        status = manager.wait_change(before, PATIENCE_S)
        if status.revision == before:
            raise WaitRanOut(str(status))
    return status


def test_the_next_best_answers_while_the_best_is_built_and_then_gives_way(make_manager, starter):
    manager = make_manager("auto")
    manager.load()
    status = manager.wait_ready(60)
    assert (status.strategy, status.chosen_strategy, status.engine_note) == (SLOW, "auto", "compiling")
    Better.may_end.set()
    status = wait_until(manager, lambda status: status.strategy.startswith("better") and status.phase == "ready")
    assert status.engine_note == "" and len(starter.clients) == 2


def test_an_answer_that_runs_is_finished_by_the_engine_it_began_on(make_manager):
    manager = make_manager("auto", swap_grace_s=0.0)
    manager.load()
    manager.wait_ready(60)
    handle = manager.submit(request(max_tokens=300))
    Better.may_end.set()
    wait_until(manager, lambda status: status.strategy.startswith("better"))
    assert len(last_output(handle).token_ids) == 300


def test_new_requests_are_answered_while_the_better_engine_loads(make_manager, starter, held_loads):
    held_loads.end()
    manager = make_manager("auto")
    manager.load()
    manager.wait_ready(60)
    held_loads.hold()
    Better.may_end.set()
    wait_for(lambda: len(starter.clients) == 2)
    assert len(last_output(manager.submit(request(max_tokens=5))).token_ids) == 5
    status = manager.status()
    assert (status.phase, status.running, status.error) == ("ready", 0, None)
    held_loads.end()
    manager.wait_ready(60)
    wait_for(lambda: not starter.clients[0].is_alive())
    assert starter.clients[1].is_alive() and manager.status().strategy.startswith("better")


def test_what_is_loaded_by_name_is_left_alone(make_manager, starter):
    manager = make_manager("fake")
    manager.load()
    assert manager.wait_ready(60).engine_note == ""
    manager._renew()
    assert manager.status().strategy == "fake" and len(starter.clients) == 1


def test_a_build_that_fails_is_reported_and_not_tried_again(make_manager, monkeypatch):
    monkeypatch.setattr(Better, "error", BackendUnavailable(backend="better", reason="no room", way_out=""))
    Better.may_end.set()
    manager = make_manager("auto")
    manager.load()
    manager.wait_ready(60)
    assert wait_until(manager, lambda status: status.engine_note == "failed").strategy == SLOW
    manager.load()
    assert manager.status().engine_note == "failed"


def test_without_a_build_tool_the_reason_is_reported(make_manager, monkeypatch):
    monkeypatch.setattr(Better, "state", Availability(False, "no compiler", "Get one.", is_ready=False))
    manager = make_manager("auto")
    manager.load()
    assert manager.wait_ready(60).engine_note == "no_compiler"


def test_memory_that_has_changed_since_makes_no_reload(make_manager, starter, monkeypatch):
    monkeypatch.setattr(Better, "state", Availability(True))
    two = [Suggestion("better vocab=256", 20, ""), Suggestion("better vocab=300", 21, "")]
    monkeypatch.setattr(Better, "suggestions", lambda model: two)
    manager = make_manager("auto")
    manager.load()
    manager.wait_ready(60)
    monkeypatch.setattr(Better, "suggestions", lambda model: [*two[1:], Suggestion("better vocab=256", 22, "")])
    manager.load()
    assert manager.wait_ready(60).strategy == "better vocab=256" and len(starter.clients) == 1
    assert manager.reload_reasons() == ()


def count_asked(monkeypatch, backend) -> list[str]:
    """Collects the queries to ``backend``."""
    asked: list[str] = []
    for name in ("availability", "suggestions", "footprint"):
        plain = getattr(backend, name)
        monkeypatch.setattr(backend, name, lambda *args, name=name, plain=plain: asked.append(name) or plain(*args))
    return asked


def test_a_second_status_request_does_not_query_the_backends_again(make_manager, monkeypatch):
    monkeypatch.setattr(memory, "REMEMBERED_S", float("inf"))
    monkeypatch.setattr(Better, "state", Availability(False, "no compiler", "Get one.", is_ready=False))
    of_better, of_slow = count_asked(monkeypatch, Better), count_asked(monkeypatch, Slow)
    manager = make_manager("auto")
    assert manager.status().strategy == SLOW
    assert "footprint" in of_slow
    of_better.clear()
    of_slow.clear()
    for _ in range(50):
        status = manager.status()
    assert (status.strategy, status.engine_note) == (SLOW, "no_compiler")
    assert of_better == [] and of_slow == ["availability"] * 50, "of the one that is chosen, whether it still runs"


@pytest.mark.parametrize("loads", [False, True])
def test_a_load_and_time_make_the_backends_look_again(loads, make_manager, monkeypatch):
    monkeypatch.setattr(memory, "REMEMBERED_S", float("inf") if loads else -1.0)
    monkeypatch.setattr(Better, "state", Availability(False, "no compiler", "Get one.", is_ready=False))
    manager = make_manager("auto")
    assert manager.status().strategy == SLOW
    monkeypatch.setattr(Better, "state", Availability(True))
    if loads:
        assert manager.status().strategy == SLOW
        manager.load()
        manager.wait_ready(60)
    assert manager.status().strategy == "better vocab=256" and manager.status().engine_note == ""
