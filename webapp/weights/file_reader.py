"""Reads model and state files in a separate process (:mod:`.reader_process`), and documents in another one.

The web process and the commands use :class:`FileReader` instead of :func:`webapp.weights.inspection.inspect` and other
readers: the same results and errors, plus :class:`FileReadingFailed` for a file that took too long, needed too much
memory or ended the process. Such a file is remembered (:class:`FailedFiles`), so that neither a start nor a page opens
it again until it changes.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import signal
import stat
import subprocess
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct
from msgspec.structs import asdict, replace

from webapp.engine.state import ModelConfig
from webapp.errors import FileReadingFailed, error_from_dict
from webapp.i18n import Text, plain, text_from_plain
from webapp.weights.child_process import close_pipes, framed, read_frame, start_process, write_frame
from webapp.weights.convert.plan import ConversionOptions
from webapp.weights.file_format import is_model_folder_at, stamp_of
from webapp.weights.inspection import Inspection
from webapp.weights.state_sheet import PrefixSheet, StateMeasures, StateSheet
from webapp.weights.tensor_info import shared

if TYPE_CHECKING:
    from webapp.weights.reader_process import Reply, Request


EDGE_BYTES = 1 << 16
MAX_RECORDS = 200


class Mark(Struct, frozen=True):
    """Identifies a file and its version. ``digest``: of its first and last 64 KiB; for a folder only size and time."""

    size: int
    mtime_ns: int
    digest: str = ""


class FailedFiles:
    """``path``: a JSON file, created with the first record; None remembers within this process only. Thread-safe;
    another process may also write the file, and its records are seen at the next call."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._records: dict[Mark, Text] = {}
        self._passing: dict[Mark, Text] = {}
        self._read_at: tuple[int, int] | None = None

    def reason(self, path: Path) -> Text | None:
        """Why the file failed before; None if it did not, or has changed since."""
        with self._lock:
            self._refresh()
            known = {**self._passing, **self._records}
        if not known:
            return None
        found = _stat(path)
        if found is None or not any((mark.size, mark.mtime_ns) == found for mark in known):
            return None
        return known.get(_mark(path, found))

    def add(self, path: Path, reason: Text, is_kept: bool = True) -> None:
        """``is_kept``: also across restarts."""
        found = _stat(path)
        if found is None:
            return
        mark = _mark(path, found)
        with self._lock:
            self._refresh()
            (self._records if is_kept else self._passing)[mark] = reason
            for records in (self._records, self._passing):
                while len(records) > MAX_RECORDS:
                    del records[next(iter(records))]
            self._write()

    def forget(self, path: Path) -> None:
        """Called after a file was read successfully."""
        found = _stat(path)
        with self._lock:
            self._refresh()
            if found is None or not (self._records or self._passing):
                return
        mark = _mark(path, found)
        with self._lock:
            self._passing.pop(mark, None)
            if self._records.pop(mark, None) is not None:
                self._write()

    def _refresh(self) -> None:
        """Reads the file again if another process has written it."""
        if self._path is None:
            return
        written_at = _stat(self._path)
        if written_at == self._read_at:
            return
        self._read_at = written_at
        self._records = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            for record in json.loads(self._path.read_text(encoding="utf-8"))[:MAX_RECORDS]:
                mark = Mark(int(record["size"]), int(record["mtime_ns"]), str(record["digest"]))
                self._records[mark] = text_from_plain(record["reason"])

    def _write(self) -> None:
        """If the folder is not writable, only the memory across restarts is lost."""
        if self._path is None or not self._path.parent.is_dir():
            return
        records: list[dict[str, Any]] = [
            {**asdict(mark), "reason": plain(reason)} for mark, reason in self._records.items()
        ]
        part = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}.part")
        with contextlib.suppress(OSError):
            part.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
            os.replace(part, self._path)
        part.unlink(missing_ok=True)
        self._read_at = _stat(self._path)


def _stat(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change of an ordinary file, or of a model's folder."""
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or is_model_folder_at(path)):
            return None
        changed, size = stamp_of(path)
    except (OSError, ValueError):
        return None
    return size, changed


def _mark(path: Path, found: tuple[int, int]) -> Mark:
    size, mtime_ns = found
    digest = hashlib.sha256()
    with contextlib.suppress(OSError), path.open("rb") as file:
        digest.update(file.read(EDGE_BYTES))
        file.seek(max(0, size - EDGE_BYTES))
        digest.update(file.read(EDGE_BYTES))
    return Mark(size, mtime_ns, digest.hexdigest())


