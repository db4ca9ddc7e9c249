"""Jobs without real work: one queue per kind, stops, pauses, figures, and what is kept for the next start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.errors import raises_code
from tests.waiting import wait_until
from webapp.errors import RoostError
from webapp.services.jobs import CANCELLED, DONE, FAILED, PAUSED, RUNNING, WAITING, Jobs, Running


class Steps:
    """Work that continues when the test allows it, and stops when requested."""

    def __init__(self, result: dict[str, Any] | Exception | None = None) -> None:
        self.result = result
        self.began = threading.Event()
        self.go = threading.Event()
        self.runs = 0

    def __call__(self, running: Running) -> dict[str, Any] | None:
        self.runs += 1
        self.go.clear()
        running.on_stop(self.go.set)
        self.began.set()
        assert self.go.wait(60)
        if running.stop_status:
            raise InterruptedError
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(tmp_path / "jobs.json")
    yield jobs
    jobs.close()


def started(jobs: Jobs, work: Steps, kind: str = "copy", **more: Any) -> str:
    job = jobs.start(kind, "a file", work, **more)
    wait_until(work.began.is_set)
    return job.id


def test_one_job_of_a_kind_runs_and_other_kinds_in_parallel(jobs: Jobs) -> None:
    first, second, other = Steps({"size": 3}), Steps(), Steps()
    first_id = started(jobs, first)
    second_id = jobs.start("copy", "another", second).id
    other_id = started(jobs, other, "bake")
    assert [job.status for job in jobs.jobs()] == [RUNNING, WAITING, RUNNING]
    assert [job.id for job in jobs.jobs("bake")] == [other_id]
    first.go.set()
    wait_until(second.began.is_set)
    assert jobs.job(first_id).status == DONE and jobs.job(first_id).details == {"size": 3}
    assert jobs.job(second_id).status == RUNNING


def test_what_waits_and_what_runs_is_cancelled(jobs: Jobs) -> None:
    running_id, waiting_id = started(jobs, Steps()), jobs.start("copy", "another", Steps()).id
    jobs.cancel(waiting_id)
    jobs.cancel(running_id)
    assert jobs.wait(running_id, 30).status == CANCELLED and jobs.job(waiting_id).status == CANCELLED
    assert jobs.job(running_id).error is None


def test_waiting_for_a_job_that_is_taken_off_the_list_says_so(jobs: Jobs) -> None:
    with raises_code("job_not_found"):
        jobs.wait("gone", 0)


def test_a_failure_is_kept_and_an_unknown_one_too(jobs: Jobs) -> None:
    for exc, code in (
        (RoostError("disk_full", free="1 MB", needed="2 MB"), "disk_full"),
        (ZeroDivisionError(), "internal_error"),
    ):
        work = Steps(exc)
        job_id = started(jobs, work)
        work.go.set()
        found = jobs.wait(job_id, 30)
        assert found.status == FAILED and found.error is not None and found.error.code == code


def test_a_pause_continues_with_the_same_work_and_so_does_a_failure(jobs: Jobs) -> None:
    work = Steps()
    job_id = started(jobs, work, can_pause=True)
    jobs.pause(job_id)
    assert jobs.wait(job_id, 30).status == PAUSED and jobs.can_resume(jobs.job(job_id))
    work.began.clear()
    work.result = RoostError("disk_full", free="1 MB", needed="2 MB")
    jobs.resume(job_id)
    wait_until(work.began.is_set)
    work.go.set()
    assert jobs.wait(job_id, 30).status == FAILED
    work.began.clear()
    work.result = None
    jobs.resume(job_id)
    wait_until(work.began.is_set)
    work.go.set()
    assert jobs.wait(job_id, 30).status == DONE and work.runs == 3
    jobs.resume(job_id)
    assert jobs.job(job_id).status == DONE


def test_what_cannot_pause_runs_on(jobs: Jobs) -> None:
    work = Steps()
    job_id = started(jobs, work)
    jobs.pause(job_id)
    assert jobs.job(job_id).status == RUNNING
    work.go.set()


def test_speed_and_time_left_are_of_the_last_seconds(tmp_path: Path) -> None:
    now = [100.0]
    jobs = Jobs(clock=lambda: now[0])
    seen: list[Any] = []

    def work(running: Running) -> None:
        for done in (0, 50, 100):
            running.report(done, total=200)
            now[0] += 1.0
        seen.append(jobs.jobs()[0])
        now[0] += 7.0
        seen.append(jobs.jobs()[0])

    jobs.wait(jobs.start("copy", "a file", work).id, 30)
    assert [round(job.speed, 1) for job in seen] == [33.3, 10.0]
    assert seen[1].seconds_left == pytest.approx(10.0)


def test_the_log_and_what_is_over_outlive_the_process(jobs: Jobs, tmp_path: Path) -> None:
    def work(running: Running) -> dict[str, Any]:
        running.note("half of it is there")
        raise RoostError("disk_full", free="1 MB", needed="2 MB")

    job_id = jobs.wait(jobs.start("copy", "a file", work, {"model": "m"}).id, 30).id
    started(jobs, Steps())
    again = Jobs(tmp_path / "jobs.json")
    [found] = again.jobs()
    assert (found.id, found.status, found.details) == (job_id, FAILED, {"model": "m"})
    assert found.error is not None and found.error.code == "disk_full" and "half of it" in found.log[0]
    again.remove(job_id)
    assert Jobs(tmp_path / "jobs.json").jobs() == []


@pytest.mark.parametrize("content", ["", "[", "[1]", '{"a": 1}', '[{"id": "x"}]'])
def test_a_list_that_cannot_be_read_is_an_empty_one(content: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.json").write_text(content)
    assert Jobs(tmp_path / "jobs.json").jobs() == []


def test_only_what_is_over_leaves_the_list(jobs: Jobs) -> None:
    job_id = started(jobs, Steps())
    jobs.remove(job_id)
    assert jobs.job(job_id).status == RUNNING
    jobs.cancel(job_id)
    jobs.wait(job_id, 30)
    jobs.remove(job_id)
    actions: list[Callable[[str], Any]] = [jobs.cancel, jobs.pause, jobs.resume, jobs.remove, jobs.job]
    for action in actions:
        with raises_code("job_not_found"):
            action(job_id)


def test_the_end_of_the_server_stops_running_work_and_refuses_more(jobs: Jobs) -> None:
    copy_id, load_id = started(jobs, Steps()), started(jobs, Steps(), "load", can_pause=True)
    jobs.close()
    assert jobs.job(copy_id).status == CANCELLED and jobs.job(load_id).status == PAUSED
    with raises_code("shutting_down"):
        jobs.start("copy", "another", Steps())
