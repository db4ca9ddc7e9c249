"""The real engine process: it ends with its parent, and its crash affects nothing else."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.errors import contains, keys_in, raises_code
from tests.manager.conftest import ENDLESS, assert_failed, first_token, last_output, request, wait_phase
from tests.waiting import is_gone, wait_until
from webapp.engine.outputs import FinishReason
from webapp.manager.client import ProcessEngineClient

ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture
def make(make_manager):
    def make_one(strategy: str = "fake", **changes):
        return make_manager(strategy, start_engine=ProcessEngineClient, **changes)

    return make_one


def test_the_engine_is_another_process_and_unloading_ends_it(make):
    manager = make("fake script=hello")
    assert manager.engine_pid() is None and manager.engine_memory_bytes() == 0
    output = last_output(manager.submit(request(max_tokens=9)))
    assert bytes(token - 1 for token in output.token_ids) == b"hello"
    pid = manager.engine_pid()
    assert pid not in (None, os.getpid()) and manager.engine_memory_bytes() > 1_000_000
    assert manager.status().engine_bytes > 0
    assert manager.logits([1, 2]).shape == (256,)
    manager.unload()
    wait_phase(manager, "empty")
    wait_until(lambda: is_gone(pid))
    assert manager.engine_pid() is None


def answering(make):
    """A manager, and a running request."""
    manager = make(ENDLESS)
    handle = manager.submit(request(max_tokens=100_000))
    first_token(handle)
    return manager, handle


@posix
def test_kill_9_in_mid_stream_fails_every_stream_and_the_next_request_works(make):
    manager = make(ENDLESS)
    handles = [manager.submit(request(max_tokens=100_000)) for _ in range(8)]
    for handle in handles:
        first_token(handle)
    os.kill(manager.engine_pid(), signal.SIGKILL)
    for handle in handles:
        output = assert_failed(handle, "engine_crashed")
        assert keys_in(output.error["params"]) == [
            "reason.manager.and_more", "reason.manager.sigkill", "reason.manager.memory_when_last_seen"
        ]  # fmt: skip
    again = manager.submit(request(max_tokens=100_000))
    assert first_token(again).error is None
    again.abort()


@posix
def test_a_fault_in_native_code_is_named(make):
    manager, handle = answering(make)
    os.kill(manager.engine_pid(), signal.SIGSEGV)
    assert contains(assert_failed(handle, "engine_crashed").error["params"], key="reason.manager.sigsegv")


def test_an_engine_that_dies_while_loading_is_a_crash(make):
    manager = make("fake load_kill=1", crash_tries=2)
    for _ in range(2):
        assert_failed(manager.submit(request()), "engine_crashed")
        wait_phase(manager, "failed")
    with raises_code("crash_loop", tries=2):
        manager.submit(request())


@posix
def test_ctrl_c_does_not_reach_the_engine(make):
    manager, handle = answering(make)
    os.kill(manager.engine_pid(), signal.SIGINT)
    for _ in range(20):
        assert first_token(handle).error is None
    handle.abort()
    assert last_output(handle).finish_reason is FinishReason.ABORT


def test_a_load_stuck_in_native_code_is_killed(make):
    manager = make("fake load_ms=60000 load_steps=1")
    manager.load()
    wait_until(lambda: manager.status().total_tensors == 1)
    pid = manager.engine_pid()
    manager.cancel_load()
    wait_phase(manager, "empty")  # in less than half the time of the load
    wait_until(lambda: is_gone(pid))


def test_closing_in_mid_load_and_in_mid_stream_leaves_nothing(roost_threads, make):
    for strategy in ("fake load_ms=60000 load_steps=1", ENDLESS):
        manager = make(strategy)
        handle = manager.submit(request(max_tokens=100_000))
        wait_until(lambda manager=manager: manager.engine_pid() is not None)
        pid = manager.engine_pid()
        started = time.monotonic()
        manager.close()
        assert time.monotonic() - started < 30 and is_gone(pid)
        assert_failed(handle, "shutting_down")
    wait_until(lambda: roost_threads() == [])


@linux
def test_the_engine_inherits_no_socket(make):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)
        manager = make()
        last_output(manager.submit(request()))
        links = [os.readlink(link) for link in Path(f"/proc/{manager.engine_pid()}/fd").iterdir()]
    assert not [link for link in links if link.startswith("socket:")]
    assert psutil.Process(manager.engine_pid()).name() == "roost-engine"


def test_a_loading_engine_accepts_any_number_of_commands(make):
    """More than fit into a pipe: submitting never waits for the engine."""
    manager = make("fake load_ms=4000 load_steps=1", max_queue=64)
    manager.load()
    wait_until(lambda: manager.status().total_tensors == 1)
    handles = [manager.submit(request(*[5] * 30_000, max_tokens=1)) for _ in range(20)]
    assert manager.status().phase == "loading"
    for handle in handles[1:]:
        handle.abort()
    assert last_output(handles[0]).finish_reason is FinishReason.LENGTH


def test_a_swap_ends_the_old_process(make):
    manager = make()
    last_output(manager.submit(request()))
    old = manager.engine_pid()
    manager.load("v6.safetensors")
    assert manager.wait_ready(60).model == "v6.safetensors"
    assert manager.engine_pid() != old
    wait_until(lambda: is_gone(old))


@linux
def test_five_real_loads_leave_no_thread_descriptor_or_process(make):
    manager = make()

    def once() -> None:
        last_output(manager.submit(request()))
        manager.unload()
        wait_phase(manager, "empty")
        gc.collect()

    def figures() -> tuple[int, int, int]:
        return (
            len(os.listdir("/proc/self/fd")),
            len(threading.enumerate()),
            len(psutil.Process().children(recursive=True)),
        )

    once()
    before = figures()
    for _ in range(5):
        once()
    wait_until(lambda: all(now <= then for now, then in zip(figures(), before, strict=True)))


PARENT = """
import sys, time
from pathlib import Path
# No `if __name__` guard on purpose: the engine must not run this file again.
with open(sys.argv[1] + "/runs", "a") as file:
    file.write("run\\n")
from tests.manager.conftest import request
from webapp.manager.manager import ModelManager
from webapp.settings import Settings
models, strategy = sys.argv[2:]
manager = ModelManager(Settings(data_dir=Path(sys.argv[1]), models_dir=Path(models), model="v7.safetensors",
                                strategy=strategy))
handle = manager.submit(request(max_tokens=100_000))
while manager.status().done_tensors == 0 and manager.status().phase == "loading":
    time.sleep(0.01)
if "load_ms" not in strategy:
    next(event for event in handle.events(60))
print(manager.engine_pid(), flush=True)
time.sleep(60)
"""


@posix
@pytest.mark.parametrize("strategy", [ENDLESS, "fake load_ms=60000 load_steps=2"], ids=["writing", "loading"])
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_the_engine_dies_with_its_parent(tmp_path, models_dir, strategy, how):
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    if "load_ms" in strategy:
        script.write_text(script.read_text().replace("done_tensors == 0", "total_tensors != 2"))
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(models_dir), strategy],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.send_signal(getattr(signal, how))
        wait_until(lambda: is_gone(pid))
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_parent_that_just_ends_takes_its_engine_along(tmp_path, models_dir):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.replace("time.sleep(60)", "sys.exit(0)"))
    command = [sys.executable, str(script), str(tmp_path), str(models_dir), ENDLESS]
    found = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=True
    )
    wait_until(lambda: is_gone(int(found.stdout)))
    assert found.stderr == ""
