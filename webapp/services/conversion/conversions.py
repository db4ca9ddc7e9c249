"""Conversions asked for on a page: one at a time, each in a process of its own, with nothing lost at a reload."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from webapp.errors import (
    ConversionCancelled,
    ConversionNotFound,
    ConversionTargetExists,
    RoostError,
    ShuttingDown,
    as_roost_error,
)
from webapp.manager.library import ModelLibrary
from webapp.services.conversion.order import ConversionOrder, ReadyOrder, check_order
from webapp.services.conversion.process import ConversionProcess
from webapp.services.library.disk_space import free_bytes
from webapp.weights.convert.new_file import remove_abandoned
from webapp.weights.convert.progress import ConversionProgress

KEPT_JOBS = 20
WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"


@dataclass(frozen=True)
class ConversionJob:
    """``name``: of the new file in the library. ``seconds`` and ``size_bytes`` of one that is done."""

    id: str
    order: ConversionOrder
    name: str
    path: Path
    planned_bytes: int
    status: str = WAITING
    progress: ConversionProgress | None = None
    error: RoostError | None = None
    size_bytes: int = 0
    seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.status in (DONE, FAILED, CANCELLED)


class Conversions:
    """``app.extensions["conversions"]``. Starts no thread before the first job."""

    def __init__(self, library: ModelLibrary) -> None:
        self._library = library
        self._jobs: dict[str, ConversionJob] = {}
        self._orders: dict[str, ReadyOrder] = {}
        self._waiting: deque[str] = deque()
        self._process: ConversionProcess | None = None
        self._running_id = ""
        self._unwanted = ""
        self._changed = threading.Condition()
        self._revisions = itertools.count(1)
        self._revision = 0
        self._is_closed = False
        self._thread: threading.Thread | None = None

    @property
    def revision(self) -> int:
        """Another number whenever a job would look different."""
        return self._revision

    def jobs(self) -> Sequence[ConversionJob]:
        """The newest first."""
        with self._changed:
            return list(self._jobs.values())[::-1]

    def job(self, job_id: str) -> ConversionJob:
        with self._changed:
            return self._find(job_id)

    def check(self, order: ConversionOrder) -> ReadyOrder:
        """What it would write and where; refusals as of :meth:`start`, but a file in the way is only named."""
        return check_order(self._library, order)

    def start(self, order: ConversionOrder) -> ConversionJob:
        """Puts it at the end of the queue. Raises what can be told beforehand: ConversionTargetExists, …"""
        ready = check_order(self._library, order)
        ready.check_place()
        with self._changed:
            if self._is_closed:
                raise ShuttingDown()
            if any(job.path == ready.target_path and not job.is_over for job in self._jobs.values()):
                raise ConversionTargetExists(path=ready.target_path.name)
            job = ConversionJob(secrets.token_hex(8), order, ready.name, ready.target_path, ready.planned_bytes)
            self._jobs[job.id] = job
            self._orders[job.id] = ready
            self._waiting.append(job.id)
            self._forget_oldest()
            self._tell()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="roost-conversions", daemon=True)
                self._thread.start()
        return job

    def cancel(self, job_id: str) -> None:
        """Of one that waits or runs; the unfinished file goes."""
        with self._changed:
            job = self._find(job_id)
            if job.status == WAITING:
                self._waiting.remove(job_id)
                self._put(job, status=CANCELLED, error=ConversionCancelled())
            if job.status == RUNNING:
                self._unwanted = job_id
            process = self._process if job_id == self._running_id else None
        if process is not None:
            process.cancel()

    def remove(self, job_id: str) -> None:
        """Of one that is over, from the list; its file stays."""
        with self._changed:
            if self._find(job_id).is_over:
                del self._jobs[job_id]
                self._orders.pop(job_id, None)
                self._tell()

    def close(self) -> None:
        """Ends what runs, cleanly; may be called twice."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            process, thread = self._process, self._thread
            self._changed.notify_all()
        if process is not None:
            process.cancel()
        if thread is not None:
            thread.join(20)

    def free_bytes(self, path: Path) -> int:
        return free_bytes(path.parent)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
                job_id = self._waiting.popleft()
                self._running_id = job_id
                self._put(self._jobs[job_id], status=RUNNING)
                ready = self._orders.pop(job_id)
            self._run(job_id, ready)

    def _run(self, job_id: str, ready: ReadyOrder) -> None:
        try:
            process = ConversionProcess(ready)
            with self._changed:
                self._process = process
                is_unwanted = self._is_closed or self._unwanted == job_id
            if is_unwanted:  # between its turn and its start
                process.cancel()
            outcome = process.wait(lambda progress: self._change(job_id, progress=progress))
            self._library.watch.look_again()
            self._change(job_id, status=DONE, size_bytes=outcome.size_bytes, seconds=outcome.seconds)
        except Exception as exc:  # told on the page; the next in the queue goes on
            error = as_roost_error(exc)
            remove_abandoned(ready.target_path.parent)
            self._change(job_id, status=CANCELLED if isinstance(error, ConversionCancelled) else FAILED, error=error)
        finally:
            with self._changed:
                self._process, self._running_id = None, ""

    def _change(self, job_id: str, **changes: object) -> None:
        with self._changed:
            self._put(self._jobs[job_id], **changes)

    def _put(self, job: ConversionJob, **changes: object) -> None:
        self._jobs[job.id] = replace(job, **changes)  # type: ignore[arg-type]
        self._tell()

    def _tell(self) -> None:
        self._revision = next(self._revisions)
        self._changed.notify_all()

    def _find(self, job_id: str) -> ConversionJob:
        if job_id not in self._jobs:
            raise ConversionNotFound()
        return self._jobs[job_id]

    def _forget_oldest(self) -> None:
        over = [job.id for job in self._jobs.values() if job.is_over]
        for job_id in over[: max(0, len(self._jobs) - KEPT_JOBS)]:
            del self._jobs[job_id]
