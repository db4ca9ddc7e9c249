"""Starts an engine in its own process, communicates with it, and says why it ended.

Messages arrive on a thread of the client; ``on_exit`` is called once, after the last message. No call blocks on the
engine, except ``close``.

Deadlock is impossible by design: the web process always reads (its reader only fills queues without limit), the engine
always reads (in its own thread), and the web process writes from a thread that no other thread waits for.
"""

from __future__ import annotations

import logging
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import IO, Protocol

from msgspec import Struct

from webapp.errors import EngineCrashed, ModelError, OutOfMemory
from webapp.i18n import Text
from webapp.manager.memory import MemoryFacts, is_out_of_memory
from webapp.manager.messages import Command, Message, Shutdown, WarmUp, pack, read_message
from webapp.weights.child_process import close_pipes, start_process, write_frame

LAST_WORDS_BYTES = 8192
TERMINATE_GRACE_S = 1.0
KILL_GRACE_S = 10.0
AHEAD_KEPT_S = 600.0
NATIVE_FAULTS = {
    "SIGSEGV": Text("reason.manager.sigsegv"),
    "SIGBUS": Text("reason.manager.sigbus"),
    "SIGABRT": Text("reason.manager.sigabrt"),
    "SIGILL": Text("reason.manager.sigill"),
    "SIGFPE": Text("reason.manager.sigfpe"),
}
WINDOWS_FAULTS = {0xC0000005: "SIGSEGV", 0xC000001D: "SIGILL", 0xC0000409: "SIGABRT"}
"""NTSTATUS values that Windows returns as exit codes."""
ERROR_LINE = re.compile(r"^[\w.]+(Error|Exception|Interrupt|Exit|Warning)\b.*$")


class EngineExit(Struct, frozen=True):
    """``exit_code`` as in :mod:`subprocess`: a negative value is a signal. ``last_words``: the end of its stderr."""

    exit_code: int | None
    last_words: str = ""


OnMessage = Callable[[Message], None]
OnExit = Callable[[EngineExit], None]
logger = logging.getLogger(__name__)


class EngineClient(Protocol):
    @property
    def pid(self) -> int | None:
        """None for an engine without its own process."""

    def send(self, command: Command) -> None:
        """Never blocks. Does nothing after the engine's end, which ``on_exit`` reports."""

    def is_alive(self) -> bool: ...

    def kill(self) -> None:
        """Kills the engine at once; ``on_exit`` follows."""

    def close(self, grace_s: float) -> None:
        """Asks the engine to end and kills it after ``grace_s``. Returns when it, its threads and pipes are gone."""


EngineStarter = Callable[[OnMessage, OnExit], EngineClient]


