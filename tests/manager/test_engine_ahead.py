"""An engine started before the first request: used once, replaced if it died, ended if it is not used."""

from __future__ import annotations

from queue import Queue

import psutil
import pytest

from tests.manager.conftest import CountingStarter, last_output, request
from tests.waiting import wait_until
from webapp.backends.fake import FakeBackend
from webapp.manager.client import EngineAhead
from webapp.manager.library import ModelLibrary
from webapp.manager.manager import ModelManager
from webapp.manager.messages import Loaded, LoadModel
from webapp.settings import Settings
from webapp.weights.inspection import inspect


@pytest.fixture
def load(models_dir):
    path = models_dir / "v7.safetensors"
    return LoadModel(str(path).encode(), inspect(path).config, "fake", 2, 64, 0)


def test_who_takes_it_gets_the_one_that_runs_and_its_messages(starter, load):
    ahead = EngineAhead(starter)
    ahead.prepare("fake")
    ahead.prepare("fake")
    assert len(starter.clients) == 1
    messages, exits = Queue(), Queue()
    client = ahead.take(messages.put, exits.put)
    assert client is starter.clients[0]
    client.send(load)
    while not isinstance(message := messages.get(timeout=60), Loaded):
        pass
    assert message.slots == 2
    client.close(2)
    assert exits.get(timeout=60).exit_code == 0
    assert ahead.take(messages.put, exits.put) is starter.clients[1]
    starter.clients[1].close(2)


def test_it_warms_up_what_the_strategy_takes_and_bad_ones_do_no_harm(starter, load, monkeypatch):
    warmed = Queue()
    monkeypatch.setattr(FakeBackend, "warm_up", classmethod(lambda cls: warmed.put(cls)))
    for strategy in ("fake", "no such strategy"):
        ahead = EngineAhead(starter)
        ahead.prepare(strategy)
        messages = Queue()
        client = ahead.take(messages.put, lambda found: None)
        client.send(load)
        while not isinstance(messages.get(timeout=60), Loaded):
            pass
        client.close(2)
    assert warmed.get_nowait() is FakeBackend and warmed.empty()


def test_a_dead_one_is_replaced(starter):
    ahead = EngineAhead(starter)
    ahead.prepare("fake")
    starter.clients[0].kill()
    exits = Queue()
    assert ahead.take(lambda message: None, exits.put) is starter.clients[1]
    assert exits.empty()  # the first one's exit is not reported
    starter.clients[1].close(2)


@pytest.mark.parametrize("is_closed", [False, True])
def test_an_unused_engine_is_ended(starter, is_closed):
    ahead = EngineAhead(starter, kept_s=60 if is_closed else 0.05)
    ahead.prepare("fake")
    if is_closed:
        ahead.close()
    wait_until(lambda: not starter.clients[0].is_alive())
    ahead.prepare("fake")
    assert len(starter.clients) == (1 if is_closed else 2)
    ahead.close()


def test_a_model_is_loaded_by_the_process_that_was_started_for_an_open_page(models_dir, tmp_path):
    """With a real process: it has no model, and the load does not start another one."""
    settings = Settings(data_dir=tmp_path, models_dir=models_dir, model="v7.safetensors", strategy="fake script=hi")
    manager = ModelManager(settings, library=ModelLibrary(models_dir, tmp_path), shortfall=lambda *_: None)
    try:
        manager.prepare()
        wait_until(lambda: engine_processes() != [])
        assert manager.engine_pid() is None and manager.status().phase == "empty"
        begun = engine_processes()
        last_output(manager.submit(request()))
        assert [manager.engine_pid()] == begun == engine_processes()
        manager.prepare()
        assert engine_processes() == begun
    finally:
        manager.close()
    assert engine_processes() == []


def test_an_engine_in_this_process_is_not_started_ahead(make_manager, starter: CountingStarter):
    manager = make_manager()
    manager.prepare()
    last_output(manager.submit(request()))
    assert len(starter.clients) == 1


def engine_processes() -> list[int]:
    children = psutil.Process().children()
    return [child.pid for child in children if any("webapp.manager.loop" in word for word in child.cmdline())]
