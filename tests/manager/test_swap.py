"""One model after another: with enough memory for both and without, and the effect on running answers."""

from __future__ import annotations

import time

import pytest

from tests.errors import raises_code
from tests.manager.conftest import ENDLESS, assert_failed, first_token, last_output, request, wait_phase
from tests.waiting import wait_until
from webapp.engine.outputs import FinishReason

BOTH = pytest.mark.parametrize("has_room", [True, False], ids=["room for both", "one at a time"])


@BOTH
def test_a_swap_serves_the_new_model(make_manager, starter, has_room):
    manager = make_manager(has_room=has_room)
    last_output(manager.submit(request()))
    manager.load("v6.safetensors")
    status = manager.wait_ready(60)
    assert status.model == "v6.safetensors" and manager.model_info().config.architecture == "6"
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH
    wait_until(lambda: [client.is_alive() for client in starter.clients] == [False, True])


@BOTH
def test_running_answers_finish_within_the_grace(make_manager, has_room):
    manager = make_manager("fake script=ab repeat=0 delay_ms=5", has_room=has_room, swap_grace_s=20)
    handle = manager.submit(request(max_tokens=40))
    first_token(handle)
    manager.load("v6.safetensors")
    output = last_output(handle)
    assert output.finish_reason is FinishReason.LENGTH and output.stats.decoded_tokens == 40
    assert manager.wait_ready(60).model == "v6.safetensors"


@BOTH
def test_after_the_grace_period_they_get_the_error_that_the_model_changed(make_manager, starter, has_room):
    manager = make_manager(ENDLESS, has_room=has_room, swap_grace_s=0.2)
    handle = manager.submit(request(max_tokens=100_000))
    first_token(handle)
    manager.load("v6.safetensors")
    output = assert_failed(handle, "model_unloaded")
    assert output.stats.decoded_tokens > 0
    assert manager.wait_ready(60).model == "v6.safetensors"
    wait_until(lambda: [client.is_alive() for client in starter.clients] == [False, True])


def test_a_prompt_made_for_the_model_before_the_swap_is_refused(make_manager):
    manager = make_manager()
    info = manager.model_info()
    assert last_output(manager.submit(request(), info)).finish_reason is FinishReason.LENGTH
    manager.load("v6.safetensors")
    with raises_code("model_unloaded"):
        manager.submit(request(), info)
    assert last_output(manager.submit(request(), manager.model_info())).finish_reason is FinishReason.LENGTH


def test_requests_during_a_swap_are_answered_by_the_new_model(make_manager):
    manager = make_manager("fake script=old load_ms=200", has_room=False)
    last_output(manager.submit(request()))
    manager.load("v6.safetensors", "fake script=new load_ms=200")
    output = last_output(manager.submit(request(max_tokens=9)))
    assert bytes(token - 1 for token in output.token_ids) == b"new"


def test_with_room_the_old_model_answers_until_the_new_one_is_there(make_manager, held_loads):
    manager = make_manager(ENDLESS, swap_grace_s=0.1)
    handle = manager.submit(request(max_tokens=100_000))
    held_loads.end()
    first_token(handle)
    held_loads.hold()
    manager.load("v6.safetensors", "fake")
    wait_phase(manager, "loading")
    first_token(handle)
    held_loads.end()
    assert manager.wait_ready(60).model == "v6.safetensors"
    assert_failed(handle, "model_unloaded")


def test_a_failed_swap_keeps_what_is_still_there(make_manager):
    manager = make_manager(ENDLESS)
    handle = manager.submit(request(max_tokens=100_000))
    first_token(handle)
    manager.load("v6.safetensors", "fake load_fail=broken")
    with raises_code("load_failed", reason="broken"):
        manager.wait_ready(60)
    status = manager.status()
    assert (status.phase, status.model, status.error["code"]) == ("answering", "v7.safetensors", "load_failed")
    assert first_token(handle).finish_reason is None
    assert first_token(manager.submit(request())).error is None
    assert manager.logits([1]).shape == (256,)
    handle.abort()


def test_a_failed_swap_without_room_goes_back_at_the_next_request(make_manager):
    manager = make_manager(has_room=False)
    last_output(manager.submit(request()))
    manager.load("v6.safetensors", "fake load_fail=broken")
    with raises_code("load_failed"):
        manager.wait_ready(60)
    assert (manager.status().phase, manager.status().model) == ("failed", "v7.safetensors")
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH


@BOTH
def test_a_cancelled_swap_keeps_the_old_model(make_manager, has_room):
    manager = make_manager(ENDLESS, has_room=has_room, swap_grace_s=10)
    handle = manager.submit(request(max_tokens=100_000))
    first_token(handle)
    manager.load("v6.safetensors", "fake load_ms=30000 load_steps=600")
    time.sleep(0.1)
    manager.cancel_load()
    with raises_code("load_cancelled"):
        manager.wait_ready(60)
    assert manager.status().model == "v7.safetensors"
    assert first_token(handle).finish_reason is None
    handle.abort()
    assert last_output(handle).finish_reason is FinishReason.ABORT


def test_the_last_of_many_choices_wins(make_manager):
    manager = make_manager("fake load_ms=300 load_steps=30")
    for name in ("v6", "v7", "v6", "wide"):
        manager.load(f"{name}.safetensors")
        time.sleep(0.02)
    assert manager.wait_ready(60).model == "wide.safetensors"
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH


def test_unload_waits_for_answers_and_the_next_request_loads_again(make_manager, starter):
    manager = make_manager("fake script=ab repeat=0 delay_ms=2", swap_grace_s=30)
    handle = manager.submit(request(max_tokens=500))  # a second is enough to see that it still decodes
    first_token(handle)
    manager.unload()
    assert manager.status().phase == "unloading"
    waiting = manager.submit(request())
    assert last_output(handle).finish_reason is FinishReason.LENGTH
    assert last_output(waiting).finish_reason is FinishReason.LENGTH
    assert len(starter.clients) == 2


def test_unload_during_a_load_cancels_it(make_manager, starter):
    manager = make_manager("fake load_ms=30000 load_steps=600")
    manager.load()
    wait_phase(manager, "loading")
    manager.unload()
    wait_phase(manager, "empty")
    wait_until(lambda: not any(client.is_alive() for client in starter.clients))


def test_an_idle_model_is_unloaded_and_loaded_again(make_manager, starter):
    manager = make_manager("fake script=ab repeat=0 delay_ms=20", idle_unload_s=1)
    handle = manager.submit(request(max_tokens=60))  # longer than the limit, which counts only idle time
    assert last_output(handle).finish_reason is FinishReason.LENGTH
    wait_phase(manager, "empty")
    assert manager.status().model == "v7.safetensors"
    assert not starter.clients[0].is_alive()
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH
