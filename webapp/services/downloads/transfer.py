"""The transfer of one file into a ``.part`` with a description: it can resume after a pause, a kill or a reboot.

Temporary failures (a lost connection, a silent or overloaded server) are tried again, on the next mirror if there is
one; other failures end the transfer with their own error. When :meth:`Transfer.fetch` returns, the file is complete and
its checksum is correct.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from webapp.errors import DownloadError, RoostError
from webapp.i18n import size_text
from webapp.services.downloads.hubs import Answer, Http, interrupt
from webapp.services.jobs import Running
from webapp.services.library.placing import (
    RESERVE_BYTES,
    check_free,
    free_bytes,
    replace_file,
    safe_name,
    write_all,
    writing,
)
from webapp.weights.file_format import stamp_of

PARTS = ".downloads"
TRIES, PROGRESS_BYTES = 5, 1 << 20
"""Number of failures in a row without this much progress, over all mirrors."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
TRICKLE_S, TRICKLE_BYTES = 60.0, 64 << 10
"""A connection that delivers less in this time is closed."""
CHECK_BYTES = 32 << 20
PIECE_BYTES = 1 << 20
REPORT_S = 0.2
PASSING = frozenset(
    f"download_{name}" for name in ("unreachable", "stalled", "interrupted", "rate_limited", "range_refused", "refused")
)


class Source(Struct, frozen=True):
    """What to fetch. ``key`` identifies the file on every mirror; ``urls``: the mirrors in order. ``size_bytes`` 0,
    ``sha256`` "" and ``etag`` "" mean unknown. ``members``: the files of a folder, whose sum is ``size_bytes``;
    ``folder``: for a member, the name of the folder."""

    name: str
    key: str
    urls: tuple[str, ...]
    size_bytes: int = 0
    sha256: str = ""
    etag: str = ""
    members: tuple[Source, ...] = ()
    folder: str = ""


class Part:
    """``<id>.part`` and ``<id>.json`` in the hidden folder of the models folder, for one process at a time. For a
    folder, complete members are collected in ``<id>.folder``."""

    def __init__(self, models_dir: Path, source: Source) -> None:
        self.folder = models_dir / PARTS
        part_id = hashlib.sha256(f"{source.name}\n{source.key}".encode()).hexdigest()[:32]
        self._members = [Part(models_dir, member) for member in source.members]
        self.path = self.folder / f"{part_id}.{'folder' if source.members else 'part'}"
        self._about = self.folder / f"{part_id}.json"

    @property
    def size_bytes(self) -> int:
        with contextlib.suppress(OSError):
            size = stamp_of(self.path)[1]
            return size + sum(part.size_bytes for part in self._members)
        return sum(part.size_bytes for part in self._members)

    def source(self) -> Source | None:
        """The stored description; None if there is none."""
        return _read(self._about)

    def describe(self, source: Source) -> None:
        replace_file(self._about, json.dumps(to_builtins(source), ensure_ascii=False).encode())

    def discard(self) -> None:
        for part in self._members:
            part.discard()
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        for path in (self.path, self._about):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # remove the folder after its last file
            self.folder.rmdir()

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[FileIO]:
        """Unbuffered, so that the write detects a full disk. ``download_elsewhere`` if another process uses it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path.open("ab").close()
        with self.path.open("rb+", buffering=0) as file:
            with contextlib.suppress(ImportError):
                import fcntl

                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as exc:
                    raise DownloadError("download_elsewhere", name=name) from exc
                except OSError:  # a network disk without locks
                    pass
            yield file


def unfinished(models_dir: Path) -> list[Source]:
    """Unfinished downloads of earlier processes; a folder counts once for all its files."""
    found = [source for path in sorted((models_dir / PARTS).glob("*.json")) if (source := _read(path))]
    return [source for source in found if not source.folder]


def _read(path: Path) -> Source | None:
    """None for a file that this module did not write; a stored name may never lead to another folder."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RoostError):
        found = json.loads(path.read_text(encoding="utf-8"))
        source = _source(found if isinstance(found, dict) else {})
        return source if source.urls and all(map(_is_safe, (source, *source.members))) else None
    return None


