"""Requests: refused early, queued, aborted at any moment, never delayed by a slow reader."""

from __future__ import annotations

import gc
import os
import sys
import threading

import numpy as np
import pytest

from tests.errors import raises_code
from tests.manager.conftest import ENDLESS, first_token, last_output, request, wait_phase
from tests.waiting import wait_until
from webapp.engine.outputs import FinishReason, GenerationRequest, PrefillProgress, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import QueueFull, RequestError
from webapp.manager.handles import LoadingEvent, QueuePosition
from webapp.tokenizer.loading import ByteTokenizer

OTHER = ModelConfig("6", 1, 8, 8, 32, 1, 8, 256)
BAD_REQUESTS = [
    (GenerationRequest("x", (), SamplingParams()), "prompt_empty"),
    (GenerationRequest("x", (1,) * 101, SamplingParams()), "prompt_too_long"),
    (GenerationRequest("x", (1, 256), SamplingParams()), "token_out_of_range"),
    (GenerationRequest("x", (-1, 2), SamplingParams()), "token_out_of_range"),
    (GenerationRequest("x", (1,), SamplingParams(max_tokens=2000)), "sampling_invalid"),
    (GenerationRequest("x", (1,), SamplingParams(logit_bias={70000: 1.0})), "token_out_of_range"),
    (GenerationRequest("x", (1, 2), SamplingParams(), boundaries=(3,)), "request_invalid"),
    (GenerationRequest("x", (1, 2), SamplingParams(), boundaries=(2, 1)), "request_invalid"),
    (GenerationRequest("x", (1,), SamplingParams(), initial_state=RecurrentState.zeros(OTHER)), "state_mismatch"),
]