FAILED_FILES = "unreadable_files.json"
"""In the data folder."""
WORK_S = 2.0
BYTES_A_SECOND = 1 << 30
"""The cost of a header hardly depends on the file's size; this gives a slow machine more time for a large file."""
STATE_BYTES_A_SECOND = 50 << 20
"""A state is read completely: at this rate on a slow disk."""
MAX_WORK_S = 60.0
WAITING_FACTOR = 5
"""Factor for the total time, because a process may wait for a disk or other programs without working."""
MEMORY_BYTES = 512 << 20
MAX_STATE_BYTES = 1 << 30
REPLY_BYTES = 16 << 20
DOCUMENT_WORK_S, DOCUMENT_MEMORY_BYTES, DOCUMENT_REPLY_BYTES = 20.0, 512 << 20, 16 << 20
START_S = 20.0
WATCH_S = 0.05
CLOSE_S = 0.5
BOOT = "from webapp.weights.reader_process import main; main()"
ENVIRONMENT_DEFAULTS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # threads take memory before any work
Answer = TypeVar("Answer")
_decoders: dict[Any, Any] = {}
_making = threading.Lock()


class Limits(Struct, frozen=True):
    """``work_s``: CPU time; ``wall_s``: wall-clock time."""

    work_s: float = WORK_S
    memory_bytes: int = MEMORY_BYTES
    reply_bytes: int = REPLY_BYTES

    @property
    def wall_s(self) -> float:
        return self.work_s * WAITING_FACTOR


