"""Threads that spin while waiting start only if CPUs are free. The clock is simulated, so the tests do not wait."""

from __future__ import annotations

import time

from webapp.backends.machine import IDLE_S, WATCHED_S, FreeThreads, busy_seconds

PROCESSORS = 4


class Machine:
    """Four CPUs; ``others`` of them are used by other programs."""

    def __init__(self, most: int) -> None:
        self.moment = self.busy = self.own = 0.0
        self.others = 0.0
        self.asked = 0
        self.threads = FreeThreads(most, self._busy, lambda: self.own, lambda: self.moment)

    def _busy(self) -> tuple[float, int]:
        self.asked += 1
        return self.busy, PROCESSORS

    def rest(self, seconds: float) -> None:
        self.moment += seconds
        self.busy += self.others * seconds

    def steps(self, count: int = 10, seconds: float = WATCHED_S / 4) -> int:
        """Runs this many steps; returns the number of threads of the last one."""
        for _ in range(count):
            used = self.threads.begin()
            self.rest(seconds)
            self.own += used * seconds
            self.busy += used * seconds
            self.threads.end()
        return used


def test_all_threads_are_used_while_nothing_else_runs() -> None:
    assert Machine(2).steps() == 2 and Machine(4).steps() == 4


def test_what_others_use_is_left_to_them_and_taken_again_when_it_is_free() -> None:
    machine = Machine(4)
    for others, expected in ((1, 3), (3.2, 1), (9, 1), (0.3, 4), (0, 4)):
        machine.others = others
        assert machine.steps() == expected


def test_processors_that_are_free_beside_all_threads_leave_them_all() -> None:
    machine = Machine(2)
    machine.others = 2
    assert machine.steps() == 2


def test_a_long_step_is_judged_when_it_is_over() -> None:
    machine = Machine(2)
    machine.others = 3
    for seconds in (3 * WATCHED_S, 3 * IDLE_S):
        machine.others = 0
        assert machine.steps() == 2
        machine.others = 3
        assert machine.steps(count=1, seconds=seconds) == 2
        assert machine.steps(count=1, seconds=seconds) == 1


def test_what_happened_between_answers_says_nothing_about_the_next() -> None:
    machine = Machine(2)
    assert machine.steps() == 2
    machine.others = 4
    machine.rest(2 * IDLE_S)
    machine.others = 0
    assert machine.steps() == 2
    machine.others = 4
    assert machine.steps() == 1
    machine.others = 0
    machine.rest(2 * IDLE_S)
    assert machine.steps(count=1) == 1  # unchanged until the next measurement
    assert machine.steps() == 2


def test_one_thread_needs_no_measurement() -> None:
    machine = Machine(1)
    assert machine.steps() == 1 and machine.asked == 0


def test_the_machine_counts_the_work_of_this_process() -> None:
    before, processors = busy_seconds()
    began = time.process_time()
    while time.process_time() - began < 0.1:
        pass
    after, _ = busy_seconds()
    assert processors >= 1 and after - before >= 0.05  # the clock has a resolution of 10 ms