BOOT = "from webapp.manager.loop import main; main()"
ENVIRONMENT_DEFAULTS = {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE", "MALLOC_MMAP_THRESHOLD_": str(4 << 20)}
"""OpenMP threads that spin while they wait slow each other down when other programs use the cores: 2 threads on 2 busy
cores wrote 3.6 tokens/s when spinning and 40 when sleeping (6 x 192 model). glibc keeps freed blocks of up to 32 MB in
its heap by default: a load then peaks at 852 MB instead of 794 (RWKV-7, 4 x 768, fp32)."""


class ProcessEngineClient:
    """A new interpreter that waits for its LoadModel. Three threads: one writes commands, one reads messages, one keeps
    the end of the engine's stderr."""

    def __init__(self, on_message: OnMessage, on_exit: OnExit) -> None:
        self._on_message, self._on_exit = on_message, on_exit
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._last_words = b""
        self._process = start_process(BOOT, ENVIRONMENT_DEFAULTS, stderr=subprocess.PIPE)
        self._threads = {
            role: threading.Thread(target=target, name=f"roost-engine-{role}", daemon=True)
            for role, target in (("writer", self._write), ("stderr", self._listen), ("reader", self._read))
        }
        for thread in self._threads.values():
            thread.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def send(self, command: Command) -> None:
        self._frames.put(pack(command))

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def close(self, grace_s: float) -> None:
        self.send(Shutdown())
        self._frames.put(None)
        for grace, then in ((grace_s, self._process.terminate), (TERMINATE_GRACE_S, self._process.kill)):
            try:
                self._process.wait(grace)
                break
            except subprocess.TimeoutExpired:
                then()
        try:
            self._process.wait(KILL_GRACE_S)
        except subprocess.TimeoutExpired:  # stuck in the kernel, waiting for a dead disk or driver
            logger.error("the engine process %s could not be ended; it is left behind", self._process.pid)
            return
        for thread in self._threads.values():
            if thread is not threading.current_thread():
                thread.join(TERMINATE_GRACE_S)
        close_pipes(self._process)

    def _write(self) -> None:
        pipe = _existing(self._process.stdin)
        while (frame := self._frames.get()) is not None:
            try:
                write_frame(pipe, frame)
            except (OSError, ValueError):  # the engine is gone, or we closed the pipe
                return

    def _read(self) -> None:
        pipe = _existing(self._process.stdout)
        try:
            while True:
                message = read_message(pipe)
                try:
                    self._on_message(message)
                except Exception:
                    logger.exception("a message of the engine was not handled")
        except (EOFError, OSError, ValueError):
            pass
        except Exception:
            logger.exception("the engine's pipe carried something that is no message")
        self._report_exit()

    def _report_exit(self) -> None:
        """Its pipe is closed, so no more messages can come, even if the process still exists."""
        try:
            exit_code = self._process.wait(TERMINATE_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            exit_code = self._process.wait()
        self._frames.put(None)
        self._threads["stderr"].join(TERMINATE_GRACE_S)
        self._on_exit(EngineExit(exit_code, self._last_words.decode("utf-8", "replace")))

    def _listen(self) -> None:
        pipe = _existing(self._process.stderr)
        try:
            while chunk := pipe.read(LAST_WORDS_BYTES):
                self._last_words = (self._last_words + chunk)[-LAST_WORDS_BYTES:]
        except (OSError, ValueError):
            return


def _existing(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


class EngineAhead:
    """At most one engine that is started before it is needed, so that the first answer does not wait for an interpreter
    and its imports. It has no model (45 MB with numpy and the native library), and ends by itself if it is not used
    within ``kept_s``. Safe to use from any thread.
    """

    def __init__(self, start: EngineStarter = ProcessEngineClient, kept_s: float = AHEAD_KEPT_S) -> None:
        self._start, self._kept_s = start, kept_s
        self._lock = threading.Lock()
        self._spare: _Spare | None = None
        self._is_closed = False

    def prepare(self, strategy: str) -> None:
        """Starts an engine and lets it import what the strategy needs, unless one is ready already."""
        with self._lock:
            if self._is_closed or self._spare is not None:
                return
            self._spare = spare = _Spare(self._start)
            spare.client.send(WarmUp(strategy))
            spare.timer = threading.Timer(self._kept_s, self._drop, [spare])
            spare.timer.name, spare.timer.daemon = "roost-engine-ahead", True
            spare.timer.start()

    def take(self, on_message: OnMessage, on_exit: OnExit) -> EngineClient:
        """The engine started ahead if it still runs, otherwise a new one. An :data:`EngineStarter`."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.timer.cancel()
            if spare.client.is_alive() and spare.give_to(on_message, on_exit):
                return spare.client
            spare.client.close(0)
        return self._start(on_message, on_exit)

    def close(self) -> None:
        """Ends an unused engine; no more are started."""
        with self._lock:
            self._is_closed = True
            spare = self._spare
        if spare is not None:
            self._drop(spare)

    def _drop(self, spare: _Spare) -> None:
        with self._lock:
            if self._spare is not spare:
                return
            self._spare = None
        spare.timer.cancel()
        spare.client.close(TERMINATE_GRACE_S)


class _Spare:
    """An engine whose messages have no receiver until :meth:`give_to`."""

    timer: threading.Timer

    def __init__(self, start: EngineStarter) -> None:
        self._lock = threading.Lock()
        self._has_ended = False
        self._on_message: OnMessage | None = None
        self._on_exit: OnExit | None = None
        self.client = start(self._receive, self._exit)

    def give_to(self, on_message: OnMessage, on_exit: OnExit) -> bool:
        """Returns False if it has ended."""
        with self._lock:
            self._on_message, self._on_exit = on_message, on_exit
            return not self._has_ended

    def _receive(self, message: Message) -> None:
        if self._on_message is not None:
            self._on_message(message)

    def _exit(self, found: EngineExit) -> None:
        with self._lock:
            if self._has_ended or self._on_exit is None:
                self._has_ended = True
                return
            self._has_ended, on_exit = True, self._on_exit
        on_exit(found)


def crash_error(found: EngineExit, memory: MemoryFacts | None = None, oom_kills: int | None = None) -> ModelError:
    """OutOfMemory if the last words say so, or if it was killed and ``oom_kills``, the system's current count of
    processes killed for lack of memory, is higher than in ``memory``. Otherwise EngineCrashed with the most precise
    known reason."""
    words = last_line(found.last_words)
    if is_out_of_memory(found.last_words):
        return OutOfMemory(reason=words)
    before = memory.oom_kills if memory else None
    if memory and signal_name(found.exit_code) == "SIGKILL" and None not in (before, oom_kills) and oom_kills != before:
        return OutOfMemory(reason=memory.sentence())
    return EngineCrashed(reason=reason_text(found.exit_code, words, memory))


def reason_text(exit_code: int | None, words: str, memory: MemoryFacts | None) -> Text | str:
    name = signal_name(exit_code)
    if name == "SIGKILL":
        killed = Text("reason.manager.sigkill")
        if memory is not None and memory.is_low:
            killed = Text("reason.manager.killed_for_memory")
        return Text("reason.manager.and_more", what=killed, more=memory.sentence()) if memory else killed
    if name in NATIVE_FAULTS:
        fault = NATIVE_FAULTS[name]
        return Text("reason.manager.last_words", what=fault, words=words) if words else fault
    if name:
        return Text("reason.manager.ended_by_signal", signal=name)
    return words or Text("reason.manager.ended_with_code", code=str(exit_code))


def signal_name(exit_code: int | None) -> str:
    """A name such as ``SIGKILL``; "" if no signal ended it. Containers and shells report SIGKILL as 137."""
    if exit_code is None:
        return ""
    if exit_code == 137:
        return "SIGKILL"
    if exit_code & 0xFFFFFFFF in WINDOWS_FAULTS:
        return WINDOWS_FAULTS[exit_code & 0xFFFFFFFF]
    try:
        return signal.Signals(-exit_code).name if exit_code < 0 else ""
    except ValueError:
        return f"signal {-exit_code}"


def last_line(words: str) -> str:
    """The most informative line: the last ``SomeError: …`` of a traceback, else faulthandler's, else the last one."""
    lines = [line.rstrip() for line in words.splitlines() if line.strip()]
    for line in reversed(lines):
        if ERROR_LINE.match(line):
            return line
    fatal = [line for line in lines if line.startswith("Fatal Python error:")]
    return (fatal or lines or [""])[-1].strip()
