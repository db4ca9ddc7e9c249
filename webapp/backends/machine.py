"""What a backend can use of this machine: how many CPU threads it may use and how many are useful now, and what GPU
drivers report. Drivers are queried in a separate process, so that one that crashes cannot end this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

WATCHED_S = 0.25
IDLE_S = 2.0
"""After this time without a step, the load of the CPUs says nothing about steps."""


def usable_cores() -> int:
    """The physical cores that this process may use, including its affinity and a container's quota."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed, _quota() or allowed))


def _quota() -> int | None:
    """Whole CPUs that a container may use (cgroup v2), None without a limit."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            limit, period = file.read().split()
        return None if limit == "max" else max(1, int(limit) // int(period))
    except (OSError, ValueError):
        return None


class FreeThreads:
    """How many of ``most`` threads are useful for the next step, for a library whose threads spin while they wait for
    each other. If another program takes one thread's core, the others waste theirs, and two threads are several times
    slower than one.

    Call :meth:`begin` before each step: it returns as many threads as other programs left cores free in the last
    quarter second of steps, initially all. Call :meth:`end` after it.
    """

    def __init__(
        self,
        most: int,
        busy: Callable[[], tuple[float, int]] | None = None,
        own: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``busy``: seconds that all CPUs available to this process have worked, for any program, and the number of
        CPUs; ``own``: the CPU seconds of this process."""
        self.most = most
        self._busy, self._own, self._clock = busy or busy_seconds, own, clock
        self._count = most
        self._ended = float("-inf")
        self._watched: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def begin(self) -> int:
        if self.most == 1:
            return 1
        moment = self._clock()
        since, busy_before, own_before = self._watched
        was_idle = moment - self._ended > IDLE_S
        if was_idle or moment - since >= WATCHED_S:
            (busy, processors), own = self._busy(), self._own()
            if not was_idle:
                others = (busy - busy_before - (own - own_before)) / (moment - since)
                self._count = max(1, min(self.most, round(processors - others)))
            self._watched = (moment, busy, own)
        return self._count

    def end(self) -> None:
        self._ended = self._clock()


def busy_seconds() -> tuple[float, int]:
    """For :class:`FreeThreads`. Resolution about 10 ms."""
    import psutil

    rows = psutil.cpu_times(percpu=True)
    if sys.platform == "linux":
        allowed = os.sched_getaffinity(0)
        rows = [row for number, row in enumerate(rows) if number in allowed]
    counted_twice = ("guest", "guest_nice")  # in user and nice, too
    other = sum(row.idle + sum(getattr(row, name, 0.0) for name in ("iowait", *counted_twice)) for row in rows)
    return sum(sum(row) for row in rows) - other, len(rows)


DRIVER_TIMEOUT_S = 60


class DriverFailed(Exception):
    """Contains the last output of the process, or how it ended."""


def printed_by(module: str) -> Any:
    """The JSON that ``python -m module`` prints last. Raises DriverFailed."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=DRIVER_TIMEOUT_S,
            check=False,
        )
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as exc:
        raise DriverFailed(f"{type(exc).__name__}: {exc}") from exc
    words = done.stderr.strip().splitlines()
    raise DriverFailed(words[-1] if words else f"exit code {done.returncode}")


def _environment() -> dict[str, str]:
    """Mesa needs a folder of the user, and prints a warning on the terminal if there is none."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    places = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {"XDG_RUNTIME_DIR": tempfile.gettempdir(), **os.environ, "PYTHONPATH": places}