class ReadingStopped(Exception):
    """``reason`` for the file's error; ``is_lasting`` if another try would fail too."""

    def __init__(self, reason: Text, is_lasting: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_lasting = is_lasting


class ReaderProcess:
    """One process, started at first use and again after its end; handles one request at a time. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def call(self, operation: str, arguments: Sequence[Any], limits: Limits) -> Reply:
        """Raises ReadingStopped, or OSError if no process can be started."""
        from webapp.weights.reader_process import Request  # imports what a start does not need

        request = Request(operation, list(arguments), limits.wall_s, limits.memory_bytes)
        with self._lock:
            for is_last in (False, True):
                process = self._running()
                watch = _Watch(process, limits)
                try:
                    with watch:
                        reply = _exchange(process, request, limits.reply_bytes)
                except (OSError, EOFError):
                    code = self._end()
                    if watch.verdict is not None:
                        raise watch.verdict from None
                    if is_last:  # once may be a coincidence: out of memory, or killed by a user
                        raise ReadingStopped(_ended_by(code), is_lasting=True) from None
                    continue
                except BaseException:  # Ctrl-C in a command: its reply would be read as the next one's
                    self._end()
                    raise
                if reply.outcome == "memory":
                    self._end()  # gives back what it had
                    raise ReadingStopped(_too_much_memory(limits), is_lasting=True)
                return reply
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Ends it, even during a request, which then fails; the next request starts another process."""
        if not self._lock.acquire(timeout=CLOSE_S):
            process = self._process
            if process is not None and self._owner == os.getpid():
                process.kill()
            return
        try:
            self._end()
        finally:
            self._lock.release()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # after a fork, the pipes belong to the parent's process
            self._process, self._owner = None, os.getpid()
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = _start()
        return self._process

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return None
        close_pipes(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(0.2)
        process.kill()
        return process.wait()


_SHARED = ReaderProcess()
_DOCUMENTS = ReaderProcess()
"""Separate, so that models and states do not wait for documents, which may take long and come from any chat user."""
atexit.register(_SHARED.close)
atexit.register(_DOCUMENTS.close)


class FileReader:
    """``memory``: the file that remembers failed files beyond this process. Paths may be relative to this process's
    working directory; errors and results use the given path."""

    def __init__(self, memory: Path | None = None, process: ReaderProcess | None = None) -> None:
        self._failed = FailedFiles(memory)
        self._process = process or _SHARED
        self._documents = process or _DOCUMENTS

    def inspect(self, path: str | Path, any_name: bool = False, again: bool = False) -> Inspection:
        """As :func:`webapp.weights.inspection.inspect`. ``again``: tries a file that failed before, too."""
        answer: Any = tuple[Inspection, str | dict[str, Any]]
        found, reason = self._ask(answer, "inspect_file", path, (any_name,), Limits(), again)
        reason_text = text_from_plain(reason)
        return replace(found, path=str(path), reason=reason_text, tensors=tuple(map(shared, found.tensors)))

    def state_sheet(self, path: str | Path, name: str = "", again: bool = False) -> StateSheet:
        """For a state file, completely read and checked; errors as in :func:`webapp.weights.state_file.open_state`."""
        return self._ask(StateSheet, "state_sheet", path, (name,), _state_limits(path), again)

    def read_state(self, path: str | Path, config: ModelConfig) -> tuple[str, bytes]:
        """Digest, and float32 ``(n_layer, n_head, head_size, head_size)`` in this machine's byte order, of a state for
        this model, with the shifts of a running one behind; as of :func:`webapp.weights.state_file.read_state_file`."""
        limits = _state_limits(path)
        values = config.n_layer * config.n_head * config.head_size**2
        limits = replace(limits, reply_bytes=REPLY_BYTES + min(4 * values, MAX_STATE_BYTES))
        return self._ask(tuple[str, bytes], "read_state", path, (asdict(config),), limits)  # type: ignore[arg-type]

    def prefix_source(self, path: str | Path) -> tuple[PrefixSheet, dict[str, Any]] | None:
        """For a state file with a prefix: its sheet and the source of the prefix; None for any other state."""
        answer: Any = tuple[PrefixSheet, dict[str, Any]] | None
        found: tuple[PrefixSheet, dict[str, Any]] | None = self._ask(answer, "prefix_source", path, (), Limits())
        return found

    def state_measures(self, path: Path, other: Path | None = None) -> StateMeasures:
        """Measures of a state file, and its distance from another; ``state_mismatch`` if they cannot be compared."""
        paths = [path, *([other] if other else [])]
        given = (_sent(path), _sent(other) if other else b"")
        for one in paths:
            self._check(one)
        return self._call(StateMeasures, "state_measures", paths, given, _state_limits(*paths), path.name)

    def document_text(self, path: Path, kind: str, name: str) -> str:
        """The text of an uploaded document ``name``: ``pdf``, ``docx`` or ``html``. Failed files are not remembered.
        Raises ``document_unreadable`` and FileReadingFailed."""
        limits = Limits(DOCUMENT_WORK_S, DOCUMENT_MEMORY_BYTES, DOCUMENT_REPLY_BYTES)
        return self._call(str, "document_text", (), (_sent(path), kind), limits, name, self._documents)

    def blend(self, parts: Sequence[tuple[Path | None, str, float]], target: Path, note: str) -> None:
        """Writes the weighted mean of states, ``(path, name, weight)`` each, to ``target``; as of ``blend_states``."""
        paths = [path for path, _, _ in parts if path is not None]
        for path in paths:
            self._check(path)
        sent = [(_sent(path) if path else b"", name, weight) for path, name, weight in parts]
        self._call(type(None), "blend", paths, (sent, _sent(target), note), _state_limits(*paths))

    def copy_out(self, path: str | Path, target: Path, note: str) -> None:
        """Writes the state merged in a model file to ``target``; as of ``merged_state``."""
        self._ask(type(None), "copy_out", path, (_sent(target), note), _state_limits(path))

    def check_adapter(self, path: str | Path, adapter: str, alpha: float, start: str) -> None:
        """Whether an adapter fits a model, by their headers; ``alpha`` 0 if the file contains it. Errors as in
        :func:`webapp.weights.adapter.check_adapter`."""
        given = (_sent(adapter), alpha, _sent(start) if start else b"")
        self._ask(type(None), "adapter_fits", path, given, Limits())

    def planned_bytes(self, path: str | Path, target: str, options: ConversionOptions) -> int:
        """Bytes of the tensors a conversion would write; as of :func:`webapp.weights.convert.conversion.plan_for`."""
        given = {name: value for name, value in asdict(options).items() if name != "lora"}
        lora = _sent(options.lora) if options.lora else b""
        return self._ask(int, "planned_bytes", path, (target, given, lora), Limits())

    def _ask(
        self,
        answer: type[Answer],
        operation: str,
        path: str | Path,
        arguments: Sequence[Any],
        limits: Limits,
        again: bool = False,
    ) -> Answer:
        if not again:
            self._check(path)
        found = self._call(answer, operation, [Path(path)], (_sent(path), *arguments), limits, str(path))
        if again:
            self._failed.forget(Path(path))
        return found

    def _check(self, path: str | Path) -> None:
        reason = self._failed.reason(Path(path))
        if reason is not None:
            raise FileReadingFailed(path=str(path), reason=reason)

    def _call(
        self,
        answer: type[Answer],
        operation: str,
        paths: Sequence[Path],
        arguments: Sequence[Any],
        limits: Limits,
        shown: str = "",
        process: ReaderProcess | None = None,
    ) -> Answer:
        import msgspec

        from webapp.weights.reader_process import HERE

        name = shown or str(next(iter(paths), ""))
        try:
            reply = (process or self._process).call(operation, arguments, _grown(limits, paths))
        except ReadingStopped as exc:
            if len(paths) == 1:  # with several paths, the bad one is unknown
                self._failed.add(paths[0], exc.reason, exc.is_lasting)
            raise FileReadingFailed(path=name, reason=exc.reason) from None
        except OSError as exc:
            raise FileReadingFailed(path=name, reason=Text("reason.weights.reader_does_not_start")) from exc
        if reply.outcome == "refused":
            reason_text: dict[str, Any] = msgspec.msgpack.decode(reply.value)
            if reason_text["params"].get("path") == HERE:
                reason_text["params"]["path"] = name
            raise error_from_dict(reason_text)
        return decoded(reply.value, answer)


def _sent(path: str | Path) -> bytes:
    return os.fsencode(os.path.abspath(path))


def _size(paths: Sequence[str | Path]) -> int:
    found = 0
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            found += stamp_of(path)[1]
    return found


def _grown(limits: Limits, paths: Sequence[Path]) -> Limits:
    return replace(limits, work_s=min(limits.work_s + _size(paths) / BYTES_A_SECOND, MAX_WORK_S))


def _state_limits(*paths: str | Path) -> Limits:
    """For reading tensors: several copies are in memory at once, in float32 and float64."""
    size = min(_size(paths), MAX_STATE_BYTES)
    return Limits(work_s=WORK_S + size / STATE_BYTES_A_SECOND, memory_bytes=MEMORY_BYTES + 4 * size)


def _start() -> subprocess.Popen[bytes]:
    """A new interpreter that has reported that it is ready; raises OSError otherwise."""
    process = start_process(BOOT, ENVIRONMENT_DEFAULTS)
    try:
        with _Watch(process, Limits(START_S)):
            assert process.stdout is not None
            read_frame(process.stdout, REPLY_BYTES)
    except BaseException as exc:
        process.kill()
        process.wait()
        close_pipes(process)
        if isinstance(exc, EOFError):
            raise OSError("it ended before it was ready") from exc
        raise
    return process


def _exchange(process: subprocess.Popen[bytes], request: Request, reply_bytes: int) -> Reply:
    import msgspec

    from webapp.weights.reader_process import Reply

    assert process.stdin is not None and process.stdout is not None
    write_frame(process.stdin, framed(msgspec.msgpack.encode(request)))
    return decoded(read_frame(process.stdout, reply_bytes), Reply)


def decoded(data: bytes, kind: type[Answer]) -> Answer:
    """From msgpack. One thread at a time creates the decoder: msgspec 0.23 crashes the process if two threads use a
    type for the first time at once."""
    import msgspec

    with _making:
        if kind not in _decoders:
            _decoders[kind] = msgspec.msgpack.Decoder(kind)
    found: Answer = _decoders[kind].decode(data)
    return found


class _Watch:
    """Kills the process during a request that exceeds its time or memory; ``verdict`` then says so.

    Checks twenty times per second, in its own thread; shorter requests are never checked.
    """

    def __init__(self, process: subprocess.Popen[bytes], limits: Limits) -> None:
        self.verdict: ReadingStopped | None = None
        self._process = process
        self._limits = limits
        self._is_over = threading.Event()
        self._deciding = threading.Lock()

    def __enter__(self) -> _Watch:
        threading.Thread(target=self._look, name="roost-reader-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._deciding:  # not between deciding and acting: the next request is the same process's
            self._is_over.set()

    def _look(self) -> None:
        if self._is_over.wait(WATCH_S):
            return
        import psutil

        begin = time.monotonic()
        try:
            watched = psutil.Process(self._process.pid)
            worked_before = _work_s(watched)
            while not self._is_over.wait(WATCH_S):
                worked, rss = _work_s(watched) - worked_before, watched.memory_info().rss
                self._judge(worked, rss, time.monotonic() - begin)
        except psutil.Error:  # it has ended
            return

    def _judge(self, worked_s: float, rss_bytes: int, wall_s: float) -> None:
        limits = self._limits
        verdict = None
        if worked_s > limits.work_s:
            reason_text = Text("reason.weights.reading_took_too_long", limit=round(limits.work_s, 1))
            verdict = ReadingStopped(reason_text, is_lasting=True)
        elif rss_bytes > limits.memory_bytes:
            verdict = ReadingStopped(_too_much_memory(limits), is_lasting=True)
        elif wall_s > limits.wall_s:
            reason_text = Text("reason.weights.reading_stood_still", limit=round(limits.wall_s))
            verdict = ReadingStopped(reason_text, is_lasting=False)
        with self._deciding:
            if verdict is not None and not self._is_over.is_set():
                self.verdict = verdict
                self._is_over.set()
                self._process.kill()


def _work_s(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _too_much_memory(limits: Limits) -> Text:
    return Text("reason.weights.reading_took_too_much_memory", limit=limits.memory_bytes >> 20)


def _ended_by(code: int | None) -> Text:
    how = f"code {code}"
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            how = signal.Signals(-code).name
    return Text("reason.weights.reader_ended", how=how)
