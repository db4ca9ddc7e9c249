"""An engine that hangs: detected, reported, ended and loaded again."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from msgspec.structs import replace

from tests.errors import raises_code
from tests.manager.conftest import ENDLESS, assert_failed, first_token, last_output, request, wait_phase
from tests.waiting import wait_until
from webapp.engine.backend import LoadProgress
from webapp.engine.outputs import FinishReason
from webapp.manager.client import ProcessEngineClient
from webapp.manager.handles import EngineSilent
from webapp.manager.messages import Heartbeat, Loading
from webapp.manager.session import StallWatch
from webapp.manager.supervisor import StallLimits

LIMITS = StallLimits(silent_s=60, step_s=600, notice_s=5, look_every_s=1)
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def watch_for(
    seconds: int, *messages_each_second, limits: StallLimits = LIMITS, is_loading: bool = False
) -> StallWatch:
    """A watch after this many checks, one second apart, with the same messages before each."""
    watch = StallWatch(limits)
    for _ in range(seconds):
        for message in messages_each_second:
            watch.hear(message if isinstance(message, Heartbeat) else None, is_loading)
        watch.look(1.0)
    return watch


def test_silence_is_mentioned_after_a_few_seconds_and_ends_the_engine_at_the_limit():
    assert watch_for(4).silent_s == 0
    assert watch_for(5).silent_s == 5 and watch_for(5).error() is None
    assert watch_for(59).error() is None
    assert watch_for(60).error().code == "engine_stalled"


def test_a_limit_of_zero_mentions_and_never_ends():
    watch = watch_for(100_000, limits=StallLimits.of(0))
    assert watch.silent_s == 100_000 and watch.error() is None


def test_a_message_is_a_sign_of_life():
    watch = watch_for(50)
    watch.hear(None, is_loading=True)
    assert watch.silent_s == 0
    assert watch_for(1000, Loading(LoadProgress(1, 2, 1, 2))).error() is None


def test_a_loop_that_advances_or_is_idle_never_stalls():
    watch = StallWatch(LIMITS)
    for second in range(1000):
        watch.hear(Heartbeat(second, False, 0.0), is_loading=False)
        watch.look(1.0)
    assert watch.error() is None
    assert watch_for(1000, Heartbeat(7, True, 0.0)).error() is None


def test_a_long_step_that_works_is_left_alone_until_the_limit_of_a_step():
    watch = StallWatch(LIMITS)
    for second in range(600):
        assert watch.silent_s == 0 and watch.error() is None
        watch.hear(Heartbeat(7, False, cpu_s=second * 0.9), is_loading=False)
        watch.look(1.0)
    assert watch.error().code == "engine_stalled"


def test_a_step_that_uses_no_processor_is_silence_though_its_heart_beats():
    idle_cpu = watch_for(62, Heartbeat(7, False, 3.0))
    assert idle_cpu.error().code == "engine_stalled"


def test_a_load_that_only_waits_is_left_alone_longer():
    assert watch_for(590, Heartbeat(1, False, 3.0), is_loading=True).error() is None
    assert watch_for(602, Heartbeat(1, False, 3.0), is_loading=True).error() is not None


def test_time_in_which_the_watcher_did_not_run_either_does_not_count():
    watch = watch_for(4)
    watch.look(8 * 3600)  # a laptop that slept while the clock continued
    assert watch.silent_s == 6 and watch.error() is None


QUICK = StallLimits(silent_s=0, step_s=1.2, notice_s=0.1, look_every_s=0.02)


@pytest.fixture
def quick(make_manager):
    def make(strategy: str, limits: StallLimits = QUICK, **changes):
        return make_manager(strategy, stall_limits=limits, **changes)

    return make


def test_a_step_that_hangs_fails_its_answers_and_the_model_is_loaded_again(quick, starter):
    manager = quick("fake hang_on=200 hang_ms=2500 script=ab repeat=0 delay_ms=2")
    good = manager.submit(request(max_tokens=100_000))
    first_token(good)
    bad = manager.submit(request(1, 200))
    for handle in (good, bad):
        assert_failed(handle, "engine_stalled")
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH
    assert len(starter.clients) == 2


def test_an_engine_that_hung_is_loaded_again_without_being_asked(quick, starter):
    manager = quick("fake hang_on=99 hang_ms=2500")
    assert_failed(manager.submit(request(1, 99)), "engine_stalled")
    wait_until(lambda: len(starter.clients) == 2)
    assert wait_phase(manager, "ready").error is None


def test_a_load_that_hangs_is_tried_again_a_few_times(quick, starter):
    manager = quick("fake load_ms=2500 load_steps=1", crash_tries=2)
    assert_failed(manager.submit(request()), "engine_stalled")
    wait_until(lambda: manager.status().phase == "failed")
    assert len(starter.clients) == 2
    with raises_code("crash_loop", tries=2, key="reason.manager.step_took_too_long"):
        manager.submit(request())


def test_a_waiting_person_sees_for_how_long_and_when_it_is_over(quick):
    limits = StallLimits(silent_s=60, step_s=0, notice_s=1, look_every_s=0.02)
    manager = quick(f"{ENDLESS} hang_on=200 hang_ms=3500", limits)  # it sends heartbeats, but uses no CPU time
    handle = manager.submit(request(1, 200, max_tokens=100_000))
    wait_silent(manager)
    told = (event.seconds for event in handle.events(60) if isinstance(event, EngineSilent))
    assert next(told) >= 1
    assert next(seconds for seconds in told if not seconds) == 0
    assert manager.status().silent_s == 0 and manager.status().phase == "answering"
    handle.abort()


def wait_silent(manager) -> None:
    status = manager.status()
    while not status.silent_s:
        status = manager.wait_change(status.revision, 30)


@posix
@pytest.mark.parametrize("strategy", [ENDLESS, "fake load_ms=60000 load_steps=600"], ids=["writing", "loading"])
def test_a_stopped_engine_process_is_ended_and_the_next_message_works(make_manager, strategy):
    # patient with starts on a busy machine
    patient = StallLimits(silent_s=600, step_s=600, notice_s=1, look_every_s=0.1)
    manager = make_manager(strategy, start_engine=ProcessEngineClient, stall_limits=patient)
    handle = manager.submit(request(max_tokens=100_000))
    if strategy == ENDLESS:
        first_token(handle)
    else:
        wait_until(lambda: manager.status().done_tensors > 0)
    stopped = manager.engine_pid()
    supervisor = manager._supervisor
    (supervisor.session or supervisor._loading)._stall._limits = replace(patient, silent_s=3)
    os.kill(stopped, signal.SIGSTOP)
    wait_silent(manager)
    output = assert_failed(handle, "engine_stalled")
    assert output.stats.decoded_tokens > 0 or strategy != ENDLESS
    if strategy != ENDLESS:
        manager.load(strategy="fake")
    assert first_token(manager.submit(request())).error is None
    assert manager.engine_pid() != stopped
