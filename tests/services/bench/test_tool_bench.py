"""The server's tool bench: one run at a time, stored during the run, however it ends."""

import threading

import pytest

from tests.errors import raises_code
from tests.manager.thread_engine import start_engine_in_thread
from tests.services.bench.scripted import TIME, BenchManager, call
from tests.services.scripted_manager import end
from tests.waiting import wait_until
from tests.weights.make_checkpoints import write_checkpoint
from webapp.errors import BenchRefused, EngineCrashed
from webapp.manager.manager import ModelManager
from webapp.services.bench.tool_bench import BenchRequest, ToolBench
from webapp.services.jobs import Jobs
from webapp.settings import Settings
from webapp.storage.bench import DONE, FAILED, STOPPED
from webapp.tools.bench import BenchCase, ExpectedCall

CASE = BenchCase("What time is it?", (ExpectedCall("get_time"),))


def order(count):
    return BenchRequest((TIME,), (CASE,) * count, ("free",))


@pytest.fixture
def bench_with(world, database):
    made = []

    def make(*scripts):
        manager = BenchManager(world, *scripts)
        made.append(ToolBench(manager, database, Jobs(), at_once=1))
        made[-1].manager = manager
        return made[-1]

    yield make
    for bench in made:
        bench.jobs.close()


def ended(bench, run):
    wait_until(lambda: bench.wait(1))
    return bench.store.run(run.id)


def test_a_run_that_ends_by_itself_is_done_and_has_its_figures(bench_with):
    bench = bench_with(call("get_time"), " Noon.")
    found = ended(bench, bench.start(order(2)))
    assert (found.status, found.answers, found.error, bench.running) == (DONE, 2, None, "")
    assert found.setup["model"] == "starter.pth" and found.setup["figures"]["free"]["decision"] == 0.5
    assert found.finished_at >= found.started_at


def test_a_crash_keeps_the_text_so_far_and_reports_the_error(bench_with):
    bench = bench_with(call("get_time"), [end("error", EngineCrashed(reason="a memory fault").to_dict())])
    found = ended(bench, bench.start(order(3)))
    assert (found.status, found.answers, found.error["code"]) == (FAILED, 1, "engine_crashed")
    assert bench.store.answers(found.id)[0]["called"] == [{"name": "get_time", "arguments": {}}]
    assert found.setup["figures"]["free"]["cases"] == 1


def test_one_run_at_a_time_and_another_after_a_stop(bench_with):
    bench = bench_with([" It is", threading.Event()], call("get_time"))
    run = bench.start(order(2))
    with pytest.raises(BenchRefused):
        bench.start(order(1))
    wait_until(lambda: bench.manager.handles)
    bench.stop("another")
    assert bench.running == run.id
    bench.stop(run.id)
    assert ended(bench, run).status == STOPPED
    assert ended(bench, bench.start(order(1))).status == DONE


def test_the_end_of_the_server_ends_the_run_and_none_begins_after_it(bench_with):
    bench = bench_with([" It is", threading.Event()])
    run = bench.start(order(1))
    bench.jobs.close()
    found = bench.store.run(run.id)
    assert (found.status, found.error["code"]) == (FAILED, "bench_interrupted")
    with raises_code("shutting_down"):
        bench.start(order(1))


def test_a_run_another_process_left_is_reported_at_the_next_start(bench_with):
    bench = bench_with()
    run = bench.store.begin_run({"modes": []})
    bench_with()
    assert bench.store.run(run.id).error["code"] == "bench_interrupted"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    write_checkpoint(path, "7", n_layer=1, n_embd=64, vocab_size=65536)
    return path


def run_with_engine(model, database, tmp_path, strategy, meanwhile=lambda manager, bench: None):
    """The stored run of four cases with the real manager and engine; the model is fake."""
    settings = Settings(
        data_dir=tmp_path, models_dir=model.parent, model=model.name, strategy=strategy, swap_grace_s=0.1
    )
    manager = ModelManager(settings, start_engine=start_engine_in_thread)
    bench = ToolBench(manager, database, Jobs())
    try:
        run = bench.start(order(4))
        meanwhile(manager, bench)
        return ended(bench, run)
    finally:
        bench.jobs.close()
        manager.close()


def test_a_real_engine_that_breaks_ends_the_run(model, database, tmp_path):
    found = run_with_engine(model, database, tmp_path, "fake script=34 repeat=0 nan_at=200")
    assert (found.status, found.error["code"], found.answers) == (FAILED, "non_finite_logits", 0)


def test_a_real_swap_ends_the_run(model, database, tmp_path):
    def swap(manager, bench):
        wait_until(lambda: manager.status().phase == "answering")
        manager.load(strategy="fake script=35")

    found = run_with_engine(model, database, tmp_path, "fake script=34 repeat=0 delay_ms=5", swap)
    assert (found.status, found.error["code"]) == (FAILED, "model_unloaded")
