"""Engines in threads of the test's own process: they start at once, and a test sees and patches what they do."""

from __future__ import annotations

import io
import signal
import threading
import traceback

from webapp.manager.client import TERMINATE_GRACE_S, EngineClient, EngineExit, OnExit, OnMessage
from webapp.manager.loop import EngineLoop
from webapp.manager.messages import Command, Message, Shutdown, pack, read_command, read_message


def start_engine_in_thread(on_message: OnMessage, on_exit: OnExit) -> EngineClient:
    return ThreadEngineClient(on_message, on_exit)


class ThreadEngineClient:
    """``kill`` can only abandon the thread: it reports the end like a killed process and drops later messages. Messages
    are encoded and decoded as on a pipe."""

    pid: int | None = None

    def __init__(self, on_message: OnMessage, on_exit: OnExit) -> None:
        self._on_message, self._on_exit = on_message, on_exit
        self._lock = threading.Lock()
        self._has_ended = False
        self._loop = EngineLoop(self._deliver)
        self._thread = threading.Thread(target=self._run, name="roost-engine-thread", daemon=True)
        self._thread.start()

    def send(self, command: Command) -> None:
        self._loop.put(read_command(io.BytesIO(pack(command))))

    def is_alive(self) -> bool:
        return not self._has_ended

    def kill(self) -> None:
        self._loop.put(Shutdown())
        self._end(EngineExit(-getattr(signal, "SIGKILL", 9)))

    def close(self, grace_s: float) -> None:
        self._loop.put(Shutdown())
        if self._thread is not threading.current_thread():
            self._thread.join(grace_s + TERMINATE_GRACE_S)
        self._end(EngineExit(0))

    def _run(self) -> None:
        try:
            self._loop.run()
            found = EngineExit(0)
        except BaseException:
            found = EngineExit(1, traceback.format_exc())
        self._end(found)

    def _deliver(self, message: Message) -> None:
        if not self._has_ended:
            self._on_message(read_message(io.BytesIO(pack(message))))

    def _end(self, found: EngineExit) -> None:
        with self._lock:
            if self._has_ended:
                return
            self._has_ended = True
        self._on_exit(found)
