"""Lazy load, progress, cancel, failure."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.errors import raises_code
from tests.manager.conftest import assert_failed, last_output, request, wait_phase
from tests.waiting import PATIENCE_S, wait_until
from webapp.backends.fake import FakeBackend
from webapp.engine.outputs import FinishReason
from webapp.errors import ModelNotFound, StrategyError
from webapp.manager import session
from webapp.manager.handles import LoadingEvent
from webapp.manager.session import load_command


def test_nothing_starts_before_the_first_request(roost_threads, make_manager, starter):
    manager = make_manager()
    assert manager.status().phase == "empty"
    assert manager.status().model == "v7.safetensors"
    assert manager.tokenizer().vocab_size == 256
    assert manager.model_info().config.architecture == "7"
    assert starter.clients == [] and roost_threads() == []


def test_a_request_loads_the_model_and_is_answered(make_manager):
    manager = make_manager("fake script=hello")
    output = last_output(manager.submit(request(max_tokens=10)))
    assert bytes(token - 1 for token in output.token_ids) == b"hello"
    assert output.finish_reason is FinishReason.STOP
    wait_phase(manager, "ready")


def test_a_load_begun_ahead_serves_the_request_and_its_mistakes_are_told_there(make_manager, starter):
    manager = make_manager()
    manager.begin_loading()
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH
    assert len(starter.clients) == 1
    nowhere = make_manager(model="none.safetensors")
    nowhere.begin_loading()
    with pytest.raises(ModelNotFound):
        nowhere.submit(request())


def test_a_state_chosen_before_the_engine_was_told_to_load_is_the_one_it_begins_with(make_manager, monkeypatch):
    reading, may_read = threading.Event(), threading.Event()

    def slow(target, settings):
        reading.set()
        assert may_read.wait(60)
        return load_command(target, settings)

    monkeypatch.setattr(session, "load_command", slow)
    manager = make_manager()
    manager.load()
    wait_until(reading.is_set)
    manager.apply_state("fits.safetensors")
    may_read.set()
    assert manager.wait_ready(60).state == "fits.safetensors"
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH


def test_32_first_requests_at_once_load_once(make_manager, starter):
    manager = make_manager("fake load_ms=100", max_sequences=8)
    start = threading.Barrier(32)

    def ask(_):
        start.wait()
        return last_output(manager.submit(request()))

    with ThreadPoolExecutor(32) as pool:
        outputs = list(pool.map(ask, range(32)))
    assert {output.finish_reason for output in outputs} == {FinishReason.LENGTH}
    assert len({output.token_ids for output in outputs}) == 1
    assert len(starter.clients) == 1


def test_progress_only_grows_and_reaches_the_waiting_request_too(make_manager):
    manager = make_manager("fake load_ms=1000 load_steps=40")
    handle = manager.submit(request())
    seen, status = [], manager.status()
    while status.phase == "loading":
        seen.append((status.done_bytes, status.done_tensors))
        status = manager.wait_change(status.revision, 30)
    assert seen == sorted(seen) and len({done for done, _ in seen}) > 3
    events = list(handle.events(60))
    # Progress was not read during the load, so newer progress replaced older.
    assert [event for event in events if isinstance(event, LoadingEvent)] == [LoadingEvent(1_000_000, 1_000_000)]


def test_load_and_wait_ready(make_manager):
    manager = make_manager("fake load_ms=50")
    with raises_code("no_model"):
        manager.wait_ready(1)
    manager.load()
    status = manager.wait_ready(60)
    assert (status.phase, status.model, status.slots) == ("ready", "v7.safetensors", 8)


def test_loading_what_is_loaded_or_loading_is_nothing_new(make_manager, starter):
    manager = make_manager("fake load_ms=100")
    manager.load()
    manager.load(strategy="fake  load_ms=100")
    manager.wait_ready(60)
    manager.load("v7.safetensors")
    manager.wait_ready(60)
    assert len(starter.clients) == 1


def test_a_cancelled_load_ends_its_requests_and_the_next_loads_again(make_manager):
    manager = make_manager("fake load_ms=600000 load_steps=6000")
    handle = manager.submit(request())
    manager.cancel_load()
    assert_failed(handle, "load_cancelled")
    with raises_code("load_cancelled"):
        manager.wait_ready(60)
    assert (manager.status().phase, manager.status().error["code"]) == ("empty", "load_cancelled")
    manager.load(strategy="fake")
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH


def test_a_request_right_after_a_cancel_waits_for_a_load_of_its_own(make_manager, starter, held_loads):
    manager = make_manager()
    first = manager.submit(request())
    wait_until(lambda: len(starter.clients) == 1)
    manager.cancel_load()
    second = manager.submit(request())
    held_loads.end()
    assert last_output(second).finish_reason is FinishReason.LENGTH
    assert first.is_finished
    assert len(starter.clients) == 2


def test_a_load_that_does_not_stop_is_given_up_after_two_seconds(make_manager, starter, stuck_load):
    manager = make_manager()
    manager.load()
    wait_until(lambda: starter.clients)
    started = time.monotonic()
    manager.cancel_load()
    with raises_code("load_cancelled"):
        manager.wait_ready(PATIENCE_S)
    assert time.monotonic() - started > 1.5


def test_a_failed_load_says_why_and_the_next_request_tries_again(make_manager, starter):
    manager = make_manager("fake load_fail=because")
    assert_failed(manager.submit(request()), "load_failed")
    with raises_code("load_failed", reason="because"):
        manager.wait_ready(60)
    status = manager.status()
    assert status.phase == "failed" and status.error["code"] == "load_failed"
    assert_failed(manager.submit(request()), "load_failed")
    assert len(starter.clients) == 2


def test_no_memory_for_the_fresh_state_is_a_failed_load_and_no_crash(make_manager, monkeypatch):
    def run_out(self, slot):
        raise MemoryError("no more")

    monkeypatch.setattr(FakeBackend, "read_state", run_out)
    manager = make_manager(crash_tries=1)
    assert_failed(manager.submit(request()), "out_of_memory")
    assert wait_phase(manager, "failed").error["code"] == "out_of_memory"


def test_a_load_may_take_only_so_long(make_manager):
    manager = make_manager("fake load_ms=60000 load_steps=600", load_timeout_s=0.2)
    manager.load()
    with raises_code("load_failed", key="reason.manager.took_too_long", seconds="0.2"):
        manager.wait_ready(60)


def test_errors_known_before_loading_are_raised_at_once_and_change_nothing(make_manager, starter):
    manager = make_manager()
    manager.load()
    manager.wait_ready(60)
    for wrong, error in (
        ({"model": "nothing.pth"}, ModelNotFound),
        ({"model": "../secret.pth"}, ModelNotFound),
        ({"strategy": "abacus fp32"}, StrategyError),
        ({"strategy": "fake refuse=today"}, StrategyError),
    ):
        with pytest.raises(error):
            manager.load(**wrong)
    assert manager.status().phase == "ready" and manager.status().error is None
    assert len(starter.clients) == 1


def test_a_model_replaced_on_disk_is_looked_at_again_before_it_is_loaded(make_manager, tmp_path, models_dir):
    folder = tmp_path / "changing"
    folder.mkdir()
    path = folder / "m.safetensors"
    path.write_bytes((models_dir / "v7.safetensors").read_bytes())
    manager = make_manager(models_dir=folder, model="m.safetensors")
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH
    manager.unload()
    wait_phase(manager, "empty")
    path.write_bytes((models_dir / "v6.safetensors").read_bytes())
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH
    assert manager.model_info().config.architecture == "6"


def test_closing_ends_everything_and_may_be_done_twice(roost_threads, make_manager):
    manager = make_manager("fake load_ms=600000 load_steps=6000")
    handle = manager.submit(request())
    manager.close()
    manager.close()
    assert_failed(handle, "shutting_down")
    wait_until(lambda: roost_threads() == [])
    with raises_code("shutting_down"):
        manager.submit(request())
    with raises_code("shutting_down"):
        manager.load()


def test_closing_a_manager_that_never_loaded_is_nothing(roost_threads, make_manager):
    make_manager().close()
    assert roost_threads() == []