@pytest.mark.parametrize(("bad", "error"), BAD_REQUESTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_request_is_refused_before_anything_is_loaded(make_manager, starter, bad, error):
    manager = make_manager(max_prompt_tokens=100, max_tokens_limit=1000)
    with raises_code(error):
        manager.submit(bad)
    assert starter.clients == [] and manager.status().phase == "empty"


def test_a_very_long_text_is_refused_by_its_beginning(make_manager, monkeypatch):
    manager, lengths = make_manager(max_prompt_tokens=100), []
    encode = ByteTokenizer.encode
    monkeypatch.setattr(ByteTokenizer, "encode", lambda self, text: lengths.append(len(text)) or encode(self, text))
    with raises_code("prompt_too_long", found=100_000, limit=100):
        manager.check_length("x" * 100_000)
    assert sum(lengths) < 1000


def test_a_long_text_of_few_tokens_is_not_refused(make_manager, monkeypatch):
    manager = make_manager(max_prompt_tokens=100)
    monkeypatch.setattr(ByteTokenizer, "encode", lambda self, text: [0] * 100)
    manager.check_length("-" * 100_000)


def test_an_id_in_use_is_refused(make_manager):
    manager = make_manager(ENDLESS)
    first = request(max_tokens=10_000)
    handle = manager.submit(first)
    with raises_code("request_invalid", key="reason.manager.request_running"):
        manager.submit(first)
    first_token(handle)
    with raises_code("request_invalid", key="reason.manager.request_running"):
        manager.submit(first)
    handle.abort()
    assert last_output(handle).finish_reason is FinishReason.ABORT


def test_more_than_slots_and_queue_are_refused(make_manager):
    manager = make_manager(f"{ENDLESS} slots=2", max_sequences=2, max_queue=3)
    handles = [manager.submit(request(max_tokens=10_000)) for _ in range(5)]
    with pytest.raises(QueueFull):
        manager.submit(request())
    wait_until(lambda: (manager.status().running, manager.status().waiting) == (2, 3))
    with pytest.raises(QueueFull):
        manager.submit(request())
    handles[0].abort()
    assert last_output(handles[0]).finish_reason is FinishReason.ABORT
    handles.append(manager.submit(request(max_tokens=10_000)))
    for handle in handles:
        handle.abort()


def test_a_waiting_request_hears_its_place_in_the_queue(make_manager):
    manager = make_manager(f"{ENDLESS} slots=1")
    first, second, third = (manager.submit(request(max_tokens=10_000)) for _ in range(3))
    first_token(first)
    wait_until(lambda: QueuePosition(1) in [third.next_event(1)])
    for handle in (first, second):
        handle.abort()
    first_token(third)
    third.abort()


def test_an_abort_works_while_loading(make_manager):
    manager = make_manager("fake load_ms=500")
    handle, other = manager.submit(request()), manager.submit(request())
    handle.abort()
    output = last_output(handle)
    assert output.finish_reason is FinishReason.ABORT and output.stats.prompt_tokens == 3
    assert last_output(other).finish_reason is FinishReason.LENGTH


def test_an_abort_works_in_the_queue_while_reading_and_while_writing(make_manager):
    manager = make_manager(f"{ENDLESS} slots=1", prefill_chunk=4)
    running = manager.submit(request(max_tokens=10_000))
    first_token(running)
    queued = manager.submit(request())
    queued.abort()
    assert last_output(queued).finish_reason is FinishReason.ABORT
    running.abort()
    assert last_output(running).finish_reason is FinishReason.ABORT
    reading = manager.submit(request(*[7] * 20_000))
    wait_until(lambda: isinstance(reading.next_event(1), PrefillProgress))
    reading.abort()
    output = last_output(reading)
    assert output.finish_reason is FinishReason.ABORT and output.token_ids == ()
    reading.abort()
    assert reading.next_event(0) is None
    wait_phase(manager, "ready")


def test_a_reader_that_does_not_read_delays_nobody(make_manager):
    manager = make_manager("fake script=ab repeat=0")
    slow = manager.submit(request(max_tokens=3000))
    assert last_output(manager.submit(request(max_tokens=200))).finish_reason is FinishReason.LENGTH
    wait_until(lambda: slow.is_finished)
    assert len(last_output(slow).token_ids) == 3000


def test_only_a_broken_sequence_fails(make_manager):
    manager = make_manager("fake fail_on=99")
    good, bad = manager.submit(request(max_tokens=50)), manager.submit(request(1, 99))
    assert last_output(bad).error["code"] == "internal_error"
    assert last_output(good).finish_reason is FinishReason.LENGTH
    wait_phase(manager, "ready")


def test_each_stream_ends_exactly_once(make_manager):
    manager = make_manager("fake delay_ms=1")
    handles = [manager.submit(request(max_tokens=20)) for _ in range(8)]
    for handle in handles[::2]:
        threading.Thread(target=handle.abort).start()
    for handle in handles:
        events = [event for event in handle.events(60) if not isinstance(event, LoadingEvent)]
        ends = [event for event in events if isinstance(event, TokenOutput) and event.finish_reason]
        assert len(ends) == 1 and events[-1] is ends[0]
        assert list(handle.events(1)) == []


def test_status_counts_what_runs(make_manager):
    manager = make_manager(ENDLESS)
    handle = manager.submit(request(max_tokens=10_000))
    first_token(handle)
    status = wait_phase(manager, "answering")
    assert (status.running, status.waiting, status.slots) == (1, 0, 8)
    handle.abort()
    assert wait_phase(manager, "ready").running == 0


def test_silence_can_be_noticed(make_manager, stuck_load):
    manager = make_manager()
    handle = manager.submit(request())
    with pytest.raises(TimeoutError):
        list(handle.events(0.1))
    assert not isinstance(handle.next_event(0.01), TokenOutput)


def test_logits_are_an_array(make_manager):
    manager = make_manager()
    after_last = manager.logits([1, 2, 3])
    everywhere = manager.logits([1, 2, 3], every_position=True)
    assert after_last.shape == (256,) and after_last.dtype == np.float32
    np.testing.assert_array_equal(everywhere[-1], after_last)
    for wrong, error in (([], "prompt_empty"), ([300], "token_out_of_range")):
        with raises_code(error):
            manager.logits(wrong)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts descriptors in /proc")
def test_50_loads_and_unloads_leave_no_thread_and_no_descriptor(roost_threads, make_manager):
    manager = make_manager()

    def once() -> None:
        assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH
        manager.unload()
        wait_phase(manager, "empty")

    once()
    gc.collect()
    before = descriptors()
    for _ in range(50):
        once()
    gc.collect()
    wait_until(lambda: descriptors() <= before and roost_threads() == ["roost-model-manager"])


def test_reading_without_writing(make_manager):
    manager = make_manager()
    with_state = manager.logits([1, 2], state="fits.safetensors")
    assert not np.array_equal(with_state, manager.logits([1, 2]))
    state = manager.read_state([1, 2, 3])
    assert state.architecture == "7" and state.arrays["att_kv"].shape == (1, 1, 64, 64)
    scores = manager.score_tokens([1, 2, 3], alternatives=3)
    assert [entry[0].token_id for entry in scores] == [2, 3] and len(scores[0]) == 4
    for wrong in (lambda: manager.read_state([]), lambda: manager.score_tokens([1], 21)):
        with pytest.raises(RequestError):
            wrong()


def test_logits_everywhere_are_refused_beyond_what_memory_should_hold(make_manager, monkeypatch):
    manager = make_manager()
    monkeypatch.setattr("webapp.manager.manager.LOGITS_LIMIT_BYTES", 4 * 256 * 10)
    assert manager.logits([1] * 10, every_position=True).shape == (10, 256)
    with raises_code("request_invalid", key="reason.manager.too_many_positions", count=11):
        manager.logits([1] * 11, every_position=True)
    assert manager.logits([1] * 11).shape == (256,)


def test_a_long_prefill_delays_no_answer(make_manager):
    manager = make_manager("fake delay_ms=2", prefill_chunk=4)
    handle = manager.submit(request(max_tokens=20))
    first_token(handle)

    def read() -> None:
        with raises_code("shutting_down"):
            manager.read_state([1] * 4000)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert last_output(handle).finish_reason is FinishReason.LENGTH
    assert reader.is_alive()
    manager.close()
    reader.join(60)
    assert not reader.is_alive()


def test_asking_for_counters_keeps_no_idle_model_loaded(make_manager):
    stays, manager = make_manager(), make_manager(idle_unload_s=0.3)
    for each in (stays, manager):
        assert each.counters() == {}
        last_output(each.submit(request()))
    wait_until(lambda: manager.counters() == {})
    assert stays.counters()["finished_total"] == 1
