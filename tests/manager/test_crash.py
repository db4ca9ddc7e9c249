"""An engine that crashes, and the error that the user sees."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.errors import contains, raises_code
from tests.manager.conftest import ENDLESS, assert_failed, first_token, last_output, request, wait_phase
from tests.waiting import wait_until
from webapp.engine.outputs import FinishReason
from webapp.errors import EngineCrashed, OutOfMemory
from webapp.manager.client import EngineExit, crash_error
from webapp.manager.memory import MemoryFacts, memory_facts, oom_kills

KILLED_FOR_MEMORY = "reason.manager.killed_for_memory"


def test_a_crash_fails_every_open_request_and_the_next_loads_again(make_manager, starter):
    manager = make_manager(f"{ENDLESS} slots=2")
    handles = [manager.submit(request(max_tokens=100_000)) for _ in range(4)]
    first_token(handles[0])
    starter.clients[0].kill()
    for handle in handles:
        assert contains(assert_failed(handle, "engine_crashed").error["params"], key="reason.manager.sigkill")
    status = wait_phase(manager, "failed")
    assert status.error["code"] == "engine_crashed" and status.running == 0
    assert first_token(manager.submit(request())).error is None
    assert manager.status().error is None


def test_a_broken_backend_is_a_crash_with_its_last_words(make_manager):
    manager = make_manager("fake fail_at=2")
    handle = manager.submit(request())
    assert last_output(handle).error["code"] == "internal_error"
    for _ in range(4):  # after five failures in a row the engine ends
        last_output(manager.submit(request()))
    wait_until(lambda: manager.status().phase == "failed")
    assert "told to fail" in manager.status().error["message"]


def test_a_crash_loop_stops_and_a_load_by_hand_starts_again(make_manager, starter, held_loads):
    manager = make_manager(crash_tries=3)
    for count in range(1, 4):
        handle = manager.submit(request())
        wait_until(lambda count=count: len(starter.clients) == count)
        starter.clients[-1].kill()
        assert_failed(handle, "engine_crashed")
        wait_phase(manager, "failed")
    with raises_code("crash_loop", tries=3):
        manager.submit(request())
    with raises_code("crash_loop"):
        manager.logits([1])
    assert manager.status().error["code"] == "crash_loop"
    assert len(starter.clients) == 3
    held_loads.end()
    manager.load()
    assert manager.wait_ready(60).phase == "ready"
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH


def test_an_answer_between_crashes_ends_the_count(make_manager, starter):
    manager = make_manager(crash_tries=2)
    for _ in range(4):
        assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH
        starter.clients[-1].kill()
        wait_phase(manager, "failed")


@pytest.mark.parametrize(
    ("found", "error", "told"),
    [
        (EngineExit(-9), EngineCrashed, {"key": KILLED_FOR_MEMORY, "engine": "3.0 GB", "total": "8.0 GB"}),
        (EngineExit(137), EngineCrashed, {"key": KILLED_FOR_MEMORY}),
        (EngineExit(-signal.SIGSEGV), EngineCrashed, {"key": "reason.manager.sigsegv"}),
        (EngineExit(-1073741819), EngineCrashed, {"key": "reason.manager.sigsegv"}),
        (EngineExit(3221225477), EngineCrashed, {"key": "reason.manager.sigsegv"}),
        (
            EngineExit(-signal.SIGABRT, "terminate called\nwhat(): bad"),
            EngineCrashed,
            {"key": "reason.manager.sigabrt", "words": "what(): bad"},
        ),
        (EngineExit(-signal.SIGTERM), EngineCrashed, {"signal": "SIGTERM"}),
        (EngineExit(-200), EngineCrashed, {"signal": "signal 200"}),
        (EngineExit(1, "Traceback …\n  File\nKeyError: 'x'\n"), EngineCrashed, {"reason": "KeyError: 'x'"}),
        (
            EngineExit(1, "RuntimeError: CUDA out of memory. Tried"),
            OutOfMemory,
            {"reason": "RuntimeError: CUDA out of memory. Tried"},
        ),
        (EngineExit(-6, "terminate called\nstd::bad_alloc\n"), OutOfMemory, {"reason": "std::bad_alloc"}),
        (EngineExit(3), EngineCrashed, {"key": "reason.manager.ended_with_code", "code": "3"}),
        (EngineExit(None), EngineCrashed, {"key": "reason.manager.ended_with_code"}),
    ],
)
def test_an_exit_becomes_a_reason(found, error, told):
    became = crash_error(found, MemoryFacts(3_000_000_000, 8_000_000_000, 100_000_000))
    assert type(became) is error and contains(became, **told)


@pytest.mark.parametrize(
    ("free", "kills_before", "kills_after", "error", "says_memory"),
    [
        (24_000_000_000, 3, 3, EngineCrashed, False),
        (24_000_000_000, None, None, EngineCrashed, False),
        (24_000_000_000, 3, 4, OutOfMemory, True),
        (100_000_000, 3, 3, EngineCrashed, True),
        (100_000_000, None, None, EngineCrashed, True),
    ],
)
def test_memory_is_blamed_with_evidence_only(free, kills_before, kills_after, error, says_memory):
    memory = MemoryFacts(3_000_000_000, 32_000_000_000, free, kills_before)
    became = crash_error(EngineExit(-9), memory, kills_after)
    is_blamed = isinstance(became, OutOfMemory) or contains(became, key=KILLED_FOR_MEMORY)
    assert type(became) is error and is_blamed is says_memory
    assert contains(became, free=f"{free / 1e9:.1f} GB")


def test_another_process_killed_for_memory_does_not_explain_a_fault():
    memory = MemoryFacts(3_000_000_000, 32_000_000_000, 24_000_000_000, 3)
    assert type(crash_error(EngineExit(-signal.SIGSEGV), memory, 4)) is EngineCrashed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the counts of Linux")
def test_the_system_counts_what_it_ends_for_lack_of_memory():
    assert oom_kills() is not None and memory_facts(os.getpid()).oom_kills == oom_kills()