def _source(found: dict[str, Any]) -> Source:
    members = tuple(_source(member) for member in found.get("members", ()))
    return Source(**{**found, "urls": tuple(found["urls"]), "members": members})


def _is_safe(source: Source) -> bool:
    is_file = not (source.members or source.folder)
    return source.name == (safe_name(source.name) if is_file else safe_name(source.name, ("",)))


class ShareOfJob:
    """A member's share of the job that fetches its folder: reports are added to ``before``, the bytes that are complete
    already."""

    def __init__(self, running: Running, before: int) -> None:
        self._running = running
        self._before = before
        self.note = running.note
        self.on_stop = running.on_stop

    @property
    def stop_status(self) -> str:
        return self._running.stop_status

    @property
    def done(self) -> int | None:
        return self._running.done

    @done.setter
    def done(self, value: int) -> None:
        self._running.done = self._before + value

    def report(self, done: int, total: int | None = None, phase: str | None = None, **details: Any) -> None:
        """``total`` is the member's and is ignored; the job's stays."""
        self._running.report(self._before + done, None, phase, **details)


class Transfer:
    """One attempt of a job; a new one is created when the job resumes."""

    def __init__(self, source: Source, part: Part, http: Http, running: Running | ShareOfJob) -> None:
        self.source = source
        self._part = part
        self._http = http
        self._running = running
        self._stop = threading.Event()
        self._answer: Answer | None = None
        running.on_stop(self._interrupt)

    def fetch(self) -> None:
        """Downloads until the part is complete and verified. Raises InterruptedError if the job must stop."""
        known = self._part.source()
        if known is not None:
            known = replace(known, folder=self.source.folder)
            is_same = not (self.source.sha256 and known.sha256) or self.source.sha256 == known.sha256
            if is_same:
                self.source = replace(known, urls=self.source.urls, sha256=self.source.sha256 or known.sha256)
            else:
                self._part.discard()
        with writing(self._part.folder, self.source.size_bytes):
            self._part.describe(self.source)
            with self._part.opened(self.source.name) as file:
                self._fetch(file)
                os.fsync(file.fileno())
                self._verify(file)

    def _fetch(self, file: FileIO) -> None:
        failures = 0
        while True:
            before = self._part.size_bytes
            url = self.source.urls[failures % len(self.source.urls)]
            try:
                return self._attempt(url, file)
            except DownloadError as exc:
                if self._running.stop_status:
                    raise InterruptedError from exc
                if exc.code not in PASSING or (exc.code == "download_refused" and exc.params["found"] < 500):
                    raise
                failures = 1 if self._part.size_bytes >= before + PROGRESS_BYTES else failures + 1
                if failures >= max(TRIES, len(self.source.urls)):
                    raise
                self._wait(exc, failures)

    def _wait(self, exc: RoostError, failures: int) -> None:
        """Respects the delay that a server requests, up to a few minutes."""
        wait_s = min(FIRST_WAIT_S * 2 ** (failures - 1), LONGEST_WAIT_S)
        if exc.code == "download_rate_limited":
            if exc.params["seconds"] > 10 * LONGEST_WAIT_S:
                raise exc
            wait_s = max(wait_s, exc.params["seconds"])
        self._running.note(exc.message)
        self._running.report(self._part.size_bytes, phase="waiting")
        if self._stop.wait(wait_s):
            raise InterruptedError

    def _attempt(self, url: str, file: FileIO) -> None:
        source, done = self.source, self._part.size_bytes
        if source.size_bytes and done == source.size_bytes:
            return
        if source.size_bytes and done > source.size_bytes:
            self._begin_again(file)
            done = 0
        try:
            with self._http.open(url, done, source.name) as answer:
                self._answer = answer
                if self._running.stop_status:
                    raise InterruptedError
                done = self._agree(answer, file, done)
                self._running.report(done, total=self.source.size_bytes, phase="fetch", host=answer.host)
                self._copy(answer, file, done)
        except DownloadError as exc:
            if exc.code != "download_range_refused" or not done:
                raise
            self._begin_again(file)
            raise DownloadError("download_range_refused", **{**exc.params, "name": source.name}) from exc
        finally:
            self._answer = None

    def _agree(self, answer: Answer, file: FileIO, done: int) -> int:
        """Checks that the response is for the same file and size; returns the position to continue from."""
        source, total = self.source, answer.total
        hashes = source.sha256 and answer.sha256
        if source.size_bytes and total and total != source.size_bytes:
            self._refuse_other(answer, done)
            sizes = {"expected": size_text(source.size_bytes), "found": size_text(total)}
            raise DownloadError("download_wrong_size", name=source.name, host=answer.host, **sizes)
        if (source.etag and answer.etag and source.etag != answer.etag) and not (hashes and hashes == source.sha256):
            self._refuse_other(answer, done)
        if hashes and answer.sha256 != source.sha256:
            short = {"found": answer.sha256[:12], "expected": source.sha256[:12]}
            raise DownloadError("download_wrong_hash", name=source.name, **short)
        self.source = replace(
            source,
            size_bytes=total or source.size_bytes,
            etag=answer.etag or source.etag,
            sha256=source.sha256 or answer.sha256,
        )
        self._part.describe(self.source)
        check_free(self._part.folder, max(self.source.size_bytes - done, 0))
        if answer.start != done:  # the server ignores the requested range
            self._running.note(f"{answer.host} does not go on in the middle; it is fetched from the beginning")
            self._begin_again(file)
        return answer.start

    def _refuse_other(self, answer: Answer, done: int) -> None:
        """Raises ``download_changed`` if the part belongs to another file; the next try starts from zero."""
        if done:
            self._part.discard()
            raise DownloadError("download_changed", name=self.source.name, host=answer.host)

    def _copy(self, answer: Answer, file: FileIO, done: int) -> None:
        source, total = self.source, self.source.size_bytes
        file.seek(done)
        clock = time.monotonic
        reported_at = window_at = clock()
        window_from, checked_at, first = done, done, done
        with self._http.failures(answer.host, source.name):
            for piece in answer.response.iter_raw():
                if self._running.stop_status:
                    raise InterruptedError
                if done == first == 0 and piece.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
                    self._part.discard()
                    raise DownloadError("download_not_a_file", host=answer.host, name=source.name)
                if total and done + len(piece) > total:
                    self._part.discard()
                    raise DownloadError(
                        "download_too_long", host=answer.host, name=source.name, expected=size_text(total)
                    )
                write_all(file, piece)
                done += len(piece)
                self._running.done = done
                now = clock()
                if now - reported_at >= REPORT_S:
                    reported_at = now
                    self._running.report(done)
                if now - window_at >= TRICKLE_S:
                    if done - window_from < TRICKLE_BYTES:
                        raise DownloadError("download_stalled", host=answer.host, seconds=int(TRICKLE_S))
                    window_at, window_from = now, done
                if done - checked_at >= CHECK_BYTES:
                    checked_at = done
                    if free_bytes(self._part.folder) < RESERVE_BYTES // 2:
                        raise RoostError("disk_full", free=size_text(0), needed=size_text(total - done))
        self._running.report(done)
        if done < total:
            raise DownloadError("download_interrupted", host=answer.host, name=source.name, done=size_text(done))
        if not total:
            self.source = replace(source, size_bytes=done)

    def _verify(self, file: FileIO) -> None:
        """Reads the file back from disk, because only the bytes on disk count."""
        source = self.source
        if not source.sha256:
            self._running.note("no checksum is known of this file; only its size was compared")
            return
        digest, done = hashlib.sha256(), 0
        file.seek(0)
        while piece := file.read(PIECE_BYTES):
            if self._running.stop_status:
                raise InterruptedError
            digest.update(piece)
            done += len(piece)
            if done % (64 * PIECE_BYTES) == 0:
                self._running.report(done, phase="verify")
        if digest.hexdigest() != source.sha256:
            self._part.discard()
            short = {"found": digest.hexdigest()[:12], "expected": source.sha256[:12]}
            raise DownloadError("download_wrong_hash", name=source.name, **short)
        self._running.note(f"sha256 {source.sha256}")

    def _begin_again(self, file: FileIO) -> None:
        file.seek(0)
        file.truncate()

    def _interrupt(self) -> None:
        self._stop.set()
        answer = self._answer
        if answer is not None:
            interrupt(answer.response)
