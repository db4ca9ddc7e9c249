"""Jobs: long-running work with one interface: start, progress, pause, cancel, and a log that is kept after the end.

A job is a function that receives a :class:`Running` for its reports. Each kind of job ("conversion", "download", …) has
its own queue, so that two conversions never run at once. Finished jobs are stored in a file for the next start; each
service handles its own unfinished ones.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from webapp.errors import ModelError, RoostError, as_roost_error, error_from_dict

WAITING, RUNNING, PAUSED, DONE, FAILED, CANCELLED = "waiting", "running", "paused", "done", "failed", "cancelled"
OVER = (DONE, FAILED, CANCELLED)
KEPT = 40
LOG_LINES = 200
SPEED_WINDOW_S = 10.0
SAMPLE_S = 0.25

log = logging.getLogger(__name__)


class Job(Struct, frozen=True):
    """The status of a job at one moment. ``done`` and ``total`` count ``unit``s: "bytes", "steps", or "" for none.
    ``details`` is JSON for its page and buttons. ``speed`` is in units per second.

    ``can_pause``: it can continue where it stopped, after a pause or a failure.
    """

    id: str
    kind: str
    title: str
    unit: str = "bytes"
    total: int = 0
    can_pause: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)
    status: str = WAITING
    phase: str = ""
    done: int = 0
    speed: float = 0.0
    error: RoostError | None = None
    log: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    @property
    def seconds_left(self) -> float | None:
        """None if unknown."""
        return (self.total - self.done) / self.speed if self.status == RUNNING and self.speed and self.total else None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "error": self.error.to_dict() if self.error else None}


class Running:
    """The job's side, on the job's thread: sends reports, receives requests to stop."""

    def __init__(self, jobs: Jobs, job_id: str) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._samples: deque[tuple[float, int]] = deque()
        self._on_stop: Callable[[], None] | None = None
        self.stop_status = ""
        """A request while it runs: PAUSED or CANCELLED."""
        self.done: int | None = None
        """Progress between reports, if the work provides it."""

    def report(self, done: int, total: int | None = None, phase: str | None = None, **details: Any) -> None:
        job = self._jobs.job(self._job_id)
        if done < job.done or (phase is not None and phase != job.phase):
            self._samples.clear()
        self.done = done
        now = self._jobs.clock()
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((now, done))
            while now - self._samples[0][0] > SPEED_WINDOW_S and len(self._samples) > 2:
                self._samples.popleft()
        changes: dict[str, Any] = {"done": done, "total": job.total if total is None else total}
        changes |= {"phase": phase} if phase is not None else {}
        changes |= {"details": {**job.details, **details}} if details else {}
        self._jobs.change(self._job_id, **changes)

    def note(self, line: str) -> None:
        """Adds a line to its log."""
        job = self._jobs.job(self._job_id)
        stamped = f"{time.strftime('%H:%M:%S')} {line}"
        self._jobs.change(self._job_id, log=(*job.log, stamped)[-LOG_LINES:])

    def on_stop(self, stop: Callable[[], None]) -> None:
        """``stop`` is called once, in the thread that requests the stop; at once if that has happened already."""
        self._on_stop = stop
        if self.stop_status:
            stop()

    def stop(self, status: str) -> None:
        is_first, self.stop_status = not self.stop_status, CANCELLED if self.stop_status == CANCELLED else status
        if is_first and self._on_stop is not None:
            self._on_stop()

    def speed(self) -> float:
        """Average of the last seconds; falls while there is no progress."""
        if len(self._samples) < 2:
            return 0.0
        (began, first), (_, last) = self._samples[0], self._samples[-1]
        return (last - first) / max(self._jobs.clock() - began, 1e-6)


Work = Callable[[Running], Mapping[str, Any] | None]
"""Returns details to store, or raises its error; the result does not matter after a requested stop."""


class Jobs:
    """``app.extensions["jobs"]``. Starts no thread before the first job; every method may be called from any thread."""

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._path = path
        self._changed = threading.Condition(threading.RLock())
        self._jobs: dict[str, Job] = {job.id: job for job in _read(path)}
        self._work: dict[str, Work] = {}
        self._clean: dict[str, Callable[[], None]] = {}
        self._running: dict[str, Running] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._at_once: dict[str, int] = {}
        self._revision = 0
        self.is_closed = False

    @property
    def revision(self) -> int:
        """Changes whenever a job looks different."""
        return self._revision

    def jobs(self, *kinds: str) -> Sequence[Job]:
        """Jobs of these kinds, or all; newest first."""
        with self._changed:
            found = [self._seen(job) for job in self._jobs.values() if not kinds or job.kind in kinds]
        return found[::-1]

    def job(self, job_id: str) -> Job:
        """Raises ``job_not_found`` if it does not exist or is no longer listed."""
        with self._changed:
            if job_id not in self._jobs:
                raise RoostError("job_not_found")
            return self._seen(self._jobs[job_id])

    def start(
        self,
        kind: str,
        title: str,
        work: Work,
        details: Mapping[str, Any] | None = None,
        *,
        unit: str = "bytes",
        total: int = 0,
        can_pause: bool = False,
        done: int = 0,
        at_once: int = 1,
        status: str = WAITING,
        clean: Callable[[], None] | None = None,
    ) -> Job:
        """Adds a job to its kind's queue, of which ``at_once`` run in parallel. With ``status`` PAUSED it waits for
        :meth:`resume`; with DONE it is only listed. ``clean`` is called when it is cancelled, or removed before it is
        done. Raises ``shutting_down`` during the shutdown."""
        job = Job(secrets.token_hex(8), kind, title, unit, total, can_pause, details or {}, status)
        job = replace(job, done=total if status == DONE else done)
        with self._changed:
            self.check_open()
            self._jobs[job.id], self._work[job.id], self._at_once[kind] = job, work, at_once
            if clean is not None:
                self._clean[job.id] = clean
            self._forget_oldest()
            self._notify()
            self._begin_next(kind)
            return self._jobs[job.id]

    def check_open(self) -> None:
        """Raises ``shutting_down`` during the shutdown."""
        if self.is_closed:
            raise ModelError("shutting_down")

    def cancel(self, job_id: str) -> None:
        """Cancels a waiting, running or paused job; ignores a finished one."""
        self._stop(job_id, CANCELLED)

    def pause(self, job_id: str) -> None:
        """Ignores a job that is finished or cannot pause."""
        if self.job(job_id).can_pause:
            self._stop(job_id, PAUSED)

    def resume(self, job_id: str) -> None:
        """Adds a paused job, or a failed one that can continue, to the end of its queue."""
        with self._changed:
            job = self.job(job_id)
            if job.can_pause and job_id in self._work and job.status in (PAUSED, FAILED):
                self._jobs.pop(job_id)
                self._jobs[job_id] = replace(job, status=WAITING, error=None)
                self._notify()
                self._begin_next(job.kind)

    def can_resume(self, job: Job) -> bool:
        return job.can_pause and job.status in (PAUSED, FAILED) and job.id in self._work

    def remove(self, job_id: str) -> None:
        """Removes a finished job from the list; its result stays."""
        with self._changed:
            if self.job(job_id).is_over:
                self._forget(job_id)
                self._keep()
                self._notify()

    def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """Waits until it is finished or paused, or for the timeout. ``job_not_found`` also for a removed job."""
        with self._changed:
            self._changed.wait_for(lambda: self.job(job_id).status not in (WAITING, RUNNING), timeout_s)
            return self.job(job_id)

    def stop_all(self) -> None:
        """Asks running jobs to stop, and accepts no new ones."""
        with self._changed:
            self.is_closed = True
            running = list(self._running.items())
        for job_id, handle in running:
            handle.stop(PAUSED if self._jobs[job_id].can_pause else CANCELLED)

    def close(self, timeout_s: float = 20.0) -> None:
        """Stops running jobs and waits for them; may be called twice."""
        self.stop_all()
        threads = list(self._threads.values())
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def change(self, job_id: str, **changes: Any) -> None:
        with self._changed:
            if job_id in self._jobs:
                self._jobs[job_id] = replace(self._jobs[job_id], **changes)
                self._notify()

    def _stop(self, job_id: str, status: str) -> None:
        with self._changed:
            job, handle = self.job(job_id), self._running.get(job_id)
            if handle is None and not job.is_over:
                self._end(job_id, status)
        if handle is not None:
            handle.stop(status)

    def _begin_next(self, kind: str) -> None:
        free = self._at_once[kind] - sum(self._jobs[job_id].kind == kind for job_id in self._running)
        waiting = [job for job in self._jobs.values() if job.kind == kind and job.status == WAITING]
        for job in waiting[: max(free, 0)]:
            self._running[job.id] = handle = Running(self, job.id)
            self.change(job.id, status=RUNNING)
            args = (job.id, handle, self._work[job.id])
            thread = threading.Thread(target=self._run, args=args, name=f"roost-{kind}", daemon=True)
            self._threads[job.id] = thread
            thread.start()

    def _run(self, job_id: str, handle: Running, work: Work) -> None:
        status, error, found = DONE, None, None
        try:
            found = work(handle)
        except Exception as exc:  # shown on the page
            status, error = (handle.stop_status, None) if handle.stop_status else (FAILED, as_roost_error(exc))
            if error is not None and error is not exc and not isinstance(exc, OSError):
                log.error("a job of kind %s broke", self.job(job_id).kind, exc_info=exc)
        with self._changed:
            kind = self._jobs[job_id].kind
            if found:
                self.change(job_id, details={**self._jobs[job_id].details, **found})
            if handle.done is not None:
                self.change(job_id, done=handle.done)
            del self._running[job_id], self._threads[job_id]
            self._end(job_id, status, error)
            if not self.is_closed:
                self._begin_next(kind)

    def _end(self, job_id: str, status: str, error: RoostError | None = None) -> None:
        self.change(job_id, status=status, error=error, speed=0.0)
        clean = self._clean.pop(job_id, None) if status in (DONE, CANCELLED) else None
        if clean is not None and status == CANCELLED:
            clean()
        if status in (DONE, CANCELLED):
            self._work.pop(job_id, None)
        if status != PAUSED:
            self._keep()

    def _seen(self, job: Job) -> Job:
        handle = self._running.get(job.id)
        if handle is None:
            return job
        return replace(job, speed=handle.speed(), done=job.done if handle.done is None else handle.done)

    def _notify(self) -> None:
        self._revision += 1
        self._changed.notify_all()

    def _forget_oldest(self) -> None:
        over = [job.id for job in self._jobs.values() if job.is_over]
        for job_id in over[: max(0, len(self._jobs) - KEPT)]:
            self._forget(job_id)

    def _forget(self, job_id: str) -> None:
        del self._jobs[job_id]
        self._work.pop(job_id, None)
        clean = self._clean.pop(job_id, None)
        if clean is not None:
            clean()

    def _keep(self) -> None:
        if self._path is None:
            return
        part = self._path.with_suffix(".part")
        try:
            part.write_text(json.dumps([job.to_dict() for job in self._jobs.values() if job.is_over]), encoding="utf-8")
            os.replace(part, self._path)
        except OSError as exc:
            log.warning("the list of jobs could not be stored: %s", exc)


def _read(path: Path | None) -> list[Job]:
    """Empty if there is no file, or if :class:`Jobs` did not write it."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        rows = json.loads(path.read_text(encoding="utf-8")) if path is not None else []
        found = []
        for row in rows:  # another version of Roost may have written other fields
            known = {name: value for name, value in row.items() if name in Job.__struct_fields__}
            error = error_from_dict(row["error"]) if row["error"] else None
            found.append(Job(**{**known, "error": error, "log": tuple(row["log"])}))
        return found
    return []
